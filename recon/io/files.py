"""Files in and out: scans of any format, masks, single arrays and results.

Everything is read through `recon.io.child_reader`, our own results too: a file that was somewhere
else may have changed there. Everything is written aside, synced and renamed, so that a file under
its final name is whole.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io import result_layout, scan_layout
from recon.io.arranging import arranged, shape_of
from recon.io.child_reader import (
    RAW_HEADER,
    RAW_HEADS,
    RAW_SAMPLES,
    RAW_TRAJECTORY,
    Asked,
    Run,
    load_array,
    look_in_child,
    read_in_child,
    scan_in_child,
)
from recon.io.formats import require_read
from recon.io.layouts import FASTMRI
from recon.io.mrd_readouts import HEAD, Readouts
from recon.io.mrd_scan import outline_of_readouts, scan_from_readouts
from recon.io.placement import placed
from recon.io.read_limits import ReadLimits
from recon.posterior import PLAIN, Delivery, SlicePosterior
from recon.scan import Scan, two_phase_encodings

_DEFAULT_LIMITS = ReadLimits()
_MASK_BYTES = 64 << 20
_SAME_VIEW = 0.01
"""Relative difference of fields of view that means nothing."""
_RESERVED = frozenset({"schema", "warnings", "verdicts", "not_for_diagnostic_use"})

Attributes = Mapping[str, str | int | float | bool]


def read_scan(
    path: Path,
    *,
    mask: NDArray[Any] | None = None,
    select: Mapping[str, int] | None = None,
    fftshift: bool | None = None,
    layout: str | None = None,
    axes: Sequence[str] | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> Scan:
    """The scan in a file of any format that is read, checked and read in a child process.

    Args:
        path: One of `recon.io.formats.FORMATS`; it may be hostile.
        mask: (columns,), (rows,) or (rows, columns) of 0 and 1. It wins over the file's own mask,
            which wins over the zeros of k-space; lines that are all zero are never acquired.
        select: Counters (slice, contrast, phase, repetition, set) of the images to read; all by
            default.
        fftshift: True moves the zero frequency, and the image's origin, to the middle of the axes
            where the energy of k-space shows them at index 0; None refuses such files; False takes
            them as they are.
        layout: Name of one of `recon.io.layouts.LAYOUTS`; by default what the file holds says.
        axes: What the axes of the array count, of `recon.io.layouts.AXES`, where no layout says.
        limits: What the file may declare and the child may use.

    Raises:
        ScanError: The file is refused; its code says why.
    """
    return _read(path, limits, Asked(layout, None if axes is None else tuple(axes)),
                 mask=mask, select=select, fftshift=fftshift)  # fmt: skip


def read_calibration(
    path: Path,
    scan: Scan,
    *,
    fftshift: bool | None = None,
    layout: str | None = None,
    axes: Sequence[str] | None = None,
    limits: ReadLimits = _DEFAULT_LIMITS,
) -> Scan:
    """`scan` with calibration lines from another file, which replace those of its own.

    The file holds the fully sampled centre of k-space of the same slices with the same coils and
    field of view, at any matrix size. It is read as `read_scan` says. Raises ScanError.
    """
    asked = Asked(layout, None if axes is None else tuple(axes))
    other = _read(path, limits, asked, fftshift=fftshift, for_calibration=True)
    if other.trajectory is not None or other.kspace.shape[:2] != scan.kspace.shape[:2]:
        raise ScanError(
            "calibration-shape",
            f"the calibration file has {other.kspace.shape[0]} slices of {other.kspace.shape[1]} "
            f"coils (Cartesian: {other.trajectory is None}) and the scan {scan.kspace.shape[0]} of "
            f"{scan.kspace.shape[1]}; acquire both alike",
        )
    ours, theirs = scan.view_mm, other.view_mm
    if ours and theirs and not np.allclose(ours, theirs, rtol=_SAME_VIEW):
        raise ScanError(
            "calibration-view",
            f"the calibration file has a field of view of {theirs[0]:.4g} x {theirs[1]:.4g} mm and "
            f"the scan {ours[0]:.4g} x {ours[1]:.4g} mm; acquire both alike",
        )
    return replace(scan, calibration=placed(other.kspace, scan.image_shape))


def _read(
    path: Path,
    limits: ReadLimits,
    asked: Asked,
    *,
    mask: NDArray[Any] | None = None,
    select: Mapping[str, int] | None = None,
    fftshift: bool | None = None,
    for_calibration: bool = False,
) -> Scan:
    digest = _digest(path)
    found = scan_in_child(path, asked, limits)
    arrays, texts = found.contents.arrays, found.contents.texts
    if found.readouts:
        heads = arrays[RAW_HEADS].view(HEAD)[:, 0]
        nothing = np.zeros(0, np.float32)
        readouts = Readouts(heads, arrays[RAW_SAMPLES], arrays.get(RAW_TRAJECTORY, nothing))
        return scan_from_readouts(
            texts[RAW_HEADER], readouts, digest, limits,
            mask=mask, select=select, fftshift=fftshift, for_calibration=for_calibration,
        )  # fmt: skip
    attributes = dict(found.contents.attributes)
    if found.axes != FASTMRI:
        attributes["axes"] = ",".join(found.axes)
    if found.axes != FASTMRI or select:
        images = arranged(arrays["kspace"], found.axes, select or {}, limits)
        arrays["kspace"] = images.kspace
        attributes["averages"] = images.averages
    if "calibration" in arrays:
        arrays["calibration"] = placed(arrays["calibration"], arrays["kspace"].shape[-2:])
    return scan_layout.scan_from_layout(
        arrays,
        attributes,
        texts.get(scan_layout.HEADER),
        mask,
        digest,
        True if fftshift is None and not found.centred else fftshift,
    )


def _digest(path: Path) -> str:
    """SHA-256 of what is read: of BART's pair, of both, the header first."""
    known, _ = require_read(path)
    pair = [path.with_suffix(".hdr"), path.with_suffix(".cfl")]
    digest = sha256()
    for part in pair if known.name == "BART cfl" else [path]:
        with part.open("rb") as file:
            file_digest(file, lambda: digest)
    return digest.hexdigest()


