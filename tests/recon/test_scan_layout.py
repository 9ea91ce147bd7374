"""Headers, and the rules for masks: the argument, then the file, then the zeros of k-space."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.files import read_scan
from recon.io.scan_layout import expand_mask, parse_geometry, sampling_mask, scan_from_layout
from recon.kspace_centre import images_of
from recon.operators import CartesianSense
from recon.scan import Geometry, Scan
from tests.recon.scan_files import HEADER, noise, refusal, store


def layout(kspace: NDArray[Any], mask: NDArray[Any] | None = None, **more: Any) -> Scan:
    return scan_from_layout({"kspace": kspace, **more}, {}, None, mask, "")


@pytest.mark.parametrize("kind", [str, str.encode, lambda text: np.array([text.encode()])])
def test_header_gives_the_geometry(kind: Any, tmp_path: Path) -> None:
    path = store(tmp_path / "scan.h5", kspace=noise(1, 1, 8, 6), ismrmrd_header=kind(HEADER))
    scan = read_scan(path)
    assert scan.geometry == Geometry((220.0, 200.5, 5.0), (4, 5))
    assert scan.header == HEADER


def test_header_without_a_space_is_silent() -> None:
    assert parse_geometry("<ismrmrdHeader/>") == Geometry()
    assert parse_geometry("<h><encoding><reconSpace/></encoding></h>") == Geometry()


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ('<!DOCTYPE h [<!ENTITY a "b">]><h>&a;</h>', "header-doctype"),
        ('<!DOCTYPE h SYSTEM "file:///etc/passwd"><h/>', "header-doctype"),
        ('<?xml version="1.0"?>\n<!doctype h><h/>', "header-doctype"),
        ("<h>", "header-invalid"),
        (HEADER.replace(">4<", ">minus<"), "header-invalid"),
        (HEADER.replace(">4<", ">-4<"), "header-invalid"),
        (HEADER.replace("220.0", "nan"), "header-invalid"),
        (HEADER.replace("220.0", "1e300"), "header-invalid"),
    ],
)
def test_bad_header_is_refused(header: str, code: str) -> None:
    with pytest.raises(ScanError) as caught:
        parse_geometry(header)
    assert caught.value.code == code


def test_doctype_is_refused_from_a_file(tmp_path: Path) -> None:
    header = "<!DOCTYPE h><h/>"
    path = store(tmp_path / "scan.h5", kspace=noise(1, 1, 4, 4), ismrmrd_header=header)
    assert refusal(path) == "header-doctype"


def test_mask_argument_wins_over_the_files_and_that_over_zeros(tmp_path: Path) -> None:
    path = store(
        tmp_path / "scan.h5", kspace=noise(2, 2, 4, 6), mask=np.array([1, 1, 1, 0, 1, 1.0])
    )
    assert read_scan(path).mask.sum() == 20
    scan = read_scan(path, mask=np.array([0, 1, 1, 1, 0, 0]))
    np.testing.assert_array_equal(
        scan.mask, np.tile([False, True, True, True, False, False], (4, 1))
    )
    assert not scan.kspace[..., ~scan.mask].any()
    assert scan.kspace[..., scan.mask].all()


@pytest.mark.parametrize("axis", [0, 1])
def test_lines_are_found_from_zeros(axis: int) -> None:
    mask = np.ones((7, 9), bool)
    mask[(slice(None), slice(1, None, 3)) if axis else slice(1, None, 3)] = False
    kspace = noise(2, 3, 7, 9) * mask
    kspace[0] = 0  # one empty slice does not empty the mask
    kspace[:, 1] = 0  # nor does one dead coil
    np.testing.assert_array_equal(layout(kspace).mask, mask)


def test_a_stray_zero_is_a_measurement() -> None:
    kspace = noise(1, 1, 64, 64)
    kspace[..., 1::2] = 0
    kspace[0, 0, 5, 6] = 0
    mask = layout(kspace).mask
    assert mask[:, ::2].all()
    assert not mask[:, 1::2].any()


def test_points_are_found_from_zeros() -> None:
    mask = np.random.default_rng(3).random((16, 15)) < 0.4
    np.testing.assert_array_equal(layout(noise(1, 2, 16, 15) * mask).mask, mask)


def test_padding_is_dropped_from_a_given_mask() -> None:
    kspace = noise(1, 2, 6, 8)
    kspace[..., 6:] = 0
    kspace[..., 0, :] = 0
    kspace[0, :, 2, 2] = 0
    mask = layout(kspace, np.array([1, 0, 1, 0, 1, 0, 1, 1])).mask
    expected = np.zeros((6, 8), bool)
    expected[1:, [0, 2, 4]] = True
    np.testing.assert_array_equal(mask, expected)


def test_shapes_of_a_mask() -> None:
    columns, rows = np.array([1, 0, 1, 0]), np.array([1, 0, 1])
    for given_mask in (columns, columns[None], np.tile(columns, (3, 1))):
        np.testing.assert_array_equal(expand_mask(given_mask, 3, 4), np.tile(columns, (3, 1)))
    for given_mask in (rows, rows[:, None]):
        np.testing.assert_array_equal(expand_mask(given_mask, 3, 4), np.tile(rows[:, None], (1, 4)))
    np.testing.assert_array_equal(expand_mask(rows, 3, 3), np.tile(rows, (3, 1)))  # columns win
    for wrong in (np.ones(5), np.ones((4, 3)), np.ones((1, 3, 4)), np.ones(()), np.ones((3, 0))):
        with pytest.raises(ScanError, match="mask must be"):
            expand_mask(wrong, 3, 4)


@pytest.mark.parametrize("shape", [(1, 1, 1, 5), (1, 1, 5, 1), (1, 1, 1, 1), (3, 1, 7, 5)])
def test_thin_scans_are_fine(shape: tuple[int, ...]) -> None:
    assert layout(noise(*shape)).mask.all()
    assert sampling_mask(noise(*shape), np.ones(shape[3])).all()


def test_one_bad_value_where_nothing_was_acquired_is_refused() -> None:
    kspace = noise(1, 1, 4, 4)
    kspace[0, 0, 0, 0] = np.inf
    mask = np.ones((4, 4))
    mask[0, 0] = 0
    with pytest.raises(ScanError, match="NaN"):
        layout(kspace, mask)


OVERSAMPLED = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>32</x><y>12</y><z>1</z></matrixSize>
<fieldOfView_mm><x>440</x><y>200</y><z>5</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>16</x><y>12</y><z>1</z></matrixSize>
<fieldOfView_mm><x>220</x><y>200</y><z>5</z></fieldOfView_mm></reconSpace>
</encoding></ismrmrdHeader>"""


