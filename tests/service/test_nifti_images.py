"""NIfTI: where each voxel ends up in its slice, and headers that lie."""

from __future__ import annotations

import gzip
import itertools
import random
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from recon.errors import ScanError
from service.images.nifti import nifti_volumes
from service.images.volumes import ImageSettings, Plane, standardised
from tests.service.image_sources import blob, damaged, write_nifti


def volumes(path: Path, plane: Plane = "auto", **changes: Any) -> list:
    return nifti_volumes(path, "p", ImageSettings(plane=plane, **changes))


def refusal(path: Path, **changes: Any) -> str:
    with pytest.raises(ScanError) as caught:
        volumes(path, **changes)
    return caught.value.code


SHAPE = (5, 6, 7)
TILT = Rotation.from_rotvec([0.2, -0.15, 0.25]).as_matrix()
STORED = [
    (order, signs)
    for order in itertools.permutations(range(3))
    for signs in itertools.product((-1, 1), repeat=3)
]
# Of the world's right, anterior and superior: along slices, rows and columns.
RUNS = {
    "axial": ((2, 1), (1, -1), (0, -1)),
    "coronal": ((1, -1), (2, -1), (0, -1)),
    "sagittal": ((0, -1), (2, -1), (1, -1)),
}


@pytest.mark.parametrize("plane", list(RUNS))
def test_slices_lie_as_a_radiologist_sees_them_however_they_are_stored(tmp_path, plane):
    spacing = np.array([0.9, 1.1, 1.3])  # along the world's axes, before the tilt
    for order, signs in STORED:
        directions = np.zeros((3, 3))
        directions[list(order), range(3)] = signs
        affine = np.eye(4)
        affine[:3, :3] = TILT @ np.diag(spacing) @ directions
        places = np.moveaxis(np.indices(SHAPE), 0, -1) @ affine[:3, :3].T
        values = np.moveaxis(places, -1, 0)  # world x, y, z of each voxel
        path = write_nifti(tmp_path / "a.nii", np.moveaxis(values, 0, 3).astype(np.float64), affine)
        seen = volumes(path, plane)
        found = np.stack([volume.images for volume in seen])
        for axis, (world, sign) in enumerate(RUNS[plane], start=1):
            step = np.diff(found, axis=axis).mean(axis=(1, 2, 3))
            expected = sign * TILT[:, world] * spacing[world]
            np.testing.assert_allclose(step, expected, atol=1e-5, err_msg=f"{order} {signs}")
        in_plane = tuple(spacing[world] for world, _ in RUNS[plane][1:])
        assert seen[0].pixel_mm == pytest.approx(in_plane)


def test_a_marked_corner_is_found_in_its_slice(tmp_path):
    values = np.zeros((10, 12, 4), np.int16)
    values[9, 11, 3] = 7  # the world's right, anterior, superior corner in RAS order
    path = write_nifti(tmp_path / "a.nii", values, np.diag([1, 1, 4, 1]))
    (volume,) = volumes(path)
    assert volume.images.shape == (4, 12, 10)
    assert np.argwhere(volume.images).tolist() == [[3, 0, 0]]


@pytest.mark.parametrize(
    ("spacing", "slices"),
    [((1, 4, 1), 6), ((4, 1, 1), 5), ((1, 1, 4), 7), ((1, 1.05, 1), 7), ((1, 1, 0.5), 6)],
)
def test_slices_are_cut_across_the_thick_direction(tmp_path, spacing, slices):
    path = write_nifti(tmp_path / "a.nii", np.ones(SHAPE, np.float32), spacing)
    expected = slices if spacing != (1, 1, 0.5) else 5
    assert len(volumes(path)[0].images) == expected


