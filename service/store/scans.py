"""The scans that clients have uploaded: who owns which content."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from service.jobs.records import new_id
from service.store.database import scans


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
        also: Callable[[sa.Connection, StoredScan, bool], None] | None = None,
    ) -> tuple[StoredScan, bool]:
        """The scan of this owner and content, and whether it is new."""
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
        }
        same = (scans.c.owner == owner) & (scans.c.sha256 == sha256)
        with self._engine.begin() as connection:
            # Conditional on its absence, in one statement: two uploads may end together.
            source = sa.select(*(sa.literal(v, scans.c[n].type) for n, v in values.items()))
            absent = ~sa.exists(sa.select(scans.c.id).where(same))
            made = connection.execute(
                sa.insert(scans).from_select(list(values), source.where(absent))
            ).rowcount
            found = StoredScan(**connection.execute(sa.select(scans).where(same)).one()._mapping)
            if also is not None:
                also(connection, found, bool(made))
        return found, bool(made)

    def get(self, scan_id: str, owner: str | None) -> StoredScan | None:
        """By id; None for others' scans."""
        query = sa.select(scans).where(scans.c.id == scan_id)
        if owner is not None:
            query = query.where(scans.c.owner == owner)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else StoredScan(**row._mapping)

    def page(
        self, owner: str | None, *, sha256: str | None, before: str | None, limit: int
    ) -> list[StoredScan]:
        """Newest first; `before` is the last id of the page before."""
        query = sa.select(scans).order_by(scans.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(scans.c.owner == owner)
        if sha256 is not None:
            query = query.where(scans.c.sha256 == sha256)
        if before is not None:
            query = query.where(scans.c.id < before)
        with self._engine.connect() as connection:
            return [StoredScan(**row._mapping) for row in connection.execute(query)]

    def remove(self, scan: StoredScan) -> bool:
        """Forget a scan; True when nobody else has the same content, so the file may go."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(scans).where(scans.c.id == scan.id))
            left = connection.execute(
                sa.select(sa.func.count()).where(scans.c.sha256 == scan.sha256)
            ).scalar_one()
        return left == 0
