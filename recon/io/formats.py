"""What a file is, from its first bytes and its name: before any library opens it.

Files that are not read have a sentence that says what their owners can do.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recon.errors import ScanError

_HEAD_BYTES = 16 << 10
_HDF5 = b"\x89HDF\r\n\x1a\n"
_FIRST_BLOCK, _LAST_BLOCK = 512, 1 << 20
"""Offsets at which HDF5 looks for itself, each twice the last."""
_MATLAB = b"MATLAB 7.3 MAT-file"
_LEAST_TWIX_HEADER, _MOST_MEASUREMENTS = 10_000, 64


@dataclass(frozen=True)
class Start:
    """What may be known of a file that nobody has opened."""

    name: str
    head: bytes
    """The first bytes."""
    size: int
    hdf5: bool
    """Whether the signature of HDF5 is where the library looks for it."""
    pair: bool
    """Whether there is a .cfl and a .hdr of the same name."""

    @property
    def first_member(self) -> bytes:
        """Name of the first file in an archive (zip)."""
        return self.head[30 : 30 + int.from_bytes(self.head[26:28], "little")]


@dataclass(frozen=True)
class Format:
    """One kind of file."""

    name: str
    sentence: str
    """What it is; for files that are not read, with what to do."""
    is_read: bool
    recognise: Callable[[Start], bool]


def recognise(path: Path) -> tuple[Format, Start]:
    """The format of a file. Raises ScanError where it cannot be opened or is of no known format."""
    start = start_of(path)
    for known in FORMATS:
        if known.recognise(start):
            return known, start
    raise ScanError(
        "unknown-format",
        "the file is of no format that is known here: "
        + ", ".join(known.name for known in FORMATS if known.is_read)
        + " are read",
    )


def require_read(path: Path) -> tuple[Format, Start]:
    """The format of a file that a reader may open. Raises ScanError for all others."""
    known, start = recognise(path)
    if not known.is_read:
        raise ScanError("format-not-read", f"this is {known.sentence}")
    return known, start


def start_of(path: Path) -> Start:
    """The first look. Raises ScanError unless this is a regular file with something in it."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would block the open below for ever
            raise ScanError("not-a-file", "this is not a regular file; give the path of a file")
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            found, block = head.startswith(_HDF5), _FIRST_BLOCK
            # HDF5 may begin behind a block of the user's own: MATLAB writes 512 bytes of text.
            while not found and block <= min(_LAST_BLOCK, status.st_size):
                file.seek(block)
                found, block = file.read(len(_HDF5)) == _HDF5, 2 * block
        pair = all(path.with_suffix(other).is_file() for other in (".cfl", ".hdr"))
    except OSError as error:
        raise ScanError(
            "unreadable",
            f"the file cannot be opened ({error.strerror}); check path and permissions",
        ) from error
    if not head:
        raise ScanError("empty-file", "the file is empty; transfer it again")
    return Start(path.name, head, status.st_size, found, pair)


def is_matlab(start: Start) -> bool:
    """Whether HDF5 was written by MATLAB, whose axes come in the reverse order."""
    return start.hdf5 and start.head.startswith(_MATLAB)


def _is_twix(start: Start) -> bool:
    """Whether the header is there, by the name of its first part.

    It begins the file (VB) or lies where a directory of measurements says (VD and later).
    """
    at = int.from_bytes(start.head[16:24], "little") if is_directory(start.head) else 0
    return start.head[at + 8 : at + 15] == b"Config\0"


def is_directory(head: bytes) -> bool:
    """Whether Siemens raw data begin with a directory of measurements, as those of VD and later."""
    first, second = (int.from_bytes(head[at : at + 4], "little") for at in (0, 4))
    return first < _LEAST_TWIX_HEADER and 1 <= second <= _MOST_MEASUREMENTS


def _is_p_file(start: Start) -> bool:
    """The raw header of GE has a logo at a fixed place."""
    logo = start.head[34:44] in {b"GE_MED_NMR", b"INVALIDNMR"}
    return logo or re.fullmatch(r"[pP]\d{5}\.7", start.name) is not None


def _suffix(*suffixes: str) -> Callable[[Start], bool]:
    return lambda start: start.name.lower().endswith(suffixes)


def _begins(*heads: bytes) -> Callable[[Start], bool]:
    return lambda start: start.head.startswith(heads)


FORMATS = (
    Format("HDF5", "HDF5", True, lambda start: start.hdf5),
    Format("NumPy .npy", "a NumPy array", True, _begins(b"\x93NUMPY")),
    Format(
        "NumPy .npz",
        "an archive of NumPy arrays",
        True,
        lambda start: start.head.startswith(b"PK\x03\x04") and start.first_member.endswith(b".npy"),
    ),
    Format(
        "BART cfl",
        "one half of a pair of BART files, .cfl and .hdr",
        True,
        lambda start: start.pair and _suffix(".cfl", ".hdr")(start),
    ),
    Format("Siemens twix", "Siemens raw data (twix)", True, _is_twix),
    Format(
        "GE P-file",
        "a GE P-file, which only GE's own Orchestra reads: convert it with ge_to_ismrmrd "
        "(github.com/ismrmrd/ge_to_ismrmrd) and give the ISMRMRD file",
        False,
        _is_p_file,
    ),
    Format(
        "Philips raw data",
        "Philips raw data: convert it with philips_to_ismrmrd "
        "(github.com/ismrmrd/philips_to_ismrmrd) and give the ISMRMRD file",
        False,
        _suffix(".lab", ".raw", ".sin", ".list", ".data", ".par", ".rec"),
    ),
    Format(
        "Bruker raw data",
        "Bruker raw data: convert it with bruker_to_ismrmrd "
        "(github.com/ismrmrd/bruker_to_ismrmrd) and give the ISMRMRD file",
        False,
        lambda start: start.name in {"fid", "rawdata.job0", "ser", "acqp", "method"},
    ),
    Format(
        "DICOM",
        "a DICOM image, whose k-space is gone: export the raw data from the scanner; images are "
        "something to train on (mri-posterior train --data FOLDER)",
        False,
        lambda start: start.head[128:132] == b"DICM",
    ),
    Format(
        "NIfTI",
        "a NIfTI image, whose k-space is gone: export the raw data from the scanner; images are "
        "something to train on (mri-posterior train --data FILE)",
        False,
        lambda start: start.head[344:348] in {b"n+1\0", b"ni1\0"} or _suffix(".nii.gz")(start),
    ),
    Format(
        "MATLAB before 7.3",
        "a MATLAB file of a version before 7.3: save it with save(..., '-v7.3')",
        False,
        _begins(b"MATLAB 5.0"),
    ),
    Format(
        "BART cfl alone",
        "one half of a pair of BART files: give the .cfl with its .hdr beside it",
        False,
        _suffix(".cfl", ".hdr"),
    ),
    Format("gzip", "compressed: unpack it first", False, _begins(b"\x1f\x8b", b"BZh", b"\xfd7zXZ")),
    Format("zip", "an archive: unpack it first", False, _begins(b"PK\x03\x04")),
    Format("picture", "a picture: k-space is needed", False, _begins(b"\x89PNG", b"\xff\xd8\xff")),
)
"""In the order of asking: what bytes say before what names say."""
