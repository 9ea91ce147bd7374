"""Asking a prior about mirror images: nothing changes for one that has the symmetries."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.chains import ChainPlan, finished, run_chains
from recon.noise import NoiseKey
from recon.operators import CartesianSense, fft2c, ifft2c
from recon.overlap import Overlap
from recon.paths import PriorPath
from recon.phantom import simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.preparation import prior_of
from recon.prior import GaussianPrior, Prior
from recon.sampler import InverseProblem
from recon.schedule import PRESETS
from recon.settings import Settings
from recon.symmetry import RandomSymmetry
from recon.undersampling import undersample, undersampling_mask
from tests.contracts import complex_normal
from tests.problems import gaussian_case, line_mask, power_law_prior

SHAPE = (6, 9)


@dataclass(frozen=True)
class Isotropic:
    """Stationary Gaussian images of any shape; their spectrum falls alike in all directions."""

    symmetric: bool = True
    sigma_range: tuple[float, float] = (1e-4, 100.0)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        rows, columns = (torch.arange(n) - n // 2 for n in noisy.shape[-2:])
        spectrum = 1 / (1 + (torch.hypot(rows[:, None] / 2.0, columns[None, :] / 2.0)) ** 3)
        return ifft2c(spectrum / (spectrum + sigma**2) * fft2c(noisy))


@dataclass(frozen=True)
class Tilted:
    """Something that knows up from down, left from right and a phase from its negative."""

    symmetric: bool = True
    sigma_range: tuple[float, float] = (1e-4, 100.0)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        rows, columns = noisy.shape[-2:]
        row, column = torch.arange(rows)[:, None] / rows, torch.arange(columns)[None] / columns
        return noisy * torch.complex(row + column**2, row**3)


def drawn(problem: InverseProblem, prior: Prior, chains: range) -> Tensor:
    plan = ChainPlan(replace(PRESETS["fast"], chains=4), PriorPath(), 0.3, 0.015, 100.0, 0.2)
    start = torch.zeros(problem.backprojection.shape, dtype=torch.complex64)
    run = run_chains(problem, prior, plan, start, NoiseKey(3, "test"), chains)
    return finished(run).images


def variants(image: Tensor) -> dict[tuple[bool, bool, bool, bool], Tensor]:
    """Answers of `Tilted` when it is asked about each of the sixteen."""
    found = {}
    for choice in np.ndindex(2, 2, 2, 2):
        rows, columns, conjugate, transposed = map(bool, choice)
        axes = [axis for axis, chosen in ((-2, rows), (-1, columns)) if chosen]
        asked = image.flip(axes)
        asked = asked.conj().resolve_conj() if conjugate else asked
        answer = Tilted().denoise(asked.mT, 1).mT if transposed else Tilted().denoise(asked, 1)
        answer = answer.conj().resolve_conj() if conjugate else answer
        found[rows, columns, conjugate, transposed] = answer.flip(axes)
    return found


@pytest.mark.parametrize("shape", [(16, 16), (14, 19)])
def test_chains_of_a_symmetric_prior_are_the_same(shape: tuple[int, int]) -> None:
    problem = gaussian_case(line_mask(*shape)).problem
    plain = drawn(problem, Isotropic(), range(4))
    turned = drawn(problem, RandomSymmetry(Isotropic(), 0, "slice-0"), range(4))
    # Rounding alone: a posterior std is about 0.3 here, and draws are as far from each other.
    assert float((turned - plain).abs().max()) < 1e-3
    assert float((plain[0] - plain[1]).abs().max()) > 0.1


def test_the_sixteen_variants_are_asked_for_equally_often() -> None:
    image = complex_normal(SHAPE, 1)
    known = variants(image)
    prior, calls, chains = RandomSymmetry(Tilted(), 7, "slice-3"), 400, 4
    counts: Counter[tuple[bool, ...]] = Counter()
    joint: Counter[bool] = Counter()
    for _ in range(calls):
        answers = prior.denoise(image.expand(chains, *SHAPE), 0.5)
        chosen = [
            next(key for key, value in known.items() if torch.allclose(value, answer, atol=1e-5))
            for answer in answers
        ]
        counts.update(chosen)
        # One transpose for all chains, flips of their own.
        assert len({key[3] for key in chosen}) == 1
        joint[len({key[:3] for key in chosen}) > 1] += 1
    assert set(counts) == set(known)
    assert joint[True] > 0.9 * calls
    expected = calls * chains / 16
    # The transposes are drawn 400 times: 5 standard errors of a share of them, and of the flips.
    transposed = sum(count for key, count in counts.items() if key[3])
    assert abs(transposed / (calls * chains) - 0.5) < 5 * 0.5 / math.sqrt(calls)
    assert all(abs(count - expected) < 0.45 * expected for count in counts.values())


def test_a_chain_is_turned_alike_whatever_the_batch_and_again_with_the_same_seed() -> None:
    images = complex_normal((5, *SHAPE), 2)
    whole, part, other = (
        RandomSymmetry(Tilted(), seed, name) for seed, name in ((1, "a"), (1, "a"), (2, "a"))
    )
    answers = [(whole.denoise(images, 1), part.denoise(images[:2], 1)) for _ in range(6)]
    for many, few in answers:
        assert torch.equal(many[:2], few)
    # Two in three calls of another seed, or more, turn some of five chains in another way.
    differ = [not torch.equal(other.denoise(images, 1), many) for many, _ in answers]
    assert sum(differ) >= 4


def test_the_strip_beyond_the_edges_is_turned_as_an_image_of_its_own() -> None:
    overlap = Overlap(-1, 9, torch.tensor([8, 0, 1]), torch.ones(7, 3, dtype=torch.bool))
    operator = CartesianSense(complex_normal((3, 7, 12), 1), torch.ones(7, 9) > 0, overlap)
    problem = InverseProblem(operator, operator.solver(), torch.zeros(3, 7, 9) + 0j, 0.1)
    plain = prior_of(Isotropic(), problem)
    turned = prior_of(Isotropic(), problem, (0, "slice-0"))
    images = complex_normal((3, 7, 12), 4)
    for _ in range(4):
        torch.testing.assert_close(turned.denoise(images, 0.3), plain.denoise(images, 0.3))


def test_only_a_prior_that_says_so_is_turned_and_only_where_it_is_wanted() -> None:
    full, _ = simulate(1, 4, 64, 64)
    scan = undersample(full, undersampling_mask((64, 64), "equispaced", 2, 0.25, 0))
    fast = Settings(preset="fast", samples=2, self_check=False, fit_noise=False)

    def mean(prior: Prior, settings: Settings) -> np.ndarray:
        *_, last = reconstruct(scan, prior, settings)
        assert isinstance(last, SlicePosterior)
        return last.mean

    @dataclass(frozen=True)
    class Leaning:
        """A Gaussian prior with a mean on one side."""

        symmetric: bool
        inner: GaussianPrior
        sigma_range: tuple[float, float] = (0.002, 100.0)

        def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
            return self.inner.denoise(noisy, sigma)

    inner = power_law_prior(64)
    inner = replace(inner, mean=(torch.arange(64) / 64).expand(64, 64).to(torch.complex64))
    plain = mean(Leaning(symmetric=False, inner=inner), fast)
    assert np.array_equal(
        plain, mean(Leaning(symmetric=True, inner=inner), replace(fast, symmetry=False))
    )
    assert not np.array_equal(plain, mean(Leaning(symmetric=True, inner=inner), fast))
