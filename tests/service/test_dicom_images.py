"""DICOM: which images belong together, in which order, as what values; and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as DicomSequence
from pydicom.uid import MPEG2MPML, UID, DeflatedExplicitVRLittleEndian, RLELossless

from recon.errors import ScanError
from service.images.dicom import dicom_items
from service.images.volumes import ImageSettings, Item, LeftOut, Volume
from tests.service.image_sources import (
    AXIAL,
    ENHANCED,
    blob,
    damaged,
    dicom_header,
    group,
    set_pixels,
    write_dicom,
)

PIXELS = (1000 * blob(4)).astype(np.uint16)
PHASE = np.random.default_rng(1).uniform(-np.pi, np.pi, PIXELS.shape)
PHASE[:, 0, 0] = np.pi


def found(folder: Path, **changes: Any) -> tuple[list[Item], list[LeftOut]]:
    files = sorted(folder.rglob("*.dcm"))
    events = list(dicom_items(files, lambda name: f"<{name}>", ImageSettings(**changes)))
    items = [event for event in events if isinstance(event, Item)]
    return items, [event for event in events if isinstance(event, LeftOut)]


def volume(item: Item) -> Volume:
    (done,) = (event for event in item.read() if isinstance(event, Volume))
    return done


def only(folder: Path) -> Volume:
    items, left_out = found(folder)
    assert not left_out
    (item,) = items
    return volume(item)


def write_series(folder: Path, pixels: NDArray[np.uint16], **changes: Any) -> None:
    """Slices 3 mm apart along z, from the last to the first."""
    for k, each in enumerate(pixels):
        position = [-40, -36, 3 * k]
        elements = {"InstanceNumber": len(pixels) - k, "ImagePositionPatient": position, **changes}
        write_dicom(folder / f"{(7 * k + 3) % 5}.dcm", each, **elements)


def test_slices_are_ordered_by_position_not_by_name_or_number(tmp_path):
    write_series(tmp_path, PIXELS, PixelSpacing=[0.8, 0.9])
    done = only(tmp_path)
    np.testing.assert_array_equal(done.images, PIXELS)
    assert done.pixel_mm == (0.8, 0.9)
    assert done.patient == "<MRN12345>"


def test_oblique_slices_are_ordered_along_their_normal(tmp_path):
    orientation = [0, 0.8, -0.6, 0.6, 0, 0.0]
    orientation[3:] = [1, 0, 0]
    normal = np.cross(orientation[:3], orientation[3:])
    for k, each in enumerate(PIXELS):
        place = (3 * k * normal + 5 * k * np.array(orientation[:3])).tolist()
        write_dicom(
            tmp_path / f"{9 - k}.dcm",
            each,
            ImageOrientationPatient=orientation,
            ImagePositionPatient=place,
        )
    np.testing.assert_array_equal(only(tmp_path).images, PIXELS)


def test_each_file_is_rescaled_by_its_own_slope(tmp_path):
    for k, each in enumerate(PIXELS):
        write_dicom(
            tmp_path / f"{k}.dcm",
            each,
            ImagePositionPatient=[0, 0, k],
            RescaleSlope=0.5 + k,
            RescaleIntercept=10 * k,
        )
    expected = [(0.5 + k) * each + 10.0 * k for k, each in enumerate(PIXELS)]
    np.testing.assert_allclose(only(tmp_path).images, expected)


def test_repetitions_follow_one_another(tmp_path):
    for k, each in enumerate(PIXELS):
        place = [0, 0, 3 * (k % 2)]
        write_dicom(tmp_path / f"{k}.dcm", each, InstanceNumber=k + 1, ImagePositionPatient=place)
    np.testing.assert_array_equal(only(tmp_path).images, PIXELS)


def test_other_series_echoes_and_orientations_are_other_stacks(tmp_path):
    sagittal = [0, 1, 0, 0, 0, -1]
    for name, changes in {
        "a": {},
        "b": {"SeriesInstanceUID": "1.2.3.2"},
        "c": {"EchoTime": 20},
        "d": {"ImageOrientationPatient": sagittal},
    }.items():
        write_series(tmp_path / name, PIXELS, **changes)
    items, left_out = found(tmp_path)
    assert [len(volume(item).images) for item in items] == [4] * 4
    assert len({item.variant for item in items}) == 4
    assert not left_out


def enhanced(
    pixels: NDArray[np.uint16], order: list[int], components: list[str] | None = None
) -> Dataset:
    """Multi-frame image; frame `n` is `pixels[order[n]]` at its place, with a slope of its own."""
    image = dicom_header(
        ENHANCED, ImageOrientationPatient=None, ImagePositionPatient=None, PixelSpacing=None
    )
    image.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=list(AXIAL))
    shared.PixelMeasuresSequence = group(PixelSpacing=[0.7, 0.8])
    image.SharedFunctionalGroupsSequence = DicomSequence([shared])
    frames = []
    for n, k in enumerate(order):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=[0, 0, 2 * (k % 4)])
        frame.PixelValueTransformationSequence = group(
            RescaleSlope=1 + k % 4 if k < 4 else 2 * np.pi / 4000, RescaleIntercept=0 if k < 4
            else -np.pi,
        )  # fmt: skip
        if components:
            frame.MRImageFrameTypeSequence = group(ComplexImageComponent=components[n])
        frames.append(frame)
    image.PerFrameFunctionalGroupsSequence = DicomSequence(frames)
    set_pixels(image, pixels[order])
    return image


def test_frames_of_an_enhanced_image_are_slices(tmp_path):
    image = enhanced(PIXELS, [2, 0, 3, 1])
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    done = only(tmp_path)
    np.testing.assert_allclose(done.images, [(1 + k) * each for k, each in enumerate(PIXELS)])
    assert done.pixel_mm == (0.7, 0.8)


def test_magnitude_and_phase_frames_of_one_enhanced_image_are_complex(tmp_path):
    stored = np.round((PHASE + np.pi) / (2 * np.pi) * 4000).astype(np.uint16)
    order = [5, 2, 0, 4, 3, 7, 6, 1]
    components = ["PHASE" if k >= 4 else "MAGNITUDE" for k in order]
    image = enhanced(np.concatenate([PIXELS, stored]), order, components)
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    truth = np.stack([(1 + k) * each for k, each in enumerate(PIXELS)]) * np.exp(1j * PHASE)
    np.testing.assert_allclose(only(tmp_path).images, truth, atol=4)


SIEMENS = {"RescaleSlope": 2, "RescaleIntercept": -4096}
MILLIRADIAN = {"RescaleSlope": 2000 * np.pi / 4095, "RescaleIntercept": -1000 * np.pi}
RADIAN = {"RescaleSlope": 2 * np.pi / 4095, "RescaleIntercept": -np.pi}


@pytest.mark.parametrize("scaling", [SIEMENS, MILLIRADIAN, RADIAN])
def test_magnitude_and_phase_series_are_one_complex_series(tmp_path, scaling):
    scaling = {name: f"{value:.10g}" for name, value in scaling.items()}
    stored = np.round((PHASE + np.pi) / (2 * np.pi) * 4095).astype(np.uint16)
    write_series(tmp_path / "m", PIXELS)
    phase = {"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"], "SeriesInstanceUID": "1.2.3.2"}
    write_series(tmp_path / "p", stored, **phase, **scaling)
    np.testing.assert_allclose(only(tmp_path).images, PIXELS * np.exp(1j * PHASE), atol=3)


def test_real_and_imaginary_series_are_one_complex_series(tmp_path):
    image = PIXELS * np.exp(1j * PHASE)
    for name, part in (("R_FFE", image.real), ("I_FFE", image.imag)):
        write_series(
            tmp_path / name,
            np.round(part + 1500).astype(np.uint16),
            ImageType=["ORIGINAL", "PRIMARY", name],
            RescaleSlope=1,
            RescaleIntercept=-1500,
        )
    np.testing.assert_allclose(only(tmp_path).images, image, atol=0.8)


@pytest.mark.parametrize(
    "change",
    [
        {"FrameOfReferenceUID": "1.2.3.8"},
        {"AcquisitionTime": "130000"},
        {"EchoTime": 5},
        {"PixelSpacing": [1, 1.1]},
        {"PatientID": "other"},
    ],
)
def test_halves_of_different_acquisitions_are_not_joined(tmp_path, change):
    write_series(tmp_path / "m", PIXELS)
    write_series(tmp_path / "p", PIXELS, ImageType=["ORIGINAL", "PRIMARY", "P"], **change)
    items, left_out = found(tmp_path)
    assert [each.code for each in left_out] == ["phase-alone"]
    np.testing.assert_array_equal(volume(items[0]).images, PIXELS)


def test_a_half_that_fits_two_series_is_joined_with_neither(tmp_path):
    phase = {"ImageType": ["ORIGINAL", "PRIMARY", "P"], "SeriesInstanceUID": "1.2.3.2"}
    write_series(tmp_path / "m", PIXELS)
    write_series(tmp_path / "n", PIXELS, SeriesInstanceUID="1.2.3.3")
    write_series(tmp_path / "p", PIXELS, **phase)
    items, left_out = found(tmp_path)
    assert [volume(item).images.dtype for item in items] == [np.float32] * 2
    assert [each.code for each in left_out] == ["phase-alone"]


def test_a_phase_of_unknown_unit_leaves_the_magnitude(tmp_path):
    write_series(tmp_path / "m", PIXELS)
    write_series(tmp_path / "p", PIXELS // 2, ImageType=["ORIGINAL", "PRIMARY", "P"])
    done = only(tmp_path)
    np.testing.assert_array_equal(done.images, PIXELS)
    assert done.notes == ("unit of the phase unknown: magnitude only",)


def test_a_real_image_alone_is_refused(tmp_path):
    write_series(tmp_path, PIXELS, ImageType=["ORIGINAL", "PRIMARY", "R"])
    (item,), _ = found(tmp_path)
    with pytest.raises(ScanError, match="imaginary"):
        volume(item)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Modality": "CT"}, "not-mr"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "not-an-image"),  # secondary capture
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4.3"}, "not-an-image"),  # enhanced colour
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"SeriesDescription": "3plane Localiser"}, "localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "ADC"]}, "computed-image"),
        ({"PhotometricInterpretation": "RGB"}, "colour"),
        ({"SamplesPerPixel": 3}, "colour"),
        ({"BurnedInAnnotation": "YES"}, "annotated"),
        ({"ImagePositionPatient": None}, "no-position"),
        ({"PixelSpacing": [0, 1]}, "pixel-size"),
        ({"SeriesInstanceUID": None}, "dicom-damaged"),
    ],
)
def test_what_is_no_mr_slice_is_left_out_with_a_reason(tmp_path, changes, code):
    write_series(tmp_path, PIXELS)
    write_dicom(tmp_path / "x.dcm", PIXELS[0], **changes)
    items, left_out = found(tmp_path)
    assert [(each.code, each.inputs) for each in left_out] == [(code, (4,))]
    np.testing.assert_array_equal(volume(items[0]).images, PIXELS)


def test_many_files_with_the_same_fault_are_one_line(tmp_path):
    write_series(tmp_path, PIXELS, Modality="CT")
    _, left_out = found(tmp_path)
    assert [len(each.inputs) for each in left_out] == [4]


def test_runlength_coded_images_are_decoded(tmp_path):
    write_series(tmp_path, PIXELS)
    for path in tmp_path.iterdir():
        image = dcmread(path)
        image.compress(RLELossless)
        image.save_as(path)
    np.testing.assert_array_equal(only(tmp_path).images, PIXELS)


@pytest.mark.parametrize(
    ("syntax", "code"),
    [
        (MPEG2MPML, "compressed"),
        (DeflatedExplicitVRLittleEndian, "deflated"),
        (UID("1.2.826.0.1.3680043.8.498.1"), "compressed"),
    ],
)
def test_transfer_syntaxes_that_are_not_decoded_are_left_out(tmp_path, syntax, code):
    image = dcmread(write_dicom(tmp_path / "a.dcm", PIXELS[0]))
    if syntax != DeflatedExplicitVRLittleEndian:
        image.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0\xfe\xff\xdd\xe0\0\0\0\0"
        image["PixelData"].is_undefined_length = True
    image.file_meta.TransferSyntaxUID = syntax
    options = {"little_endian": True, "implicit_vr": False} if code == "compressed" else {}
    dcmwrite(tmp_path / "a.dcm", image, enforce_file_format=False, **options)
    assert [each.code for each in found(tmp_path)[1]] == [code]


@pytest.mark.parametrize("length", [140, 400])
def test_a_header_that_breaks_off_is_left_out(tmp_path, length):
    path = write_dicom(tmp_path / "a.dcm", PIXELS[0])
    path.write_bytes(path.read_bytes()[:length])
    items, left_out = found(tmp_path)
    assert not items
    assert len(left_out) == 1


def test_pixels_that_break_off_refuse_their_series(tmp_path):
    write_series(tmp_path, PIXELS)
    path = tmp_path / "3.dcm"
    path.write_bytes(path.read_bytes()[:-3000])
    (item,), _ = found(tmp_path)
    with pytest.raises(ScanError, match="pixels"):
        volume(item)


def test_more_pixels_than_allowed_are_refused_before_they_are_decoded(tmp_path):
    image = enhanced(PIXELS, [0, 1, 2, 3])
    image.PixelData = b"\0\0"
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    (item,), _ = found(tmp_path, volume_bytes=1000)
    with pytest.raises(ScanError) as caught:
        volume(item)
    assert caught.value.code == "too-large"


def test_a_multiframe_header_that_miscounts_is_left_out(tmp_path):
    image = enhanced(PIXELS, [0, 1, 2, 3])
    image.NumberOfFrames = 40000
    image.save_as(tmp_path / "a.dcm", enforce_file_format=True)
    assert [each.code for each in found(tmp_path)[1]] == ["frames"]


@pytest.mark.parametrize("name", ["", "ANONYMOUS", None])
def test_without_an_identity_the_study_stands_for_the_patient(tmp_path, name):
    write_series(tmp_path, PIXELS, PatientID=name)
    assert only(tmp_path).patient == "<1.2.3>"


def test_damaged_headers_are_read_or_left_out_and_nothing_else(tmp_path):
    whole = tmp_path / "whole"
    enhanced(PIXELS, [0, 1, 2, 3]).save_as(whole, enforce_file_format=True)
    content = whole.read_bytes()
    outcomes = set()
    for seed in range(200):
        (tmp_path / "a.dcm").write_bytes(damaged(content, range(132, 3000), seed))
        items, left_out = found(tmp_path)
        outcomes |= {each.code for each in left_out}
        for item in items:
            try:
                outcomes.add(str(volume(item).images.dtype))
            except ScanError as error:
                outcomes.add(error.code)
    assert {"float32", "dicom-damaged", "not-mr"} <= outcomes
