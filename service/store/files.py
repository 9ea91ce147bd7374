"""Files of the service: scans by content, results, and what a running job leaves behind.

    scans/ab/abcdef….h5           an uploaded scan, named by its SHA-256
    incoming/…                    uploads and scanner sessions that are not finished
    secret.key                    what UIDs of DICOM and keys of measurements derive from
    reconstructions/<job id>/
        slices/00003.npz          the posterior of one slice: what a killed worker does not lose
        slices/chain-00003.npy    of a volume the draws of one chain: the same
        steps.jsonl               which worker started and finished which slice, and when
        preview/00003.npy         the picture so far
        result.h5, mean.npy, …    the products, once all slices are there
    outputs/ab/abcdef…/           the products of an archive's scan, named by what they are made
                                  of: scan, model and settings; report.json is written last

Everything lies in one folder. With an object store the same names are keys there, and the folder
holds copies. Every file appears under its name complete and synced, or not at all. All names are
our own: ids that the service made, digests, numbers.
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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from recon.io.result_layout import (
    SCHEMA,
    posteriors_from_layout,
    result_arrays,
    verdicts_text,
    warnings_text,
)
from recon.posterior import SlicePosterior
from service.products import MARKER, PRODUCTS
from service.report import ProductFile
from service.settings import ServiceSettings
from service.store.durable import replacing, sync, write_whole
from service.store.objects import ObjectStore, is_url

_TEXTS = {"warnings": warnings_text, "verdicts": verdicts_text}
"""What a checkpoint says in words, as a result file does."""

_ID = re.compile(r"[0-9A-Za-z]{1,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_IN_USE_SECONDS = 600.0
"""A copy used this recently is not removed: somebody may be reading it."""


@dataclass(frozen=True)
class Storage:
    """Names below one folder or address, and the few ways to write there."""

    root: Path
    objects: ObjectStore | None = None
    """Where the files are when `root` only has copies of them."""
    copies_bytes: int = 20 << 30
    """Copies above this are removed, the longest unused first."""

    def prepare(self) -> None:
        """Make the folders."""
        for folder in (self.root / "scans", self.incoming, self.root / "reconstructions"):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def incoming(self) -> Path:
        """Where unfinished uploads lie; on the same disk, so that they can be renamed."""
        return self.root / "incoming"

    @property
    def address(self) -> str:
        """Where the files are, as a person would say it."""
        return str(self.root) if self.objects is None else self.objects.url

    def secret(self) -> bytes:
        """Random bytes of this folder, made once: what names derive from that tell nothing."""
        if self.objects is not None:
            if not self.objects.exists("secret.key"):
                self.objects.write("secret.key", secrets.token_bytes(32))
            return self.objects.read("secret.key")
        path = self.root / "secret.key"
        if not path.is_file():
            aside = path.with_name(f".secret.{secrets.token_hex(4)}.part")
            descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with suppress(FileExistsError):  # another process was first
                os.link(aside, path)
            aside.unlink()
        return path.read_bytes()

    def free_bytes(self) -> int:
        """Room on the disk."""
        return shutil.disk_usage(self.root).free

    def scan(self, sha256: str) -> Path:
        """The file of a scan; of an object a copy, made if need be. Raises FileNotFoundError."""
        key = scan_key(sha256)
        return self._here(key) if self.objects is not None else self.root / key

    def has_scan(self, sha256: str) -> bool:
        """Whether the scan is stored."""
        return self._exists(scan_key(sha256))

    def adopt_scan(self, part: Path, sha256: str) -> None:
        """Give an uploaded file, which was synced, its place; equal content is kept once."""
        target = self.root / scan_key(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.objects is not None:
            self.objects.put(scan_key(sha256), part)
        part.replace(target)
        sync(target.parent)

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

    def remove_scan(self, sha256: str) -> None:
        """Remove the file of a scan."""
        (self.root / scan_key(sha256)).unlink(missing_ok=True)
        if self.objects is not None:
            self.objects.remove([scan_key(sha256)])

    def release(self, place: str, scan: str) -> None:
        """Let go of copies that a worker needs no more."""
        if self.objects is not None:
            shutil.rmtree(self.root / _folder(place), ignore_errors=True)
            (self.root / scan_key(scan)).unlink(missing_ok=True)

    def remove(self, place: str) -> None:
        """Remove all files of a reconstruction, by its id or by the digest of its output."""
        shutil.rmtree(self.root / _folder(place), ignore_errors=True)
        if self.objects is not None:
            self.objects.remove(list(self.objects.sizes(_folder(place))))

    def bytes_of(self, place: str) -> int:
        """Of all files of a reconstruction."""
        if self.objects is not None:
            return sum(self.objects.sizes(_folder(place)).values())
        files = (self.root / _folder(place)).rglob("*")
        return sum(file.stat().st_size for file in files if file.is_file())

    def outputs(self) -> dict[str, dict[str, int]]:
        """Digest of every output that is complete: names and bytes of its products."""
        found: dict[str, dict[str, int]] = {}
        if self.objects is not None:
            for key, size in self.objects.sizes("outputs").items():
                place, _, name = key.removeprefix("outputs/")[3:].partition("/")
                found.setdefault(place, {})[name] = size
        else:
            for file in (self.root / "outputs").glob("??/*/*"):
                if not file.name.startswith("."):
                    found.setdefault(file.parent.name, {})[file.name] = file.stat().st_size
        return {place: names for place, names in found.items() if MARKER in names}

    def is_complete(self, place: str) -> bool:
        """Whether all products of an output are there."""
        return self._exists(f"{_folder(place)}/{MARKER}")

    def write_slice(self, job_id: str, posterior: SlicePosterior) -> str:
        """Checkpoint one slice; returns the file's SHA-256."""
        arrays = result_arrays([posterior], None)
        buffer = BytesIO()
        texts = {name: np.array(text([posterior])) for name, text in _TEXTS.items()}
        np.savez(buffer, allow_pickle=False, **texts, **arrays)
        content = buffer.getvalue()
        self._write(_slice_key(job_id, posterior.index), content)
        return sha256(content).hexdigest()

    def has_slice(self, job_id: str, index: int) -> bool:
        """Whether a slice was checkpointed."""
        return self._exists(_slice_key(job_id, index))

    def read_slice(self, job_id: str, index: int) -> SlicePosterior:
        """A checkpointed slice, exactly as it was written."""
        content = BytesIO(self._read(_slice_key(job_id, index)))
        with np.load(content, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        texts = {name: str(arrays.pop(name, "[]")) for name in _TEXTS}
        (posterior,) = posteriors_from_layout(arrays, {"schema": SCHEMA, **texts})
        return posterior

    def write_chain(self, job_id: str, chain: int, draws: NDArray[np.complex64]) -> None:
        """Checkpoint a finished chain of a volume."""
        key = _chain_key(job_id, chain)
        with replacing(self.root / key) as (file, _):
            np.save(file, draws, allow_pickle=False)
        if self.objects is not None:
            self.objects.put(key, self.root / key)

    def read_chain(self, job_id: str, chain: int) -> NDArray[np.complex64] | None:
        """A checkpointed chain, mapped from its file; None when there is none."""
        key = _chain_key(job_id, chain)
        try:
            path = self._here(key) if self.objects is not None else self.root / key
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            return None

    def finished_chains(self, job_id: str) -> int:
        """How many chains of a volume were checkpointed; they come one after the other."""
        count = 0
        while self._exists(_chain_key(job_id, count)):
            count += 1
        return count

    def remove_checkpoints(self, job_id: str) -> None:
        """Slices and previews are of no use once the products are there."""
        self._discard(job_id, ("slices", "preview"))

    def remove_traces(self, job_id: str) -> None:
        """Nor is the ledger, when the products have it too and lie elsewhere."""
        self._discard(job_id, ("slices", "preview", "steps"))
        shutil.rmtree(self.root / _folder(job_id), ignore_errors=True)

    def note_step(self, job_id: str, **entry: object) -> None:
        """Append to the ledger of steps; one short line is written whole or not at all."""
        line = json.dumps(entry, separators=(",", ":")) + "\n"
        if self.objects is not None:
            # Nothing can be appended there: a line is an object, and their names sort by time.
            name = f"{time.time_ns():020d}-{secrets.token_hex(3)}.json"
            self.objects.write(f"{_folder(job_id)}/steps/{name}", line.encode())
            return
        folder = self.root / _folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "steps.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(descriptor, line.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def steps(self, job_id: str) -> list[dict[str, Any]]:
        """The ledger of steps; a line cut short by a crash is left out."""
        try:
            if self.objects is not None:
                keys = sorted(self.objects.sizes(f"{_folder(job_id)}/steps"))
                lines = [self.objects.read(key).decode() for key in keys]
            else:
                lines = (self.root / _folder(job_id) / "steps.jsonl").read_text().splitlines()
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
        buffer = BytesIO()
        np.save(buffer, image, allow_pickle=False)
        self._write(_preview_key(job_id, index), buffer.getvalue(), durable=False)

    def read_preview(self, job_id: str, index: int) -> NDArray[np.float32] | None:
        """The picture so far (rows, columns); None when there is none yet."""
        try:
            content = BytesIO(self._read(_preview_key(job_id, index)))
        except FileNotFoundError:
            return None
        return np.asarray(np.load(content, allow_pickle=False), np.float32)

    def product(self, place: str, name: str) -> Path:
        """A result file; with an object store a copy. The file may be missing, as the caller sees.

        `place` is the id of a job or the digest of an output, `name` one of `PRODUCTS`.
        """
        key = _product_key(place, name)
        if self.objects is not None:
            try:
                return self._here(key)
            except FileNotFoundError:
                pass
        return self.root / key

    @contextmanager
    def producing(self, place: str, name: str) -> Iterator[Path]:
        """A path at which to write a result file whole; it is stored after the block."""
        path = self.root / _product_key(place, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        yield path
        if self.objects is not None:
            self.objects.put(_product_key(place, name), path)

    def write_product(self, place: str, name: str, write: Callable[[IO[bytes]], None]) -> None:
        """Write a result file aside and give it its name."""
        with self.producing(place, name) as path, replacing(path) as (file, _):
            write(file)

    def describe_product(self, place: str, name: str) -> ProductFile:
        """Name, media type, size and digest of a written result file."""
        path = self.root / _product_key(place, name)
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        return ProductFile(
            name=name,
            media_type=PRODUCTS[name].media_type,
            bytes=path.stat().st_size,
            sha256=digest,
        )

    def product_address(self, place: str, name: str) -> str:
        """Path or URL of a result file."""
        key = _product_key(place, name)
        return str(self.root / key) if self.objects is None else self.objects.address(key)

    def _exists(self, key: str) -> bool:
        if self.objects is not None:
            return self.objects.exists(key)
        return (self.root / key).is_file()

    def _read(self, key: str) -> bytes:
        return (
            self.objects.read(key) if self.objects is not None else (self.root / key).read_bytes()
        )

    def _write(self, key: str, content: bytes, *, durable: bool = True) -> None:
        if self.objects is not None:
            self.objects.write(key, content)
            return
        write_whole(self.root / key, content, durable=durable)

    def _discard(self, job_id: str, names: tuple[str, ...]) -> None:
        for name in names:
            shutil.rmtree(self.root / _folder(job_id) / name, ignore_errors=True)
            if self.objects is not None:
                self.objects.remove(list(self.objects.sizes(f"{_folder(job_id)}/{name}")))

    def _here(self, key: str) -> Path:
        """The copy of an object, made unless it is there. Raises FileNotFoundError."""
        assert self.objects is not None
        path = self.root / key
        if path.is_file():
            os.utime(path)
        else:
            self.objects.get(key, path)
            self._trim()
        return path

    def _trim(self) -> None:
        """Remove the copies that were not used for longest, down to what may be kept."""
        found = []
        for file in (*self.root.glob("scans/*/*"), *self.root.glob("[or]*s/**/*.*")):
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, file))
        total = sum(size for _, size, _ in found)
        for used, size, file in sorted(found):
            if total <= self.copies_bytes or time.time() - used < _IN_USE_SECONDS:
                break
            file.unlink(missing_ok=True)
            total -= size


