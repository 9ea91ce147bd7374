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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.read_limits import ReadLimits, check_signature

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
    shapes: dict[str, tuple[int, ...]]
    """Of the datasets whose shapes alone were asked for."""
    datasets: tuple[tuple[str, str, str], ...] = ()
    """Path, shape and type, in words, of the first datasets that the file holds."""


def read_in_child(
    path: Path,
    arrays: Sequence[str] = (),
    texts: Sequence[str] = (),
    *,
    shapes: Sequence[str] = (),
    raw: bool = False,
    look: bool = False,
    limits: ReadLimits,
    run: Run | None = None,
) -> Contents:
    """Check the whole file, then read the datasets named. Raises ScanError, and nothing else.

    `raw` adds, when none of the arrays is there, the readouts of an ISMRMRD measurement under the
    names `RAW_HEADER` (text), `RAW_HEADS` (readouts, 340) uint8, `RAW_SAMPLES` (samples,) and
    `RAW_TRAJECTORY` (coordinates,); without the last two where shapes are asked for. `look` has
    the child refuse k-space and masks whose values cannot be used.
    """
    check_signature(path, limits)
    with tempfile.TemporaryDirectory(prefix="recon-read-") as folder:
        request = {
            "path": str(path.absolute()),
            "arrays": list(arrays),
            "texts": list(texts),
            "shapes": list(shapes),
            "raw": raw,
            "look": look,
            "limits": asdict(limits),
        }
        _serve(json.dumps(request), Path(folder), limits, run or run_once)
        return _contents(Path(folder))


def shapes_in_child(
    paths: Sequence[Path], name: str, limits: ReadLimits
) -> list[tuple[int, ...] | ScanError | None]:
    """Shape of a dataset of complex numbers in each of many files, no value of which is read.

    None where a file holds readouts of an ISMRMRD measurement in its place. One child looks at all
    of them: a file that takes it over can lie about the others, so this is a preview, and whoever
    reads a file's values checks it again in a child of its own. A file that ends the child does
    not cost the others their answer: each is then looked at alone.
    """
    found: dict[Path, tuple[int, ...] | ScanError | None] = {}
    for path in paths:
        try:
            check_signature(path, limits)
        except ScanError as error:
            found[path] = error
    left = [path for path in paths if path not in found]
    with tempfile.TemporaryDirectory(prefix="recon-look-") as folder:
        request = {
            "paths": [str(path.absolute()) for path in left],
            "arrays": [],
            "texts": [],
            "shapes": [name],
            "raw": False,
            "limits": asdict(limits),
        }
        try:
            if left:
                _serve(json.dumps(request), Path(folder), limits, run_once)
                answers = _answer(Path(folder))["files"]
                found |= {p: _shape(a, name) for p, a in zip(left, answers, strict=True)}
        except (ScanError, ValueError, TypeError, LookupError) as error:
            if len(left) == 1:
                broken = _crashed("no usable answer")
                found[left[0]] = error if isinstance(error, ScanError) else broken
            else:
                for path in left:
                    (found[path],) = shapes_in_child([path], name, limits)
    return [found[path] for path in paths]


def _shape(answer: Any, name: str) -> tuple[int, ...] | ScanError | None:  # noqa: ANN401
    if "error" in answer:
        code, message = answer["error"]
        return ScanError(str(code), str(message))
    if name in answer["shapes"]:
        return tuple(int(length) for length in answer["shapes"][name])
    if answer["readouts"]:
        return None
    return ScanError(
        "no-kspace", f"the file holds neither a dataset '{name}' nor ISMRMRD readouts; check it"
    )


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
    package_parent = str(Path(__file__).resolve().parents[2])
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


def _contents(folder: Path) -> Contents:
    """Take the answer as coming from a process that a hostile file may have taken over."""
    try:
        answer = _answer(folder)
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
            shapes={
                str(name): tuple(int(length) for length in shape)
                for name, shape in answer["shapes"].items()
            },
            datasets=tuple(
                (printable(path), printable(shape), printable(kind))
                for path, shape, kind in answer["datasets"]
            ),
        )
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise _crashed("no usable answer") from error


def printable(text: object) -> str:
    """A text from a hostile file as one line without control characters."""
    return "".join(c if c.isprintable() else "?" for c in str(text))[:120]


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
