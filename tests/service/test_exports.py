from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import highdicom
import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest
from highdicom.spatial import PixelToReferenceTransformer
from typer.testing import CliRunner

from recon.errors import ScanError
from recon.io.files import write_result
from service.cli import app
from service.exports.dicom import write_dicom
from service.exports.images import images_of
from service.exports.mrd import write_mrd
from service.exports.nifti import write_nifti
from tests.mrd_files import header
from tests.service.marked_results import (
    IDENTIFYING,
    IDENTITY,
    VOXEL,
    mark_of,
    marked,
    position_of,
    posterior,
)

KEY = b"key"
SHAPES = [((6, 8), None), ((5, 8), None), ((6, 7), None), ((9, 7), (4, 5)), ((8, 6), (5, 3))]


def truth(shape: tuple[int, int], keep: tuple[int, int] | None) -> np.ndarray:
    return position_of(0, *mark_of(shape, keep), 3, shape)


@pytest.mark.parametrize(("shape", "keep"), SHAPES)
def test_the_marked_voxel_lies_in_its_place_in_dicom(
    shape: tuple[int, int], keep: tuple[int, int] | None, tmp_path: Path
) -> None:
    found = []
    for file in write_dicom(marked(shape, keep=keep), tmp_path, KEY):
        data = pydicom.dcmread(file)
        if data.ImageType[3] != "MEAN":
            continue
        row, column = np.unravel_index(np.argmax(data.pixel_array), data.pixel_array.shape)
        slope = float(data.RealWorldValueMappingSequence[0].RealWorldValueSlope)
        if data.pixel_array[row, column] * slope > 8:
            place = PixelToReferenceTransformer(
                data.ImagePositionPatient, data.ImageOrientationPatient, data.PixelSpacing
            )
            found.append(place(np.array([[column, row]]))[0])
    np.testing.assert_allclose(found, [truth(shape, keep)], atol=1e-4)


@pytest.mark.parametrize(("shape", "keep"), SHAPES)
def test_the_marked_voxel_lies_in_its_place_in_nifti(
    shape: tuple[int, int], keep: tuple[int, int] | None, tmp_path: Path
) -> None:
    file = write_nifti(marked(shape, keep=keep), tmp_path / "a.nii.gz")[0]
    volume = nibabel.load(file)
    index = np.unravel_index(np.argmax(volume.get_fdata()), volume.shape)
    for affine in (volume.get_sform(), volume.get_qform()):
        x, y, z = nibabel.affines.apply_affine(affine, index)
        np.testing.assert_allclose((-x, -y, z), truth(shape, keep), atol=1e-3)


