"""The images of a finished job for hospitals and viewers: DICOM and NIfTI among its products."""

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
from service.exports.dicom import write_dicom
from service.exports.images import ResultImages, load_images, voxel_of
from service.exports.nifti import write_nifti
from service.jobs.job import Job
from service.products import DICOM, RESULT
from service.settings import ServiceSettings
from service.store.files import Storage

log = structlog.get_logger()

_BLOCK = 1 << 20


def write_images(settings: ServiceSettings, storage: Storage, job: Job, scan: Scan) -> list[str]:
    """Write the products that need a place, as far as they can be made; returns their names.

    DICOM holds the mean and standard deviation as MR images and the latter as Parametric Map.
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
        files = write_dicom(images, Path(folder), key, parametric_map=True)
        storage.write_product(job.place, DICOM, lambda out: _pack(out, files))
    return [DICOM, *_write_nifti(storage, job, images)]


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


def _pack(out: IO[bytes], files: list[Path]) -> None:
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in files:
            archive.write(file, file.name)


def _copy(out: IO[bytes], path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            out.write(block)
