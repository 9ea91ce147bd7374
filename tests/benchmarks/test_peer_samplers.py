"""The peers' samplers on a Gaussian prior, whose posterior is known, and as far as each is right.

Not one of them is exact: what is asked of each is the property that its own derivation gives it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from benchmarks import deepinv_samplers
from benchmarks.closed_form import white_image
from benchmarks.contestants import PEERS, our_preset
from benchmarks.samplers import (
    Denoiser,
    daps,
    dps,
    gaussian_draw,
    plain_annealed_langevin,
    power_levels,
    preconditioned_langevin,
    split_gibbs,
)
from models.denoiser import NetworkPrior
from recon.noise import NoiseStreams
from recon.operators import CartesianSense, fft2c, ifft2c
from recon.prior import GaussianPrior
from recon.sampler import InverseProblem

SIDE, COILS, NOISE_STD, CHAINS = 16, 4, 0.05, 48


class Known(NamedTuple):
    """A problem with the mean and the pixels' std of its posterior."""

    problem: InverseProblem
    prior: GaussianPrior
    mean: Tensor
    std: Tensor


@lru_cache(maxsize=1)
def known() -> Known:
    place = torch.arange(SIDE) - SIDE // 2
    radius = torch.hypot(place[:, None].float(), place[None].float())
    spectrum = 0.3 / (1 + (radius / 3) ** 2)
    turn = 2 * math.pi * torch.arange(COILS) / COILS
    wave = 1.5 + torch.cos(turn[:, None, None] + place[:, None] / 5 + 0 * place[None, :])
    maps = torch.polar(wave, turn[:, None, None] * place[None, None, :] / 9)
    maps = maps / maps.abs().square().sum(dim=0).sqrt()
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[:, ::3] = True
    mask[:, 6:10] = True
    operator = CartesianSense(maps, mask)
    truth = ifft2c(spectrum.sqrt() * white_image(SIDE, SIDE, seed=1))
    noise = NOISE_STD * white_image(COILS, SIDE, SIDE, seed=2)
    measurement = operator.forward(truth) + noise * mask
    problem = InverseProblem(operator, operator.solver(), measurement, NOISE_STD)
    unit = torch.eye(SIDE**2, dtype=torch.complex64).reshape(-1, SIDE, SIDE)
    covariance = ifft2c(spectrum * fft2c(unit)).reshape(SIDE**2, -1).T.to(torch.complex128)
    normal = operator.normal(unit).reshape(SIDE**2, -1).T.to(torch.complex128)
    posterior = torch.linalg.inv(torch.linalg.inv(covariance) + normal / NOISE_STD**2)
    right = problem.backprojection.flatten().to(torch.complex128) / NOISE_STD**2
    mean = (posterior @ right).reshape(SIDE, SIDE).to(torch.complex64)
    std = posterior.diagonal().real.sqrt().reshape(SIDE, SIDE).float()
    prior = GaussianPrior(torch.zeros(SIDE, SIDE, dtype=torch.complex64), spectrum)
    return Known(problem, prior, mean, std)


def drawn(sampler: Callable[..., Tensor], **settings: object) -> tuple[float, float, float]:
    """(bias of the mean in posterior stds, variance over the true one, chi2) of `CHAINS` draws."""
    problem, prior, mean, std = known()
    noise = NoiseStreams.keyed(3, "peer", range(CHAINS))
    found = sampler(problem, Denoiser(prior), noise, **settings)
    assert found.shape == (CHAINS, SIDE, SIDE)
    bias = float(((found.mean(dim=0) - mean).abs() / std).square().mean() / 2) ** 0.5
    spread = (found - found.mean(dim=0)).abs().square().sum(dim=0) / (CHAINS - 1) / 2
    return bias, float(spread.mean() / std.square().mean()), float(problem.chi2(found).mean())


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small images: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


MONTE_CARLO = CHAINS**-0.5
"""Expected bias of an exact sampler's mean, in posterior stds."""


def test_the_gaussian_draw_is_exact() -> None:
    problem = known().problem
    centre = white_image(SIDE, SIDE, seed=5)
    noise = NoiseStreams.pooled(1, 4000)
    found = gaussian_draw(problem, noise, centre.expand(4000, -1, -1), 0.2, NOISE_STD)
    right = problem.backprojection / NOISE_STD**2 + centre / 0.04
    solved = problem.solver.precondition(right[None], None, NOISE_STD**-2, 25.0)[0]
    assert float((found.mean(dim=0) - solved).abs().max()) < 5 * 0.2 * 2**0.5 / 4000**0.5
    residual = found - solved
    energy = NOISE_STD**-2 * problem.solver.normal(residual) + 25 * residual
    per_component = (residual.conj() * energy).real.sum(dim=(-2, -1)).mean() / (2 * SIDE**2)
    assert float(per_component) == pytest.approx(1, abs=0.02)


