"""Reading an untrusted HDF5 file in a process of its own, whose end is the worst it can do.

The child gets no environment, limits on memory and time, and a private folder; what comes back is
JSON and .npy files that are read without pickle. A child that dies is a ScanError like any other.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.formats import require_read
from recon.io.layouts import AXES, Axes
from recon.io.read_limits import ReadLimits, check_signature, check_size

T = TypeVar("T")

BOOT = """
import sys
sys.path.insert(0, sys.argv[1])
import recon
del sys.path[0]
from recon.io.read_worker import main
main()
"""
"""Isolated mode hides the current folder, so the child is told where this very package lies."""

Run = Callable[[str, Path, ReadLimits], int]
"""Serves a request (JSON) in a private folder by a process of its own; returns its exit status.

Raises TimeoutError, and ChildProcessError where there is no status.
"""

# These belong to the child, `recon.io.read_worker`, which is not imported.
RAW_HEADER, RAW_HEADS, RAW_SAMPLES = "raw/xml", "raw/heads", "raw/samples"
RAW_TRAJECTORY = "raw/trajectory"
_OUT_OF_MEMORY = 3
_ANSWER_BYTES = 64 << 20
ENVIRONMENT = {
    "HDF5_PLUGIN_PRELOAD": "::",  # documented to switch all dynamic filter plugins off
    "HDF5_USE_FILE_LOCKING": "FALSE",  # works on read-only mounts
    "OPENBLAS_NUM_THREADS": "1",  # each thread would reserve address space
    "OMP_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}
"""All that a reading process is told of ours."""


@dataclass(frozen=True)
class Contents:
    """What a file held of what was asked for; names that it lacks are absent."""

    arrays: dict[str, NDArray[Any]]
    """Booleans, integers, floats as stored; complex numbers as complex64."""
    texts: dict[str, str]
    attributes: dict[str, str | int | float]
    """Scalar attributes of the root group."""
    datasets: tuple[tuple[str, str, str], ...] = ()
    """Path, shape and type, in words, of the first datasets that the file holds."""


@dataclass(frozen=True)
class ScanContents:
    """K-space in a file, or what is known of it without its values."""

    format: str
    """Name of one of `recon.io.formats.FORMATS`."""
    contents: Contents
    """Arrays by the names of a scan (kspace, mask, …), or those of an ISMRMRD measurement:
    `RAW_HEADS` (readouts, 340) uint8, `RAW_SAMPLES` (samples,), `RAW_TRAJECTORY` (coordinates,),
    and the text `RAW_HEADER`."""
    readouts: bool
    """Whether it is a measurement of readouts, not an array."""
    layout: str | None = None
    """Name of one of `recon.io.layouts.LAYOUTS`, or `axes`."""
    axes: Axes = ()
    """Of k-space."""
    shape: tuple[int, ...] = ()
    """Of k-space, along `axes`."""
    centred: bool = True
    """See `recon.io.layouts.Source`."""


@dataclass(frozen=True)
class Asked:
    """How a scan is to be read, and how much of it."""

    layout: str | None = None
    axes: Axes | None = None
    values: bool = True
    """Samples and all."""
    heads: bool = True
    """The headers of readouts, which are many."""
    look: bool = False
    """Without values: refuse k-space and masks whose values cannot be used all the same."""


def read_in_child(
    path: Path,
    arrays: Sequence[str] = (),
    texts: Sequence[str] = (),
    *,
    limits: ReadLimits,
    run: Run | None = None,
) -> Contents:
    """Check a whole HDF5 file, then read the datasets named. Raises ScanError, and nothing else."""
    check_signature(path, limits)
    with tempfile.TemporaryDirectory(prefix="recon-read-") as folder:
        request = {
            "path": str(path.absolute()),
            "arrays": list(arrays),
            "texts": list(texts),
            "limits": asdict(limits),
        }
        _serve(json.dumps(request), Path(folder), limits, run or run_once)
        return _from_child(folder, _contents)


def scan_in_child(
    path: Path, asked: Asked, limits: ReadLimits, run: Run | None = None
) -> ScanContents:
    """K-space of a file of any format that is read. Raises ScanError, and nothing else."""
    check_size(require_read(path)[1].size, limits)
    with tempfile.TemporaryDirectory(prefix="recon-read-") as folder:
        request = {"path": str(path.absolute()), **_request(asked, limits)}
        _serve(json.dumps(request), Path(folder), limits, run or run_once)
        return _from_child(folder, _scan_contents)


def look_in_child(paths: Sequence[Path], limits: ReadLimits) -> list[ScanContents | ScanError]:
    """What each of many files is, no value of which is read.

    One child looks at all of them: a file that takes it over can lie about the others, so this is a
    preview, and whoever reads a file's values checks it again in a child of its own. A file that
    ends the child does not cost the others their answer: each is then looked at alone.
    """
    found: dict[Path, ScanContents | ScanError] = {}
    for path in paths:
        try:
            check_size(require_read(path)[1].size, limits)
        except ScanError as error:
            found[path] = error
    left = [path for path in paths if path not in found]
    with tempfile.TemporaryDirectory(prefix="recon-look-") as folder:
        asked = _request(Asked(values=False, heads=False), limits)
        request = {"paths": [str(path.absolute()) for path in left], **asked}
        try:
            if left:
                _serve(json.dumps(request), Path(folder), limits, run_once)
                answers = _answer(Path(folder))["files"]
                found |= {p: _looked(Path(folder), a) for p, a in zip(left, answers, strict=True)}
        except (ScanError, ValueError, TypeError, LookupError, AttributeError) as error:
            if len(left) == 1:
                broken = _crashed("no usable answer")
                found[left[0]] = error if isinstance(error, ScanError) else broken
            else:
                for path in left:
                    (found[path],) = look_in_child([path], limits)
    return [found[path] for path in paths]


def _request(asked: Asked, limits: ReadLimits) -> dict[str, Any]:
    return {"scan": True, **asdict(asked), "limits": asdict(limits)}


def _looked(folder: Path, answer: dict[str, Any]) -> ScanContents | ScanError:
    try:
        return _scan_contents(folder, answer)
    except ScanError as error:
        return error


def load_array(path: Path) -> NDArray[Any]:
    """Numbers from a .npy file, without pickle. Raises ScanError."""
    if not path.is_file():  # a pipe would block for ever
        raise ScanError("not-a-file", "there is no regular file at this path; check it")
    try:
        # Mapping compares the declared size with the file's; reading would allocate it first.
        mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.dtype.kind not in "biufc":
            raise ScanError("array-type", f"a .npy file must hold numbers, not {mapped.dtype}")
        return np.array(mapped)
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TypeError) as error:
        raise ScanError(
            "array-file", "this is not a readable .npy file of numbers; save it with numpy.save"
        ) from error


def run_once(request: str, folder: Path, limits: ReadLimits) -> int:
    """A `Run` by a new interpreter."""
    try:
        done = subprocess.run(
            command("main"),
            input=request.encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=ENVIRONMENT,
            timeout=limits.wall_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:  # the child is killed by then
        raise TimeoutError from error
    return done.returncode


def command(entry: str) -> list[str]:
    """What starts `recon.io.read_worker` at one of its functions."""
    package_parent = str(Path(__file__).resolve().parents[__name__.count(".")])
    return [sys.executable, "-I", "-c", BOOT.replace("main", entry), package_parent]


def _serve(request: str, folder: Path, limits: ReadLimits, run: Run) -> None:
    try:
        status = run(request, folder, limits)
    except TimeoutError as error:
        raise _too_slow(limits) from error
    except ChildProcessError as error:
        raise _crashed("with the process that started it") from error
    if status == -signal.SIGXCPU:
        raise _too_slow(limits)
    if status == _OUT_OF_MEMORY:
        raise ScanError(
            "reader-memory",
            f"reading needs more than {limits.memory_bytes >> 20} MiB; "
            "save the file with smaller chunks, or allow more memory",
        )
    if status != 0:
        raise _crashed(f"status {status}")


def _answer(folder: Path) -> dict[str, Any]:
    file = folder / "answer.json"
    if not file.is_file() or file.stat().st_size > _ANSWER_BYTES:
        raise _crashed("no usable answer")
    answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return answer


def _from_child(folder: str, take: Callable[[Path, dict[str, Any]], T]) -> T:
    """Take the answer as coming from a process that a hostile file may have taken over."""
    try:
        return take(Path(folder), _answer(Path(folder)))
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _crashed("no usable answer") from error


def printable(text: object) -> str:
    """A text from a hostile file as one line without control characters."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:120]


