"""Batches: many reconstructions that were asked for together, and how they stand.

An item names a job, or says why there is none: the input was refused, or its output was there
already. Several batches may share a job; a job is made only for an output that nobody makes yet.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from recon.choices import COHERENCE
from service.jobs.job import ACTIVE, Job, JobState, job_of_row
from service.jobs.job_table import record_ends
from service.problems import Problem
from service.requests import Priority, ReconstructionParameters
from service.store.database import batch_items, batches, events, jobs, now_after
from service.store.identifiers import new_id

REFUSED = "refused"
ITEM_STATES = (REFUSED, *(state.value for state in JobState))
_LOCK = 0x62617463  # any number, the same for all processes
_CHUNK = 250
_RELEVANT = {
    "preset", "samples", "seed", "slices", "coarse", "path", "fit_noise", "self_check",
    "compress_above", "deadline_s", "target_mc_error",
}  # fmt: skip
_RELEVANT_IF_SET = (
    "fftshift", "select", "identified", "voxel_mm", "bids_name", "layout", "axes", "fallback",
    "accept_refused", "volume",
)  # fmt: skip
"""What came later: outputs made without it keep their names."""

Enqueue = Callable[[sa.Connection, str, Priority], None]


@dataclass(frozen=True)
class Batch:
    """One row of the table; `created_at` is in seconds since the epoch."""

    id: str
    owner: str
    on_error: str
    """`continue` or `stop`: whether a failed item lets the others go on."""
    request: dict[str, Any]
    sealed: bool
    """Whether all items have been added."""
    created_at: float


@dataclass(frozen=True)
class NewItem:
    """One scan to be reconstructed, or refused."""

    name: str
    scan_id: str = ""
    scan_sha256: str = ""
    source: str | None = None
    output: str | None = None
    parameters: ReconstructionParameters | None = None
    error: Problem | None = None
    there: bool = False
    """Whether the storage has the output already."""
    calibration_sha256: str | None = None
    """Of the scan whose lines make the coil maps, where they are not its own."""


@dataclass(frozen=True)
class Item:
    """One item as it stands."""

    position: int
    name: str
    scan_sha256: str | None
    output: str | None
    error: Problem | None
    job: Job | None

    @property
    def state(self) -> str:
        """`refused`, or the state of the job; an output that was there is a success."""
        if self.job is not None:
            return self.job.state.value
        return JobState.SUCCEEDED.value if self.error is None else REFUSED

    @property
    def problem(self) -> Problem | None:
        """Why there is no output."""
        return self.error if self.job is None else self.job.error


def output_digest(
    scan_sha256: str,
    model_sha256: str,
    parameters: ReconstructionParameters,
    owner: str = "",
    calibration_sha256: str | None = None,
    lines_sha256: str | None = None,
) -> str:
    """What products are named by: everything that they depend on, and whose they are.

    `calibration_sha256` is of the model's calibration, which counts for calibrated results only:
    the names of all others do not depend on whether there is one. `lines_sha256` is of the scan
    whose lines make the coil maps, where they are not its own.
    """
    settings = parameters.model_dump(mode="json", include=_RELEVANT)
    if parameters.calibrated:
        settings["calibrated"] = calibration_sha256 or "none"
    settings["preset"] = settings["preset"] or "standard"
    later = parameters.model_dump(mode="json", include=set(_RELEVANT_IF_SET))
    settings |= {name: value for name, value in later.items() if value not in (None, False)}
    if parameters.fftshift is False:  # not the same as unsaid
        settings["fftshift"] = False
    if parameters.slice_coherence != COHERENCE:
        settings["slice_coherence"] = parameters.slice_coherence
    if lines_sha256 is not None:
        settings["calibration"] = lines_sha256
    made_of = {"scan": scan_sha256, "model": model_sha256, "settings": settings, "owner": owner}
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


class Batches:
    """Reads and writes of the tables of batches; every method is one transaction, or a few."""

    def __init__(self, engine: sa.Engine, enqueue: Enqueue) -> None:
        self._engine = engine
        self._enqueue = enqueue

    def create(self, owner: str, on_error: str, request: dict[str, Any]) -> Batch:
        """A batch without items."""
        batch = Batch(new_id(), owner, on_error, request, False, time.time())
        with self._engine.begin() as connection:
            connection.execute(sa.insert(batches).values(**batch.__dict__))
        return batch

    def add(self, batch: Batch, items: Sequence[NewItem], first: int = 0) -> int:
        """Append items and queue their jobs; returns how many jobs were made.

        `first` is the position of the first. Adding the same positions again changes nothing.
        """
        made = 0
        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            with self._engine.begin() as connection:
                _one_at_a_time(connection)
                made += self._add(connection, batch, chunk, first + start)
        return made

    def seal(self, batch: Batch) -> None:
        """Say that no more items will come."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(batches).where(batches.c.id == batch.id).values(sealed=True)
            )

    def get(self, batch_id: str, owner: str | None) -> Batch | None:
        """By id; None for others' batches."""
        query = sa.select(batches).where(batches.c.id == batch_id)
        if owner is not None:
            query = query.where(batches.c.owner == owner)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        return None if row is None else Batch(**row._mapping)

    def counts(self, batch_id: str) -> dict[str, int]:
        """Number of items in each state."""
        query = (
            sa.select(_state, sa.func.count())
            .select_from(_joined)
            .where(batch_items.c.batch_id == batch_id)
            .group_by(_state)
        )
        with self._engine.connect() as connection:
            found = {row[0]: int(row[1]) for row in connection.execute(query)}
        return {state: found.get(state, 0) for state in ITEM_STATES}

    def items(
        self, batch_id: str, *, states: Sequence[str] = (), after: int = -1, limit: int = 500
    ) -> list[Item]:
        """Items in order; `after` is the last position of the page before."""
        query = (
            sa.select(batch_items, *_job_columns)
            .select_from(_joined)
            .where(batch_items.c.batch_id == batch_id, batch_items.c.position > after)
            .order_by(batch_items.c.position)
            .limit(limit)
        )
        if states:
            query = query.where(_state.in_(states))
        with self._engine.connect() as connection:
            return [_item(row) for row in connection.execute(query)]

    def ended_after(self, batch_id: str, event_id: int, limit: int = 500) -> list[tuple[int, Item]]:
        """Items whose jobs ended, with the event that says so, in order of the events."""
        query = (
            sa.select(events.c.id.label("event_id"), batch_items, *_job_columns)
            .select_from(_joined.join(events, events.c.job_id == jobs.c.id))
            .where(
                batch_items.c.batch_id == batch_id, events.c.type == "end", events.c.id > event_id
            )
            .order_by(events.c.id)
            .limit(limit)
        )
        with self._engine.connect() as connection:
            return [(row.event_id, _item(row)) for row in connection.execute(query)]

    def cancel(self, batch_id: str) -> list[str]:
        """Cancel what has not ended; returns the jobs that no worker had begun."""
        with self._engine.begin() as connection:
            return _cancel(connection, [batch_id])

    def retry_failed(self, batch: Batch) -> int:
        """New jobs for the items whose jobs failed or were cancelled; returns how many."""
        count, last = 0, -1
        while True:
            ended = (JobState.FAILED.value, JobState.CANCELLED.value)
            found = self.items(batch.id, states=ended, after=last, limit=_CHUNK)
            if not found:
                return count
            last = found[-1].position
            again = [
                NewItem(
                    item.name,
                    item.job.scan_id,
                    item.job.scan_sha256,
                    item.job.source,
                    item.job.output,
                    item.job.parameters,
                )
                for item in found
                if item.job is not None
            ]
            with self._engine.begin() as connection:
                _one_at_a_time(connection)
                ids = self._jobs_for(connection, batch, again)
                for item, job_id in zip(found, ids, strict=True):
                    connection.execute(
                        sa.update(batch_items)
                        .where(
                            batch_items.c.batch_id == batch.id,
                            batch_items.c.position == item.position,
                        )
                        .values(job_id=job_id)
                    )
            count += len(again)

    def _add(
        self, connection: sa.Connection, batch: Batch, items: Sequence[NewItem], first: int
    ) -> int:
        known = set(
            connection.execute(
                sa.select(batch_items.c.position).where(
                    batch_items.c.batch_id == batch.id,
                    batch_items.c.position.between(first, first + len(items) - 1),
                )
            ).scalars()
        )
        new = [(first + k, item) for k, item in enumerate(items) if first + k not in known]
        wanted = [item for _, item in new if item.error is None and not item.there]
        ids = dict(zip(map(id, wanted), self._jobs_for(connection, batch, wanted), strict=True))
        rows = [
            {
                "batch_id": batch.id,
                "position": position,
                "name": item.name,
                "scan_sha256": item.scan_sha256 or None,
                "output": item.output,
                "job_id": ids.get(id(item)),
                "error": item.error,
            }
            for position, item in new
        ]
        if rows:
            connection.execute(sa.insert(batch_items), rows)
        return len(wanted)

    def _jobs_for(
        self, connection: sa.Connection, batch: Batch, items: Sequence[NewItem]
    ) -> list[str]:
        """Ids of the jobs that make the items' outputs: those at it already, or new ones."""
        outputs = [item.output for item in items if item.output is not None]
        query = sa.select(jobs.c.output, jobs.c.id).where(
            jobs.c.output.in_(outputs), jobs.c.state.in_(ACTIVE)
        )
        busy = {row.output: row.id for row in connection.execute(query)} if outputs else {}
        now, ids, rows = time.time(), [], []
        for item in items:
            assert item.parameters is not None
            if item.output in busy:
                ids.append(busy[item.output])
                continue
            row = {
                "id": new_id(),
                "owner": batch.owner,
                "scan_id": item.scan_id,
                "scan_sha256": item.scan_sha256,
                "calibration_sha256": item.calibration_sha256,
                "source": item.source,
                "output": item.output,
                "request": item.parameters.model_dump(mode="json"),
                "priority": item.parameters.priority.value,
                "state": JobState.QUEUED,
                "attempt": 0,
                "revision": 0,
                "created_at": now,
            }
            if item.output is not None:
                busy[item.output] = row["id"]
            rows.append(row)
            ids.append(row["id"])
        if rows:
            connection.execute(sa.insert(jobs), rows)
            state = {"type": "state", "data": {"state": JobState.QUEUED}}
            connection.execute(sa.insert(events), [state | {"job_id": r["id"]} for r in rows])
            for row in rows:
                self._enqueue(connection, str(row["id"]), Priority(str(row["priority"])))
        return ids


