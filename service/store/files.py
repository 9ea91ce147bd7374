"""The folder of files: scans by content, one folder per reconstruction, nothing half written.

    scans/ab/abcdef….h5           an uploaded scan, named by its SHA-256
    incoming/…                    uploads that are not finished
    reconstructions/<job id>/
        slices/00003.npz          the posterior of one slice: what a killed worker does not lose
        steps.jsonl               which worker started and finished which slice, and when
        preview/00003.npy         the picture so far
        result.h5, mean.npy, …    the products, once all slices are there

Every file appears under its name complete and synced, or not at all. All names are our own: ids
that the service made, digests, numbers.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from recon.io.result_layout import (
    SCHEMA,
    posteriors_from_layout,
    result_arrays,
    warnings_text,
)
from recon.posterior import SlicePosterior

_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

RESULT_FILES = {
    "result.h5": "application/x-hdf5",
    "mean.npy": "application/octet-stream",
    "std.npy": "application/octet-stream",
    "samples.npy": "application/octet-stream",
    "coarse.npy": "application/octet-stream",
    "report.json": "application/json",
}
"""Products of a reconstruction that are files, and their media types."""


@dataclass(frozen=True)
class Storage:
    """Paths below one folder, and the few ways to write there."""

    root: Path

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.root / "scans", self.incoming, self.root / "reconstructions"):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def incoming(self) -> Path:
        """Where unfinished uploads lie; on the same disk, so that they can be renamed."""
        return self.root / "incoming"

    def free_bytes(self) -> int:
        """Room on the disk."""
        return shutil.disk_usage(self.root).free

    def scan(self, sha256: str) -> Path:
        """The file of a scan, whether it exists or not."""
        if not _SHA256.fullmatch(sha256):
            raise ValueError("not a digest")
        return self.root / "scans" / sha256[:2] / f"{sha256}.h5"

    def adopt_scan(self, part: Path, sha256: str) -> None:
        """Give an uploaded file, which was synced, its place; equal content is kept once."""
        target = self.scan(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        part.replace(target)
        sync(target.parent)

    def discard_scan(self, sha256: str) -> None:
        """Remove the file of a scan that nobody has."""
        self.scan(sha256).unlink(missing_ok=True)

    def scans_older_than(self, seconds: float) -> set[str]:
        """Digests of the scan files that have been there so long."""
        files = (self.root / "scans").glob("??/*.h5")
        before = time.time() - seconds
        return {f.stem for f in files if _SHA256.fullmatch(f.stem) and _changed(f) < before}

    def jobs_older_than(self, seconds: float) -> set[str]:
        """Ids of the reconstructions whose folder has not changed for so long."""
        before = time.time() - seconds
        folders = (self.root / "reconstructions").iterdir()
        return {f.name for f in folders if _ID.fullmatch(f.name) and _changed(f) < before}

    def job(self, job_id: str) -> Path:
        """The folder of a reconstruction."""
        if not _ID.fullmatch(job_id):
            raise ValueError("not an id")
        return self.root / "reconstructions" / job_id

    def remove_job(self, job_id: str) -> None:
        """Remove all files of a reconstruction."""
        shutil.rmtree(self.job(job_id), ignore_errors=True)

    def write_slice(self, job_id: str, posterior: SlicePosterior) -> str:
        """Checkpoint one slice; returns the file's SHA-256."""
        arrays = result_arrays([posterior], None)
        warnings = np.array(warnings_text([posterior]))
        with replacing(self._slice(job_id, posterior.index)) as (file, path):
            np.savez(file, allow_pickle=False, warnings=warnings, **arrays)
            file.flush()
            with path.open("rb") as written:
                return file_digest(written, "sha256").hexdigest()

    def has_slice(self, job_id: str, index: int) -> bool:
        """Whether a slice was checkpointed."""
        return self._slice(job_id, index).is_file()

    def read_slice(self, job_id: str, index: int) -> SlicePosterior:
        """A checkpointed slice, exactly as it was written."""
        with np.load(self._slice(job_id, index), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        text = str(arrays.pop("warnings"))
        (posterior,) = posteriors_from_layout(arrays, {"schema": SCHEMA, "warnings": text})
        return posterior

    def remove_checkpoints(self, job_id: str) -> None:
        """Slices and previews are of no use once the products are there."""
        for name in ("slices", "preview"):
            shutil.rmtree(self.job(job_id) / name, ignore_errors=True)

    def note_step(self, job_id: str, **entry: object) -> None:
        """Append to the ledger of steps; one short line is written whole or not at all."""
        folder = self.job(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        descriptor = os.open(folder / "steps.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def steps(self, job_id: str) -> list[dict[str, Any]]:
        """The ledger of steps; a line cut short by a crash is left out."""
        try:
            lines = (self.job(job_id) / "steps.jsonl").read_text().splitlines()
        except FileNotFoundError:
            return []
        found = []
        for line in lines:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def write_preview(self, job_id: str, index: int, image: NDArray[np.float32]) -> None:
        """Replace the picture so far of a slice (rows, columns)."""
        with replacing(self.preview(job_id, index), durable=False) as (file, _):
            np.save(file, image, allow_pickle=False)

    def preview(self, job_id: str, index: int) -> Path:
        """The picture so far, whether it exists or not."""
        return self.job(job_id) / "preview" / f"{index:05d}.npy"

    def product(self, job_id: str, name: str) -> Path:
        """A result file, by one of the names in `RESULT_FILES`."""
        if name not in RESULT_FILES:
            raise ValueError("not a product")
        return self.job(job_id) / name

    def write_product(self, job_id: str, name: str, write: Callable[[IO[bytes]], None]) -> None:
        """Write a result file aside and rename it."""
        with replacing(self.product(job_id, name)) as (file, _):
            write(file)

    def describe_product(self, job_id: str, name: str) -> dict[str, Any]:
        """Name, media type, size and digest of a written result file."""
        path = self.product(job_id, name)
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        return {
            "name": name,
            "media_type": RESULT_FILES[name],
            "bytes": path.stat().st_size,
            "sha256": digest,
        }

    def _slice(self, job_id: str, index: int) -> Path:
        return self.job(job_id) / "slices" / f"{index:05d}.npz"


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[tuple[IO[bytes], Path]]:
    """A file beside `path` that takes its place if the block succeeds, after it is on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with aside.open("xb") as file:
            yield file, aside
            if durable:
                file.flush()
                os.fsync(file.fileno())
        aside.replace(path)
        if durable:
            sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return math.inf
