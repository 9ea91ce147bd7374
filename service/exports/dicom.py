"""DICOM: mean and standard deviation as MR images, the latter also as a float Parametric Map.

A Secondary Capture gives an overview on one page. MR images are 16-bit. What a pixel means is said
twice, as a Real World Value Mapping and as a rescale slope, because readers know one or the other.
Images are stored the way people look at them, rows and columns exchanged or reversed as that needs.
The scanner stays the manufacturer; this program is contributing equipment.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import highdicom
import numpy as np
from highdicom.pm import RealWorldValueMapping
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, SecondaryCaptureImageStorage

from recon.planes import turned, upright
from service.exports.dicom_header import add_body_part, add_sequence, from_header
from service.exports.images import NOT_FOR_DIAGNOSIS, Attributes, ResultImages, unique_id
from service.exports.overview import draw_overview, overview_index
from service.products import DicomSeries

_PEAK = 65535
_UNEVEN_MM = 0.05
_LONGEST_TEXT = 10240
_NO_UNITS = Code("1", "UCUM", "no units")
_MEAN = Code("373098007", "SCT", "Mean")
_STD = Code("386136009", "SCT", "Standard Deviation")
_PROCESSING = Code("109102", "DCM", "Processing Equipment")


def write_dicom(
    images: ResultImages,
    folder: Path,
    key: bytes,
    *,
    parametric_map: bool = False,
    overview: bool = False,
) -> list[Path]:
    """Write one file per image and series into `folder`; returns their paths.

    Study, series and instance UIDs are a keyed hash of the scan, the model and the settings: the
    same key gives the same ones, and without it they say nothing.

    Args:
        images: What to write.
        folder: Made if it is not there; files of the same names are replaced.
        key: Secret of the site.
        parametric_map: Also the standard deviation in float, one file per volume.
        overview: Also one page with mean, standard deviation and first reconstruction.
    """
    folder.mkdir(parents=True, exist_ok=True)
    peak = max(float(images.mean.max()), float(images.std.max())) or 1.0
    slope = float(_decimal(peak / _PEAK))
    spacing = _spacing(images)
    written, means = [], []
    for series, values in ((DicomSeries.MEAN, images.mean), (DicomSeries.STD, images.std)):
        for index, image in enumerate(values):
            dataset = _mr_image(images, series, index, image, slope, key)
            if index in spacing:
                dataset.SpacingBetweenSlices = _decimal(spacing[index])
            if series is DicomSeries.MEAN:
                means.append(dataset)
            file = folder / series.file(index + 1)
            dataset.save_as(file, enforce_file_format=True)
            written.append(file)
    if parametric_map:
        for number, group in enumerate(images.volumes(), start=1):
            map_ = _parametric_map(images, group, [means[index] for index in group], number, key)
            file = folder / DicomSeries.MAP.file(number)
            map_.save_as(file, enforce_file_format=True)
            written.append(file)
    if overview:
        file = folder / DicomSeries.OVERVIEW.file(1)
        _overview(images, key).save_as(file, enforce_file_format=True)
        written.append(file)
    return written


def _mr_image(
    images: ResultImages,
    series: DicomSeries,
    index: int,
    values: NDArray[np.float32],
    slope: float,
    key: bytes,
) -> Dataset:
    of_mean = series is DicomSeries.MEAN
    suffix = "posterior mean" if of_mean else "posterior standard deviation"
    dataset = from_header(images, key)
    add_sequence(dataset, images)
    _identify(dataset, images, series, index, suffix, key)
    dataset.SOPClassUID = MRImageStorage
    dataset.ImageType = ["DERIVED", "PRIMARY", "OTHER", "MEAN" if of_mean else "STD_DEVIATION"]
    _describe(dataset, images, images.verdict(index))
    _place(dataset, images, index, (values.shape[0], values.shape[1]))
    shown = turned(values, upright(images.stack.planes[index]))
    pixels = np.clip(np.rint(shown / slope), 0, _PEAK).astype("<u2")
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelRepresentation = 0
    top = max(float(np.percentile(pixels, 99.5)), 2.0)
    dataset.WindowCenter, dataset.WindowWidth = f"{top / 2:.1f}", f"{top:.1f}"
    dataset.PixelData = pixels.tobytes()
    dataset.RescaleSlope, dataset.RescaleIntercept = _decimal(slope), "0"
    dataset.RealWorldValueMappingSequence = [_mapping(series, (0, _PEAK), slope, images.attributes)]
    return dataset


def _overview(images: ResultImages, key: bytes) -> Dataset:
    """One page in colours, a Secondary Capture of the same study."""
    dataset = from_header(images, key)
    del dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator  # a page lies nowhere
    _identify(dataset, images, DicomSeries.OVERVIEW, 0, "posterior overview", key)
    dataset.SOPClassUID = SecondaryCaptureImageStorage
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.ConversionType = "WSD"
    dataset.PatientOrientation = None
    _describe(dataset, images, images.verdict(overview_index(images)))
    page = draw_overview(images)
    dataset.Rows, dataset.Columns = page.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"
    dataset.PlanarConfiguration = 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = page.tobytes()
    return dataset


def _identify(
    dataset: Dataset,
    images: ResultImages,
    series: DicomSeries,
    index: int,
    suffix: str,
    key: bytes,
) -> None:
    """What makes it an instance of a series."""
    dataset.SOPInstanceUID = _uid(images, key, series, index)
    dataset.SeriesInstanceUID = _uid(images, key, series)
    dataset.Modality = "MR"
    dataset.SeriesNumber = int(dataset.get("SeriesNumber") or 0) * 100 + series.number
    dataset.SeriesDescription = f"{dataset.get('ProtocolName', '')} {suffix}".strip()[:64]
    dataset.InstanceNumber = index + 1
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian


def _describe(dataset: Dataset, images: ResultImages, verdict: str) -> None:
    """Derivation, warning, verdict and equipment."""
    dataset.DerivationDescription = images.derivation[:1024]
    place = "" if images.located else " ORIENTATION ASSUMED, NOT MEASURED."
    comments = f"{NOT_FOR_DIAGNOSIS}.{place} Research reconstruction. {verdict}".strip()
    dataset.ImageComments = comments[:_LONGEST_TEXT]
    dataset.BurnedInAnnotation = "NO"
    equipment = highdicom.ContributingEquipment(
        manufacturer="mri-posterior",
        purpose_of_reference=_PROCESSING,
        manufacturer_model_name="mri-posterior",
        software_versions=str(images.attributes.get("software_version", "unknown")),
    )
    dataset.ContributingEquipmentSequence = [equipment]
    if images.identified:
        created = _time(str(images.attributes.get("created", "")))
        if created is not None:
            dataset.InstanceCreationDate = created.strftime("%Y%m%d")
            dataset.InstanceCreationTime = created.strftime("%H%M%S")


def _place(dataset: Dataset, images: ResultImages, index: int, shape: tuple[int, int]) -> None:
    """Image Plane module, of an image of `shape` (rows, columns) before it was turned."""
    stack, plane = images.stack, images.stack.planes[index]
    turn = upright(plane)
    exchanged = turn[0]
    down = np.array(plane.phase_dir if exchanged else plane.read_dir, np.float64)
    right = np.array(plane.read_dir if exchanged else plane.phase_dir, np.float64)
    sizes = stack.voxel_mm[:2][::-1] if exchanged else stack.voxel_mm[:2]
    rows, columns = shape[::-1] if exchanged else shape
    first = stack.first_voxel(index, shape)
    if turn[1]:
        first, down = first + down * sizes[0] * (rows - 1), -down
    if turn[2]:
        first, right = first + right * sizes[1] * (columns - 1), -right
    dataset.PixelSpacing = list(map(_decimal, sizes))
    dataset.ImageOrientationPatient = list(map(_decimal, (*right, *down)))
    dataset.ImagePositionPatient = list(map(_decimal, first))
    dataset.SliceThickness = _decimal(stack.voxel_mm[2])
    dataset.SliceLocation = _decimal(float(np.dot(np.cross(right, down), first)))
    if "repetition" in plane.labels:
        dataset.TemporalPositionIdentifier = plane.labels["repetition"] + 1
    if "contrast" in plane.labels:
        dataset.EchoNumbers = plane.labels["contrast"] + 1
    times = dataset.get("EchoTime")
    if isinstance(times, list):
        contrast = plane.labels.get("contrast", 0)
        dataset.EchoTime = times[contrast] if contrast < len(times) else None


def _spacing(images: ResultImages) -> dict[int, float]:
    """Distance in mm to the next image of the same volume, by image; none for a single one."""
    found: dict[int, float] = {}
    for group in images.volumes():
        planes = [images.stack.planes[index] for index in group]
        heights = [float(np.dot(plane.position, plane.slice_dir)) for plane in planes]
        gaps = np.diff(heights)
        if len(gaps) and gaps.min() > 0 and np.ptp(gaps) < _UNEVEN_MM:
            found |= dict.fromkeys(group, float(gaps.mean()))
    return found


def _parametric_map(
    images: ResultImages, group: list[int], sources: list[Dataset], number: int, key: bytes
) -> Dataset:
    turn = upright(images.stack.planes[group[0]])
    values = np.ascontiguousarray(turned(images.std[group], turn))
    first = sources[0]
    peak = float(values.max()) or 1.0
    window = highdicom.VOILUTTransformation(
        window_center=peak / 2, window_width=peak, voi_lut_function="LINEAR_EXACT"
    )
    map_ = highdicom.pm.ParametricMap(
        source_images=sources,
        pixel_array=values,
        series_instance_uid=_uid(images, key, DicomSeries.MAP),
        series_number=int(first.SeriesNumber) - DicomSeries.MEAN.number + DicomSeries.MAP.number,
        sop_instance_uid=_uid(images, key, DicomSeries.MAP, number),
        instance_number=number,
        manufacturer="mri-posterior",
        manufacturer_model_name="mri-posterior",
        software_versions=str(images.attributes.get("software_version", "unknown")),
        device_serial_number="0",
        contains_recognizable_visual_features=True,
        real_world_value_mappings=[_mapping(DicomSeries.STD, (0.0, peak), 1.0, images.attributes)],
        voi_lut_transformations=[window],
        content_label="POSTERIOR_STD",
        content_description=NOT_FOR_DIAGNOSIS,
        derived_pixel_contrast="STD_DEVIATION",
    )
    map_.SeriesDescription = str(first.SeriesDescription).replace("mean", "standard deviation map")
    add_body_part(map_, first.get("BodyPartExamined", ""))
    map_.ImageComments = first.ImageComments
    map_.DerivationDescription = first.DerivationDescription
    return map_


def _mapping(
    series: DicomSeries, mapped: tuple[float, float], slope: float, attributes: Attributes
) -> RealWorldValueMapping:
    return RealWorldValueMapping(
        lut_label="POSTERIOR_" + series.upper(),
        lut_explanation=str(attributes.get("units", "signal in the scanner's units"))[:64],
        unit=_NO_UNITS,
        value_range=mapped,
        slope=slope,
        intercept=0.0,
        quantity_definition=_MEAN if series is DicomSeries.MEAN else _STD,
    )


def _uid(images: ResultImages, key: bytes, *parts: object) -> str:
    names = ("input_sha256", "model_sha256", "seed", "samples", "preset", "steps", "created")
    return unique_id(
        key, images.identified, *(images.attributes.get(name) for name in names), *parts
    )


def _decimal(value: float) -> str:
    """A decimal string of at most 16 characters, with all the digits that fit."""
    text = f"{float(value) + 0.0:.10g}"
    return text if len(text) <= 16 else f"{float(value):.9e}"[:16]


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if re.fullmatch(r"[-0-9T:+.]{19,32}", text) else None
