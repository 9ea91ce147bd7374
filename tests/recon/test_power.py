"""Priors raised to a power: closed forms, whole reconstructions, and models that ask for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.phantom import simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.power import Raised, power_of
from recon.prior import DenseGaussianPrior, Prior, RingPrior, StationaryPrior
from recon.scan import Geometry
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from tests.contracts import complex_normal

POWERS = (0.6, 0.94, 1.7)


@pytest.mark.parametrize("power", POWERS)
def test_a_gaussian_to_a_power_is_the_one_of_a_smaller_or_larger_covariance(power: float) -> None:
    double = torch.complex128
    root = complex_normal((36, 36), 1, double)
    covariance = root @ root.mH / 36
    mean, noisy = complex_normal((6, 6), 2, double), complex_normal((3, 6, 6), 3, double)
    raised = Raised(DenseGaussianPrior(mean, covariance), power)
    exact = DenseGaussianPrior(mean, covariance / power)
    for sigma in (0.05, 0.4, 3.0):
        torch.testing.assert_close(raised.denoise(noisy, sigma), exact.denoise(noisy, sigma))


def expected_and_found(prior: Prior, truth: Tensor, sigma: float) -> float:
    """Squared error found over the one expected (Stein), 1 when the prior is right."""
    noise = complex_normal(truth.shape, 5)
    error = prior.denoise(truth + sigma * noise, sigma) - truth
    expected = sigma * float((noise.conj() * error).real.mean())
    return float(error.abs().square().mean()) / expected


def test_a_power_makes_up_for_a_prior_that_is_too_sure() -> None:
    truth = 0.3 * complex_normal((400, 8, 8), 4)
    flat = torch.eye(64, dtype=torch.complex64)
    sure = DenseGaussianPrior(torch.zeros(8, 8, dtype=torch.complex64), 0.3**2 * 0.8 * flat)
    for sigma in (0.1, 0.5):
        assert expected_and_found(sure, truth, sigma) > 1.02
        assert expected_and_found(Raised(sure, 0.8), truth, sigma) == pytest.approx(1, abs=0.01)
    angle = 2 * torch.pi * torch.rand((400, 8, 8), generator=torch.Generator().manual_seed(6))
    ring = torch.polar(torch.ones_like(angle), angle)
    for sigma in (0.1, 0.3):
        found = [expected_and_found(Raised(RingPrior(0.05), p), ring, sigma) for p in (0.8, 1, 1.2)]
        assert found == sorted(found)


def test_a_level_outside_the_range_is_asked_as_it_comes() -> None:
    asked: list[float] = []

    class Asked:
        sigma_range = (0.01, 10.0)

        def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
            asked.append(sigma)
            return noisy

    image = torch.zeros(1, 2, 2, dtype=torch.complex64)
    for power in (0.25, 4.0):
        for sigma in (0.005, 0.01, 1.0, 10.0, 20.0):
            Raised(Asked(), power).denoise(image, sigma)
    assert asked == [0.005, 0.01, 0.5, 5.0, 10.0, 0.01, 0.02, 2.0, 10.0, 20.0]


@dataclass(frozen=True)
class Asking:
    """A prior that asks for a power."""

    inner: StationaryPrior
    power: float
    symmetric: bool = True
    sigma_range: tuple[float, float] = (1e-3, 10.0)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        return self.inner.denoise(noisy, sigma)


@pytest.mark.parametrize("volume", [False, True])
def test_a_reconstruction_is_that_of_the_power_that_the_prior_asks_for(*, volume: bool) -> None:
    full, _ = simulate(3, 4, 32, 32, slice_distance=1 / 32)
    full = replace(full, geometry=Geometry((210, 210, 210 / 32), (32, 32)))
    mask = undersampling_mask((32, 32), "poisson", 2, 0.5, 0)
    scan = undersample(full, mask)
    fast = Settings("fast", samples=2, self_check=False, fit_noise=False, volume=volume)

    def images(prior: Prior) -> np.ndarray:
        events = reconstruct(scan, prior, fast)
        return np.stack([e.samples for e in events if isinstance(e, SlicePosterior)])

    prior = StationaryPrior((0.02, 0.1, 0.4), (4.0, 0.2, 0.01))
    narrow = replace(prior, powers=tuple(power / 0.7 for power in prior.powers))
    asked = images(Asking(prior, 0.7))
    np.testing.assert_allclose(asked, images(narrow), atol=2e-3 * np.abs(asked).max())
    plain = images(prior)
    assert np.abs(asked - plain).max() > 0.02 * np.abs(asked).max()


def test_priors_that_say_nothing_are_taken_as_they_are() -> None:
    assert power_of(RingPrior(0.1)) == 1
    assert power_of(Asking(StationaryPrior((0.1,), (1.0,)), 0.8)) == 0.8