class EndedItems:
    """Items of a batch as they end, each told once to one follower.

    PostgreSQL gives ids before it commits: the end of a job may appear behind later ones. So the
    `overlap` ids before the last are looked at again, and all once nothing is left to end; one
    who begins `after` an event may hear again of items just before it.
    """

    def __init__(self, batches: Batches, batch: Batch, *, after: int, overlap: int) -> None:
        self._batches, self._batch, self._overlap = batches, batch, overlap
        self._first, self._last = max(0, after - overlap), after
        self._told: set[int] = set()

    def more(self, *, last_look: bool) -> list[tuple[int, Item]]:
        """Those that were not told yet, with their events; empty when there are none.

        `last_look` says that no item will end from now on.
        """
        whole = last_look and self._overlap > 0
        start = self._first if whole else max(self._first, self._last - self._overlap)
        while found := self._batches.ended_after(self._batch.id, start):
            new = [(event_id, item) for event_id, item in found if event_id not in self._told]
            start = found[-1][0]
            self._last = max(self._last, start)
            if whole:
                self._first = start
            if new:
                self._told.update(event_id for event_id, _ in new)
                return new
        return []


def stop_batches_of(engine: sa.Engine, job_id: str) -> list[str]:
    """After a failure: cancel the batches of a job that were to stop; returns what was queued."""
    with engine.begin() as connection:
        found = connection.execute(
            sa.select(batches.c.id)
            .join(batch_items, batch_items.c.batch_id == batches.c.id)
            .where(batch_items.c.job_id == job_id, batches.c.on_error == "stop")
        )
        ids = list(found.scalars())
        return _cancel(connection, ids) if ids else []


