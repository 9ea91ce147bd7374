"""Training images from whatever a hospital has, and who of it is held out.

Image files of `service.images.files`' form are used where they are. k-space, NIfTI and DICOM are
converted once into a cache, images before the record of them and each written aside and renamed:
a preparation that was killed goes on where it stopped, and a second one writes nothing.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from recon.errors import ReconError, ScanError
from service.images.cache import ImageCache, Record
from service.images.dicom import dicom_items
from service.images.files import Description, describe
from service.images.kspace import kspace_volume
from service.images.nifti import nifti_volumes
from service.images.volumes import (
    ImageSettings,
    Item,
    LeftOut,
    Volume,
    Working,
    standardised,
)

_MOST_FILES = 1_000_000
_SUBJECT = re.compile(r"(?:^|[/_])(sub-[A-Za-z0-9]+)")

Kind = Literal["hdf5", "nifti", "dicom"]


@dataclass(frozen=True)
class Progress:
    """How far the preparation is."""

    share: float
    """0 to 1, each file or DICOM folder counting the same."""
    source: str
    detail: str


@dataclass(frozen=True)
class Taken:
    """One image file to train on."""

    source: Path
    """What it was made of (the first of several files), or itself."""
    file: Path
    slices: int
    patients: tuple[str, ...]
    """One per slice; pseudonyms unless the file is used where it is."""
    pixel_mm: tuple[float, float] | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Refused:
    """Files that are not trained on, and why."""

    sources: tuple[Path, ...]
    code: str
    reason: str


@dataclass(frozen=True)
class Prepared:
    """The end of a preparation: what there is to train on, and what was left out."""

    taken: tuple[Taken, ...]
    refused: tuple[Refused, ...]
    warnings: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Image files, each with `images` (slices, rows, columns)."""
        return tuple(each.file for each in self.taken)

    @property
    def patients(self) -> dict[Path, tuple[str, ...]]:
        """For each file, the patient of each slice."""
        return {each.file: each.patients for each in self.taken}


@dataclass(frozen=True)
class Split:
    """Who is trained on and who is held out, as (file, patient)."""

    training: frozenset[tuple[Path, str]]
    validation: frozenset[tuple[Path, str]]


def prepare_images(
    sources: Sequence[Path], cache: Path, settings: ImageSettings | None = None
) -> Iterator[Progress | Prepared]:
    """Make training images of files and folders; the last event is the result.

    Folders are searched for HDF5 (`images` or fully sampled `kspace`), NIfTI and DICOM. What cannot
    be used is refused in the result and stops nothing; only a source that does not exist and a
    cache that cannot be written do. Raises ScanError and OSError.
    """
    settings = settings or ImageSettings()
    store = ImageCache.open(cache, settings)
    units: list[_Unit] = []
    refused: list[Refused] = []
    for source in sources:
        yield Progress(0, str(source), "looking for images")
        found, unusable = _find(source, cache.resolve())
        units += found
        refused += unusable
    taken: list[Taken] = []
    for number, unit in enumerate(units):
        for event in _prepare(unit, store):
            if isinstance(event, Working):
                yield Progress((number + event.share) / len(units), str(unit.name), event.detail)
            elif isinstance(event, Taken):
                taken.append(event)
            else:
                refused.append(event)
    yield Prepared(tuple(taken), tuple(refused), _doubts(units, settings))


def person_of(name: Path, *, by_folder: bool) -> str:
    """Who a file below an archive is of, as far as names tell: BIDS' subject, or else its folder.

    Of a file that lies in no folder, or without `by_folder`, its own name.
    """
    subject = _SUBJECT.search(name.as_posix())
    if subject:
        return subject[1]
    return name.parts[0] if by_folder and len(name.parts) > 1 else _stem(name)


