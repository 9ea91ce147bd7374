import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from recon.diagnostics import (
    chi2_per_coil,
    circular_std,
    object_mask,
)
from recon.noise import NoiseStreams
from recon.operators import CartesianSense
from recon.phantom import simulate
from recon.sampler import InverseProblem
from recon.solve import ConjugateGradientSolver


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("spread", [0.05, 0.5, 1.2])
def test_circular_std_of_wrapped_normal_phases(spread: float) -> None:
    """A wrapped normal phase has the circular standard deviation of the unwrapped one."""
    draws = 40_000
    angle = spread * normal(draws, 2, 3, seed=11) + 3.0
    images = torch.polar(normal(draws, 2, 3, seed=12).abs() + 0.1, angle)
    found = circular_std(images)
    assert found.shape == (2, 3)
    # Var of R's estimate is (1 - R^2)^2 / 2n for a wrapped normal; d std = dR / (R std).
    length = math.exp(-(spread**2) / 2)
    standard_error = (1 - length**2) / math.sqrt(2 * draws) / (length * spread)
    assert (found - spread).abs().max() < 5 * standard_error


def test_circular_std_of_zeros_and_equal_phases() -> None:
    equal = torch.full((5, 2), 3 * torch.exp(torch.tensor(2j)).item())
    assert float(circular_std(equal).max()) < 1e-3
    assert torch.isfinite(circular_std(torch.zeros(5, 2, dtype=torch.complex64))).all()


def noise_problem(stds: tuple[float, ...], shape: tuple[int, int]) -> InverseProblem:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(13)) < 0.4
    maps = torch.full((len(stds), *shape), len(stds) ** -0.5, dtype=torch.complex64)
    operator = CartesianSense(maps, mask)
    noise = NoiseStreams.pooled(14, 1).normal((len(stds), *shape))[0]
    measurement = 0.2 * torch.tensor(stds)[:, None, None] * noise * mask
    return InverseProblem(operator, ConjugateGradientSolver(operator), measurement, 0.2)


def test_chi2_of_pure_noise_is_one() -> None:
    """Per coil within 5 standard errors, sqrt(2 / components of the coil)."""
    stds, shape = (1.0, 1.0, 3.0), (80, 75)
    problem = noise_problem(stds, shape)
    images = torch.zeros(2, *shape, dtype=torch.complex64)
    chi2 = chi2_per_coil(problem, images)
    assert chi2.shape == (3,)
    components = problem.operator.measured_components / 3
    relative = chi2 / torch.tensor(stds).square()
    assert (relative - 1).abs().max() < 5 * math.sqrt(2 / components)
    # The mean over coils is the kernel's own value, image by image.
    assert float(problem.chi2(images)[0]) == pytest.approx(float(chi2.mean()), rel=1e-5)


def test_chi2_is_averaged_over_images() -> None:
    problem = noise_problem((1.0, 1.0), (20, 21))
    images = NoiseStreams.pooled(15, 3).normal((20, 21))
    each = torch.stack([chi2_per_coil(problem, image[None]) for image in images])
    torch.testing.assert_close(chi2_per_coil(problem, images), each.mean(dim=0))
    assert each.std(dim=0).min() > 0


def test_object_mask_is_the_filled_object() -> None:
    rows, columns = np.indices((90, 81))
    distance = np.hypot(rows - 44, columns - 40)
    magnitude = np.where(distance < 30, 1.0, 0.01).astype(np.float32)
    magnitude[distance < 10] = 0.01
    magnitude[3, 3] = 1
    mask = object_mask(magnitude)
    assert mask.dtype == np.bool_
    assert mask.shape == (90, 81)
    # Smoothing by 2 pixels moves the edge at 8 % outwards by 2.8 of them.
    assert mask[distance < 29].all()
    assert not mask[distance > 35].any()


def test_object_mask_of_the_phantom() -> None:
    _, truth = simulate(1, 1, 96, 96, snr=math.inf)
    head = ndimage.binary_fill_holes(np.abs(truth[0]) > 0)
    found = object_mask(np.abs(truth[0]).astype(np.float32))
    assert np.count_nonzero(head & ~found) < 0.01 * np.count_nonzero(head)
    assert not (found & ~ndimage.binary_dilation(head, iterations=4)).any()
    # Units do not matter.
    scaled = object_mask((1e6 * np.abs(truth[0])).astype(np.float32))
    np.testing.assert_array_equal(scaled, found)
