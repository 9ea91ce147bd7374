"""The scans that clients have uploaded: who owns which content."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from service.store.database import alone, hold, jobs, scans
from service.store.identifiers import new_id


@dataclass(frozen=True)
class StoredScan:
    """One row of the table; `created_at` is in seconds since the epoch."""

    id: str
    owner: str
    sha256: str
    bytes: int
    slices: int
    coils: int
    rows: int
    columns: int
    created_at: float
    tags: dict[str, str] | None = None
    layout: str | None = None
    axes: str | None = None
    """How the file is read, where its owner has said so."""
    two_phase_encodings: bool | None = None
    """None: only its values tell, or it came before this was asked."""


class Scans:
    """Reads and writes of the scan table; the files are in the storage."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def add(
        self,
        owner: str,
        sha256: str,
        size: int,
        shape: tuple[int, int, int, int],
        place: Callable[[], None],
        also: Callable[[sa.Connection, StoredScan, bool], None] | None = None,
        tags: Mapping[str, str] | None = None,
        *,
        layout: str | None = None,
        axes: str | None = None,
        two_phase_encodings: bool | None = None,
    ) -> tuple[StoredScan, bool]:
        """The scan of this owner and content, and whether it is new.

        Tags, and how it is to be read, replace what was said before, if they are given.

        `place` gives the file its place; nobody removes or places the same content meanwhile, and
        it may take its time: it runs outside of every transaction.
        """
        slices, coils, rows, columns = shape
        values = {
            "id": new_id(),
            "owner": owner,
            "sha256": sha256,
            "bytes": size,
            "slices": slices,
            "coils": coils,
            "rows": rows,
            "columns": columns,
            "created_at": time.time(),
            "tags": dict(tags or {}),
            "layout": layout,
            "axes": axes,
            "two_phase_encodings": two_phase_encodings,
        }
        shaped = ("slices", "coils", "rows", "columns", "two_phase_encodings")
        said = (*shaped, "layout", "axes") if layout or axes else ()
        anew = {name: values[name] for name in said} | ({"tags": values["tags"]} if tags else {})
        same = sa.select(scans).where(scans.c.owner == owner, scans.c.sha256 == sha256)
        with alone(self._engine, f"scan-{sha256}"):
            place()
            found, new = self._entered(values, same, also, anew)
        return found, new

    def _entered(
        self,
        values: dict[str, Any],
        same: sa.Select[Any],
        also: Callable[[sa.Connection, StoredScan, bool], None] | None,
        anew: Mapping[str, Any],
    ) -> tuple[StoredScan, bool]:
        with self._engine.begin() as connection:
            hold(connection, "scans")
            new = connection.execute(same).first() is None
            if new:
                connection.execute(sa.insert(scans).values(**values))
            elif anew:
                own = scans.c.owner == values["owner"], scans.c.sha256 == values["sha256"]
                connection.execute(sa.update(scans).where(*own).values(**anew))
            found = StoredScan(**connection.execute(same).one()._mapping)
            if also is not None:
                also(connection, found, new)
        return found, new

    def get(self, scan_id: str, owner: str | None) -> StoredScan | None:
        """By id; None for others' scans."""
        query = sa.select(scans).where(scans.c.id == scan_id)
        if owner is not None:
            query = query.where(scans.c.owner == owner)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else StoredScan(**row._mapping)

    def bytes_of(self, owner: str) -> int:
        """Size of all scans of an owner together."""
        query = sa.select(sa.func.sum(scans.c.bytes)).where(scans.c.owner == owner)
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar() or 0)

    def digests(self) -> set[str]:
        """Of all scans that somebody has, or that an unfinished job is made of."""
        needed = [
            sa.select(digest).where(jobs.c.finished_at.is_(None), digest.is_not(None))
            for digest in (jobs.c.scan_sha256, jobs.c.calibration_sha256)
        ]
        with self._engine.connect() as connection:
            return set(connection.execute(sa.select(scans.c.sha256).union(*needed)).scalars())

    def page(
        self,
        owner: str | None,
        *,
        sha256: str | None,
        before: str | None,
        limit: int,
        tags: Mapping[str, str] | None = None,
    ) -> list[StoredScan]:
        """Newest first; `before` is the last id of the page before."""
        query = sa.select(scans).order_by(scans.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(scans.c.owner == owner)
        if sha256 is not None:
            query = query.where(scans.c.sha256 == sha256)
        for name, value in (tags or {}).items():
            query = query.where(scans.c.tags[name].as_string() == value)
        if before is not None:
            query = query.where(scans.c.id < before)
        with self._engine.connect() as connection:
            return [StoredScan(**row._mapping) for row in connection.execute(query)]

    def older_than(self, when: float) -> list[StoredScan]:
        """Scans that came before a moment and that no unfinished job needs."""
        needed = sa.exists().where(_needs(scans.c.id, scans.c.sha256))
        query = sa.select(scans).where(scans.c.created_at < when, ~needed)
        with self._engine.connect() as connection:
            return [StoredScan(**row._mapping) for row in connection.execute(query)]

    def remove(self, scan: StoredScan) -> bool:
        """Forget a scan; False while an unfinished job needs it. Its file is left: see `unused`."""
        with self._engine.begin() as connection:
            hold(connection, "scans")
            needed = sa.select(jobs.c.id).where(_needs(scan.id, scan.sha256))
            if connection.execute(needed).first() is not None:
                return False
            connection.execute(sa.delete(scans).where(scans.c.id == scan.id))
        return True

    def unused(self, sha256: str, discard: Callable[[], None]) -> bool:
        """Call `discard` if nobody has or needs this content, while nobody can upload it again."""
        with alone(self._engine, f"scan-{sha256}"):
            owned = sa.select(scans.c.id).where(scans.c.sha256 == sha256)
            needed = sa.select(jobs.c.id).where(
                (jobs.c.scan_sha256 == sha256) | (jobs.c.calibration_sha256 == sha256),
                jobs.c.finished_at.is_(None),
            )
            with self._engine.connect() as connection:
                if any(connection.execute(query).first() for query in (owned, needed)):
                    return False
            discard()
        return True


def _needs(scan_id: Any, sha256: Any) -> sa.ColumnElement[bool]:  # noqa: ANN401  # value or column
    """Of jobs: those that have not ended and are made of this scan, or with its lines."""
    made_of = (jobs.c.scan_id == scan_id) | (jobs.c.calibration_sha256 == sha256)
    return made_of & jobs.c.finished_at.is_(None)
