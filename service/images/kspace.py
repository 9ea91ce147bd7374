"""Fully sampled k-space, made into complex images as a reconstruction makes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from recon.errors import ScanError
from recon.io.files import read_scan
from recon.reference import coil_combination
from recon.scan import Scan, centre_crop
from service.images.volumes import Pseudonym, Volume, Working, first_identity


def kspace_volume(
    path: Path, patient_id: str | None, fallback: str, pseudonym: Pseudonym
) -> Iterator[Working | Volume]:
    """Complex coil combination of a fully sampled scan, slice by slice. Raises ReconError.

    Noise model, compression and coil maps are found for each slice as for a reconstruction; the
    phase is that of the receivers. `patient_id` is the file's attribute; the header's patient or
    study come next, then `fallback`.
    """
    scan = read_scan(path)
    _require_full(scan)
    images = []
    for index, kspace in enumerate(scan.kspace):
        yield Working(f"slice {index + 1} of {len(scan.kspace)}", index / len(scan.kspace))
        if not kspace.any():
            continue
        maps = None if scan.coil_maps is None else scan.coil_maps[index : index + 1]
        alone = replace(scan, kspace=kspace[np.newaxis], coil_maps=maps)
        images.append(coil_combination(alone, scan.mask)[0])
    cropped = centre_crop(np.stack(images), scan.geometry.recon_shape)
    identity = first_identity(patient_id, header_identity(scan.header)) or fallback
    yield Volume(cropped, _kspace_pixels(scan, cropped.shape[1:]), pseudonym(identity))


def _require_full(scan: Scan) -> None:
    """Vendors pad a symmetric block of samples with zeros; anything less is undersampled."""
    block = []
    for axis, size in enumerate(scan.mask.shape):
        lines = np.flatnonzero(scan.mask.any(axis=1 - axis))
        before, after = size // 2 - lines[0], lines[-1] + 1 - size // 2
        symmetric = min(before, after) >= max(0.8 * max(before, after), 0.25 * size)
        block.append(slice(lines[0], lines[-1] + 1) if symmetric else slice(0, size))
    if not scan.mask[tuple(block)].all():
        raise ScanError(
            "undersampled",
            f"only {1 / scan.acceleration:.0%} of k-space was acquired; "
            "training needs fully sampled scans",
        )


def _kspace_pixels(scan: Scan, shape: tuple[int, ...]) -> tuple[float, float] | None:
    geometry = scan.geometry
    if geometry.field_of_view_mm is None or geometry.recon_shape != shape:
        return None
    return geometry.field_of_view_mm[0] / shape[0], geometry.field_of_view_mm[1] / shape[1]


def header_identity(header: str | None) -> str | None:
    """Patient, or else study, of an ISMRMRD header that `read_scan` has accepted."""
    if header is None:
        return None
    root = ElementTree.fromstring(header)
    paths = ("subjectInformation/patientID", "studyInformation/studyInstanceUID")
    steps = (path.split("/") for path in paths)
    found = [root.findtext("./" + "/".join(f"{{*}}{step}" for step in names)) for names in steps]
    return first_identity(*found)
