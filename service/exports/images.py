"""The images of a result with what every format says about them."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ismrmrd.xsd import ismrmrdHeader, studyInformationType
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.files import read_result, read_result_header
from recon.io.mrd_header import parse_header
from recon.io.scan_layout import parse_geometry
from recon.planes import ATTRIBUTE, ImageStack, axial
from recon.posterior import PLAIN, Delivery, Shown, SlicePosterior, delivered
from recon.scan import Geometry
from service.conformal_scaling import sentence_of
from service.exports.body_part import body_part

NOT_FOR_DIAGNOSIS = "NOT FOR DIAGNOSTIC USE"
_SPACE_LABELS = ("slice", "partition")
_SHOWN = {
    Shown.POSTERIOR: "",
    Shown.CLASSICAL: ", classical image in place of the posterior mean",
    Shown.NOTHING: ", left empty",
}

Attributes = dict[str, str | int | float]


@dataclass(frozen=True)
class ResultImages:
    """All images of a result, cut to the field of view."""

    mean: NDArray[np.float32]
    """(images, rows, columns) magnitude of the posterior mean."""
    std: NDArray[np.float32]
    """(images, rows, columns) posterior standard deviation of the magnitude."""
    coarse: NDArray[np.float32]
    """(images, rows, columns) magnitude of the first reconstruction."""
    stack: ImageStack
    """One plane per image."""
    attributes: Attributes
    """Provenance: seed, model and the like."""
    header: ismrmrdHeader | None
    """Of the scan, as far as it may be passed on."""
    identified: bool
    """Whether the header's names, dates and numbers are the patient's own."""
    located: bool
    """False where planes are assumed, not known."""
    verdicts: tuple[str, ...] = ()
    """Of each image: how far it may be trusted, why, and what is shown of it; empty where that is
    not known."""

    @property
    def derivation(self) -> str:
        """How the images came about, in one line."""
        say = self.attributes.get
        applied = sentence_of(self.attributes)
        told = "" if applied is None else f"; {applied}"
        units = (
            "" if "units" not in self.attributes else f"; magnitudes: {self.attributes['units']}"
        )
        return (
            f"Posterior mean and standard deviation of {say('samples', '?')} samples, "
            f"{say('sampler', 'unknown sampler')}, {say('steps', '?')} steps, "
            f"acceleration {float(say('acceleration', 0)):.3g}, "
            f"model {say('model_id', '?')} sha256 {say('model_sha256', '?')}, "
            f"seed {say('seed', '?')}, software {say('software_version', '?')}{units}{told}"
        )

    def verdict(self, index: int) -> str:
        """Of an image; empty where there is none."""
        return self.verdicts[index] if self.verdicts else ""

    def volumes(self) -> list[list[int]]:
        """Images that differ in place only, in the order of their place, volume by volume."""
        groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
        for index, plane in enumerate(self.stack.planes):
            key = tuple(sorted((k, v) for k, v in plane.labels.items() if k not in _SPACE_LABELS))
            groups.setdefault(key, []).append(index)
        return [sorted(group, key=self._height) for group in groups.values()]

    def _height(self, index: int) -> float:
        plane = self.stack.planes[index]
        return float(np.dot(plane.position, plane.slice_dir))


def load_images(
    path: Path,
    *,
    identified: bool = False,
    voxel_mm: tuple[float, float, float] | None = None,
    delivery: Delivery = PLAIN,
) -> ResultImages:
    """What a result file holds for other formats.

    Args:
        path: Result of `reconstruct`.
        identified: Pass on who was scanned, where and when; otherwise this is left out.
        voxel_mm: Assume axial images of this voxel size where the result does not say where its
            images lie.
        delivery: What to take of slices that are not trusted, beyond what the result says.

    Raises:
        ScanError: No result, or no geometry and no `voxel_mm`.
    """
    posteriors, attributes = read_result(path)
    attributes |= delivery.beyond(attributes).attributes
    return images_of(posteriors, attributes, read_result_header(path), identified, voxel_mm)


def images_of(
    posteriors: Sequence[SlicePosterior],
    attributes: Attributes,
    xml: str | None,
    identified: bool,
    voxel_mm: tuple[float, float, float] | None = None,
) -> ResultImages:
    """The same from posteriors in memory. Raises ScanError."""
    delivery = Delivery.of(attributes)
    shown = [delivered(posterior, delivery) for posterior in posteriors]
    mean = np.stack([np.abs(posterior.mean) for posterior in shown])
    std = np.stack([posterior.magnitude_std for posterior in shown])
    coarse = np.stack([np.abs(posterior.coarse) for posterior in posteriors])
    text = attributes.get(ATTRIBUTE)
    voxel_mm = voxel_mm or (None if xml is None else voxel_of(parse_geometry(xml)))
    if isinstance(text, str):
        stack = ImageStack.from_text(text)
    elif voxel_mm is not None:
        stack = _assumed(max(p.index for p in posteriors) + 1, mean.shape[1:], xml, voxel_mm)
    else:
        raise ScanError(
            "no-geometry",
            "the result says neither where its images lie nor how large their voxels are; "
            "give --voxel to assume axial images of a size",
        )
    if max(posterior.index for posterior in posteriors) >= len(stack.planes):
        raise ScanError("geometry", "the result has more images than planes; reconstruct again")
    chosen = tuple(stack.planes[posterior.index] for posterior in posteriors)
    header = _header(xml, isinstance(text, str))
    if header is not None and not identified:
        header = without_identity(header)
    return ResultImages(
        mean=np.ascontiguousarray(stack.crop(mean), np.float32),
        std=np.ascontiguousarray(stack.crop(std), np.float32),
        coarse=np.ascontiguousarray(stack.crop(coarse), np.float32),
        stack=replace(stack, planes=chosen),
        attributes={name: value for name, value in attributes.items() if name != ATTRIBUTE},
        header=header,
        identified=identified,
        located=isinstance(text, str),
        verdicts=tuple(_verdict(each, delivery.shows(each)) for each in posteriors),
    )


def _verdict(posterior: SlicePosterior, shown: Shown) -> str:
    """What an image says of its trust; nothing for results that are older than verdicts."""
    if posterior.verdict is None:
        return ""
    return f"{posterior.verdict.trust.upper()}{_SHOWN[shown]}: {posterior.verdict.sentence}"


def without_identity(header: ismrmrdHeader) -> ismrmrdHeader:
    """The header without what tells who was scanned, where or when, or what is free text."""
    measurement = header.measurementInformation
    if measurement is not None:
        measurement = replace(
            measurement,
            measurementID=None,
            seriesDate=None,
            seriesTime=None,
            protocolName=None,
            sequenceName=None,
            seriesDescription=None,
            measurementDependency=[],
            seriesInstanceUIDRoot=None,
            frameOfReferenceUID=None,
            referencedImageSequence=None,
        )
    system = header.acquisitionSystemInformation
    if system is not None:
        system = replace(
            system, institutionName=None, stationName=None, deviceID=None, deviceSerialNumber=None
        )
    part = body_part(header)
    return replace(
        header,
        subjectInformation=None,
        studyInformation=studyInformationType(bodyPartExamined=part) if part else None,
        measurementInformation=measurement,
        acquisitionSystemInformation=system,
        userParameters=None,
        waveformInformation=[],
    )


def unique_id(key: bytes, *parts: object) -> str:
    """DICOM UID below 2.25, the same for the same key and parts and unforgeable without the key."""
    message = "\x1f".join(map(str, parts)).encode()
    digest = hmac.new(key, message, hashlib.sha256).digest()
    return f"2.25.{int.from_bytes(digest[:16])}"


def voxel_of(geometry: Geometry) -> tuple[float, float, float] | None:
    """Voxel size in mm by a header's field of view and matrix; x of the header is along rows."""
    view, shape = geometry.field_of_view_mm, geometry.recon_shape
    if view is None or shape is None:
        return None
    return view[0] / shape[0], view[1] / shape[1], view[2]


def _header(xml: str | None, located: bool) -> ismrmrdHeader | None:
    """What a scan's header says; a fastMRI file may have the beginning of one only."""
    try:
        return None if xml is None else parse_header(xml)
    except ScanError:
        if located:
            raise
        return None


def _assumed(
    count: int, shape: tuple[int, ...], xml: str | None, voxel_mm: tuple[float, float, float]
) -> ImageStack:
    """Axial planes; the header of a fastMRI file still says what to cut off."""
    geometry = Geometry() if xml is None else parse_geometry(xml)
    rows, columns = geometry.recon_shape or (shape[0], shape[1])
    return axial(count, (min(rows, shape[0]), min(columns, shape[1])), voxel_mm)