def test_an_isotropic_volume_is_cut_axially_as_its_affine_has_it(tmp_path):
    sagittal = np.array([[0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    path = write_nifti(tmp_path / "a.nii", np.ones(SHAPE, np.float32), sagittal)
    assert volumes(path)[0].images.shape == (6, 5, 7)


@pytest.mark.parametrize("kind", ["uint8", ">i2", "float32", "float64", "complex64"])
@pytest.mark.parametrize("image", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_values_are_those_that_nibabel_reads(tmp_path, kind, image, name):
    values = (np.random.default_rng(0).uniform(1, 200, (8, 9, 4))).astype(kind)
    made = image(values, np.diag([-1, -1, 3, 1]))
    made.header.set_data_dtype(kind)
    nib.save(made, tmp_path / name)
    truth = np.asanyarray(nib.load(tmp_path / name).dataobj)
    np.testing.assert_allclose(
        volumes(tmp_path / name)[0].images, truth.transpose(2, 1, 0), rtol=1e-6
    )


def test_slope_and_intercept_are_applied(tmp_path):
    values = np.arange(8 * 9 * 4, dtype=np.int16).reshape(8, 9, 4)
    image = nib.Nifti1Image(values, np.diag([-1, -1, 3, 1]))
    image.header.set_slope_inter(0.5, 3)
    image.to_filename(tmp_path / "a.nii")
    truth = nib.load(tmp_path / "a.nii").get_fdata()
    np.testing.assert_allclose(volumes(tmp_path / "a.nii")[0].images, truth.transpose(2, 1, 0))
    assert truth.max() != values.max()


def test_each_volume_of_a_series_is_its_own(tmp_path):
    values = np.stack([(k + 1) * blob(seed=k).transpose(2, 1, 0) for k in range(3)], axis=3)
    found = volumes(write_nifti(tmp_path / "a.nii.gz", values))
    for k, volume in enumerate(found):
        np.testing.assert_allclose(volume.images, (k + 1) * blob(seed=k), rtol=1e-6)


@pytest.mark.parametrize(("unit", "factor"), [("micron", 1e3), ("meter", 1e-3), ("mm", 1)])
def test_lengths_have_a_unit(tmp_path, unit, factor):
    image = nib.Nifti1Image(np.ones(SHAPE, np.float32), np.diag([factor, factor, 3 * factor, 1]))
    image.header.set_xyzt_units(unit)
    image.to_filename(tmp_path / "a.nii")
    assert volumes(tmp_path / "a.nii")[0].pixel_mm == pytest.approx((1, 1))


def tampered(path: Path, **fields: Any) -> Path:
    """The header's fields changed, the rest as it was."""
    write_nifti(path, np.ones((8, 8, 8), np.float32))
    content = path.read_bytes()
    header = nib.Nifti1Header(content[:348])
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + content[348:])
    return path


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"dim": [3, 30000, 30000, 30000, 1, 1, 1, 1]}, "too-large"),
        ({"dim": [7, 8, 8, 8, 1, 1, 1, 1]}, "nifti-shape"),
        ({"dim": [2, 8, 8, 1, 1, 1, 1, 1]}, "nifti-shape"),
        ({"dim": [3, 8, -8, 8, 1, 1, 1, 1]}, "nifti-shape"),
        ({"dim": [-1, 8, 8, 8, 1, 1, 1, 1]}, "nifti-damaged"),
        ({"dim": [3, 80, 80, 8, 1, 1, 1, 1]}, "cut-short"),
        ({"vox_offset": 1e9}, "nifti-offset"),
        ({"vox_offset": -8}, "nifti-offset"),
        ({"vox_offset": np.nan}, "nifti-damaged"),
        ({"datatype": 128}, "nifti-type"),  # colour
        ({"datatype": 999}, "nifti-damaged"),
        ({"scl_slope": 1, "scl_inter": np.inf}, "nifti-damaged"),
        ({"magic": b"ni1"}, "not-nifti"),
        ({"sform_code": 1, "srow_x": [0, 0, 0, 0]}, "affine"),
        ({"sform_code": 1, "srow_x": [np.nan, 0, 0, 0]}, "affine"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path, fields, code):
    assert refusal(tampered(tmp_path / "a.nii", **fields)) == code


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tampered(tmp_path / "a.nii", dim=[3, 1000, 1000, 2000, 1, 1, 1, 1])
    packed = bytearray(gzip.compress(path.read_bytes() + random.Random(0).randbytes(1 << 20)))
    packed[-5000:] = bytes(5000)  # whoever unpacks this far will notice
    (tmp_path / "a.nii.gz").write_bytes(packed)
    assert refusal(tmp_path / "a.nii.gz") == "too-large"
    assert refusal(tmp_path / "a.nii.gz", volume_bytes=1 << 40) == "cut-short"


def test_an_extension_that_says_it_is_huge_is_never_read(tmp_path):
    path = tampered(tmp_path / "a.nii", vox_offset=352)
    content = path.read_bytes()
    extension = b"\x01\0\0\0" + np.array([0x7FFFFFF0, 6], "<i4").tobytes()
    (tmp_path / "b.nii").write_bytes(content[:348] + extension + content[352:])
    assert volumes(tmp_path / "b.nii")[0].images.shape == (8, 8, 8)


@pytest.mark.parametrize("content", [b"", b"\x5c\x01", bytes(600), b"\x1f\x8b" + bytes(600)])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_what_is_no_nifti_is_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    assert refusal(tmp_path / name) in {"nifti-damaged", "not-nifti"}


def test_a_packed_file_that_breaks_off_is_refused(tmp_path):
    path = write_nifti(tmp_path / "a.nii.gz", blob().transpose(2, 1, 0))
    path.write_bytes(path.read_bytes()[:-5000])
    assert refusal(path) == "nifti-damaged"


def test_damaged_headers_are_read_or_refused_and_nothing_else(tmp_path):
    content = write_nifti(tmp_path / "a.nii", blob().transpose(2, 1, 0)).read_bytes()
    outcomes = set()
    for seed in range(300):
        (tmp_path / "b.nii").write_bytes(damaged(content, range(352), seed))
        try:
            for volume in volumes(tmp_path / "b.nii"):
                done = standardised(volume, ImageSettings())
                assert np.isfinite(done.images).all()
            outcomes.add("read")
        except ScanError as error:
            outcomes.add(error.code)
    assert len(outcomes) > 4
