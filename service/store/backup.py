"""A copy of everything that the service keeps, taken while it runs, and put back elsewhere.

    service.sqlite     as of one moment, by SQLite's own online copy
    scans/, reconstructions/, outputs/, secret.key     as in the folder of the service
    backup.json        what this is; written last, so that a folder without it is no backup

Files are copied before the tables and once more after them: what the tables name is then there,
also when it was made or deleted meanwhile. A second backup into the same folder copies only what is
new, and drops what is gone.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from hashlib import file_digest
from importlib.metadata import version
from pathlib import Path

from service.settings import ServiceSettings, SettingsError
from service.store.database import SCHEMA, create_database, schema_of
from service.store.durable import replacing, sync, write_whole
from service.store.objects import is_url

NOTE = "backup.json"
_DATABASE = "service.sqlite"
_FOLDERS = ("scans", "reconstructions", "outputs")
_SECRET = "secret.key"


@dataclass(frozen=True)
class Backup:
    """What a backup holds; `created_at` in seconds since the epoch."""

    schema: int
    version: str
    created_at: float
    files: int
    bytes: int
    tables: bool
    """Whether the database is in it; that of PostgreSQL is saved by its own tools."""


def back_up(settings: ServiceSettings, target: Path, *, files_only: bool = False) -> Backup:
    """Copy tables and files into a folder. Raises SettingsError when it cannot be done so."""
    if settings.database and not files_only:
        raise SettingsError(
            "the tables are in PostgreSQL, whose own tools save them: run `pg_dump --format=custom "
            f"--file={target / 'service.dump'} DATABASE`, and then this command with --files-only"
        )
    if is_url(settings.storage):
        raise SettingsError(
            f"scans and results are in {settings.storage}: keep versions or a copy of the bucket "
            "by the store's means, and save the database by its own (`pg_dump`, `sqlite3 .backup`)"
        )
    source = Path(settings.storage).expanduser() if settings.storage else settings.data
    if target.absolute().is_relative_to(source.absolute()):
        raise SettingsError(f"{target} lies in the folder of the service; choose another disk")
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    (target / NOTE).unlink(missing_ok=True)
    seen = _copy_files(source, target)
    if not files_only:
        _copy_tables(settings.data / _DATABASE, target / _DATABASE)
        seen |= _copy_files(source, target)
    for name in list(_files(target)):
        if name not in seen:
            (target / name).unlink()
    sizes = [(target / name).stat().st_size for name in seen]
    made = Backup(
        SCHEMA, version("mri-posterior"), time.time(), len(sizes), sum(sizes), not files_only
    )
    write_whole(target / NOTE, json.dumps(asdict(made), indent=1).encode())
    return made


def restore(source: Path, settings: ServiceSettings) -> Backup:
    """Put a backup into the folder of the settings, which must be new; every scan is checked.

    Raises SettingsError.
    """
    made = read_note(source)
    data = settings.data
    if made.schema > SCHEMA:
        raise SettingsError(
            f"the backup is of mri-posterior {made.version}, whose tables are newer; install that"
        )
    if (data / _DATABASE).exists() or any(_files(data)):
        raise SettingsError(f"{data} holds scans or tables already; give a new folder as --data")
    if made.tables:
        _require_whole(source / _DATABASE)
    names = list(_files(source))
    for name in names:
        if name.parts[0] == "scans" and _digest_of(source / name) != name.stem:
            raise SettingsError(f"{name} is damaged in the backup; nothing has been restored")
    data.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in names:
        _copy(source / name, data / name)
    if made.tables:
        # Last: a folder that was restored by half has no tables.
        _copy(source / _DATABASE, data / _DATABASE)
        create_database(settings.database_url)
    return made


def read_note(folder: Path) -> Backup:
    """What a folder says it holds. Raises SettingsError when it is no whole backup."""
    try:
        return Backup(**json.loads((folder / NOTE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise SettingsError(
            f"{folder} is no complete backup: it has no readable {NOTE}; make one with "
            "`mri-posterior backup`"
        ) from error


def _copy_tables(source: Path, target: Path) -> None:
    """SQLite's online copy: of one moment, however much is written meanwhile."""
    if not source.is_file():
        raise SettingsError(f"there is no {source}; is this the folder of the service?")
    aside = target.with_name(f".{target.name}.part")
    aside.unlink(missing_ok=True)
    with closing(sqlite3.connect(source)) as there, closing(sqlite3.connect(aside)) as here:
        there.backup(here)
        here.execute("PRAGMA journal_mode=DELETE")  # one file, nothing beside it
    _require_whole(aside)
    sync(aside)
    aside.replace(target)


def _require_whole(file: Path) -> None:
    try:
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()
            newer = schema_of(connection) > SCHEMA
    except sqlite3.Error as error:
        found, newer = (str(error),), False
    if found != ("ok",):
        raise SettingsError(f"{file} is damaged: {found[0]}")
    if newer:
        raise SettingsError(f"the tables in {file} are of a newer version; install that")


def _files(folder: Path) -> Iterator[Path]:
    """What belongs to the storage, relative to its folder; unfinished files do not."""
    for name in _FOLDERS:
        for file in (folder / name).rglob("*"):
            if file.is_file() and not file.name.startswith("."):
                yield file.relative_to(folder)
    if (folder / _SECRET).is_file():
        yield Path(_SECRET)


def _copy_files(source: Path, target: Path) -> set[Path]:
    """Copy what is not there yet; returns what there is. What is deleted meanwhile is left out."""
    seen = set()
    for name in list(_files(source)):
        with suppress(FileNotFoundError):
            _copy(source / name, target / name)
            seen.add(name)
    return seen


def _copy(source: Path, target: Path) -> None:
    now = source.stat()
    with suppress(FileNotFoundError):
        there = target.stat()
        if (there.st_size, there.st_mtime_ns) == (now.st_size, now.st_mtime_ns):
            return
    with replacing(target) as (file, aside):
        with source.open("rb") as content:
            shutil.copyfileobj(content, file, 1 << 20)
        file.flush()
        shutil.copystat(source, aside)


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return file_digest(content, "sha256").hexdigest()
