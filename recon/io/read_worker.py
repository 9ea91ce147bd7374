"""The child process that opens an input file: checks it, reads it, hands plain arrays back.

Started by `recon.io.child_reader` or `recon.io.fork_servers` only, with JSON requests on standard
input. It writes `N.npy` for the Nth array asked for and one `answer.json` into the current
directory, which is private to the run. Whatever a file does to the HDF5 library, it does to this
process.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import h5py
import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.array_files import bart_array, numpy_archive, numpy_array
from recon.io.formats import is_matlab, require_read
from recon.io.hdf5_safety import HEADER, CheckedFile, open_checked
from recon.io.layouts import Axes, Entry, Listing, source_in
from recon.io.mrd_hdf5 import copy_samples, copy_trajectory, raw_group, read_heads
from recon.io.read_limits import ReadLimits, check_size
from recon.io.twix import convert

RAW_HEADER, RAW_HEADS, RAW_SAMPLES = "raw/xml", "raw/heads", "raw/samples"
RAW_TRAJECTORY = "raw/trajectory"
"""Names under which the answer has the parts of an ISMRMRD measurement."""
OUT_OF_MEMORY = 3
"""Exit status; an answer could not be relied on to be written."""

_COMPLEX = {None, ("r", "i"), ("real", "imag")}
"""Names in the types of arrays of numbers."""
_SLAB_BYTES = 64 << 20
_WHOLE_CHUNK_BYTES = 512 << 20
"""Slabs may grow to this to hold whole chunks."""
_LISTED = 40
"""Datasets that are named of a file."""
_LOOKED_AT_BYTES = 256 << 20
"""Of k-space, where values are looked at before anybody needs them; smaller scans are whole."""
_OWN_BYTES = 128 << 20
"""Address space of the interpreter and its libraries."""

Answer = dict[str, Any]


def main() -> None:
    """Serve one request and exit."""
    sys.exit(_answered(json.load(sys.stdin)))


def fork_server() -> None:
    """Serve requests, one a line with its folder, each in a fork that never comes back.

    This process opens no file of a request; it only saves its forks the import of the libraries.
    Exit statuses are printed, one a line.
    """
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            _serve_in_fork(order)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


def _serve_in_fork(order: dict[str, Any]) -> NoReturn:
    status = 1
    try:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        os.chdir(order["folder"])
        status = _answered(order["request"])
    finally:
        os._exit(status)  # whatever happened: the loop belongs to the parent


def _answered(request: dict[str, Any]) -> int:
    """Write the answer to a request; the exit status."""
    limits = ReadLimits(**request["limits"])
    try:
        limit_process(limits)
        if "paths" in request:
            answers = [_serve(request | {"path": path}, limits) for path in request["paths"]]
            answer: Answer = {"files": answers}
        else:
            answer = _serve(request, limits)
    except MemoryError:
        return OUT_OF_MEMORY
    Path("answer.json").write_text(json.dumps(answer), encoding="utf-8")
    return 0


def limit_process(limits: ReadLimits) -> None:
    """Bound address space, processor time, written bytes and open files of this process."""
    cpu = limits.cpu_seconds
    for kind, soft, hard in (
        (resource.RLIMIT_CORE, 0, 0),
        (resource.RLIMIT_NOFILE, 64, 64),
        (resource.RLIMIT_FSIZE, 2 * limits.declared_bytes, 2 * limits.declared_bytes),
        (resource.RLIMIT_CPU, cpu, cpu + 5),
        (resource.RLIMIT_AS, limits.memory_bytes, limits.memory_bytes),
    ):
        allowed = resource.getrlimit(kind)[1]
        if allowed != resource.RLIM_INFINITY:
            soft, hard = min(soft, allowed), min(hard, allowed)
        resource.setrlimit(kind, (soft, hard))


def _serve(request: dict[str, Any], limits: ReadLimits) -> Answer:
    try:
        path = Path(request["path"])
        if "scan" in request:
            return _scan(path, request, limits)
        with open_checked(path, limits) as file:
            return _read(file, request, limits)
    except ScanError as error:
        return {"error": [error.code, error.message]}
    except MemoryError:
        raise
    except Exception as error:  # h5py raises nearly any type on a damaged file
        if "memory allocation failed" in str(error):
            raise MemoryError from error
        return {"error": ["unreadable", _DAMAGED]}


_DAMAGED = "the file cannot be read; it is damaged or cut short: transfer it again"


def _read(file: CheckedFile, request: dict[str, Any], limits: ReadLimits) -> Answer:
    """The datasets asked for by their names."""
    arrays = {}
    for position, name in enumerate(request["arrays"]):
        if name in file.datasets:
            arrays[name] = f"{position}.npy"
            with Path(arrays[name]).open("wb") as output:
                _copy_array(file.datasets[name], name, output, limits)
    texts = {
        name: _read_text(file.datasets[name], name, limits)
        for name in request["texts"]
        if name in file.datasets
    }
    return {
        "arrays": arrays,
        "texts": texts,
        "attributes": _read_attributes(file.root, limits),
        "datasets": _described(file),
    }


def _scan(path: Path, request: dict[str, Any], limits: ReadLimits) -> Answer:
    """K-space of any format; without `values` only what it is and its shape."""
    known, start = require_read(path)
    check_size(start.size, limits)
    answer: Answer = {"format": known.name, "arrays": {}, "texts": {}, "attributes": {}}
    if known.name == "Siemens twix":
        samples = Path("samples.npy") if request["values"] else None
        twix = convert(path, samples, limits)
        return (
            answer
            | {"readouts": True, "texts": {RAW_HEADER: twix.xml}}
            | _raw_arrays(twix.heads, samples)
        )
    if known.name != "HDF5":
        return answer | _stored(path, known.name, request, limits)
    with open_checked(path, limits) as file:
        axes = _axes(request)
        group = None if "kspace" in file.datasets or axes else raw_group(file.datasets)
        answer["attributes"] = _read_attributes(file.root, limits)
        if group is not None:
            return answer | _readouts(file, group, request, limits)
        if request["look"]:
            _look_at_values(file, limits)
        listing = _listing(file, matlab=is_matlab(start))
        copies = {name: partial(_copy_array, file.datasets[name], name) for name in listing.arrays}
        if HEADER in file.datasets:
            answer["texts"] = {HEADER: _read_text(file.datasets[HEADER], HEADER, limits)}
        return answer | _arrays(
            listing, request, axes, lambda name, output: copies[name](output, limits)
        )


def _stored(path: Path, kind: str, request: dict[str, Any], limits: ReadLimits) -> Answer:
    """The arrays of NumPy's and BART's files."""
    axes = _axes(request)
    if kind == "BART cfl":
        stored, own = bart_array(path)
        return _arrays(stored.listing, request, axes or own, stored.copy)
    stored = numpy_archive(path, limits) if kind == "NumPy .npz" else numpy_array(path)
    shape = stored.listing.arrays["kspace"].shape if "kspace" in stored.listing.arrays else ()
    if axes is None and request["layout"] is None and len(shape) == 3:
        raise ScanError(
            "axes",
            f"whether the array {shape} holds slices or coils is not clear; give --axes "
            "slice,row,column or --axes coil,row,column",
        )
    if axes is None and len(shape) == 2:
        axes = ("row", "column")
    return _arrays(stored.listing, request, axes, stored.copy)


def _arrays(
    listing: Listing,
    request: dict[str, Any],
    axes: Axes | None,
    copy: Callable[[str, BinaryIO], None],
) -> Answer:
    """Where k-space is and, with `values`, it and what belongs to it, by the names of a scan."""
    layout, source = source_in(listing, request["layout"], axes)
    answer: Answer = {
        "layout": layout,
        "axes": list(source.axes),
        "centred": source.centred,
        "shape": list(listing.arrays[source.dataset].shape),
    }
    wanted = {"mask": "mask"} if request["values"] or request["look"] else {}
    if request["values"]:
        wanted |= {"kspace": source.dataset, "calibration": source.calibration or "calibration"}
        wanted |= {name: name for name in ("noise", "coil_maps")}
    if wanted:
        names = {ours: theirs for ours, theirs in wanted.items() if theirs in listing.arrays}
        for position, theirs in enumerate(names.values()):
            with Path(f"{position}.npy").open("wb") as output:
                copy(theirs, output)
        answer["arrays"] = {ours: f"{position}.npy" for position, ours in enumerate(names)}
    return answer


def _described(file: CheckedFile) -> list[list[str]]:
    """What the file holds: path, shape and type of the first datasets."""
    return [
        [path, " × ".join(map(str, dataset.shape or ())) or "a value", str(dataset.dtype)[:60]]
        for path, dataset in list(file.datasets.items())[:_LISTED]
    ]


def _look_at_values(file: CheckedFile, limits: ReadLimits) -> None:
    """Refuse k-space that is not finite or empty, and masks that cannot be its own.

    Of a large scan slabs from its first to its last slice are looked at.
    """
    kspace, mask = file.datasets.get("kspace"), file.datasets.get("mask")
    if kspace is None or kspace.shape is None or kspace.ndim < 3 or not kspace.size:
        return  # refused for its shape
    if mask is not None and (mask.shape is None or mask.size > math.prod(kspace.shape[-2:])):
        raise ScanError("mask-shape", f"the mask cannot be of this k-space: {mask.shape}")
    if kspace.dtype.kind not in "cV":
        return  # refused for its type
    rows = min(_slab_rows(kspace), kspace.shape[0])
    _require_memory(kspace, rows, limits)
    starts = range(0, kspace.shape[0], rows)
    every = max(1, math.ceil(len(starts) * rows * _row_bytes(kspace) / _LOOKED_AT_BYTES))
    empty = True
    for start in sorted({*starts[::every], starts[-1]}):
        slab = _converted(kspace[start : start + rows])
        if not np.isfinite(slab).all():
            raise ScanError(
                "not-finite", "k-space holds NaN or infinite values; export the scan again"
            )
        empty = empty and not slab.any()
    if empty and every == 1:
        raise ScanError("empty-kspace", "all of k-space is zero; export the scan again")


def _axes(request: dict[str, Any]) -> Axes | None:
    return None if request["axes"] is None else tuple(request["axes"])


def _listing(file: CheckedFile, *, matlab: bool) -> Listing:
    """Arrays of numbers; complex ones may be records of two parts."""
    entries = {}
    for name, dataset in file.datasets.items():
        kind = "c" if dataset.dtype.names is not None else dataset.dtype.kind
        if name == "kspace":
            _require_numbers(dataset, name)
        if dataset.shape is not None and kind in "biufc" and dataset.dtype.names in _COMPLEX:
            entries[name] = Entry(dataset.shape, kind)
    return Listing(entries, matlab)


def _readouts(file: CheckedFile, group: str, request: dict[str, Any], limits: ReadLimits) -> Answer:
    """Readout headers as bytes (readouts, 340), all samples in one array, and the XML header."""
    xml = f"{group}/xml"
    if xml not in file.datasets:
        raise ScanError("no-mrd-header", "the ISMRMRD file has no XML header; convert it again")
    answer: Answer = {"readouts": True}
    answer["texts"] = {RAW_HEADER: _read_text(file.datasets[xml], xml, limits)}
    if request["heads"]:
        dataset = file.datasets[f"{group}/data"]
        heads = read_heads(dataset)
        samples = trajectory = None
        if request["values"]:
            samples, trajectory = Path("samples.npy"), Path("trajectory.npy")
            copy_samples(dataset, heads, samples, limits)
            copy_trajectory(dataset, heads, trajectory, limits)
        answer |= _raw_arrays(heads, samples, trajectory)
    return answer


def _raw_arrays(
    heads: NDArray[np.void], samples: Path | None, trajectory: Path | None = None
) -> Answer:
    np.save("heads.npy", heads.view(np.uint8).reshape(len(heads), -1))
    files = {RAW_HEADS: "heads.npy"}
    if samples is not None:
        files[RAW_SAMPLES] = samples.name
    if trajectory is not None:
        files[RAW_TRAJECTORY] = trajectory.name
    return {"arrays": files}


def _copy_array(dataset: h5py.Dataset, name: str, output: BinaryIO, limits: ReadLimits) -> None:
    """Write one dataset as .npy, slab by slab, so that memory does not grow with the scan."""
    _require_numbers(dataset, name)
    kind = _converted(dataset[:0] if dataset.ndim else dataset[()]).dtype
    header = {
        "descr": np.lib.format.dtype_to_descr(kind),
        "fortran_order": False,
        "shape": dataset.shape,
    }
    np.lib.format.write_array_header_2_0(output, header)
    if dataset.ndim == 0:
        output.write(_converted(dataset[()]).tobytes())
        return
    rows = min(_slab_rows(dataset), dataset.shape[0])
    _require_memory(dataset, rows, limits)
    for start in range(0, dataset.shape[0], rows):
        _converted(dataset[start : start + rows]).tofile(output)


def _require_numbers(dataset: h5py.Dataset, name: str) -> None:
    if dataset.shape is None or dataset.size == 0:
        raise ScanError("empty-dataset", f"'{name}' holds no values; acquire or export it again")
    if dataset.dtype.kind not in "biufcV":
        raise ScanError("dataset-type", f"'{name}' must hold numbers, not {dataset.dtype}")


def _slab_rows(dataset: h5py.Dataset) -> int:
    """Entries of the first axis to read at a time: whole chunks, so that none is unpacked twice."""
    row_bytes = _row_bytes(dataset)
    rows = max(1, _SLAB_BYTES // row_bytes)
    chunk = dataset.chunks[0] if dataset.chunks else 1
    whole = max(chunk, rows // chunk * chunk)
    return whole if whole * row_bytes <= _WHOLE_CHUNK_BYTES else rows


def _row_bytes(dataset: h5py.Dataset) -> int:
    return math.prod(dataset.shape[1:]) * dataset.dtype.itemsize


def _require_memory(dataset: h5py.Dataset, rows: int, limits: ReadLimits) -> None:
    """Foresee what the limit will refuse: out of memory, gzip only says that it failed."""
    chunk = math.prod(dataset.chunks or (0,)) * dataset.dtype.itemsize
    # A slab and its conversion; a chunk packed, unpacked into a growing buffer, and unshuffled.
    if _OWN_BYTES + 2 * rows * _row_bytes(dataset) + 5 * chunk > limits.memory_bytes:
        raise MemoryError


def _converted(values: NDArray[Any]) -> NDArray[Any]:
    """Native byte order; every complex type as complex64, the package's convention."""
    array = np.asarray(values)
    if array.dtype.names is not None:
        real, imaginary = array.dtype.names
        array = array[real] + np.complex64(1j) * array[imaginary]
    if array.dtype.kind == "c":
        with np.errstate(over="ignore"):  # becomes infinite and is refused as such
            return np.ascontiguousarray(array, np.complex64)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("="))


