"""Uploads in parts: what has arrived, what was checked, and what may be continued.

    incoming/<id>.tus     the bytes so far
    incoming/<id>.json    length, offset, owner; the offset counts only bytes that were accepted
    incoming/<id>.lock    held by the process that changes the upload

Bytes behind the offset are of a part that was cut short before its checksum could be seen, or of a
crash; they are overwritten. A complete upload becomes a scan, and is remembered until it expires:
a client whose line broke at the very end finds it.
"""

from __future__ import annotations

import fcntl
import json
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from service.requests import AS_IT_SAYS, Reading
from service.store.durable import sync, write_whole

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Upload:
    """State of one upload; times are seconds since the epoch."""

    id: str
    owner: str
    length: int
    offset: int
    expires_at: float
    sha256: str | None = None
    """Of the complete upload, once somebody has looked."""
    scan: str | None = None
    """Id of the scan that it has become."""
    tags: dict[str, str] = field(default_factory=dict)
    """That the scan will have."""
    layout: str | None = None
    axes: str | None = None
    """How its file is to be read."""

    @property
    def reading(self) -> Reading:
        """How its file is to be read."""
        return Reading(layout=self.layout, axes=self.axes)

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.offset == self.length


class Uploads:
    """The unfinished uploads in one folder."""

    def __init__(self, folder: Path, hours: float) -> None:
        self._folder = folder
        self._seconds = 3600 * hours

    def create(
        self,
        owner: str,
        length: int,
        tags: Mapping[str, str] | None = None,
        reading: Reading = AS_IT_SAYS,
    ) -> Upload:
        """A new, empty upload."""
        expires = time.time() + self._seconds
        upload = Upload(
            secrets.token_hex(16),
            owner,
            length,
            0,
            expires,
            tags=dict(tags or {}),
            layout=reading.layout,
            axes=reading.axes,
        )
        self._lock(upload.id).touch(exist_ok=False)
        self.content(upload.id).touch(exist_ok=False)
        self._store(upload)
        return upload

    def get(self, upload_id: str, owner: str | None) -> Upload | None:
        """By id; None for others' uploads."""
        if not _ID.fullmatch(upload_id):
            return None
        try:
            values = json.loads(self._state(upload_id).read_text())
        except FileNotFoundError:
            return None
        upload = Upload(**values)
        return upload if owner in (None, upload.owner) else None

    def count(self, owner: str) -> int:
        """How many uploads of an owner have not become scans."""
        return sum(self.get(file.stem, owner) is not None for file in self._folder.glob("*.tus"))

    @contextmanager
    def held(self, upload_id: str) -> Iterator[bool]:
        """Be the only one, of all processes, to change an upload; False when another is."""
        try:
            file = self._lock(upload_id).open("rb")
        except FileNotFoundError:
            yield True  # there is nothing to change
            return
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def accept(self, upload: Upload, offset: int) -> Upload:
        """Count the bytes up to `offset`; they are on the disk first."""
        sync(self.content(upload.id))
        changed = replace(upload, offset=offset, expires_at=time.time() + self._seconds)
        self._store(changed)
        return changed

    def become(self, upload: Upload, *, sha256: str | None, scan: str | None = None) -> Upload:
        """Remember what the bytes of a complete upload are, and the scan that has them now."""
        changed = replace(upload, sha256=sha256, scan=scan)
        self._store(changed)
        return changed

    def remove(self, upload_id: str) -> None:
        """Forget an upload and its bytes."""
        if _ID.fullmatch(upload_id):
            self._state(upload_id).unlink(missing_ok=True)
            self.content(upload_id).unlink(missing_ok=True)
            self._lock(upload_id).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what has expired, and parts that no request will finish; returns how many."""
        return sum(self._swept(file) for file in self._folder.iterdir())

    def _swept(self, file: Path) -> bool:
        """Remove a file, and what belongs to it, if its time is over and nobody holds it."""
        now = time.time()
        try:
            if _ID.fullmatch(file.stem) and file.suffix == ".json":
                with self.held(file.stem) as mine:
                    over = mine and json.loads(file.read_text())["expires_at"] < now
                    if over:
                        self.remove(file.stem)
                    return over
            if _ID.fullmatch(file.stem) and self._state(file.stem).exists():
                return False  # its state decides
            over = now - file.stat().st_mtime > self._seconds
            if over and file.is_dir():  # of a reader that was killed: its arrays may be large
                shutil.rmtree(file, ignore_errors=True)
            elif over:
                file.unlink(missing_ok=True)
        except (OSError, ValueError, KeyError):
            return False
        return over

    def content(self, upload_id: str) -> Path:
        """Where the bytes lie."""
        return self._folder / f"{upload_id}.tus"

    def _state(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.json"

    def _lock(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.lock"

    def _store(self, upload: Upload) -> None:
        write_whole(self._state(upload.id), json.dumps(asdict(upload)).encode())