@dataclass(frozen=True)
class Inspected:
    """What a scan is, as far as shows without reading a sample."""

    format: str
    """Name of one of `recon.io.formats.FORMATS`."""
    layout: str | None
    """Name of one of `recon.io.layouts.LAYOUTS`; None for readouts and where axes were named."""
    axes: tuple[str, ...]
    """Of the array in the file; empty for readouts."""
    stored: tuple[int, ...]
    """Its shape."""
    shape: tuple[int, int, int, int]
    """(slices, coils, rows, columns) of the scan."""
    two_phase_encodings: bool | None
    """Whether it was encoded along two of three dimensions; None: only its values tell."""


def examine_scan(
    path: Path,
    limits: ReadLimits = _DEFAULT_LIMITS,
    *,
    layout: str | None = None,
    axes: Sequence[str] | None = None,
    run: Run | None = None,
    look: bool = False,
) -> Inspected:
    """What a file is that a reader may open, without reading a sample.

    The whole file is walked in a child process as by `read_scan`, and refused for the same reasons:
    what the values hold shows when the scan is. `run` starts the child; those who look at many
    files keep a `recon.io.fork_servers.ForkServers`. Raises ScanError.
    """
    asked = Asked(layout, None if axes is None else tuple(axes), values=False, look=look)
    found = scan_in_child(path, asked, limits, run)
    if found.readouts:
        heads = found.contents.arrays[RAW_HEADS].view(HEAD)[:, 0]
        shape, two = outline_of_readouts(found.contents.texts[RAW_HEADER], heads, limits)
        return Inspected(found.format, None, (), (), shape, two)
    named = None if found.layout == "axes" else found.layout
    shape = shape_of(found.shape, found.axes)
    encoded = None
    if (mask := found.contents.arrays.get("mask")) is not None:
        sampled = scan_layout.expand_mask(mask, shape[2], shape[3])
        encoded = two_phase_encodings(sampled, found.contents.attributes)
    if look and (header := found.contents.texts.get(scan_layout.HEADER)) is not None:
        scan_layout.parse_geometry(header)
    return Inspected(found.format, named, found.axes, found.shape, shape, encoded)


