"""Where converted images are kept: entries without names or paths, each whole or absent.

An entry is named by a keyed digest of its sources' paths, sizes and times and of the settings, and
patients are called by keyed digests too. The key is random and stays in the cache: who has both the
cache and a list of patients can tell who is in it, who has only the cache cannot.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from recon.errors import ScanError
from service.images.files import write_images
from service.images.volumes import ImageSettings, Volume
from service.store.durable import beside

KEY_FILE = "pseudonyms.key"

_CONVERSION = 1
"""Counted up whenever the same source and settings give other images."""
_STALE_SECONDS = 3600.0
_PASSING = {"reader-timeout", "reader-crashed", "reader-memory"}
"""Refusals that may be the machine's fault: tried again the next time."""


class Record(BaseModel):
    """What became of some files of a list; neither names nor paths are in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: tuple[int, ...]
    """Numbers in the list."""
    entry: str | None = None
    """Of the image file in the cache; None when refused or used in place."""
    slices: int = 0
    patient: str = ""
    pixel_mm: tuple[float, float] | None = None
    notes: tuple[str, ...] = ()
    refused: tuple[str, str] | None = None
    """Code and reason."""

    @property
    def in_place(self) -> bool:
        """Used as it is, not refused and not converted."""
        return self.entry is None and self.refused is None


class _Records(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    records: tuple[Record, ...]


@dataclass(frozen=True)
class ImageCache:
    """A folder of converted images."""

    folder: Path
    settings: ImageSettings
    key: bytes

    @classmethod
    def open(cls, folder: Path, settings: ImageSettings) -> ImageCache:
        """Make the folder and its key if need be. Raises ScanError and OSError."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in folder.glob(".*.part"):  # left by a run that was killed
            if part.stat().st_mtime < time.time() - _STALE_SECONDS:
                part.unlink(missing_ok=True)
        return cls(folder, settings, _secret(folder / KEY_FILE))

    def pseudonym(self, person: str) -> str:
        """The same for the same person, and nobody else."""
        digest = hashlib.blake2b(person.encode(), digest_size=8, key=self.key, person=b"patient")
        return digest.hexdigest()

    def name(self, files: Sequence[Path], variant: str) -> str:
        """Of the entry made from `files`. Raises ScanError when one cannot be read."""
        digest = hashlib.blake2b(digest_size=16, key=self.key, person=b"entry")
        digest.update(f"{_CONVERSION}\n{self.settings.model_dump_json()}\n{variant}\n".encode())
        for file in files:
            try:
                status = file.stat()
                place = f"{file.resolve(strict=True)}\0{status.st_size}\0{status.st_mtime_ns}\n"
                readable = os.access(file, os.R_OK)
            except OSError:
                readable = False
            if not readable:
                raise ScanError("unreadable", "a file is gone or may not be read; check it")
            digest.update(place.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def image_file(self, entry: str) -> Path:
        """Where the images of an entry are."""
        return self.folder / f"{entry}.h5"

    def read(self, name: str) -> tuple[Record, ...] | None:
        """What was recorded under a name; None when that, or an image file of it, is missing."""
        try:
            content = (self.folder / f"{name}.json").read_bytes()
            records = _Records.model_validate_json(content).records
        except (FileNotFoundError, ValidationError):
            return None
        entries = (record.entry for record in records if record.entry is not None)
        return records if all(self.image_file(entry).is_file() for entry in entries) else None

    def write(self, name: str, records: Sequence[Record]) -> None:
        """Record what became of some files, unless another try may end better."""
        if any(record.refused and record.refused[0] in _PASSING for record in records):
            return
        with beside(self.folder / f"{name}.json") as aside:
            aside.write_text(_Records(records=tuple(records)).model_dump_json())

    def store(self, entry: str, volume: Volume, inputs: tuple[int, ...]) -> Record:
        """Write the images of an entry, and say what they are."""
        write_images(self.image_file(entry), volume.images, volume.patient, volume.pixel_mm)
        return Record(
            inputs=inputs,
            entry=entry,
            slices=len(volume.images),
            patient=volume.patient,
            pixel_mm=volume.pixel_mm,
            notes=volume.notes,
        )


def _secret(path: Path) -> bytes:
    if not path.exists():
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        aside.touch(mode=0o600)
        aside.write_bytes(secrets.token_bytes(32))
        try:
            path.hardlink_to(aside)  # unlike a rename, never over the key of another run
        except FileExistsError:
            pass
        finally:
            aside.unlink()
    key = path.read_bytes()
    if len(key) != 32:
        raise ScanError("cache-key", f"{path} holds no key; delete the cache folder")
    return key
