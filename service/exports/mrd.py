"""MRD images: what a scanner takes back, in a file or on a stream."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ismrmrd
import numpy as np
from numpy.typing import NDArray

from service.exports.images import NOT_FOR_DIAGNOSIS, ResultImages
from service.store.durable import beside

_SERIES = {"mean": 1, "std": 2, "preview": 3}
_KINDS = {"mean": "M\\MEAN", "std": "OTHER\\STD_DEVIATION", "preview": "M\\PREVIEW"}
_SUFFIXES = {"mean": "_posterior_mean", "std": "_posterior_std", "preview": "_PREVIEW"}
_PREVIEW = "PREVIEW by zero filling; the reconstruction follows"
_MAGNITUDE = 1
_DEFAULT_BITS = 12


def mrd_images(
    images: ResultImages, products: Sequence[str] = ("mean", "std")
) -> list[ismrmrd.Image]:
    """Mean (series 1) and standard deviation (series 2) as unsigned 16-bit images, one scale.

    `value = pixel * RescaleSlope`. Pixel arrays are (channel, z, y, x) with x along `read_dir`.
    The product `preview` (series 3) is the mean of images that are no posterior's, and says so.
    """
    bits = _bits_stored(images)
    peak = max(float(images.mean.max()), float(images.std.max())) or 1.0
    slope = peak / (2**bits - 1)
    made = []
    for product in products:
        for index, image in enumerate(images.std if product == "std" else images.mean):
            made.append(_image(images, product, index, image, slope, bits))
    return made


def write_mrd(images: ResultImages, path: Path) -> list[Path]:
    """Write `dataset/image_1` (mean) and `image_2` (std) of a new HDF5 file, with the header.

    An existing file is replaced.
    """
    with (
        beside(path, durable=False) as aside,
        ismrmrd.Dataset(str(aside), "dataset", mode="w") as file,
    ):
        if images.header is not None:
            file.write_xml_header(images.header.toXML().encode())
        for image in mrd_images(images):
            file.append_image(f"image_{image.image_series_index}", image)
    return [path]


def _image(
    images: ResultImages,
    product: str,
    index: int,
    values: NDArray[np.float32],
    slope: float,
    bits: int,
) -> ismrmrd.Image:
    plane = images.stack.planes[index]
    pixels = np.clip(np.rint(values.T / slope), 0, 2**bits - 1).astype(np.uint16)
    labels = {k: v for k, v in plane.labels.items() if hasattr(ismrmrd.ImageHeader, k)}
    rows, columns = values.shape
    voxel = images.stack.voxel_mm
    image = ismrmrd.Image.from_array(
        pixels[np.newaxis],
        field_of_view=(rows * voxel[0], columns * voxel[1], voxel[2]),
        position=plane.position,
        read_dir=plane.read_dir,
        phase_dir=plane.phase_dir,
        slice_dir=plane.slice_dir,
        acquisition_time_stamp=plane.time_stamp,
        image_type=_MAGNITUDE,
        image_index=index + 1,
        image_series_index=_SERIES[product],
        **labels,
    )
    image.attribute_string = ismrmrd.Meta(_meta(images, product, index, slope, bits)).serialize()
    return image


def _meta(
    images: ResultImages, product: str, index: int, slope: float, bits: int
) -> dict[str, str | list[str]]:
    say, plane = images.attributes.get, images.stack.planes[index]
    suffix, peak = _SUFFIXES[product], 2**bits - 1
    said = _PREVIEW if product == "preview" else images.derivation
    said = f"{images.verdict(index)} {said}".strip()
    return {
        "DataRole": "Quantitative" if product == "std" else "Image",
        "ImageType": f"DERIVED\\PRIMARY\\{_KINDS[product]}",
        "ImageComments": f"{NOT_FOR_DIAGNOSIS}. {said}",
        "SeriesDescriptionAdditional": suffix,
        "SequenceDescriptionAdditional": suffix,
        "ImageProcessingHistory": [
            "zero filling" if product == "preview" else "posterior sampling",
            product,
        ],
        "Keep_image_geometry": "1",
        "ImageRowDir": [f"{value:.9f}" for value in plane.read_dir],
        "ImageColumnDir": [f"{value:.9f}" for value in plane.phase_dir],
        "WindowCenter": str(peak // 2),
        "WindowWidth": str(peak),
        "RescaleSlope": repr(slope),
        "RescaleIntercept": "0",
        "ReconModel": str(say("model_id", "")),
        "ReconModelDigest": str(say("model_sha256", "")),
        "ReconSamples": str(say("samples", "")),
        "ReconSeed": str(say("seed", "")),
        "ReconDataConsistency": str(say("data_consistency", "")),
        "ReconJobId": str(say("job_id", "")),
        "NotForDiagnosticUse": "1",
    }


def _bits_stored(images: ResultImages) -> int:
    """`BitsStored` among the header's parameters, else 12."""
    parameters = None if images.header is None else images.header.userParameters
    for parameter in () if parameters is None else parameters.userParameterLong:
        if parameter.name == "BitsStored" and parameter.value in range(8, 17):
            return int(parameter.value)
    return _DEFAULT_BITS
