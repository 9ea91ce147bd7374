import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from recon.central_lines import calibration_width
from recon.noise import NoiseStreams
from recon.operators import CartesianSense
from recon.posterior import SelfCheck
from recon.sampler import InverseProblem
from recon.selfcheck import hold_out, judge, log_densities
from recon.solve import ConjugateGradientSolver
from recon.undersampling import undersampling_mask

Mask = NDArray[np.bool_]


def centre_of(mask: Mask) -> Mask:
    """The fully sampled square round the centre of k-space."""
    width = calibration_width(mask)
    inside = np.zeros_like(mask)
    top, left = mask.shape[0] // 2 - width // 2, mask.shape[1] // 2 - width // 2
    inside[top : top + width, left : left + width] = True
    return inside


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("shape", [(96, 96), (65, 130), (130, 65)])
def test_lines_are_held_out_whole_and_outside_the_centre(shape: tuple[int, int], axis: int) -> None:
    across = shape if axis == 1 else shape[::-1]
    mask = undersampling_mask(across, "equispaced", 3, 0.1, 2)
    mask = mask if axis == 1 else mask.T.copy()
    pattern = mask.take(0, axis=1 - axis)
    position = np.abs(np.arange(len(pattern)) - len(pattern) // 2)
    outer = np.count_nonzero(pattern & (position > calibration_width(mask) / 2))
    for seed in range(5):
        held_out = hold_out(mask, seed)
        assert held_out.dtype == np.bool_
        assert not (held_out & ~mask).any()
        assert not (held_out & centre_of(mask)).any()
        chosen = held_out.any(axis=1 - axis)
        # A line is taken whole or not at all.
        np.testing.assert_array_equal(held_out.all(axis=1 - axis), chosen)
        assert np.count_nonzero(chosen) == max(2, round(0.12 * outer))
        assert calibration_width(mask & ~held_out) == calibration_width(mask)
    assert (hold_out(mask, 0) != hold_out(mask, 1)).any()
    np.testing.assert_array_equal(hold_out(mask, 0), hold_out(mask, 0))


def test_samples_of_a_scattered_mask_are_held_out_one_by_one() -> None:
    mask = undersampling_mask((96, 81), "poisson", 4, 0.16, 0)
    centre = centre_of(mask)
    outer = np.count_nonzero(mask & ~centre)
    for seed in range(5):
        held_out = hold_out(mask, seed)
        assert not (held_out & ~mask).any()
        assert not (held_out & centre).any()
        # Binomial: within 5 standard deviations of 12 %.
        spread = math.sqrt(outer * 0.12 * 0.88)
        assert abs(np.count_nonzero(held_out) - 0.12 * outer) < 5 * spread


def test_nothing_is_held_out_where_little_lies_outside() -> None:
    few = np.zeros((64, 64), dtype=np.bool_)
    few[:, 24:40] = True
    few[:, [2, 12, 50, 60]] = True
    assert not hold_out(few, 0).any()
    few[:, [6, 55]] = True
    assert np.count_nonzero(hold_out(few, 0)) == 2 * 64
    scattered = np.zeros((64, 64), dtype=np.bool_)
    scattered[24:40, 24:40] = True
    scattered[::9, ::9] = True
    assert not hold_out(scattered, 0).any()


DRAWS, SPREAD, NOISE = 400, 1.0, 0.3


def predictions(held_out: Tensor, factor: float, coils: int = 2, bias: float = 0) -> SelfCheck:
    """Judgement of draws whose spread about their own mean is `factor` times the right one.

    Truth and draws come from one Gaussian with its own mean, white in the image.
    """
    shape = held_out.shape
    maps = NoiseStreams.pooled(1, coils).normal(shape)
    operator = CartesianSense(
        maps / maps.abs().square().sum(dim=0).sqrt(), torch.ones(shape, dtype=torch.bool)
    )
    mean = 5 * NoiseStreams.pooled(2, 1).normal(shape)
    images = mean + SPREAD * NoiseStreams.pooled(3, DRAWS + 1).normal(shape)
    noise = NoiseStreams.pooled(4, 1).normal((coils, *shape))[0]
    measurement = operator.forward(images[0]) + NOISE * noise + bias
    problem = InverseProblem(operator, ConjugateGradientSolver(operator), measurement, NOISE)
    draws = images[1:]
    centre = draws.mean(dim=0)
    return judge(problem, centre + factor * (draws - centre), held_out)


def held_out_lines() -> Tensor:
    held_out = torch.zeros(96, 64, dtype=torch.bool)
    held_out[:, [3, 9, 20, 33, 41, 52]] = True
    return held_out


@pytest.mark.parametrize("factor", [1.0, 0.5, 2.0])
def test_judgement_of_gaussian_predictions(factor: float) -> None:
    """Within 5 standard errors of what the Gaussian gives; for factor 1 that is the nominal.

    Random maps with sum |S|^2 = 1 leave a variance of 1 / coils per component in every coil.
    """
    coils = 2
    held_out = held_out_lines()
    found = predictions(held_out, factor, coils)
    variance = SPREAD**2 / coils
    expected = math.sqrt((variance + NOISE**2) / (factor**2 * variance + NOISE**2))
    # Coils see one image: at worst they repeat each other and count once.
    components = 2 * int(held_out.sum())
    # 798 degrees of freedom of the predicted variance widen the scores by 1 part in 800.
    assert abs(found.residual_std - expected) < expected * (5 / math.sqrt(2 * components) + 2e-3)
    for level, coverage in ((0.5, found.coverage_50), (0.9, found.coverage_90)):
        share = 2 * stats.norm.cdf(stats.norm.ppf((1 + level) / 2) / expected) - 1
        standard_error = math.sqrt(share * (1 - share) / components)
        assert abs(coverage - share) < 5 * standard_error + 2e-3
    assert found.lines == 6
    if factor == 0.5:
        assert found.residual_std > 1.5
        assert found.coverage_50 < 0.4
        assert found.coverage_90 < 0.75


def test_judgement_sees_a_wrong_mean() -> None:
    found = predictions(held_out_lines(), 1.0, bias=3.0)
    assert found.residual_std > 2
    assert found.coverage_90 < 0.8


def test_judgement_looks_at_held_out_samples_only() -> None:
    held_out = held_out_lines()
    shape = held_out.shape
    operator = CartesianSense(
        torch.ones(1, *shape, dtype=torch.complex64), torch.ones_like(held_out)
    )
    draws = NoiseStreams.pooled(5, 20).normal(shape)
    measurement = NoiseStreams.pooled(6, 1).normal((1, *shape))[0]
    solver = ConjugateGradientSolver(operator)
    first = judge(InverseProblem(operator, solver, measurement, 0.1), draws, held_out)
    measurement = torch.where(held_out, measurement, 1e6)
    assert judge(InverseProblem(operator, solver, measurement, 0.1), draws, held_out) == first


def test_number_of_lines_or_samples() -> None:
    rows = torch.zeros(20, 30, dtype=torch.bool)
    rows[[1, 5, 17]] = True
    assert predictions(rows, 1.0).lines == 3
    assert predictions(rows.T.contiguous(), 1.0).lines == 3
    samples = torch.zeros(20, 30, dtype=torch.bool)
    samples[[1, 5, 17, 17], [2, 9, 9, 28]] = True
    assert predictions(samples, 1.0).lines == 4


def test_the_log_density_is_that_of_the_predicted_gaussian() -> None:
    """Draws and measurements from the same law: minus its entropy, in units of the noise."""
    noise_std, spread = 0.1, 0.3
    streams = NoiseStreams.keyed(0, "density", range(201))
    kspace = spread * streams.normal((32, 32))
    operator = CartesianSense(torch.ones(1, 32, 32) + 0j, torch.ones(32, 32, dtype=torch.bool))
    measured = kspace[:1] + noise_std * NoiseStreams.keyed(1, "noise", (0,)).normal((32, 32))
    problem = InverseProblem(operator, ConjugateGradientSolver(operator), measured, noise_std)
    images = torch.fft.fftshift(
        torch.fft.ifft2(torch.fft.ifftshift(kspace[1:], dim=(-2, -1)), norm="ortho"), dim=(-2, -1)
    )
    held_out = torch.zeros(32, 32, dtype=torch.bool)
    held_out[:, ::4] = True
    variance = 1 + (spread / noise_std) ** 2
    expected = -(math.log(2 * math.pi * variance) + 1) / 2
    # 512 components: the squared scores vary by 2 / 512, and each counts half.
    half, right, double = log_densities(problem, images, held_out, (0.5, 1.0, 2.0))
    assert abs(right - expected) < 4 * 0.5 * (2 / 512) ** 0.5
    assert half < expected - 0.2
    assert double < expected - 0.2
