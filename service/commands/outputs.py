"""Files that a command is going to write, looked at before the work instead of after it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from recon.errors import CalibrationError, ScanError


def require_writable(
    outputs: Iterable[Path | None], inputs: Iterable[Path | None] = (), *, overwrite: bool
) -> None:
    """Refuse (ScanError) what could not be written, would replace an input, or is there already.

    `overwrite` allows the last, never an input.
    """
    sources = [path for path in inputs if path is not None]
    seen: dict[Path, Path] = {}
    for path in outputs:
        if path is None:
            continue
        if any(_same(path, source) for source in sources):
            raise ScanError(
                "output-is-input", f"{path} is the input; give the output another name with --out"
            )
        whole = path.absolute()
        if whole in seen:
            raise ScanError("output-twice", f"{path} is named for two outputs; give two names")
        seen[whole] = path
        if path.is_dir():
            raise ScanError("output-is-folder", f"{path} is a folder; give the name of a file")
        if path.exists() and not overwrite:
            raise ScanError(
                "output-exists", f"{path} is there already; --overwrite replaces it, or take "
                "another name"
            )  # fmt: skip
        _require_folder(path)


def require_folder(path: Path) -> None:
    """Make a folder for outputs, and refuse (ScanError) one that cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ScanError(
            "output-unwritable", f"the folder {path} cannot be made ({error.strerror})"
        ) from error
    _require_folder(path / "file")


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Errors from reading a file are told with its name."""
    try:
        yield
    except (ScanError, CalibrationError) as error:
        if str(path) in error.message:
            raise
        known = "; `mri-posterior info` says what it is" if error.code == "not-hdf5" else ""
        raise type(error)(error.code, f"{path}: {error.message}{known}") from error


def _require_folder(path: Path) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise ScanError(
            "output-unwritable", f"{path} cannot be written: there is no folder {folder}; make it"
        )
    try:
        # Permissions, read-only mounts, full disks: only trying tells.
        descriptor, name = tempfile.mkstemp(prefix=".writable-", dir=folder)
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        raise ScanError(
            "output-unwritable", f"{path} cannot be written ({error.strerror}); choose another "
            "folder"
        ) from error  # fmt: skip


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return one.absolute() == other.absolute()
