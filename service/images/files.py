"""Image files for training: HDF5 with `images` (slices, rows, columns) and who was imaged.

`images` is uint8, uint16, float16, float32 or complex64. Optional are the dataset `patient`
(slices,), texts or integers, equal for slices of the same person, `measured` (slices, rows,
columns), booleans that say which samples of k-space a scan measured (`models.training_data`), and
the attribute `pixel_mm` (row spacing, column spacing).

A file from outside is opened first in a child process that may die of it; only what it is and whose
slices it holds comes back, as JSON.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from h5py import h5l
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from recon.errors import ScanError
from recon.io.hdf5_safety import check_attributes, check_dataset
from recon.io.read_limits import ReadLimits, check_signature
from recon.io.read_worker import limit_process
from service.store.durable import beside

IMAGE_TYPES = ("uint8", "uint16", "float16", "float32", "complex64")

_LIMITS = ReadLimits(cpu_seconds=300, wall_seconds=600)
_TEXT_BYTES = 256
_ANSWER_BYTES = 64 << 20
_SLAB_BYTES = 64 << 20
_BOOT = """
import sys
sys.path.insert(0, sys.argv[1])
import recon, service
del sys.path[0]
from service.images.files import main
main()
"""
_ENVIRONMENT = {
    "HDF5_PLUGIN_PRELOAD": "::",  # switches all dynamic filter plugins off
    "HDF5_USE_FILE_LOCKING": "FALSE",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}


class Description(BaseModel):
    """What an HDF5 file is; texts in it were written by others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["images", "kspace"]
    shape: tuple[int, ...]
    type: str
    patients: tuple[str, ...] | None = None
    """One per slice of `images`; None where the file is silent."""
    patient_id: str | None = None
    """The attribute of this name, which fastMRI's k-space files carry."""
    pixel_mm: tuple[float, float] | None = None


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    found: Description | tuple[str, str]
    """Or code and message of a refusal."""


def describe(path: Path, *, values: bool = False, limits: ReadLimits = _LIMITS) -> Description:
    """What the file holds: `images` in a form that training reads, or `kspace`.

    With `values`, floating point images are read through and refused unless finite. Raises
    ScanError.
    """
    check_signature(path, limits)
    request = json.dumps({"path": str(path.absolute()), "values": values, "limits": asdict(limits)})
    try:
        answer = _Answer.model_validate_json(_ask_child(request.encode(), limits))
    except ValidationError as error:
        raise _died("no usable answer") from error
    if isinstance(answer.found, Description):
        return answer.found
    raise ScanError(*answer.found)


def write_images(
    path: Path,
    images: NDArray[Any],
    patient: str,
    pixel_mm: tuple[float, float] | None = None,
    measured: NDArray[np.bool_] | None = None,
) -> None:
    """Write slices of one patient; under its final name the file is whole."""
    if images.ndim != 3 or images.dtype.name not in IMAGE_TYPES:
        raise ValueError(f"not training images: {images.dtype} {images.shape}")
    with beside(path) as aside, h5py.File(aside, "x") as file:
        file["images"] = images
        file["patient"] = np.array([patient.encode()] * len(images))
        if measured is not None:
            file.create_dataset("measured", data=measured, compression="gzip", shuffle=True)
        if pixel_mm is not None:
            file.attrs["pixel_mm"] = pixel_mm


def _ask_child(request: bytes, limits: ReadLimits) -> bytes:
    package_parent = str(Path(__file__).resolve().parents[__name__.count(".")])
    with tempfile.TemporaryFile() as answer:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-c", _BOOT, package_parent],
                input=request,
                stdout=answer,
                stderr=subprocess.DEVNULL,
                env=_ENVIRONMENT,
                timeout=limits.wall_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired as error:  # the child is killed by then
            raise ScanError(
                "reader-timeout",
                f"looking into the file took longer than {limits.wall_seconds:g} s; "
                "split it, or save it uncompressed",
            ) from error
        if done.returncode != 0:
            raise _died(f"status {done.returncode}")
        answer.seek(0)
        return answer.read(_ANSWER_BYTES)


def _died(reason: str) -> ScanError:
    return ScanError(
        "reader-crashed",
        f"the process that looked into the file died ({reason}); the file is probably damaged or "
        "larger than the memory allowed: export it again",
    )


