import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.calibration import calibrate, scaled
from recon.choices import PatternName
from recon.coarse import Coarse, CoarseMethod, coarse_reconstruction, radial_spectrum
from recon.noise import NoiseStreams
from recon.operators import CartesianSense, fft2c
from recon.phantom import receiver_maps, simulate
from recon.receivers import noise_model
from recon.sampler import InverseProblem
from recon.undersampling import undersample, undersampling_mask

COILS = 6


class Case(NamedTuple):
    problem: InverseProblem
    truth: Tensor
    inside: Tensor

    def error(self, image: Tensor) -> float:
        """Root-mean-square error per real component inside the object."""
        difference = (image - self.truth)[self.inside]
        return math.sqrt(float(difference.abs().square().mean()) / 2)


def phantom(acceleration: float, pattern: PatternName = "equispaced", size: int = 64) -> Case:
    """The phantom with its true maps, so that its image is the truth of the reconstruction."""
    scan, image = simulate(1, COILS, size, size, snr=30, seed=1)
    maps = receiver_maps(COILS, size, size)
    mask = undersampling_mask((size, size), pattern, acceleration, 0.15, 0)
    scan = replace(undersample(scan, mask), coil_maps=maps[None].copy())
    model, _ = noise_model(scan)
    calibration = calibrate(scan, 0, model)
    # Whitened maps have one norm everywhere; `calibrate` moves it into the image.
    factor = np.linalg.norm(np.einsum("vc,crk->vrk", model.whitening, maps), axis=0)
    truth = image[0] * factor * calibration.phase.conj()
    scale = float(np.percentile(np.abs(truth), 99))
    calibration = scaled(calibration, scale)
    operator = CartesianSense(
        torch.from_numpy(calibration.coil_maps), torch.from_numpy(calibration.mask.copy())
    )
    problem = InverseProblem(
        operator,
        operator.solver(),
        torch.from_numpy(calibration.kspace),
        calibration.noise_std,
    )
    return Case(
        problem,
        torch.from_numpy((truth / scale).astype(np.complex64)),
        torch.from_numpy(np.abs(image[0]) > 0),
    )


def reconstructed(case: Case, method: CoarseMethod) -> Coarse:
    return coarse_reconstruction(
        case.problem, method, NoiseStreams.keyed(0, f"coarse-{method}", range(4))
    )


@pytest.mark.parametrize("method", CoarseMethod)
@pytest.mark.parametrize(
    ("acceleration", "pattern", "size"),
    [(2, "equispaced", 64), (4, "equispaced", 64), (3, "random", 64), (3, "poisson", 40)],
)
def test_error_estimate_is_within_a_factor_of_two(
    method: CoarseMethod, acceleration: float, pattern: PatternName, size: int
) -> None:
    case = phantom(acceleration, pattern, size)
    coarse = reconstructed(case, method)
    assert coarse.image.shape == coarse.error.shape == (size, size)
    assert coarse.image.dtype == torch.complex64
    assert coarse.error.dtype == torch.float32
    assert float(coarse.error.min()) > 0
    error = case.error(coarse.image)
    estimate = math.sqrt(float(coarse.error[case.inside].square().mean()))
    assert error / 2 < estimate < 2 * error
    assert coarse.localization_sigma() > 2 * case.problem.noise_std


@pytest.mark.parametrize(
    ("acceleration", "pattern", "size"), [(2, "equispaced", 64), (3, "poisson", 40)]
)
def test_cg_sense_beats_zero_filled_and_sparsity_beats_both(
    acceleration: float, pattern: PatternName, size: int
) -> None:
    case = phantom(acceleration, pattern, size)
    zero_filled, cg_sense, l1_wavelet = (
        case.error(reconstructed(case, method).image)
        for method in (CoarseMethod.ZERO_FILLED, CoarseMethod.CG_SENSE, CoarseMethod.L1_WAVELET)
    )
    assert zero_filled == case.error(case.problem.backprojection)
    assert cg_sense < 0.8 * zero_filled
    assert l1_wavelet < cg_sense


@pytest.mark.parametrize("method", CoarseMethod)
def test_full_sampling_leaves_the_noise_only(method: CoarseMethod) -> None:
    """Maps with sum |S|^2 = 1: the error is the noise, or less where it is regularised."""
    case = phantom(1)
    coarse = reconstructed(case, method)
    assert case.error(coarse.image) < 1.2 * case.problem.noise_std
    assert coarse.localization_sigma() < 4 * case.problem.noise_std


def test_localization_grows_with_acceleration() -> None:
    cases = [phantom(acceleration) for acceleration in (1.5, 2, 3, 4)]
    for method in CoarseMethod:
        coarse = [reconstructed(case, method) for case in cases]
        sigmas = [each.localization_sigma() for each in coarse]
        assert sigmas[0] > 0
        errors = [case.error(each.image) for case, each in zip(cases, coarse, strict=True)]
        assert errors == sorted(errors)
        if method is CoarseMethod.CG_SENSE:
            assert sigmas == sorted(sigmas)
        assert sigmas[-1] > 1.1 * sigmas[0]
        # Wide enough to hold the truth: no narrower than the true error.
        assert all(sigma > error for sigma, error in zip(sigmas, errors, strict=True))


def test_localization_is_two_and_a_half_errors_where_the_image_is() -> None:
    image = torch.zeros(20, 20, dtype=torch.complex64)
    image[5:15, 5:15] = 1
    error = torch.full((20, 20), 7.0)
    error[5:15, 5:10], error[5:15, 10:15] = 0.3, 0.4
    expected = 2.5 * math.sqrt((0.3**2 + 0.4**2) / 2)
    assert Coarse(image, error).localization_sigma() == pytest.approx(expected)


def test_spectrum_follows_the_power_of_the_truth() -> None:
    """Within a factor of three in every ring outside the centre, where samples are missing."""
    case = phantom(2)
    spectrum = radial_spectrum(case.problem)
    assert spectrum.shape == (64, 64)
    assert torch.isfinite(spectrum).all()
    power = fft2c(case.truth).abs().square() / 2
    place = (torch.arange(64) - 32) / 64
    radius = torch.hypot(place[:, None], place[None, :])
    for low, high in ((0.1, 0.2), (0.2, 0.3), (0.3, 0.5)):
        ring = (radius >= low) & (radius < high)
        ratio = float(spectrum[ring].mean() / power[ring].mean())
        assert 1 / 3 < ratio < 3


def test_same_noise_gives_the_same_error() -> None:
    case = phantom(3)
    first, second = (reconstructed(case, CoarseMethod.CG_SENSE) for _ in range(2))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.error, second.error)
