"""The first look at an archive's scans: what will run, what is refused, and why."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path

from recon.errors import ScanError
from recon.io.files import inspect_scans
from recon.io.read_limits import ReadLimits
from service.archives.sources import Found
from service.problems import Problem, problem_of
from service.store.archive import fetch
from service.store.objects import StorageError, is_url

_TOGETHER = 64
"""Files that one child process looks at."""
_LIMITS = ReadLimits(cpu_seconds=120, wall_seconds=300.0)


@dataclass(frozen=True)
class Looked:
    """One scan after the first look."""

    found: Found
    sha256: str = ""
    bytes: int = 0
    shape: tuple[int, int, int, int] | None = None
    """(slices, coils, rows, columns); None for ISMRMRD, where it shows later."""
    error: Problem | None = None
    """The problem it was refused with."""


Keep = Callable[[Looked, Path], None]


def look(scans: Sequence[Found], scratch: Path, keep: Keep | None = None) -> Iterator[Looked]:
    """Digest and look at scans, in order; `keep` sees each good one while its file is here.

    Objects are fetched into `scratch` for the look and removed after it.
    """
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(scans), _TOGETHER):
            group = scans[start : start + _TOGETHER]
            with tempfile.TemporaryDirectory(prefix="look-", dir=scratch) as folder:
                paths = [
                    Path(folder) / f"{k}.h5" if is_url(found.place) else Path(found.place)
                    for k, found in enumerate(group)
                ]
                missing = list(pool.map(_bring, group, paths))
                here = [path for path, error in zip(paths, missing, strict=True) if error is None]
                shapes = dict(zip(here, inspect_scans(here, _LIMITS), strict=True))
                shown = pool.map(
                    _judge, group, paths, missing, [shapes.get(path) for path in paths]
                )
                for looked, path in zip(shown, paths, strict=True):
                    if keep is not None and looked.error is None:
                        keep(looked, path)
                    yield looked


def _bring(found: Found, path: Path) -> ScanError | None:
    try:
        if is_url(found.place):
            fetch(found.place, path)
    except FileNotFoundError:
        return ScanError("not-a-file", "there is no object at this address; check it")
    except StorageError as error:
        return ScanError("unreadable", error.message)
    return None


def _judge(
    found: Found,
    path: Path,
    missing: ScanError | None,
    shape: tuple[int, int, int, int] | ScanError | None,
) -> Looked:
    refused = missing or (shape if isinstance(shape, ScanError) else None)
    if refused is not None:
        return Looked(found, error=problem_of(refused).document())
    assert not isinstance(shape, ScanError)
    try:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        return Looked(found, digest, path.stat().st_size, shape)
    except OSError as error:
        gone = ScanError("unreadable", f"the file cannot be read ({error.strerror}); check it")
        return Looked(found, error=problem_of(gone).document())
