"""NIfTI volumes, cut into slices that lie as in a radiologist's picture.

Axial slices have anterior on top, coronal and sagittal ones superior; the patient's right is at the
left of axial and coronal slices, anterior at the left of sagittal ones.
"""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from recon.errors import ScanError
from service.images.volumes import ImageSettings, Plane, Volume

_ISOTROPIC = 1.1
_HEADER_BYTES = 540
_MAX_OFFSET = 1 << 20
_DEFLATE_RATIO = 1100
"""More than deflate can expand."""
_MILLIMETRES = {"meter": 1000.0, "mm": 1.0, "micron": 0.001, "unknown": 1.0}
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    HeaderDataError,
    WrapStructError,
    zlib.error,
)


@np.errstate(all="ignore")  # what becomes infinite or NaN is refused
def nifti_volumes(path: Path, patient: str, settings: ImageSettings) -> list[Volume]:
    """Every volume of a .nii or .nii.gz file, cut into slices. Raises ScanError.

    Slices are cut across the direction of the largest voxel spacing; volumes with equal spacing
    are cut axially, as their affine has it.
    """
    values, affine, unit = _read_nifti(path, settings.volume_bytes)
    try:
        directions = nib.orientations.io_orientation(affine)
        turn = nib.orientations.ornt_transform(
            directions, nib.orientations.axcodes2ornt(("L", "P", "S"))
        )
        stored_mm = nib.affines.voxel_sizes(affine) * unit
        if np.isnan(directions).any() or not (np.isfinite(stored_mm) & (stored_mm > 0)).all():
            raise ValueError
    except (ValueError, np.linalg.LinAlgError) as error:
        raise ScanError(
            "affine", "the affine of the file maps voxels to no volume; export it again"
        ) from error
    spacing = np.empty(3)
    spacing[directions[:, 0].astype(int)] = stored_mm  # now left, posterior, superior
    volumes = []
    for each in np.moveaxis(values, 3, 0):
        turned = nib.orientations.apply_orientation(each, turn)
        volumes.append(_sliced(turned, spacing, settings.plane, patient))
    return volumes


def _sliced(values: NDArray[Any], mm: NDArray[np.float64], plane: Plane, patient: str) -> Volume:
    """Slices of an array whose axes run to the left, posterior and superior."""
    if plane == "auto":
        plane = _thick_plane(values.shape, mm)
    if plane == "axial":
        return Volume(values.transpose(2, 1, 0), (float(mm[1]), float(mm[0])), patient)
    if plane == "coronal":
        return Volume(values.transpose(1, 2, 0)[:, ::-1], (float(mm[2]), float(mm[0])), patient)
    return Volume(values.transpose(0, 2, 1)[:, ::-1], (float(mm[2]), float(mm[1])), patient)


def _thick_plane(shape: Sequence[int], mm: NDArray[np.float64]) -> Plane:
    planes: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
    if shape.count(1) == 1:
        return planes[shape.index(1)]
    if mm[2] * _ISOTROPIC >= mm.max():
        return "axial"
    return planes[int(mm.argmax())]


def _read_nifti(path: Path, limit: int) -> tuple[NDArray[Any], NDArray[np.float64], float]:
    """Scaled values (i, j, k, volumes), affine, and the affine's unit in mm.

    The header is judged before anything else is read or unpacked: it may declare terabytes.
    """
    try:
        with _opened(path) as file:
            start = file.read(_HEADER_BYTES)
            header = _nifti_header(start)
            shape, kind = header.get_data_shape(), header.get_data_dtype()
            offset = header.get_data_offset()
            slope, intercept = header.get_slope_inter()
            declared = math.prod(shape) * kind.itemsize
            _check_nifti(shape, kind, offset, declared, limit)
            if declared > _DEFLATE_RATIO * path.stat().st_size:
                raise _cut_short()
            file.seek(offset)
            content = file.read(declared)
        affine = np.asarray(header.get_best_affine(), np.float64)
        unit = _MILLIMETRES.get(header.get_xyzt_units()[0], 1.0)
    except _DAMAGE as error:
        raise ScanError(
            "nifti-damaged", "the file is not readable as NIfTI; export it again"
        ) from error
    if len(content) != declared:
        raise _cut_short()
    values = np.frombuffer(content, kind).reshape((*shape[:3], -1), order="F")
    values = values.astype(np.complex64 if kind.kind == "c" else np.float32)
    if slope is not None and (slope, intercept) != (1, 0):
        values = values * values.dtype.type(slope) + values.dtype.type(intercept)
    return values, affine, unit


def _cut_short() -> ScanError:
    return ScanError("cut-short", "the file ends before its last voxel; transfer it again")


def _opened(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast("BinaryIO", gzip.open(path, "rb"))
    return path.open("rb")


def _nifti_header(start: bytes) -> nib.Nifti1Header:
    # nibabel.load would read the extensions too, however long they say they are.
    sizes = {int.from_bytes(start[:4], order) for order in ("little", "big")}
    header: nib.Nifti1Header | None = None
    if 348 in sizes:
        header = nib.Nifti1Header(start[:348], check=False)
    elif 540 in sizes:
        header = nib.Nifti2Header(start[:540], check=False)
    if header is not None and bytes(header["magic"].item()).startswith(b"n+"):
        return header
    raise ScanError(
        "not-nifti", "the file does not start as single-file NIfTI; convert it to .nii or .nii.gz"
    )


def _check_nifti(
    shape: tuple[int, ...], kind: np.dtype[Any], offset: int, declared: int, limit: int
) -> None:
    if kind.kind not in "iufc":
        raise ScanError("nifti-type", f"voxels must be real or complex numbers, not {kind}")
    if len(shape) not in (3, 4) or min(shape) < 1 or sorted(shape[:3])[1] == 1:
        raise ScanError(
            "nifti-shape", f"images must have three or four dimensions, not the shape {shape}"
        )
    if not 0 <= offset <= _MAX_OFFSET:
        raise ScanError("nifti-offset", f"the voxels start at byte {offset}; export it again")
    if declared > limit:
        raise ScanError(
            "too-large", f"the header declares {declared} bytes, more than {limit}; split the file"
        )
