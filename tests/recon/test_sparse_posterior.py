"""Annealing on a prior that is not Gaussian, against a posterior known by long Gibbs sampling.

What is compared is the law of the draws: eight chains a truth, with the Monte Carlo error of their
mean taken off. The prior, its 24 truths and the reference are those of `tests.sparse`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.noise import NoiseStreams
from recon.sampler import init, step
from recon.schedule import STEP, lowest_sigma, prior_path
from tests.sparse import COLUMNS, NOISE_STD, REFERENCE, ROWS, SparseCase, gibbs, sparse_case

TOP, CHAINS = 3.0, 8


def annealed(case: SparseCase, steps: int) -> Tensor:
    """(truths, chains, rows, columns) along the prior's path."""
    noise = NoiseStreams.pooled(1, len(case.truth) * CHAINS)
    problem = case.problem(CHAINS)
    state = init(problem, case.prior.mean, TOP, noise)
    lowest = lowest_sigma(NOISE_STD, case.prior.sigma_range)
    for level in prior_path(TOP, lowest, steps, NOISE_STD, STEP):
        state, _ = step(problem, case.prior, level, state, noise)
    return state.image.unflatten(0, (len(case.truth), CHAINS))


@dataclass(frozen=True)
class Law:
    """Of the draws, over the reference's."""

    error: float
    """Squared error of the mean."""
    variance: float


def law(case: SparseCase, images: Tensor, mean: Tensor, variance: Tensor) -> Law:
    found = case.prior.coefficients(images - case.prior.mean).to(torch.complex128).flatten(2)
    truth = case.prior.coefficients(case.truth - case.prior.mean).to(torch.complex128).flatten(1)
    middle = found.mean(dim=1)
    spread = (found - middle[:, None]).abs().square().sum(dim=1) / (CHAINS - 1)
    error = (middle - truth).abs().square() - spread / CHAINS
    return Law(
        float(error.sum() / (mean - truth).abs().square().sum()),
        float(spread.sum() / (2 * variance.sum())),
    )


def reference(name: str) -> tuple[Tensor, Tensor]:
    stored = np.load(REFERENCE, allow_pickle=False)
    # The reference's own error, half a per cent of the variance.
    assert float(stored[f"{name}_doubt"].sum() / stored[f"{name}_variance"].sum()) < 0.01
    mean, variance = stored[f"{name}_mean"], stored[f"{name}_variance"]
    return torch.from_numpy(mean).to(torch.complex128), torch.from_numpy(variance).double()


@pytest.mark.parametrize(("name", "offset"), [("zero", 0.0), ("mean", 0.5)])
def test_slow_annealing_draws_the_posterior(name: str, offset: float) -> None:
    case = sparse_case(mean=offset)
    found = law(case, annealed(case, 400), *reference(name))
    # Eight chains of 24 truths leave about 2 % of doubt.
    assert found.error == pytest.approx(1, abs=0.07)
    assert found.variance == pytest.approx(1, abs=0.10)


def test_short_annealing_is_biased_and_the_measure_sees_it() -> None:
    case = sparse_case()
    found = law(case, annealed(case, 24), *reference("zero"))
    assert found.error > 1.15


@pytest.mark.slow
def test_gibbs_sampling_gives_the_stored_reference_again() -> None:
    stored, case = np.load(REFERENCE, allow_pickle=False), sparse_case(mean=0.5)
    mean, variance, doubt = gibbs(case, 300, 4, seed=8)
    expected = torch.from_numpy(stored["mean_mean"])
    known = doubt + torch.from_numpy(stored["mean_doubt"])
    distance = (mean.mean(dim=1) - expected).abs().square() / 2
    # Four chains know their own doubt to a quarter over all coefficients.
    assert 0.4 < float(distance.sum() / known.sum()) < 2
    assert float(variance.sum() / stored["mean_variance"].sum()) == pytest.approx(1, abs=0.05)
    assert expected.shape == (len(case.truth), ROWS * COLUMNS)