def test_split_gibbs_finds_mean_and_variance() -> None:
    bias, variance, chi2 = drawn(
        split_gibbs, iterations=60, widest=2.0, narrowest=0.03, decay=0.91, steps=10
    )
    assert bias < 1.5 * MONTE_CARLO
    assert 0.8 < variance < 1.15
    assert 0.9 < chi2 < 1.15


@pytest.mark.parametrize("settings", [{}, {"levels": 60, "steps": 8, "step": 0.1}])
def test_preconditioned_langevin_draws_the_posterior(settings: dict[str, float]) -> None:
    # As published, and slower. The stationary variance of its steps is too large by a third at a
    # step of 0.5, in the well measured directions only, which add little to the whole.
    bias, variance, chi2 = drawn(preconditioned_langevin, **settings)
    assert bias < 1.5 * MONTE_CARLO
    assert 0.95 < variance < 1.12
    assert 0.98 < chi2 < 1.1


def test_daps_finds_the_mean_with_its_published_langevin_steps() -> None:
    bias, variance, _ = drawn(daps, levels=40)
    assert bias < 2 * MONTE_CARLO
    assert 0.5 < variance < 1.2


def test_dps_explains_the_data_near_the_mean_with_too_little_spread() -> None:
    bias, variance, chi2 = drawn(dps, steps=150, scale=1.0)
    assert bias < 0.7
    assert variance < 0.5
    assert 0.4 < chi2 < 1.2


def test_plain_annealed_langevin_explains_the_data() -> None:
    bias, _, chi2 = drawn(plain_annealed_langevin, levels=60, weight=3.0, step=0.3)
    assert bias < 0.6
    assert chi2 < 1.5


def test_the_published_weight_diverges_with_a_denoiser_that_is_not_bounded() -> None:
    problem, prior, _, _ = known()
    noise = NoiseStreams.keyed(3, "peer", range(2))
    found = plain_annealed_langevin(problem, Denoiser(prior), noise, levels=100)
    assert not bool(torch.isfinite(found).all())


@pytest.mark.skipif(not deepinv_samplers.INSTALLED, reason="needs the extra `benchmark`")
@pytest.mark.filterwarnings("ignore")
def test_those_of_deepinv_solve_the_same_problem_in_their_units() -> None:
    bias, _, chi2 = drawn(deepinv_samplers.diffpir, weight=2.0, zeta=0.3)
    assert bias < 3 * MONTE_CARLO
    assert 0.6 < chi2 < 1.5
    bias, _, chi2 = drawn(deepinv_samplers.dps_of_deepinv, steps=150, weight=3.0)
    assert bias < 0.6
    assert 0.5 < chi2 < 1.5


class Halving(torch.nn.Module):
    """A network whose output depends on its input, so that a gradient passes."""

    def forward(self, image: Tensor, _label: Tensor) -> Tensor:
        return 0.5 * image


def test_the_wrapped_network_counts_and_lets_gradients_through() -> None:
    prior = NetworkPrior(Halving(), (0.05, 2.0))
    denoiser = Denoiser(prior)
    noisy = white_image(3, 8, 8, seed=1)
    plain = denoiser(noisy, 0.3)
    state = noisy.clone().requires_grad_(True)
    clean = denoiser(state, 0.3)
    assert denoiser.images == 6
    torch.testing.assert_close(clean.detach(), plain)
    (gradient,) = torch.autograd.grad(clean.abs().square().sum(), state)
    assert float(gradient.abs().min()) > 0


def test_outside_the_trained_levels_the_score_goes_on_and_noise_is_shrunk() -> None:
    prior = NetworkPrior(Halving(), (0.05, 2.0))
    denoiser = Denoiser(prior)
    noisy = white_image(2, 8, 8, seed=1)
    edge = (prior.denoise(noisy, 0.05) - noisy) / 0.05**2
    below = (denoiser(noisy, 0.01) - noisy) / 0.01**2
    torch.testing.assert_close(below, edge, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(denoiser(noisy, 8.0), prior.denoise(noisy / 4, 2.0))


def test_levels_fall_from_end_to_end() -> None:
    levels = power_levels(10.0, 0.004, 50)
    assert levels[0] == pytest.approx(10)
    assert levels[-1] == pytest.approx(0.004)
    assert all(high > low for high, low in pairwise(levels))


@pytest.mark.filterwarnings("ignore")
def test_a_budget_of_evaluations_is_kept() -> None:
    problem, prior, _, _ = known()
    for peer in PEERS:
        for settings in peer.grid:
            denoiser = Denoiser(prior)
            noise = NoiseStreams.keyed(3, "peer", range(2))
            peer.draw(problem, denoiser, noise, peer.spend(settings, 40))
            assert denoiser.images / 2 == pytest.approx(40, abs=2)
    for count in (10, 20, 40, 80, 160, 320):
        assert our_preset(count, 4).evaluations == count