def of_lines(seed: int = 0) -> tuple[NDArray[np.complex64], NDArray[np.bool_]]:
    """(1 slice, 2 coils, 32, 12) with every other line, and its mask of lines."""
    mask = np.arange(12) % 2 == 0
    return noise(1, 2, 32, 12, seed=seed) * mask, mask


def test_oversampling_of_the_readout_is_removed_and_what_is_left_stays_as_it_was() -> None:
    kspace, mask = of_lines()
    maps, lines = noise(1, 2, 32, 12, seed=1), noise(1, 2, 32, 12, seed=2)
    scan = scan_from_layout(
        {"kspace": kspace.copy(), "mask": mask, "coil_maps": maps, "calibration": lines},
        {}, OVERSAMPLED, None, "",
    )  # fmt: skip
    assert scan.image_shape == (16, 12)
    assert scan.view_mm == (220.0, 200.0)
    np.testing.assert_allclose(images_of(scan.kspace), images_of(kspace)[..., 8:24, :], atol=1e-5)
    assert scan.calibration is not None
    assert scan.coil_maps is not None
    middle = images_of(lines)[..., 8:24, :]
    np.testing.assert_allclose(images_of(scan.calibration), middle, atol=1e-5)
    np.testing.assert_array_equal(scan.coil_maps, maps[..., 8:24, :])
    assert (scan.mask == mask).all()
    assert not scan.kspace[..., ~mask].any()


@pytest.mark.parametrize(
    "header",
    [
        OVERSAMPLED.replace("encodedSpace", "otherSpace"),
        OVERSAMPLED.replace("440", "nan"),
        OVERSAMPLED.replace("440", "wide"),
        OVERSAMPLED.replace("440", "220"),
        OVERSAMPLED.replace("<x>16<", "<x>15<").replace("440", "469"),
        OVERSAMPLED.replace("<x>16<", "<x>40<"),
    ],
    ids=["not said", "not finite", "not a number", "interpolated", "off the middle", "wider"],
)
def test_only_what_the_header_calls_oversampling_is_removed(header: str) -> None:
    kspace, mask = of_lines()
    scan = scan_from_layout({"kspace": kspace.copy(), "mask": mask}, {}, header, None, "")
    np.testing.assert_array_equal(scan.kspace, kspace)


def test_rows_that_were_not_all_acquired_stay_where_they_are() -> None:
    kspace, _ = of_lines()
    kspace[..., :5, :] = 0  # partial echo: rows of the image are not independent of each other
    scan = scan_from_layout({"kspace": kspace.copy()}, {}, OVERSAMPLED, None, "")
    np.testing.assert_array_equal(scan.kspace, kspace)


def test_a_least_squares_image_is_that_of_the_whole_readout() -> None:
    kspace, mask = of_lines()
    maps = noise(1, 2, 32, 12, seed=1)
    arrays = {"kspace": kspace, "mask": mask, "coil_maps": maps}
    images = []
    for header in (None, OVERSAMPLED):
        scan = scan_from_layout({**arrays, "kspace": kspace.copy()}, {}, header, None, "")
        assert scan.coil_maps is not None
        operator = CartesianSense(
            torch.from_numpy(scan.coil_maps[0].copy()), torch.from_numpy(scan.mask.copy())
        )
        rhs = operator.adjoint(torch.from_numpy(scan.kspace[0].copy()))[None]
        images.append(operator.solver().precondition(rhs, None, 1.0, 0.1)[0].numpy())
    np.testing.assert_allclose(images[1], images[0][8:24], atol=1e-4)
