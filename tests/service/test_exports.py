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
from recon.planes import ImagePlane, turned, upright
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
# The rescale slope is no part of a classic MR image, though readers want it: five lines say so.
_WARNINGS = {"mean": 5, "std": 5, "std_map": 0, "overview": 0}
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
            shown = turned(expected, upright(images.stack.planes[index]))
            error = np.abs(data.pixel_array * slope - shown).max()
            assert error <= slope / 2 * 1.001
            rescaled = pydicom.pixels.apply_rescale(data.pixel_array, data)
            np.testing.assert_allclose(rescaled, data.pixel_array * slope, rtol=1e-9)
    map_ = highdicom.imread(tmp_path / "std_map_0001.dcm")
    for frame, groups in zip(map_.pixel_array, map_.PerFrameFunctionalGroupsSequence, strict=True):
        place = groups.PlanePositionSequence[0].ImagePositionPatient
        [slice_] = [
            k
            for k in range(3)
            if np.allclose(
                place,
                pydicom.dcmread(tmp_path / f"mean_{k + 1:04d}.dcm").ImagePositionPatient,
                atol=1e-4,
            )
        ]
        shown = turned(images.std[slice_], upright(images.stack.planes[slice_]))
        np.testing.assert_array_equal(frame, shown)
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


def test_images_of_an_assumed_place_are_drawn_as_the_array_is(tmp_path: Path) -> None:
    """A head whose nose is at the first row has it above in every viewer."""
    image = np.arange(20, dtype=np.float32).reshape(4, 5)
    assumed = images_of(
        [posterior(0, image), posterior(1, image)], {}, None, identified=False, voxel_mm=(1, 2, 3)
    )
    first, second = map(pydicom.dcmread, write_dicom(assumed, tmp_path, KEY)[:2])
    shown = pydicom.pixels.apply_rescale(first.pixel_array, first)
    np.testing.assert_allclose(shown, image, atol=float(first.RescaleSlope))
    assert first.ImageOrientationPatient == [1, 0, 0, 0, 1, 0]
    assert first.PixelSpacing == [1, 2]
    assert first.SpacingBetweenSlices == 3
    assert second.ImagePositionPatient[2] - first.ImagePositionPatient[2] == 3


AXES = np.array([[-1, 0, 0], [0, -1, 0], [0, 0, -1], [1, 0, 0], [0, 1, 0], [0, 0, 1]], float)


@pytest.mark.parametrize("read", range(6))
@pytest.mark.parametrize("phase", range(6))
def test_every_orientation_is_shown_upright(read: int, phase: int) -> None:
    if read % 3 == phase % 3:
        return
    first, second = AXES[read], AXES[phase]
    plane = ImagePlane((0, 0, 0), tuple(first), tuple(second), tuple(np.cross(first, second)), {})
    place = np.array([[first * i + second * j for j in range(3)] for i in range(2)])
    shown = np.moveaxis(turned(np.moveaxis(place, -1, 0), upright(plane)), 0, -1)
    down, right = shown[1, 0] - shown[0, 0], shown[0, 1] - shown[0, 0]
    expected = {0: ((0, 0, -1), (0, 1, 0)), 1: ((0, 0, -1), (1, 0, 0)), 2: ((0, 1, 0), (1, 0, 0))}
    through = int(np.argmax(np.abs(np.cross(first, second))))
    assert (tuple(down), tuple(right)) == expected[through]


def test_the_header_of_a_fastmri_file_gives_the_size_of_voxels(tmp_path: Path) -> None:
    posteriors = [posterior(0, np.ones((8, 6), np.float32))]
    xml = header((8, 6, 1), (4, 6, 1), voxel=(1.5, 2.0, 4.0), extra=IDENTITY)
    images = images_of(posteriors, {}, xml, identified=False)
    assert not images.located
    assert images.mean.shape == (1, 4, 6)
    assert images.stack.voxel_mm == (1.5, 2.0, 4.0)
    data = pydicom.dcmread(write_dicom(images, tmp_path, KEY)[0])
    assert "ORIENTATION ASSUMED" in data.ImageComments
    assert (data.PixelSpacing, data.Manufacturer) == ([1.5, 2.0], "SIEMENS")
    broken = images_of(posteriors, {}, xml.replace("experimentalC", "c"), identified=False)
    assert broken.stack.voxel_mm == (1.5, 2.0, 4.0)


@pytest.mark.parametrize("repetitions", [1, 2])
def test_dcm2niix_gives_the_same_values_in_the_same_places(
    repetitions: int, tmp_path: Path
) -> None:
    dcm2niix = pytest.importorskip("dcm2niix")
    images = marked((6, 8), repetitions=repetitions)
    write_dicom(images, tmp_path / "dicom", KEY)
    (tmp_path / "out").mkdir()
    run = subprocess.run(
        [dcm2niix.bin_path, "-z", "n", "-f", "%s", "-o", str(tmp_path / "out"),
         str(tmp_path / "dicom")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout
    ours, _, std, _ = write_nifti(images, tmp_path / "a.nii")
    for product, file in ((1, ours), (2, std)):
        theirs = nibabel.load(tmp_path / "out" / f"{product}.nii")
        mine = nibabel.load(file)
        array, expected = theirs.get_fdata(), mine.get_fdata()
        assert array.size == expected.size
        # Their array may be turned; what must agree is the value at each place.
        back = np.linalg.inv(mine.affine) @ theirs.affine
        indices = np.array(list(np.ndindex(array.shape[:3])))
        places = np.rint(nibabel.affines.apply_affine(back, indices)).astype(int)
        for volume in range(repetitions):
            there = array.reshape(*array.shape[:3], -1)[(*indices.T, volume)]
            here = expected.reshape(*expected.shape[:3], -1)[(*places.T, volume)]
            np.testing.assert_allclose(there, here, atol=images.mean.max() / 60000)


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
@pytest.mark.parametrize("part", ["BRAIN", "KNEE", "head with metal", ""])
def test_dicom_is_valid(identified: bool, part: str, tmp_path: Path) -> None:
    if shutil.which("dciodvfy") is None:
        pytest.skip("Debian's dicom3tools (dciodvfy) is not installed")
    images = marked((6, 8), identified=identified, part=part)
    for file in write_dicom(images, tmp_path, KEY, parametric_map=True, overview=True):
        run = subprocess.run(
            ["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False
        )
        said = run.stderr.splitlines()
        assert [line for line in said if line.startswith("Error")] == [], file.name
        warned = [line for line in said if line.startswith("Warning")]
        if not identified:  # there is no date to file by
            warned = [line for line in warned if not line.endswith(("Study Date", "Study Time"))]
        if part != "BRAIN":  # whether left or right is not known
            warned = [line for line in warned if "<Laterality>" not in line]
        rescale = [line for line in warned if "Rescale" in line or "Extended SOP" in line]
        assert warned == rescale, file.name
        assert len(warned) == _WARNINGS[file.name.partition("_0")[0]], warned
        data = pydicom.dcmread(file)
        assert data.get("BodyPartExamined", "") == (part if part.isupper() else "")
        assert ("Laterality" in data) == (part != "BRAIN")


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
