"""Arrays of NumPy (.npy, .npz) and BART (.cfl with .hdr), handed over in slabs and never unpickled.

Run in the child of `recon.io.child_reader`.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.layouts import Axes, Entry, Listing, bart_axes
from recon.io.read_limits import ReadLimits

_KINDS = "biufc"
_SLAB_BYTES = 64 << 20
_HEADER_BYTES = 4096
_NAMES = 64


@dataclass(frozen=True)
class Stored:
    """The arrays of one file, none of them read yet."""

    listing: Listing
    copy: Callable[[str, BinaryIO], None]
    """Write one of them as .npy, complex numbers as complex64."""


def numpy_array(path: Path) -> Stored:
    """The one array of a .npy file, named `kspace`. Raises ScanError."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # refuses pickles, and sizes that lie
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TypeError) as error:
        raise _damaged() from error
    return _mapped({"kspace": array})


def bart_array(path: Path) -> tuple[Stored, Axes]:
    """The one array of a pair of BART files, named `kspace`, and what its axes are.

    Raises ScanError.
    """
    header, data = path.with_suffix(".hdr"), path.with_suffix(".cfl")
    with header.open("rb") as file:
        text = file.read(_HEADER_BYTES).decode("ascii", "replace")
    lines = [line.split() for line in text.splitlines() if not line.startswith("#")]
    numbers = lines[0] if lines else []
    if not 2 <= len(numbers) <= 16 or not all(n.isdecimal() and len(n) < 10 for n in numbers):
        raise ScanError("bart-header", "the .hdr does not list the dimensions; write it anew")
    shape = tuple(int(number) for number in numbers)
    if data.stat().st_size != 8 * math.prod(shape) or not math.prod(shape):
        raise ScanError(
            "bart-size",
            f"the .cfl has {data.stat().st_size} bytes and its header {shape} says "
            f"{8 * math.prod(shape)}; transfer both again",
        )
    array = np.memmap(data, "<c8", "r", shape=shape, order="F")
    flat = array[tuple(slice(None) if n > 1 or at < 2 else 0 for at, n in enumerate(shape))]
    return _mapped({"kspace": flat}), bart_axes(shape)


def numpy_archive(path: Path, limits: ReadLimits) -> Stored:
    """The arrays of a .npz file. Raises ScanError."""
    try:
        archive = zipfile.ZipFile(path)
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        declared = sum(info.file_size for info in members.values())
        allowed = max(limits.expansion_floor_bytes, limits.expansion * path.stat().st_size)
        if len(members) > _NAMES or declared > min(limits.declared_bytes, allowed):
            raise ScanError(
                "too-large", f"the archive holds {len(members)} arrays of {declared} bytes in all"
            )
        headers = {name: _header(archive, info) for name, info in members.items()}
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _damaged() from error
    entries = {name: Entry(shape, kind.kind) for name, (shape, kind) in headers.items()}

    def copy(name: str, output: BinaryIO) -> None:
        try:
            with archive.open(members[name]) as file:
                array = np.lib.format.read_array(file, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
            raise _damaged() from error
        _copy(array, output)

    return Stored(Listing(entries), copy)


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], Any]:
    """Shape and type of a member whose size is what they say."""
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in {(1, 0), (2, 0)}:
            raise ValueError(version)
        read = np.lib.format.read_array_header_1_0
        if version == (2, 0):
            read = np.lib.format.read_array_header_2_0
        shape, _, kind = read(file)
        begins = file.tell()
    if kind.kind not in _KINDS or begins + math.prod(shape) * kind.itemsize != info.file_size:
        raise ValueError(kind)
    return tuple(shape), kind


def _mapped(arrays: Mapping[str, NDArray[Any]]) -> Stored:
    for array in arrays.values():
        if array.dtype.kind not in _KINDS:
            raise ScanError("array-type", f"the file must hold numbers, not {array.dtype}")
    entries = {name: Entry(array.shape, array.dtype.kind) for name, array in arrays.items()}
    return Stored(Listing(entries), lambda name, output: _copy(arrays[name], output))


def _copy(array: NDArray[Any], output: BinaryIO) -> None:
    if array.size == 0:
        raise ScanError("empty-dataset", "the array holds no values; acquire or export it again")
    kind = np.dtype("<c8") if array.dtype.kind == "c" else array.dtype.newbyteorder("<")
    header = {"descr": kind.str, "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_2_0(output, header)
    if array.ndim == 0:
        output.write(array.astype(kind).tobytes())
        return
    rows = max(1, _SLAB_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), rows):
        with np.errstate(over="ignore"):  # becomes infinite and is refused as such
            np.ascontiguousarray(array[start : start + rows], kind).tofile(output)


def _damaged() -> ScanError:
    return ScanError(
        "array-file",
        "this is not a readable file of numbers; save it with numpy.save or numpy.savez",
    )