def _read_text(dataset: h5py.Dataset, name: str, limits: ReadLimits) -> str:
    if dataset.shape is None or dataset.size != 1 or dataset.dtype.kind not in "OS":
        raise ScanError("text-shape", f"'{name}' must be one text; save it as a scalar string")
    value = np.asarray(dataset[()]).reshape(-1)[0]
    content = value if isinstance(value, bytes) else str(value).encode("utf-8")
    if len(content) > limits.text_bytes:
        raise ScanError(
            "text-too-large",
            f"'{name}' has {len(content)} bytes, more than {limits.text_bytes}; shorten it",
        )
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScanError("text-encoding", f"'{name}' is not UTF-8; save it as UTF-8") from error


def _read_attributes(root: h5py.Group, limits: ReadLimits) -> dict[str, str | int | float]:
    """Scalar numbers and texts of the root group; the rest has no use here."""
    found: dict[str, str | int | float] = {}
    for name in root.attrs:
        shape = root.attrs.get_id(name).shape
        if shape is None or math.prod(shape) != 1:  # not read at all: texts may be long
            continue
        value = root.attrs[name]
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if isinstance(value, int | float) or (
            isinstance(value, str) and len(value) <= limits.text_bytes
        ):
            found[name] = value
    return found


if __name__ == "__main__":
    main()
