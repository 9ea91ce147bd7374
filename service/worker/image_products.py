"""Products of a finished job for hospitals and other programs: DICOM, NIfTI and BIDS."""

from __future__ import annotations

import tempfile
import zipfile
from functools import partial
from pathlib import Path
from typing import IO

import structlog

from recon.errors import ScanError
from recon.planes import ATTRIBUTE
from recon.scan import Scan
from service.exports.bids import write_bids
from service.exports.dicom import write_dicom
from service.exports.images import ResultImages, load_images, voxel_of
from service.exports.nifti import write_nifti
from service.jobs.job import Job
from service.products import BIDS, DICOM, RESULT
from service.settings import ServiceSettings
from service.store.files import Storage

log = structlog.get_logger()

_BLOCK = 1 << 20


def write_images(settings: ServiceSettings, storage: Storage, job: Job, scan: Scan) -> list[str]:
    """Write the products that need a place, as far as they can be made; returns their names.

    DICOM holds the mean and standard deviation as MR images, the latter as Parametric Map, and the
    overview.
    """
    voxel = job.parameters.voxel_mm or voxel_of(scan.geometry)
    if voxel is None and ATTRIBUTE not in scan.attributes:
        return []
    result = storage.product(job.place, RESULT)
    try:
        images = load_images(result, identified=job.parameters.identified, voxel_mm=voxel)
    except ScanError as error:  # no reason to throw the reconstruction itself away
        log.warning("no pictures", job=job.id, reason=error.code)
        return []
    key = settings.uid_key.encode() or storage.secret()
    with tempfile.TemporaryDirectory(dir=storage.incoming) as folder:
        write_dicom(images, Path(folder), key, parametric_map=True, overview=True)
        storage.write_product(job.place, DICOM, lambda out: _pack(out, Path(folder)))
    return [DICOM, *_write_nifti(storage, job, images), *_write_bids(storage, job, images)]


def _write_nifti(storage: Storage, job: Job, images: ResultImages) -> list[str]:
    """NIfTI wants evenly spaced slices; without, there is DICOM only."""
    with tempfile.TemporaryDirectory(dir=storage.incoming) as folder:
        try:
            mean, _, std, _ = write_nifti(images, Path(folder) / "mean.nii.gz")
        except ScanError as error:
            log.info("no NIfTI", job=job.id, reason=error.code)
            return []
        for name, path in (("mean.nii.gz", mean), ("std.nii.gz", std)):
            storage.write_product(job.place, name, partial(_copy, path=path))
    return ["mean.nii.gz", "std.nii.gz"]


def _write_bids(storage: Storage, job: Job, images: ResultImages) -> list[str]:
    """Where the client has named the raw image."""
    name = job.parameters.bids_name
    if name is None:
        return []
    with tempfile.TemporaryDirectory(dir=storage.incoming) as folder:
        try:
            write_bids(images, Path(folder), name)
        except ScanError as error:
            log.info("no BIDS", job=job.id, reason=error.code)
            return []
        storage.write_product(job.place, BIDS, lambda out: _pack(out, Path(folder)))
    return [BIDS]


def _pack(out: IO[bytes], folder: Path) -> None:
    """All files of a folder, named from there."""
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(folder))


def _copy(out: IO[bytes], path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            out.write(block)
