"""Uploads in parts: what has arrived, what was checked, and what may be continued.

    incoming/<id>.tus     the bytes so far
    incoming/<id>.json    length, offset, owner; the offset counts only bytes that were accepted

Bytes behind the offset are of a part that was cut short before its checksum could be seen, or of a
crash; they are overwritten.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from service.store.files import replacing

_ID = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Upload:
    """State of one upload; times are seconds since the epoch."""

    id: str
    owner: str
    length: int
    offset: int
    expires_at: float

    @property
    def complete(self) -> bool:
        """Whether all bytes are there."""
        return self.offset == self.length


class Uploads:
    """The unfinished uploads in one folder."""

    def __init__(self, folder: Path, hours: float) -> None:
        self._folder = folder
        self._seconds = 3600 * hours

    def create(self, owner: str, length: int) -> Upload:
        """A new, empty upload."""
        expires = time.time() + self._seconds
        upload = Upload(secrets.token_hex(16), owner, length, 0, expires)
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

    def accept(self, upload: Upload, offset: int) -> Upload:
        """Count the bytes up to `offset`; they are on the disk first."""
        descriptor = os.open(self.content(upload.id), os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        changed = replace(upload, offset=offset, expires_at=time.time() + self._seconds)
        self._store(changed)
        return changed

    def remove(self, upload_id: str) -> None:
        """Forget an upload and its bytes."""
        if _ID.fullmatch(upload_id):
            self.content(upload_id).unlink(missing_ok=True)
            self._state(upload_id).unlink(missing_ok=True)

    def sweep(self) -> int:
        """Remove what has expired, and parts that no request will finish; returns how many."""
        now, gone = time.time(), 0
        for file in self._folder.iterdir():
            state = file.with_suffix(".json")
            try:
                if file.suffix == ".tus" and state.exists():
                    continue  # its state decides
                if file == state:
                    expired = json.loads(file.read_text())["expires_at"] < now
                else:
                    expired = now - file.stat().st_mtime > self._seconds
            except (OSError, ValueError, KeyError):
                continue
            if expired:
                file.unlink(missing_ok=True)
                file.with_suffix(".tus").unlink(missing_ok=True)
                gone += 1
        return gone

    def content(self, upload_id: str) -> Path:
        """Where the bytes lie."""
        return self._folder / f"{upload_id}.tus"

    def _state(self, upload_id: str) -> Path:
        return self._folder / f"{upload_id}.json"

    def _store(self, upload: Upload) -> None:
        with replacing(self._state(upload.id)) as (file, _):
            file.write(json.dumps(asdict(upload)).encode())
