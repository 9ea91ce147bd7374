from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.calibration import calibrate, scaled
from recon.central_lines import calibration_region, calibration_width, enough_for_maps
from recon.errors import CalibrationError
from recon.phantom import receiver_maps, simulate
from recon.receivers import NoiseModel, noise_model
from recon.scan import Scan
from recon.undersampling import undersample, undersampling_mask


def lines(size: tuple[int, int], first: int, last: int) -> NDArray[np.bool_]:
    """Columns `first` to `last` acquired."""
    mask = np.zeros(size, dtype=np.bool_)
    mask[:, first : last + 1] = True
    return mask


def square(rows: slice, columns: slice) -> NDArray[np.bool_]:
    mask = np.zeros((40, 51), dtype=np.bool_)
    mask[::5, ::5] = True
    mask[rows, columns] = True
    return mask


@pytest.mark.parametrize(
    ("mask", "width"),
    [
        (lines((64, 64), 24, 39), 16),
        (lines((64, 64), 24, 40), 17),
        (lines((64, 65), 26, 38), 13),
        (lines((64, 64), 24, 39).T, 16),
        (lines((10, 64), 20, 43), 10),
        (lines((64, 64), 32, 32), 1),
        (lines((64, 64), 33, 60), 0),
        (lines((64, 64), 0, 31), 0),
        (np.ones((20, 31), dtype=np.bool_), 20),
        (square(slice(13, 27), slice(18, 32)), 14),
        (square(slice(13, 27), slice(15, 36)), 14),
        (square(slice(10, 31), slice(20, 31)), 11),
        (square(slice(21, 40), slice(0, 51)), 1),
    ],
)
def test_calibration_width(mask: NDArray[np.bool_], width: int) -> None:
    assert calibration_width(mask) == width


@pytest.mark.parametrize(
    ("mask", "region"),
    [
        (lines((64, 60), 23, 37), (48, 15)),
        (lines((64, 60), 23, 37).T, (15, 48)),
        (np.ones((60, 64), dtype=np.bool_), (48, 32)),
        (square(slice(13, 27), slice(15, 36)), (14, 21)),
    ],
)
def test_lines_are_used_along_more_samples_than_across(
    mask: NDArray[np.bool_], region: tuple[int, int]
) -> None:
    assert calibration_region(mask, 32, 48) == region


def phantom(
    size: tuple[int, int] = (80, 72), coils: int = 6, centre: int = 18, acceleration: float = 3
) -> tuple[Scan, NDArray[np.complex64]]:
    scan, truth = simulate(2, coils, *size, snr=40, seed=2)
    mask = undersampling_mask(size, "equispaced", acceleration, centre / size[1], 0)
    return undersample(scan, mask), truth


def true_maps(scan: Scan, model: NoiseModel) -> NDArray[np.complex128]:
    """Whitened sensitivities with sum |S|^2 = 1."""
    maps = np.einsum("vc,crk->vrk", model.whitening, receiver_maps(*scan.kspace.shape[1:]))
    return np.asarray(maps / np.sqrt((np.abs(maps) ** 2).sum(axis=0)))


def agreement(found: NDArray, truth: NDArray) -> NDArray[np.float64]:
    """|<S, S'>| / |S| |S'| per pixel: one where they differ by a phase only."""
    norms = np.linalg.norm(found, axis=0) * np.linalg.norm(truth, axis=0)
    return np.abs((found.conj() * truth).sum(axis=0)) / np.maximum(norms, 1e-12)


@pytest.mark.parametrize("axis", ["columns", "rows"])
def test_estimated_maps_are_the_true_ones_up_to_a_phase(axis: str) -> None:
    scan, truth = phantom()
    if axis == "rows":
        full, truth = simulate(2, 6, 72, 80, snr=40, seed=2)
        scan = undersample(full, scan.mask.T.copy())
    model, _ = noise_model(scan)
    for index in range(2):
        found = calibrate(scan, index, model)
        assert found.coil_maps.dtype == np.complex64
        inside = np.abs(truth[index]) > 0
        power = (np.abs(found.coil_maps) ** 2).sum(axis=0)
        np.testing.assert_allclose(power[inside], 1, atol=1e-4)
        assert power.max() < 1 + 1e-4
        assert agreement(found.coil_maps, true_maps(scan, model))[inside].min() > 0.99
        # Where they are the wrong slice's or coil's maps this fails.
        swapped = np.roll(true_maps(scan, model), 1, axis=0)
        assert np.median(agreement(found.coil_maps, swapped)[inside]) < 0.95