def main() -> None:
    """The child: serve one request on standard input and exit."""
    request = json.load(sys.stdin)
    limits = ReadLimits(**request["limits"])
    limit_process(limits)
    try:
        answer: dict[str, Any] = {
            "found": _look(Path(request["path"]), limits, values=request["values"])
        }
    except ScanError as error:
        answer = {"found": [error.code, error.message]}
    except (MemoryError, RecursionError):
        sys.exit(3)
    except Exception as error:
        sys.stdout.write(json.dumps({"found": ["unreadable", _DAMAGED]}))
        raise SystemExit(0) from error  # h5py raises nearly any type on a damaged file
    sys.stdout.write(json.dumps(answer))


_DAMAGED = "the HDF5 library cannot read the file; it is damaged or cut short: transfer it again"


def _look(path: Path, limits: ReadLimits, *, values: bool) -> dict[str, Any]:
    with h5py.File(path, "r") as file:
        check_attributes(file.id, "/", limits)
        for kind in ("images", "kspace"):
            if kind in file:
                break
        else:
            raise ScanError(
                "no-images",
                "the file has neither a dataset 'images' nor 'kspace' at its root; "
                "export one of them",
            )
        dataset = _dataset(file, kind)
        check_dataset(dataset.id, kind, limits)
        answer = {"kind": kind, "shape": dataset.shape, "type": dataset.dtype.name}
        if kind == "kspace":
            return {**answer, "patient_id": _text_attribute(file, "patient_id")}
        _check_images(dataset)
        if values and dataset.dtype.kind in "fc":
            _require_finite(dataset)
        return {
            **answer,
            "patients": _patients(file, len(dataset), limits),
            "pixel_mm": _pixel_mm(file),
        }


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    """A dataset that lies in this file: any other link could lead anywhere."""
    if file.id.links.get_info(name.encode()).type != h5l.TYPE_HARD:
        raise ScanError(
            "link", f"'{name}' is a link and not data; save the file with the data in that place"
        )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise ScanError("object-type", f"'{name}' is no dataset; save the values under this name")
    return dataset


def _check_images(images: h5py.Dataset) -> None:
    if images.dtype.name not in IMAGE_TYPES:
        raise ScanError(
            "images-type",
            f"'images' must be {', '.join(IMAGE_TYPES)}, not {images.dtype.name}; convert them",
        )
    if images.ndim != 3 or 0 in images.shape:
        raise ScanError(
            "images-shape",
            f"'images' must have the shape (slices, rows, columns), not {images.shape}",
        )


def _require_finite(images: h5py.Dataset) -> None:
    slice_bytes = math.prod(images.shape[1:]) * images.dtype.itemsize
    step = images.chunks[0] if images.chunks else max(1, _SLAB_BYTES // slice_bytes)
    for start in range(0, len(images), step):
        if not np.isfinite(images[start : start + step]).all():
            raise ScanError(
                "not-finite", "'images' holds NaN or infinite values; export the images again"
            )


def _patients(file: h5py.File, slices: int, limits: ReadLimits) -> list[str] | None:
    if "patient" not in file:
        return None
    patient = _dataset(file, "patient")
    texts = h5py.check_string_dtype(patient.dtype)
    if texts is None or texts.length is not None:
        check_dataset(patient.id, "patient", limits)
    elif patient.is_virtual or patient.external:
        # Texts of variable length are refused there; here they are read one by one.
        raise ScanError("patient-storage", "'patient' lies in other files; save it in this one")
    if patient.shape != (slices,) or patient.dtype.kind not in "OSiu":
        raise ScanError(
            "patient-shape",
            f"'patient' must hold one text or integer for each of the {slices} slices, "
            f"not {patient.dtype} {patient.shape}",
        )
    if patient.dtype.kind in "iu":
        return [str(value) for value in patient[()].tolist()]
    return [_text(patient[index]) for index in range(slices)]


def _text(value: object) -> str:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) > _TEXT_BYTES:
        raise ScanError("text-too-large", f"a patient is named in more than {_TEXT_BYTES} bytes")
    return text


def _text_attribute(file: h5py.File, name: str) -> str | None:
    if name not in file.attrs or file.attrs.get_id(name).shape != ():
        return None
    value = file.attrs[name]
    return _text(value) if isinstance(value, str | bytes) else None


def _pixel_mm(file: h5py.File) -> tuple[float, float] | None:
    if "pixel_mm" not in file.attrs or file.attrs.get_id("pixel_mm").shape != (2,):
        return None
    spacing: Sequence[float] = np.asarray(file.attrs["pixel_mm"], np.float64).tolist()
    if not all(0 < value < 100 for value in spacing):
        raise ScanError("pixel-size", f"'pixel_mm' must be two lengths in mm, not {spacing}")
    return spacing[0], spacing[1]