@pytest.mark.parametrize(("shape", "keep"), SHAPES)
def test_the_marked_voxel_lies_in_its_place_in_mrd(
    shape: tuple[int, int], keep: tuple[int, int] | None, tmp_path: Path
) -> None:
    path = write_mrd(marked(shape, keep=keep), tmp_path / "a.h5")[0]
    with ismrmrd.Dataset(str(path), mode="r") as file:
        image = file.read_image("image_1", 0)
    y, x = np.unravel_index(np.argmax(image.data[0, 0]), image.data.shape[2:])
    size = np.array(image.matrix_size[:2])
    away = (np.array([x, y]) - size // 2) * np.array(image.field_of_view[:2]) / size
    place = np.array(image.position) + away @ np.array([image.read_dir, image.phase_dir])
    np.testing.assert_allclose(place, truth(shape, keep), atol=1e-4)


def test_all_formats_hold_the_same_values(tmp_path: Path) -> None:
    images = marked((6, 8))
    write_dicom(images, tmp_path, KEY, parametric_map=True)
    for product, values in (("mean", images.mean), ("std", images.std)):
        for index, expected in enumerate(values):
            data = pydicom.dcmread(tmp_path / f"{product}_{index + 1:04d}.dcm")
            slope = float(data.RealWorldValueMappingSequence[0].RealWorldValueSlope)
            error = np.abs(data.pixel_array.T * slope - expected).max()
            assert error <= slope / 2 * 1.001
    map_ = highdicom.imread(tmp_path / "std_map_0001.dcm")
    for frame, groups in zip(map_.pixel_array, map_.PerFrameFunctionalGroupsSequence, strict=True):
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        [slice_] = [
            k for k in range(3) if np.allclose(place, position_of(k, 0, 0, 3, (6, 8)), atol=1e-4)
        ]
        np.testing.assert_array_equal(frame, images.std[slice_].T)
    mean, _, std, _ = write_nifti(images, tmp_path / "a.nii")
    for file, values in ((mean, images.mean), (std, images.std)):
        np.testing.assert_array_equal(
            np.asarray(nibabel.load(file).dataobj), np.moveaxis(values, 0, -1)
        )
    with ismrmrd.Dataset(str(write_mrd(images, tmp_path / "a.h5")[0]), mode="r") as file:
        for name, values in (("image_1", images.mean), ("image_2", images.std)):
            for index, expected in enumerate(values):
                image = file.read_image(name, index)
                slope = float(image.meta["RescaleSlope"])
                assert np.abs(image.data[0, 0].T * slope - expected).max() <= slope / 2 * 1.001


def test_slices_spread_through_nifti_as_through_the_patient(tmp_path: Path) -> None:
    volume = nibabel.load(write_nifti(marked((6, 8)), tmp_path / "a.nii")[0])
    x, y, z = nibabel.affines.apply_affine(volume.affine, (0, 0, 2))
    np.testing.assert_allclose((-x, -y, z), position_of(2, 0, 0, 3, (6, 8)), atol=1e-4)
    np.testing.assert_allclose(volume.header.get_zooms(), VOXEL, rtol=1e-5)


def test_repetitions_are_the_fourth_axis_of_nifti(tmp_path: Path) -> None:
    images = marked((6, 8), repetitions=2)
    file, sidecar, *_ = write_nifti(images, tmp_path / "a.nii")
    array = np.asarray(nibabel.load(file).dataobj)
    assert array.shape == (6, 8, 3, 2)
    np.testing.assert_array_equal(array[..., 1, 1], images.mean[4])
    said = json.loads(sidecar.read_text())
    assert said["Volumes"][1]["repetition"] == 1
    assert said["seed"] == 7


def contents(folder: Path) -> str:
    """All that was written, compressed files unpacked."""
    texts = []
    for file in sorted(folder.rglob("*")):
        if file.suffix == ".h5":
            with ismrmrd.Dataset(str(file), mode="r") as data:
                texts.append(data.read_xml_header().decode())
                texts.append(data.read_image("image_1", 0).attribute_string)
        elif file.is_file():
            texts.append(file.read_bytes().decode("latin-1"))
    return "\n".join(texts)


def write_all(folder: Path, *, identified: bool) -> str:
    images = marked((6, 8), identified=identified)
    write_dicom(images, folder / "dicom", KEY, parametric_map=True)
    write_nifti(images, folder / "a.nii")
    write_mrd(images, folder / "a.h5")
    return contents(folder)


def test_nothing_that_identifies_is_passed_on(tmp_path: Path) -> None:
    text = write_all(tmp_path, identified=False)
    assert [word for word in IDENTIFYING if word in text] == []
    assert "SIEMENS" in text
    assert "NOT FOR DIAGNOSTIC USE" in text


def test_identity_is_passed_on_when_asked_for(tmp_path: Path) -> None:
    text = write_all(tmp_path, identified=True)
    assert [word for word in IDENTIFYING if word not in text and word != "M4711"] == []
    data = pydicom.dcmread(tmp_path / "dicom" / "mean_0001.dcm")
    assert data.StudyInstanceUID == "1.2.3.4567"
    assert data.FrameOfReferenceUID == "1.2.3.89"
    assert "PatientIdentityRemoved" not in data


def test_uids_follow_from_the_key_and_name_every_object_once(tmp_path: Path) -> None:
    def uids(key: bytes, folder: str) -> list[tuple[str, str, str]]:
        return [
            (str(d.StudyInstanceUID), str(d.SeriesInstanceUID), str(d.SOPInstanceUID))
            for d in map(pydicom.dcmread, write_dicom(marked((4, 5)), tmp_path / folder, key))
        ]

    first, again, other = uids(b"a", "1"), uids(b"a", "2"), uids(b"b", "3")
    assert first == again
    assert not {uid for row in first for uid in row} & {uid for row in other for uid in row}
    studies, series, instances = (set(column) for column in zip(*first, strict=True))
    assert (len(studies), len(series), len(instances)) == (1, 2, 6)


@pytest.mark.parametrize("identified", [True, False])
def test_dicom_is_valid(identified: bool, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("Debian's dicom3tools (dciodvfy) is not installed")
    images = marked((6, 8), identified=identified)
    for file in write_dicom(images, tmp_path, KEY, parametric_map=True):
        run = subprocess.run(
            ["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False
        )
        errors = [line for line in run.stderr.splitlines() if line.startswith("Error")]
        assert errors == [], file.name


def test_images_without_a_place_need_an_assumption() -> None:
    posteriors = [posterior(0, np.ones((4, 5), np.float32))]
    with pytest.raises(ScanError) as caught:
        images_of(posteriors, {}, None, identified=False)
    assert caught.value.code == "no-geometry"
    assumed = images_of(posteriors, {}, None, identified=False, voxel_mm=(1, 1, 3))
    assert not assumed.located


def test_uneven_slices_are_no_nifti(tmp_path: Path) -> None:
    images = marked((4, 5))
    images.stack.planes[2].__dict__["position"] = (0.0, 0.0, 0.0)
    with pytest.raises(ScanError) as caught:
        write_nifti(images, tmp_path / "a.nii")
    assert caught.value.code == "slices-uneven"


def test_the_command_exports_a_result_file(tmp_path: Path) -> None:
    images = marked((6, 8))
    posteriors = [posterior(i, image) for i, image in enumerate(images.mean)]
    provenance = {"image_planes": images.stack.to_text(), "seed": 3, "acceleration": 2.0}
    xml = header((6, 8, 1), extra=IDENTITY)
    write_result(tmp_path / "r.h5", posteriors, provenance, header=xml)
    arguments = ["export", str(tmp_path / "r.h5"), "--to", "nifti", "-o", str(tmp_path / "a.nii")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert nibabel.load(tmp_path / "a.nii").shape == (6, 8, 3)