_joined = batch_items.outerjoin(jobs, jobs.c.id == batch_items.c.job_id)
_job_columns = [column.label(f"of_job_{column.name}") for column in jobs.columns]
_state = sa.case(
    (batch_items.c.job_id.is_not(None), jobs.c.state),
    (batch_items.c.output.is_(None), REFUSED),
    else_=JobState.SUCCEEDED.value,
)


def _item(row: sa.Row[Any]) -> Item:
    values = row._mapping
    job = None
    if values["of_job_id"] is not None:
        job = job_of_row({column.name: values[f"of_job_{column.name}"] for column in jobs.columns})
    return Item(
        values["position"],
        values["name"],
        values["scan_sha256"],
        values["output"],
        values["error"],
        job,
    )


def _one_at_a_time(connection: sa.Connection) -> None:
    """Two commands that add the same scans at once must not both make a job of each."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")


def _cancel(connection: sa.Connection, batch_ids: list[str]) -> list[str]:
    mine = sa.select(batch_items.c.job_id).where(batch_items.c.batch_id.in_(batch_ids))
    # What another batch waits for too goes on.
    others = sa.select(batch_items.c.job_id).where(
        batch_items.c.batch_id.not_in(batch_ids), batch_items.c.job_id.is_not(None)
    )
    here = jobs.c.id.in_(mine) & jobs.c.id.not_in(others)
    waiting = sa.select(jobs.c.id).where(here, jobs.c.state == JobState.QUEUED)
    ids = list(connection.execute(waiting).scalars())
    for start in range(0, len(ids), _CHUNK):
        chunk = ids[start : start + _CHUNK]
        connection.execute(
            sa.update(jobs)
            .where(jobs.c.id.in_(chunk), jobs.c.state == JobState.QUEUED)
            .values(
                state=JobState.CANCELLED,
                finished_at=now_after(jobs.c.created_at),
                revision=jobs.c.revision + 1,
            )
        )
        record_ends(connection, chunk)
    connection.execute(
        sa.update(jobs)
        .where(here, jobs.c.state == JobState.RUNNING)
        .values(state=JobState.CANCELLING, revision=jobs.c.revision + 1)
    )
    return ids