def split_patients(patients: Mapping[Path, Sequence[str]], share: float, seed: int) -> Split:
    """Hold `share` of the patients out, wherever their slices lie.

    `patients` is that of `Prepared`. The choice depends on the patients' names and the seed, not
    on order or place of the files, and at least one patient is on each side. Raises ScanError when
    there is only one.
    """
    if not 0 < share < 1:
        raise ScanError("held-out-share", f"the held-out share must lie in 0 to 1, not {share}")
    names = {name for slices in patients.values() for name in slices}
    if len(names) < 2:
        raise ScanError(
            "one-patient",
            f"{len(names)} patient cannot be split into training and validation; "
            "give images of more patients, or separate images for validation",
        )
    ordered = sorted(names, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    held_out = set(ordered[: min(max(1, round(share * len(names))), len(names) - 1)])
    pairs = {(file, name) for file, slices in patients.items() for name in slices}
    validation = frozenset(pair for pair in pairs if pair[1] in held_out)
    return Split(frozenset(pairs) - validation, validation)


@dataclass(frozen=True)
class _Unit:
    """What is looked at together: one file, or all DICOM files of a source."""

    kind: Kind
    name: Path
    """Relative to the source's folder."""
    files: tuple[Path, ...]

    def contents(
        self, cache: ImageCache, hdf5: Description | None
    ) -> Iterator[Working | Item | LeftOut]:
        """What there is to convert; `hdf5` describes an HDF5 file."""
        if self.kind == "dicom":
            return dicom_items(self.files, cache.pseudonym, cache.settings)
        return iter([Item((0,), lambda: self._volumes(cache, hdf5))])

    def _volumes(self, cache: ImageCache, hdf5: Description | None) -> Iterator[Working | Volume]:
        path, patient = self.files[0], self.patient(cache.settings)
        yield Working("reading", 0)
        if hdf5 is not None:
            yield from kspace_volume(path, hdf5.patient_id, patient, cache.pseudonym)
        else:
            yield from nifti_volumes(path, cache.pseudonym(patient), cache.settings)

    def patient(self, settings: ImageSettings) -> str:
        """Who it is, as far as names tell: BIDS' subject, else the file's or first folder's."""
        return person_of(self.name, by_folder=settings.patient_from == "folder")


def _prepare(unit: _Unit, cache: ImageCache) -> Iterator[Working | Taken | Refused]:
    """Convert what the cache lacks of one unit, and say what there is."""
    try:
        name = cache.name(unit.files, unit.kind)
        records = cache.read(name)
        hdf5: Description | None = None
        if unit.kind == "hdf5" and (records is None or records[0].in_place):
            hdf5 = describe(unit.files[0], values=records is None)
        if records is None:
            records = tuple((yield from _convert(unit, cache, hdf5)))
            cache.write(name, records)
    except ScanError as error:
        yield Refused(unit.files, error.code, error.message)
        return
    for record in records:
        yield _outcome(record, unit, cache, hdf5)


def _convert(
    unit: _Unit, cache: ImageCache, hdf5: Description | None
) -> Generator[Working, None, list[Record]]:
    """Records of all that a unit holds. Raises ScanError when a file is gone."""
    if hdf5 is not None and hdf5.kind == "images":
        return [Record(inputs=(0,))]
    records = []
    for event in unit.contents(cache, hdf5):
        if isinstance(event, Working):
            yield event
        elif isinstance(event, LeftOut):
            records.append(Record(inputs=event.inputs, refused=(event.code, event.reason)))
        else:
            entry = cache.name([unit.files[number] for number in event.inputs], event.variant)
            known = cache.read(entry)
            if known is None:
                known = ((yield from _convert_item(event, entry, cache)),)
                cache.write(entry, known)
            # The numbers are those of this list of files, which may have grown.
            records.append(known[0].model_copy(update={"inputs": event.inputs}))
    return records


def _convert_item(item: Item, entry: str, cache: ImageCache) -> Generator[Working, None, Record]:
    """Several volumes of one item become one file; those that are unfit are left out of it."""
    fit: list[Volume] = []
    errors: list[ReconError] = []
    try:
        for event in item.read():
            if isinstance(event, Working):
                yield event
                continue
            try:
                fit.append(standardised(event, cache.settings))
            except ScanError as error:
                errors.append(error)
    except ReconError as error:
        fit, errors = [], [error]
    if fit:
        return cache.store(entry, _joined(fit, errors), item.inputs)
    return Record(inputs=item.inputs, refused=(errors[0].code, errors[0].message))


def _joined(volumes: Sequence[Volume], errors: Sequence[ReconError]) -> Volume:
    """One after the other, with a note of those that are missing."""
    notes = dict.fromkeys(note for volume in volumes for note in volume.notes)
    if errors:
        count = len(errors) + len(volumes)
        notes[f"{len(errors)} of {count} volumes left out: {errors[0].message}"] = None
    images = np.concatenate([volume.images for volume in volumes])
    return replace(volumes[0], images=images, notes=tuple(notes))


def _outcome(
    record: Record, unit: _Unit, cache: ImageCache, hdf5: Description | None
) -> Taken | Refused:
    sources = tuple(unit.files[number] for number in record.inputs)
    if record.refused is not None:
        return Refused(sources, *record.refused)
    if record.entry is not None:
        return Taken(
            source=sources[0],
            file=cache.image_file(record.entry),
            slices=record.slices,
            patients=(record.patient,) * record.slices,
            pixel_mm=record.pixel_mm,
            notes=record.notes,
        )
    assert hdf5 is not None  # only image files are used in place, and they were looked into
    patients = hdf5.patients or (_stem(unit.name),) * hdf5.shape[0]
    return Taken(sources[0], sources[0], len(patients), patients, hdf5.pixel_mm, ())


def _find(source: Path, cache: Path) -> tuple[list[_Unit], list[Refused]]:
    """The files of a source by kind. Raises ScanError when it does not exist."""
    root = source.resolve()
    if not root.exists():
        raise ScanError("no-source", f"{source} does not exist; check the path")
    if not root.is_dir():
        files: list[Path] = [root]
        refused: list[Refused] = []
        root = root.parent.parent
    else:
        files, refused = _walk(root, cache)
    kinds: dict[Kind | None, list[Path]] = defaultdict(list)
    for file in files:
        kinds[_kind(file)].append(file)
    units = [
        _Unit(kind, file.relative_to(root), (file,))
        for kind in ("hdf5", "nifti")
        for file in kinds[kind]
    ]
    if kinds["dicom"]:
        units.append(_Unit("dicom", Path(source.name), tuple(kinds["dicom"])))
    if kinds[None]:
        refused.append(Refused(tuple(kinds[None]), "other-file", "neither HDF5, NIfTI nor DICOM"))
    return units, refused


def _walk(root: Path, cache: Path) -> tuple[list[Path], list[Refused]]:
    """Regular files below `root`, sorted; hidden names are passed over, links lead nowhere else."""
    files: list[Path] = []
    refused: list[Refused] = []
    pending = [root]
    while pending:
        folder = pending.pop()
        for path in sorted(folder.iterdir()):
            if path.name.startswith(".") or path == cache:
                continue
            if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
                refused.append(
                    Refused((path,), "link", "a link to a folder or out of the given one; copy it")
                )
            elif path.is_dir():
                pending.append(path)
            elif path.is_file():
                files.append(path)
            else:  # a pipe would block for ever
                refused.append(Refused((path,), "not-a-file", "no regular file"))
            if len(files) > _MOST_FILES:
                raise ScanError(
                    "too-many-files",
                    f"{root} holds more than {_MOST_FILES} files; give its parts one by one",
                )
    return sorted(files), refused


def _kind(file: Path) -> Kind | None:
    name = file.name.lower()
    if name.endswith((".h5", ".hdf5")):
        return "hdf5"
    if name.endswith((".nii", ".nii.gz")):
        return "nifti"
    try:
        with file.open("rb") as content:
            return "dicom" if content.read(132)[128:] == b"DICM" else None
    except OSError:
        return None


def _stem(name: Path) -> str:
    return re.sub(r"(\.nii)?\.[^.]*$", "", name.name)


def _doubts(units: Sequence[_Unit], settings: ImageSettings) -> tuple[str, ...]:
    """Names that look as if folders, and not files, told patients apart."""
    folders: dict[str, set[Path]] = defaultdict(set)
    for unit in units:
        if unit.kind != "dicom" and unit.patient(settings) == _stem(unit.name):
            folders[_stem(unit.name)].add(unit.name.parent)
    if all(len(found) == 1 for found in folders.values()):
        return ()
    return (
        "Several folders hold files of the same name. They count as one patient each, unless the "
        "files say otherwise; if each folder is a patient, tell patients apart by folder.",
    )
