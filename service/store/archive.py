"""A scan of an archive as a file to read: in the storage, or where the archive has it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.problems import ProblemError
from service.store.files import Storage
from service.store.objects import ObjectStore, is_url


@contextmanager
def archived_file(storage: Storage, sha256: str, source: str | None) -> Iterator[Path]:
    """The scan's file while the block runs. Raises ProblemError when it is gone."""
    try:
        if source is None:
            yield _there(storage.scan(sha256))
        elif not is_url(source):
            yield _there(Path(source))
        else:
            with tempfile.TemporaryDirectory(prefix="scan-", dir=storage.incoming) as folder:
                copy = Path(folder) / "scan.h5"
                fetch(source, copy)
                yield copy
    except FileNotFoundError as error:
        if source is None:
            raise ProblemError(
                "file-lost", "the scan was kept here and is gone; upload it again"
            ) from error
        raise ProblemError(
            "invalid-scan",
            "the scan is no longer where it was; bring it back, or upload it again",
            reason="source-missing",
        ) from error


def _there(path: Path) -> Path:
    """Readers in other processes would call a file that is missing a bad one."""
    path.stat()
    return path


def fetch(url: str, path: Path) -> None:
    """Copy an object to a file. Raises FileNotFoundError, StorageError."""
    folder, _, name = url.rpartition("/")
    ObjectStore(folder).get(name, path)
