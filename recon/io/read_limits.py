"""What an input file may declare and cost, and the look at it before any library opens it."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

from recon.errors import ScanError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_FIRST_BLOCK, _LAST_BLOCK = 512, 1 << 20
"""Offsets at which HDF5 looks for itself, each twice the last."""


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
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block the open below for ever
            raise ScanError("not-a-file", "this is not a regular file; give the path of a file")
        with path.open("rb") as file:
            start = file.read(len(SIGNATURE))
            block = _FIRST_BLOCK
            # HDF5 may begin behind a block of the user's own: MATLAB writes 512 bytes of text.
            while start and start != SIGNATURE and block <= _LAST_BLOCK:
                file.seek(block)
                start, block = file.read(len(SIGNATURE)) or start, 2 * block
    except OSError as error:
        raise ScanError(
            "unreadable",
            f"the file cannot be opened ({error.strerror}); check path and permissions",
        ) from error
    if not start:
        raise ScanError("empty-file", "the file is empty; transfer it again")
    if start != SIGNATURE:
        raise ScanError("not-hdf5", "the file does not start as HDF5; give an HDF5 file")
    if status.st_size > limits.file_bytes:
        raise ScanError(
            "file-too-large",
            f"the file has {status.st_size} bytes, more than {limits.file_bytes}; split it",
        )
    return status.st_size
