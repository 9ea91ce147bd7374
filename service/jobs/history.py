"""What happened to jobs, as numbered events: written by workers, read by whoever follows a job."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import sqlalchemy as sa

from service.store.database import events

PAGE = 1000


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; ids grow."""

    id: int
    job_id: str
    type: str
    data: dict[str, Any]

    @cached_property
    def text(self) -> str:
        """The data as JSON, made once however many listen."""
        return json.dumps(self.data)


class History:
    """Reads of the event table."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def of(self, job_id: str, after: int = 0) -> list[Event]:
        """Events of one job in order, at most `PAGE`."""
        return self._page((events.c.job_id == job_id) & (events.c.id > after), PAGE)

    def after(self, event_id: int) -> list[Event]:
        """Events of all jobs in order, at most two thousand."""
        return self._page(events.c.id > event_id, 2 * PAGE)

    def last(self) -> int:
        """The highest event id given so far."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0)

    def _page(self, where: sa.ColumnElement[bool], limit: int) -> list[Event]:
        query = sa.select(events).where(where).order_by(events.c.id).limit(limit)
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return [Event(row.id, row.job_id, row.type, row.data) for row in rows]


def record(connection: sa.Connection, job_id: str, kind: str, data: dict[str, Any]) -> None:
    """Add an event in the caller's transaction, which has changed the row of the job before.

    The row's lock makes the events of one job appear in the order of their ids. Progress and the
    picture so far replace the ones before them: an hour of them would be thousands of rows.
    """
    if kind == "progress" or (kind == "preview" and data["kind"] == "mean"):
        forget_passing(connection, job_id, kind)
    connection.execute(sa.insert(events).values(job_id=job_id, type=kind, data=data))


def forget_passing(connection: sa.Connection, job_id: str, *kinds: str) -> None:
    """Remove the events of these kinds that mean nothing once later ones are there."""
    kept = (events.c.type == "preview") & (events.c.data["kind"].as_string() != "mean")
    connection.execute(
        sa.delete(events).where(events.c.job_id == job_id, events.c.type.in_(kinds), sa.not_(kept))
    )


def forget(connection: sa.Connection, job_id: str) -> None:
    """Remove all events of a job."""
    connection.execute(sa.delete(events).where(events.c.job_id == job_id))