def inspect_scan(
    path: Path,
    limits: ReadLimits = _DEFAULT_LIMITS,
    run: Run | None = None,
    *,
    layout: str | None = None,
    axes: Sequence[str] | None = None,
) -> tuple[int, int, int, int]:
    """(slices, coils, rows, columns) of `examine_scan`, of a file whose values were looked at.

    It is refused for its header, its mask, and values that are not finite, of which a large scan
    may still hide some between the slabs that are looked at. Samples of readouts are not read.
    Raises ScanError.
    """
    return examine_scan(path, limits, layout=layout, axes=axes, run=run, look=True).shape


def inspect_scans(
    paths: Sequence[Path], limits: ReadLimits = _DEFAULT_LIMITS
) -> list[tuple[int, int, int, int] | ScanError | None]:
    """`inspect_scan` of many files at the price of few child processes.

    None for measurements of readouts, whose shape shows when they are read. A refusal is returned,
    not raised.
    """
    found: list[tuple[int, int, int, int] | ScanError | None] = []
    for looked in look_in_child(paths, limits):
        try:
            if isinstance(looked, ScanError):
                found.append(looked)
            else:
                found.append(None if looked.readouts else shape_of(looked.shape, looked.axes))
        except ScanError as error:
            found.append(error)
    return found


def read_mask(path: Path, limits: ReadLimits = _DEFAULT_LIMITS) -> NDArray[np.bool_]:
    """The mask in a .npy file, or dataset `mask` of an .h5 file, in its own shape.

    Raises ScanError.
    """
    if path.suffix == ".npy":
        if path.is_file() and path.stat().st_size > _MASK_BYTES:
            raise ScanError(
                "file-too-large", f"a mask file may have {_MASK_BYTES} bytes; save it as booleans"
            )
        return scan_layout.boolean_mask(load_array(path))
    if path.suffix in {".h5", ".hdf5"}:
        return scan_layout.boolean_mask(_read_one(path, "mask", limits))
    raise ScanError("mask-format", "a mask is read from .npy or .h5; save it as one of them")


def read_array(path: Path, name: str, limits: ReadLimits = _DEFAULT_LIMITS) -> NDArray[Any]:
    """One dataset of numbers, finite throughout; complex types as complex64. Raises ScanError."""
    array = _read_one(path, name, limits)
    if not np.isfinite(array).all():
        raise ScanError("not-finite", f"'{name}' holds NaN or infinite values; export it again")
    return array


def write_scan(path: Path, scan: Scan, extra: Mapping[str, NDArray[Any]] | None = None) -> None:
    """Write a scan in the fastMRI layout, with `extra` datasets beside it.

    Raises ValueError when a name in `extra` is one of the layout's own.
    """
    arrays = scan_layout.scan_to_layout(scan)
    taken = {*scan_layout.ARRAYS, scan_layout.HEADER} & set(extra or {})
    if taken:
        raise ValueError(f"these names belong to the scan itself: {sorted(taken)}")
    with _replacing(path) as file:
        _write(file, {**arrays, **(extra or {})}, packed={"kspace"})
        if scan.header is not None:
            file[scan_layout.HEADER] = scan.header
        file.attrs.update(scan.attributes)