def test_calibrated_data_are_whitened_and_masked() -> None:
    scan, _ = phantom()
    model, _ = noise_model(scan)
    found = calibrate(scan, 1, model)
    expected = np.einsum("vc,crk->vrk", model.whitening, scan.kspace[1])
    np.testing.assert_allclose(found.kspace, expected, rtol=1e-4, atol=1e-6)
    assert found.kspace.dtype == np.complex64
    assert not found.kspace[:, ~scan.mask].any()
    assert (found.noise_std, found.noise_source) == (model.noise_std, "noise-scan")


def test_reference_phase_leaves_an_almost_real_image() -> None:
    """The phase moves from the image into the maps: the combination is real but for detail."""
    scan, truth = phantom(acceleration=1)
    model, _ = noise_model(scan)
    found = calibrate(scan, 0, model)
    np.testing.assert_allclose(np.abs(found.phase), 1, atol=1e-5)
    axes = (-2, -1)
    shifted = np.fft.ifftshift(found.kspace, axes=axes)
    coil_images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=axes)
    image = (found.coil_maps.conj() * coil_images).sum(axis=0)
    inside = np.abs(truth[0]) > 0.1
    share = (image.real[inside] ** 2).sum() / (np.abs(image[inside]) ** 2).sum()
    assert share > 0.98
    assert image.real[inside].mean() > 0


def test_given_maps_are_used() -> None:
    # Six central lines: nothing could be estimated from them.
    scan, _ = phantom(centre=6)
    maps = 3 * np.stack([receiver_maps(6, 80, 72)] * 2)
    maps[1] = maps[1, ::-1]
    maps[:, :, :5] = 0
    given = replace(scan, coil_maps=maps)
    model, _ = noise_model(given)
    expected = [true_maps(scan, model)]
    flipped = np.einsum("vc,crk->vrk", model.whitening, maps[1])
    expected.append(flipped / np.maximum(np.linalg.norm(flipped, axis=0), 1e-12))
    for index in range(2):
        found = calibrate(given, index, model)
        assert agreement(found.coil_maps, expected[index])[5:].min() > 1 - 1e-5
        power = (np.abs(found.coil_maps) ** 2).sum(axis=0)
        np.testing.assert_allclose(power[5:], 1, atol=1e-5)
        assert not power[:5].any()
        # Up to the one phase that is taken out of the image, the same for all coils.
        np.testing.assert_allclose(
            (found.coil_maps * found.phase.conj())[:, 5:], expected[index][:, 5:], atol=1e-5
        )


@pytest.mark.parametrize("centre", [0, 4, 5])
def test_too_small_a_centre_is_refused(centre: int) -> None:
    scan, _ = simulate(1, 4, 64, 64, snr=40)
    mask = np.zeros((64, 64), dtype=np.bool_)
    mask[:, ::5] = True
    mask[:, 32 - centre // 2 : 32 - centre // 2 + centre] = True
    mask[:, [32 - centre // 2 - 1, 32 - centre // 2 + centre]] = False
    thin = undersample(scan, mask)
    model, _ = noise_model(thin)
    with pytest.raises(CalibrationError, match="at least 6 fully sampled") as caught:
        calibrate(thin, 0, model)
    assert caught.value.code == "no-calibration-region"
    assert f"has {centre}." in caught.value.message
    mask[:, 29:35] = True
    calibrate(undersample(scan, mask), 0, model)


@pytest.mark.parametrize(("side", "enough"), [(11, False), (12, True)])
def test_a_square_must_be_larger_than_lines_are_many(side: int, enough: bool) -> None:
    mask = np.zeros((64, 64), np.bool_)
    mask[::3, ::3] = True
    corner = 32 - side // 2
    mask[corner : corner + side, corner : corner + side] = True
    assert enough_for_maps(mask) is enough
    lines = np.zeros((64, 64), np.bool_)
    lines[29:35] = True
    assert enough_for_maps(lines)
    assert not enough_for_maps(lines[:, :40])


def test_a_single_coil_needs_no_maps() -> None:
    scan, _ = simulate(1, 1, 48, 40, snr=40)
    mask = np.zeros((48, 40), dtype=np.bool_)
    mask[::3] = True
    thin = undersample(scan, mask)
    found = calibrate(thin, 0, noise_model(thin)[0])
    np.testing.assert_allclose(np.abs(found.coil_maps), 1, atol=1e-5)
    np.testing.assert_allclose(found.coil_maps[0], found.phase, atol=1e-6)


def test_scale_divides_data_and_noise_alike() -> None:
    scan, _ = phantom()
    found = calibrate(scan, 0, noise_model(scan)[0])
    half = scaled(found, 2.0)
    np.testing.assert_allclose(half.kspace, found.kspace / 2)
    assert half.noise_std == found.noise_std / 2
    assert half.coil_maps is found.coil_maps
