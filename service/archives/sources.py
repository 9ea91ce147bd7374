"""Which scans are meant: a folder, a pattern, a manifest, or an address in an object store."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from recon.errors import ScanError
from service.store.objects import ObjectStore, is_url, require_protocol

_SUFFIXES = (".h5", ".hdf5", ".mrd")
_MANIFESTS = (".csv", ".ndjson", ".jsonl")
_PLACE_COLUMNS = ("scan", "path", "uri")
PARAMETERS = ("model", "preset", "samples", "seed", "slices")
"""Columns of a manifest that win over the command's options, scan by scan."""


@dataclass(frozen=True)
class Found:
    """One scan that was found."""

    name: str
    """As reports call it: relative to what was searched."""
    place: str
    """Absolute path, or URL."""
    chosen: dict[str, Any] = field(default_factory=dict)
    """Parameters of this scan alone."""


def find_scans(source: str) -> list[Found]:
    """All scans of a source, sorted by name. Raises ScanError when there are none."""
    if is_url(source):
        require_protocol(source)
    if source.endswith(_MANIFESTS):
        found = list(_manifest(source))
    elif is_url(source):
        found = list(_objects(source))
    else:
        found = list(_files(source))
    if not found:
        raise ScanError("no-scans", f"'{source}' holds no scan ({', '.join(_SUFFIXES)})")
    return found


def shard(scans: list[Found], text: str | None) -> list[Found]:
    """Part I of N, such as 0/4; a scan stays in its part whatever is added. Raises ScanError."""
    if text is None:
        return scans
    form = re.fullmatch(r"(\d+)/(\d+)", text)
    if form is None or not int(form[1]) < int(form[2]):
        raise ScanError(
            "shard", f"'{text}' is not a part; the parts of four are 0/4, 1/4, 2/4, 3/4"
        )
    part, parts = int(form[1]), int(form[2])
    return [scan for scan in scans if _number(scan.name) % parts == part]


def _number(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8])


def _files(source: str) -> Iterator[Found]:
    root = Path(source).expanduser()
    if root.is_dir():
        for path in sorted(root.rglob("*")):
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
            if path.suffix in _SUFFIXES and path.is_file() and not hidden:
                yield Found(path.relative_to(root).as_posix(), str(path.absolute()))
    elif root.is_file():
        yield Found(root.name, str(root.absolute()))
    elif has_magic(source):
        for name in sorted(glob(str(root), recursive=True)):  # noqa: PTH207 - absolute too
            if Path(name).is_file():
                yield Found(name, str(Path(name).absolute()))
    else:
        raise ScanError("no-such-source", f"there is nothing at '{source}'; check the path")


def _objects(source: str) -> Iterator[Found]:
    if source.endswith(_SUFFIXES):
        yield Found(source.rpartition("/")[2], source)
        return
    if has_magic(source):
        raise ScanError("source", "patterns work for paths only; give the folder of the store")
    store = ObjectStore(source.rstrip("/"))
    for key in sorted(store.sizes("")):
        if key.endswith(_SUFFIXES):
            yield Found(key, store.address(key))


def _manifest(source: str) -> Iterator[Found]:
    """One scan a line; places are relative to the manifest."""
    folder, _, name = source.rpartition("/")
    try:
        text = (
            ObjectStore(folder).read(name).decode()
            if is_url(source)
            else Path(source).expanduser().read_text(encoding="utf-8")
        )
    except (OSError, UnicodeDecodeError) as error:
        raise ScanError("manifest", f"'{source}' cannot be read as text; check it") from error
    base = folder if is_url(source) else str(Path(source).expanduser().absolute().parent)
    rows = _csv_rows(text) if source.endswith(".csv") else _json_rows(text)
    for line, row in rows:
        given = {key: value for key, value in row.items() if value not in (None, "")}
        place = next((given.pop(key) for key in _PLACE_COLUMNS if key in given), None)
        if not isinstance(place, str):
            raise ScanError(
                "manifest",
                f"line {line} names no scan; the column is called 'scan' (a path or URL)",
            )
        label = str(given.pop("id", place))
        unknown = set(given) - set(PARAMETERS)
        if unknown:
            raise ScanError(
                "manifest",
                f"line {line}: '{sorted(unknown)[0]}' is not a column; they are scan, id, "
                f"{', '.join(PARAMETERS)}",
            )
        yield Found(label, place if is_url(place) else _joined(base, place), given)


def _joined(base: str, place: str) -> str:
    if is_url(base):
        return f"{base}/{place}"
    return str((Path(base) / Path(place).expanduser()).absolute())


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, row in enumerate(csv.DictReader(text.splitlines(), restkey="more"), start=2):
        yield number, dict(row)


def _json_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ScanError("manifest", f"line {number} is not JSON") from error
        if not isinstance(row, dict):
            raise ScanError("manifest", f"line {number} is not a JSON object")
        yield number, row
