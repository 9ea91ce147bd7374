"""The scans of an archive that a prior is learned from: who is in it, who is held out, what is not.

The list is made once and kept: an archive that grows meanwhile does not change a run.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import BaseModel, ConfigDict

from recon.errors import ReconError, ScanError
from recon.io.files import read_scan
from recon.scan import Scan
from recon.settings import Settings
from recon.slice_draws import slices_with_signal
from service.archives.sources import Found, find_scans
from service.conformal_measurement import choose_slices
from service.images.kspace import header_identity
from service.store.archive import fetch
from service.store.durable import write_whole
from service.store.objects import StorageError, is_url
from service.training.images import person_of, split_patients


class ListedScan(BaseModel):
    """One scan that is learned from, or held out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Relative to the archive."""
    place: str
    sha256: str
    subject: str
    """A number for the person, the same for all scans of one."""
    held_out: bool
    slices: tuple[int, ...]
    """Of its slices those that are used."""
    rows: int
    columns: int

    def key(self, index: int) -> str:
        """Name of what is kept of a slice: by content, so that a scan under two names is one."""
        return f"{self.sha256[:32]}-{index:04d}"


class LeftOut(BaseModel):
    """A scan, or a slice of one, that is not used, and why."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    code: str
    reason: str
    slice: int | None = None


class ScanList(BaseModel):
    """What an archive holds for a run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scans: tuple[ListedScan, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def training(self) -> tuple[ListedScan, ...]:
        """Scans that are learned from."""
        return tuple(scan for scan in self.scans if not scan.held_out)

    @property
    def held_out(self) -> tuple[ListedScan, ...]:
        """Scans of other people, which tell when to stop."""
        return tuple(scan for scan in self.scans if scan.held_out)


@dataclass(frozen=True)
class Looking:
    """How far the first look is."""

    done: int
    of: int
    name: str


def list_scans(
    file: Path, source: str, hold_out: float, most_slices: int | None, seed: int
) -> Iterator[Looking | ScanList]:
    """The list in `file`, or a new one that is written there; the last event is the list.

    Every scan is read once: what cannot be read, holds nothing but noise or has been seen under
    another name is left out with its reason. `hold_out` is the share of people. Raises ScanError
    where there are no scans, or of one person only.
    """
    if file.exists():
        yield ScanList.model_validate_json(file.read_bytes())
        return
    found = find_scans(source)
    left_out: list[LeftOut] = []
    taken: list[_Taken] = []
    seen: set[str] = set()
    for done, each in enumerate(found):
        yield Looking(done, len(found), each.name)
        try:
            one = _take(each, most_slices)
            if one.sha256 in seen:
                raise ScanError("seen-twice", "the same scan is there under another name")
        except ReconError as error:
            left_out.append(LeftOut(name=each.name, code=error.code, reason=error.message))
            continue
        seen.add(one.sha256)
        taken.append(one)
    made = ScanList(scans=_divided(taken, hold_out, seed), left_out=tuple(left_out))
    write_whole(file, made.model_dump_json(indent=1).encode())
    yield made


@contextmanager
def opened(place: str) -> Iterator[Path]:
    """A scan's file, fetched for the while where it is an object. Raises ScanError."""
    if not is_url(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory(prefix="scan-") as folder:
        copy = Path(folder) / "scan.h5"
        try:
            fetch(place, copy)
        except FileNotFoundError as error:
            raise ScanError("not-a-file", "there is no object at this address any more") from error
        except StorageError as error:
            raise ScanError("unreadable", error.message) from error
        yield copy


def read_listed(scan: ListedScan) -> Scan:
    """The scan itself. Raises ScanError where it is gone or another one by now."""
    with opened(scan.place) as path:
        found = _read(path)
    if found.sha256 != scan.sha256:
        raise ScanError("changed", "the file is not the one that the run began with")
    return found


def _read(path: Path) -> Scan:
    try:
        return read_scan(path)
    except OSError as error:
        raise ScanError("unreadable", f"the file cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class _Taken:
    found: Found
    sha256: str
    person: str
    slices: tuple[int, ...]
    shape: tuple[int, int]


def _take(found: Found, most_slices: int | None) -> _Taken:
    with opened(found.place) as path:
        scan = _read(path)
    slices = slices_with_signal(scan, Settings())
    if not slices:
        raise ScanError("no-signal", "k-space holds nothing but noise; check what was exported")
    chosen = tuple(slices[k] for k in choose_slices(len(slices), most_slices))
    named = person_of(Path(PurePosixPath(found.name)), by_folder=not Path(found.name).is_absolute())
    person = header_identity(scan.header) or named
    return _Taken(found, scan.sha256, person, chosen, scan.image_shape)


def _divided(taken: list[_Taken], share: float, seed: int) -> tuple[ListedScan, ...]:
    people = {one.person for one in taken}
    if len(people) < 2:
        raise ScanError(
            "one-subject",
            f"the archive holds usable scans of {len(people)} subject; "
            "somebody has to be held out to say when to stop. Scans of one person are told by "
            "the header, by BIDS names or by the first folder: give the archive's folder",
        )
    split = split_patients({Path(one.found.place): (one.person,) for one in taken}, share, seed)
    held_out = {person for _, person in split.validation}
    # Numbers in an order that tells nothing of the names.
    order = sorted(people, key=lambda person: hashlib.sha256(f"{seed}/{person}".encode()).digest())
    numbers = {person: f"subject-{number:04d}" for number, person in enumerate(order, start=1)}
    return tuple(
        ListedScan(
            name=one.found.name,
            place=one.found.place,
            sha256=one.sha256,
            subject=numbers[one.person],
            held_out=one.person in held_out,
            slices=one.slices,
            rows=one.shape[0],
            columns=one.shape[1],
        )
        for one in taken
    )


def digest_of(scans: tuple[ListedScan, ...]) -> str:
    """SHA-256 of which slices are learned from: it goes into the cards of the models."""
    content = sorted(scan.key(index) for scan in scans for index in scan.slices)
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()
