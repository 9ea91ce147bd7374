"""What an input file may declare and cost, and the look at it before any library opens it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recon.errors import ScanError
from recon.io.formats import start_of


@dataclass(frozen=True)
class ReadLimits:
    """What a file may declare, and what the process that reads it may use."""

    file_bytes: int = 32 << 30
    declared_bytes: int = 16 << 30
    """Logical size of all datasets together, whether they are read or not."""
    chunk_bytes: int = 512 << 20
    expansion: float = 200.0
    """Declared over stored bytes, per dataset and for the file; zeros alone compress 1000-fold."""
    expansion_floor_bytes: int = 16 << 20
    """Datasets smaller than this may expand as they like."""
    links: int = 1000
    depth: int = 8
    name_bytes: int = 255
    attributes: int = 64
    """Per object."""
    attribute_bytes: int = 64 << 10
    text_bytes: int = 1 << 20
    """Longest header or text attribute that is handed on."""
    memory_bytes: int = 4 << 30
    """Address space of the child; it reads in slabs, so this need not hold a whole dataset."""
    cpu_seconds: int = 600
    wall_seconds: float = 900.0


def check_signature(path: Path, limits: ReadLimits) -> int:
    """File size in bytes. Raises ScanError unless this is a regular file that starts as HDF5."""
    start = start_of(path)
    if not start.hdf5:
        raise ScanError("not-hdf5", "the file does not start as HDF5; give an HDF5 file")
    check_size(start.size, limits)
    return start.size


def check_size(size: int, limits: ReadLimits) -> None:
    """Raise ScanError for a file that is too long."""
    if size > limits.file_bytes:
        raise ScanError(
            "file-too-large", f"the file has {size} bytes, more than {limits.file_bytes}; split it"
        )