def open_storage(settings: ServiceSettings) -> Storage:
    """The files that the settings name. Raises StorageError for an unknown kind of address."""
    if is_url(settings.storage):
        copies = settings.data / "copies"
        return Storage(copies, ObjectStore(settings.storage), settings.copies_bytes)
    return (
        Storage(Path(settings.storage).expanduser().absolute())
        if settings.storage
        else Storage(settings.data)
    )


def _folder(place: str) -> str:
    """By the id of a job or the digest of an output."""
    if _SHA256.fullmatch(place):
        return f"outputs/{place[:2]}/{place}"
    if not _ID.fullmatch(place):
        raise ValueError("not an id")
    return f"reconstructions/{place}"


def scan_key(sha256: str) -> str:
    """Name of a scan below the root, and its key in an object store. Raises ValueError."""
    if not _SHA256.fullmatch(sha256):
        raise ValueError("not a digest")
    return f"scans/{sha256[:2]}/{sha256}.h5"


def _slice_key(job_id: str, index: int) -> str:
    return f"{_folder(job_id)}/slices/{index:05d}.npz"


def _chain_key(job_id: str, chain: int) -> str:
    return f"{_folder(job_id)}/slices/chain-{chain:05d}.npy"


def _preview_key(job_id: str, index: int) -> str:
    return f"{_folder(job_id)}/preview/{index:05d}.npy"


def _product_key(place: str, name: str) -> str:
    if name not in PRODUCTS:
        raise ValueError("not a product")
    return f"{_folder(place)}/{name}"


def _changed(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:
        return math.inf