def write_result(
    path: Path,
    posteriors: Sequence[SlicePosterior],
    provenance: Attributes,
    header: str | None = None,
    recon_shape: tuple[int, int] | None = None,
    *,
    mask: NDArray[np.bool_] | None = None,
    uncalibrated: Sequence[SlicePosterior] | None = None,
    delivery: Delivery = PLAIN,
) -> None:
    """Write one result file for all slices.

    `reconstruction`, the magnitude of what is delivered (`recon.posterior.delivered`) cut to
    `recon_shape` (rows, columns), is what fastMRI's evaluation reads. `mask` (rows, columns)
    records what was sampled. Where intervals and standard deviations were multiplied by a conformal
    factor, `uncalibrated` are the posteriors before it. `provenance` becomes root attributes;
    `created` is the time of writing unless it is among them. Raises ValueError on reserved names or
    unequal slices.
    """
    taken = _RESERVED & set(provenance)
    if taken:
        raise ValueError(f"these attributes belong to the result itself: {sorted(taken)}")
    arrays = result_layout.result_arrays(posteriors, recon_shape, delivery)
    if mask is not None:
        arrays["mask"] = mask
    if uncalibrated is not None:
        for name, field in result_layout.UNCALIBRATED.items():
            arrays[name] = np.stack([getattr(p, field) for p in uncalibrated])
    with _replacing(path) as file:
        _write(file, arrays, packed={"samples"})
        file["quality/self_check"].attrs["columns"] = ",".join(result_layout.SELF_CHECK_COLUMNS)
        if header is not None:
            file[scan_layout.HEADER] = header
        file.attrs["schema"] = result_layout.SCHEMA
        file.attrs["not_for_diagnostic_use"] = 1
        file.attrs["warnings"] = result_layout.warnings_text(posteriors)
        file.attrs["verdicts"] = result_layout.verdicts_text(posteriors)
        file["quality/evidence"].attrs["columns"] = ",".join(result_layout.EVIDENCE_COLUMNS)
        file.attrs.update(delivery.attributes)
        file.attrs["created"] = datetime.now(UTC).isoformat(timespec="seconds")
        file.attrs.update(provenance)


def read_result(
    path: Path, limits: ReadLimits = _DEFAULT_LIMITS
) -> tuple[list[SlicePosterior], dict[str, str | int | float]]:
    """The posteriors of a result file, and its root attributes but warnings and verdicts.

    Raises ScanError.
    """
    wanted = (*result_layout.ARRAYS, *result_layout.OPTIONAL)
    contents = read_in_child(path, wanted, limits=limits)
    posteriors = result_layout.posteriors_from_layout(contents.arrays, contents.attributes)
    of_slices = ("warnings", "verdicts")
    attributes = {n: value for n, value in contents.attributes.items() if n not in of_slices}
    return posteriors, attributes


def read_result_maps(
    path: Path, names: Sequence[str], limits: ReadLimits = _DEFAULT_LIMITS
) -> list[NDArray[Any]]:
    """Some arrays of a result file (`result_layout.ARRAYS`), slices first. Raises ScanError."""
    arrays = read_in_child(path, tuple(names), limits=limits).arrays
    missing = [name for name in names if name not in arrays]
    if missing:
        raise ScanError("not-a-result", f"this file is not a result; it has no '{missing[0]}'")
    return [arrays[name] for name in names]


def read_result_mask(path: Path, limits: ReadLimits = _DEFAULT_LIMITS) -> NDArray[np.bool_]:
    """(rows, columns), the samples a result was made from. Raises ScanError if it is silent."""
    return scan_layout.boolean_mask(_read_one(path, "mask", limits))


def read_result_header(path: Path, limits: ReadLimits = _DEFAULT_LIMITS) -> str | None:
    """The ISMRMRD header that a result carries along, if any. Raises ScanError."""
    contents = read_in_child(path, (), (scan_layout.HEADER,), limits=limits)
    return contents.texts.get(scan_layout.HEADER)


def _read_one(path: Path, name: str, limits: ReadLimits) -> NDArray[Any]:
    arrays = read_in_child(path, (name,), limits=limits).arrays
    if name not in arrays:
        raise ScanError("no-dataset", f"the file has no dataset '{name}'; check its contents")
    return arrays[name]


def _write(file: h5py.File, arrays: Mapping[str, NDArray[Any]], packed: set[str]) -> None:
    """Only the large, zero-rich arrays are compressed, one image to a chunk."""
    for name, array in arrays.items():
        if name in packed:
            chunks = (*(1 for _ in array.shape[:-2]), *array.shape[-2:])
            file.create_dataset(
                name,
                data=array,
                chunks=chunks,
                shuffle=True,
                compression="gzip",
                compression_opts=1,
            )
        else:
            file.create_dataset(name, data=array)


@contextmanager
def _replacing(path: Path) -> Iterator[h5py.File]:
    """A file under a temporary name beside `path`, which it becomes if the block succeeds.

    The order matters: the data reach the disk before the name does, and the name before we return.
    A failure leaves what was there before.
    """
    aside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with h5py.File(aside, "x") as file:
            yield file
        _sync(aside)
        aside.replace(path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
