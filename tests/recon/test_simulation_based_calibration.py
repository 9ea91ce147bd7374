"""Ranks of the truth among posterior draws are uniform (simulation-based calibration).

Truth and data are simulated from the model itself, so that with a right sampler the truth is one
more draw. Seeds are fixed; each chi^2 test of the rank histogram would fail by chance once in a
thousand choices of them (p < 0.001), the seven of this file together once in 140.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from recon.chains import ChainPlan, Draws, run_chains
from recon.noise import NoiseStreams
from recon.operators import ifft2c
from recon.prior import GaussianMixturePrior, GaussianPrior
from recon.sampler import Problem, init, step
from recon.schedule import PRESETS, Path, cycle_top, lowest_sigma, prior_path
from tests.contracts import complex_normal
from tests.problems import Weighting, diagonal_problem, gaussian_case, line_mask, scattered_mask

FALSE_ALARM = 1e-3
DRAWS = 15
"""Ranks are 0 to 15: sixteen equal bins."""


def uniformity(truth: Tensor, draws: Tensor) -> float:
    """P-value of the chi^2 test; truth (replicates,), draws (replicates, DRAWS)."""
    assert draws.shape == (len(truth), DRAWS)
    ranks = (draws < truth[:, None]).sum(dim=1)
    return float(stats.chisquare(np.bincount(ranks.numpy(), minlength=DRAWS + 1)).pvalue)


def finish(run: Generator[object, None, Draws]) -> Draws:
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return stop.value


@pytest.mark.parametrize("spread", [0.85, 1.15])
def test_the_test_itself_finds_a_wrong_spread(spread: float) -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(2048, generator=generator)
    draws = spread * torch.randn(2048, DRAWS, generator=generator)
    assert uniformity(truth, draws) < FALSE_ALARM


@pytest.mark.parametrize("mask", ["lines", "scattered"])
def test_gaussian_images_under_coils(mask: str) -> None:
    replicates, noise_std = (96, 0.03) if mask == "lines" else (32, 0.03)
    pattern = line_mask(12, 14) if mask == "lines" else scattered_mask(12, 14)
    case = gaussian_case(pattern, noise=noise_std)
    operator = case.problem.operator
    prior = case.prior
    truth = ifft2c(prior.spectrum.sqrt() * complex_normal((replicates, 12, 14), 1))
    error = noise_std * pattern * complex_normal((replicates, 4, 12, 14), 2)
    kspace = operator.forward(truth) + error
    problem = replace(case.problem, measurement=kspace.repeat_interleave(DRAWS, dim=0))
    plan = ChainPlan(
        preset=replace(PRESETS["fast"], chains=replicates * DRAWS, cycles=1),
        path=Path.PRIOR,
        localization_sigma=2.0,
        annealing_sigma=1.0,
        lowest_sigma=lowest_sigma(noise_std, (0.0, math.inf)),
        cycle_sigma=cycle_top(0.095, noise_std / 2, 0.6),
    )
    coarse = torch.zeros(12, 14, dtype=torch.complex64)
    chains = run_chains(problem, prior, plan, coarse, (5, mask), range(replicates * DRAWS))
    images = finish(chains).images[:, -1].reshape(replicates, DRAWS, 12, 14)
    # Two fixed random directions.
    for seed in (3, 4):
        direction = complex_normal((12, 14), seed)
        assert (
            uniformity(
                (truth * direction).real.sum(dim=(-2, -1)),
                (images * direction).real.sum(dim=(-2, -1)),
            )
            > FALSE_ALARM
        )


def test_gaussian_pixels_of_every_weight() -> None:
    # 18,432 independent replicates: finds noise that is 10 % too strong in every step.
    shape, noise_std = (96, 96), 0.05
    weights = torch.logspace(-2, 0, 96).expand(shape)
    truth = complex_normal(shape, 11)
    measurement = (weights * truth + noise_std * complex_normal(shape, 12))[None]
    problem = diagonal_problem(Weighting(weights), measurement, noise_std)
    prior = GaussianPrior(torch.zeros(shape, dtype=torch.complex64), torch.ones(shape))
    noise = NoiseStreams.pooled(13, DRAWS)
    state = init(problem, torch.zeros(shape, dtype=torch.complex64), 6.0, noise)
    for level in prior_path(6.0, noise_std / 4, 44, noise_std, 1.3):
        state, _ = step(problem, prior, level, state, noise)
    parts = torch.view_as_real(state.image).reshape(DRAWS, -1).T
    assert uniformity(torch.view_as_real(truth).flatten(), parts) > FALSE_ALARM


@pytest.mark.parametrize("pixel", [0, 1])
def test_mixture(pixel: int) -> None:
    # The first pixel is measured with noise that leaves the component open; the second is not
    # measured and follows from the component alone.
    replicates, noise_std = 500, 1.0
    means = torch.tensor([(-2.5, -2.5), (-2.5, 2.5), (2.5, -2.5), (2.5, 2.5)])
    shares = torch.tensor([0.4, 0.1, 0.2, 0.3])
    generator = torch.Generator().manual_seed(21)
    component = torch.multinomial(shares, replicates, replacement=True, generator=generator)
    truth = means[component].reshape(replicates, 1, 2) + 0.35 * complex_normal(
        (replicates, 1, 2), 22
    )
    weights = torch.tensor([[1.0, 0.0]])
    measurement = (weights * truth + noise_std * complex_normal((replicates, 1, 2), 23))[:, None]
    prior = GaussianMixturePrior(means.reshape(4, 1, 2) + 0j, torch.full((4,), 0.35), shares)
    problem: Problem = diagonal_problem(
        Weighting(weights), measurement.repeat_interleave(DRAWS, dim=0), noise_std
    )
    noise = NoiseStreams.pooled(24, replicates * DRAWS)
    state = init(problem, torch.zeros(1, 2, dtype=torch.complex64), 10.0, noise)
    for level in prior_path(10.0, 0.03, 100, noise_std, 1.0):
        state, _ = step(problem, prior, level, state, noise)
    images = state.image.real[:, 0, pixel].reshape(replicates, DRAWS)
    assert uniformity(truth.real[:, 0, pixel], images) > FALSE_ALARM