def _contents(folder: Path, answer: dict[str, Any]) -> Contents:
    if "error" in answer:
        code, message = answer["error"]
        raise ScanError(str(code), str(message))
    return Contents(
        arrays={
            str(name): load_array(folder / Path(file_name).name)
            for name, file_name in answer["arrays"].items()
        },
        texts={str(name): str(text) for name, text in answer["texts"].items()},
        attributes={
            str(name): value
            for name, value in answer["attributes"].items()
            if isinstance(value, str | int | float)
        },
        datasets=tuple(
            (printable(path), printable(shape), printable(kind))
            for path, shape, kind in answer.get("datasets", ())
        ),
    )


def _scan_contents(folder: Path, answer: dict[str, Any]) -> ScanContents:
    contents = _contents(folder, answer)
    if answer.get("readouts") is True:
        return ScanContents(str(answer["format"]), contents, readouts=True)
    axes = tuple(str(name) for name in answer["axes"])
    if not set(axes) <= set(AXES):
        raise ValueError(axes)
    return ScanContents(
        format=str(answer["format"]),
        contents=contents,
        readouts=False,
        layout=str(answer["layout"]),
        axes=axes,
        shape=tuple(int(length) for length in answer["shape"]),
        centred=answer["centred"] is True,
    )


def _too_slow(limits: ReadLimits) -> ScanError:
    return ScanError(
        "reader-timeout",
        f"reading took longer than {limits.cpu_seconds} s of processor time "
        f"or {limits.wall_seconds:g} s in all; save the file uncompressed, or allow more time",
    )


def _crashed(reason: str) -> ScanError:
    return ScanError(
        "reader-crashed",
        f"the process that read the file died ({reason}); "
        "the file is probably damaged: export it again",
    )
