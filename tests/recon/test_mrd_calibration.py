"""Calibration lines that are not the image's, in the same file or another, make the coil maps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.calibration import calibrate
from recon.errors import CalibrationError, ScanError
from recon.io.files import read_calibration, read_scan, write_scan
from recon.phantom import simulate
from recon.receivers import noise_model
from recon.scan import Scan
from tests.mrd_files import fourier, header, lines, write

ROWS, COLUMNS = 48, 40
CENTRE = range(COLUMNS // 2 - 8, COLUMNS // 2 + 8)
EVERY_THIRD = range(2, COLUMNS, 3)
SEPARATE = (
    "<parallelImaging><accelerationFactor><kspace_encoding_step_1>3</kspace_encoding_step_1>"
    "<kspace_encoding_step_2>1</kspace_encoding_step_2></accelerationFactor>"
    "<calibrationMode>{}</calibrationMode></parallelImaging>"
)


@pytest.fixture(scope="module")
def kspace() -> NDArray[np.complex64]:
    """(slices, coils, rows, columns), fully sampled."""
    return simulate(2, 4, ROWS, COLUMNS, 100, 0)[0].kspace


def written(
    path: Path, kspace: NDArray[np.complex64], mode: str = "separate", size: int = ROWS
) -> Path:
    """Every third line of all slices, and the central lines as calibration of `size` samples."""
    cut = slice(ROWS // 2 - size // 2, ROWS // 2 + size // 2)
    xml = header((ROWS, COLUMNS, 1), parallel=SEPARATE.format(mode))
    acquisitions = []
    for number, image in enumerate(kspace):
        acquisitions += lines(image, EVERY_THIRD, slice=number)
        acquisitions += lines(image[:, cut], CENTRE, slice=number, flags=(20,))
    return write(path, xml, acquisitions)


def assert_maps_of_the_centre(scan: Scan, kspace: NDArray[np.complex64]) -> None:
    """The maps are those of an image that has the calibration lines in itself, and good ones."""
    assert scan.calibration is not None
    own = (scan.calibration != 0).any((0, 1))
    with_lines = replace(scan, kspace=kspace * own, mask=own, calibration=None)
    full = replace(with_lines, kspace=kspace.copy(), mask=np.ones_like(own))
    model = noise_model(full)[0]
    maps, same, best = (calibrate(s, 1, model).coil_maps for s in (scan, with_lines, full))
    np.testing.assert_array_equal(maps, same)
    inside = (maps != 0).any(0) & (best != 0).any(0)
    assert inside.sum() > 0.3 * inside.size
    assert np.quantile(np.abs((maps.conj() * best).sum(0))[inside], 0.1) > 0.93


@pytest.mark.parametrize(
    ("mode", "size"),
    [("separate", ROWS), ("separate", ROWS // 2), ("external", ROWS), ("other", ROWS)],
)
def test_separate_lines_in_the_file_make_the_maps(
    mode: str, size: int, kspace: NDArray[np.complex64], tmp_path: Path
) -> None:
    scan = read_scan(written(tmp_path / "a.h5", kspace, mode, size))
    assert np.flatnonzero(scan.mask[0]).tolist() == list(EVERY_THIRD)
    assert scan.calibration is not None
    cut = slice(ROWS // 2 - size // 2, ROWS // 2 + size // 2)
    expected = np.zeros_like(kspace)
    expected[:, :, cut, CENTRE[0] : CENTRE[-1] + 1] = kspace[:, :, cut, CENTRE[0] : CENTRE[-1] + 1]
    np.testing.assert_array_equal(scan.calibration, expected)
    assert_maps_of_the_centre(scan, kspace)
    with pytest.raises(CalibrationError, match="--calibration"):
        calibrate(replace(scan, calibration=None), 1, noise_model(scan)[0])


def test_lines_of_another_matrix_and_readout_fit_the_image(
    kspace: NDArray[np.complex64], tmp_path: Path
) -> None:
    """The scan is oversampled twice; its lines come from an encoding of their own that is not."""
    images = np.zeros((2, 4, 2 * ROWS, COLUMNS), np.complex64)
    images[:, :, ROWS // 2 : ROWS // 2 + ROWS] = fourier(kspace.conj(), (-2, -1)).conj()
    wide = fourier(images, (-2, -1))
    small = kspace[:, :, ROWS // 2 - 12 : ROWS // 2 + 12, COLUMNS // 2 - 10 : COLUMNS // 2 + 10]
    xml = header((2 * ROWS, COLUMNS, 1), (ROWS, COLUMNS, 1), parallel=SEPARATE.format("separate"))
    coarse = header((24, 20, 1), voxel=(3.0, 4.0, 4.0))  # 72 x 80 mm, as 48 x 1.5 and 40 x 2
    second = coarse[coarse.index("<encoding>") : coarse.index("</ismrmrdHeader>")]
    acquisitions = []
    for number in range(2):
        acquisitions += lines(wide[number], EVERY_THIRD, slice=number)
        acquisitions += lines(small[number], slice=number, flags=(20,), encoding_space_ref=1)
    xml = xml.replace("</ismrmrdHeader>", second + "</ismrmrdHeader>")
    scan = read_scan(write(tmp_path / "a.h5", xml, acquisitions))
    assert scan.kspace.shape == kspace.shape
    assert scan.calibration is not None
    expected = np.zeros_like(kspace)
    expected[:, :, ROWS // 2 - 12 : ROWS // 2 + 12, COLUMNS // 2 - 10 : COLUMNS // 2 + 10] = small
    np.testing.assert_allclose(scan.calibration, expected, atol=1e-4 * np.abs(small).max())


def test_one_repetitions_lines_serve_the_others(
    kspace: NDArray[np.complex64], tmp_path: Path
) -> None:
    acquisitions = []
    for repetition in range(2):
        acquisitions += lines(kspace[0], EVERY_THIRD, repetition=repetition)
    acquisitions += lines(kspace[0], CENTRE, repetition=0, flags=(20,))
    xml = header((ROWS, COLUMNS, 1), parallel=SEPARATE.format("embedded"))
    path = write(tmp_path / "a.h5", xml, acquisitions)
    first, second = (read_scan(path, select={"repetition": r}) for r in range(2))
    assert first.calibration is None  # the image has them itself
    assert second.calibration is not None
    assert second.mask[0].sum() == len(EVERY_THIRD)
    assert (second.calibration[0] != 0).any((0, 1)).sum() == len(CENTRE)


def test_a_second_file_gives_the_lines(kspace: NDArray[np.complex64], tmp_path: Path) -> None:
    xml = header((ROWS, COLUMNS, 1))
    acquisitions = [a for n in range(2) for a in lines(kspace[n], EVERY_THIRD, slice=n)]
    scan = read_scan(write(tmp_path / "scan.h5", xml, acquisitions))
    assert scan.calibration is None
    small = kspace[:, :, ROWS // 2 - 16 : ROWS // 2 + 16, COLUMNS // 2 - 10 : COLUMNS // 2 + 10]
    view = header((32, 20, 1), voxel=(ROWS * 1.5 / 32, COLUMNS * 2.0 / 20, 4.0))
    for flags in ((), (20,)):
        own = [a for n in range(2) for a in lines(small[n], slice=n, flags=flags)]
        other = write(tmp_path / f"calibration{len(flags)}.h5", view, own)
        given = read_calibration(other, scan)
        assert given.calibration is not None
        assert (given.calibration != 0).sum() == small.size
        assert_maps_of_the_centre(given, kspace)
    write_scan(tmp_path / "both.h5", given)
    again = read_scan(tmp_path / "both.h5")
    np.testing.assert_array_equal(again.calibration, given.calibration)


@pytest.mark.parametrize(
    ("change", "code"),
    [("slices", "calibration-shape"), ("view", "calibration-view")],
)
def test_lines_of_another_scan_are_refused(
    change: str, code: str, kspace: NDArray[np.complex64], tmp_path: Path
) -> None:
    xml = header((ROWS, COLUMNS, 1))
    acquisitions = [a for n in range(2) for a in lines(kspace[n], slice=n)]
    scan = read_scan(write(tmp_path / "scan.h5", xml, acquisitions))
    if change == "slices":
        acquisitions = acquisitions[:COLUMNS]
    else:
        xml = header((ROWS, COLUMNS, 1), voxel=(1.5, 2.5, 4.0))
    with pytest.raises(ScanError) as caught:
        read_calibration(write(tmp_path / "other.h5", xml, acquisitions), scan)
    assert caught.value.code == code
