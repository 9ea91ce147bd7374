"""Jobs and their events: the one record of what was asked, how far it is, and how it ended.

queued → running → succeeded | failed | cancelled, with `cancelling` between running and
cancelled. A terminal state never changes: every update names the states it may leave.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import sqlalchemy as sa

from service.requests import Priority, ReconstructionParameters
from service.store.database import events, jobs

_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether it can change no more."""
        return self in _TERMINAL


_TERMINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
ACTIVE = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
_STARTED = (JobState.RUNNING, JobState.CANCELLING)


@dataclass(frozen=True)
class Job:
    """One row of the table; times are seconds since the epoch."""

    id: str
    owner: str
    client_id: str | None
    request_digest: str | None
    predecessor: str | None
    scan_id: str
    scan_sha256: str
    source: str | None
    """Path or URL of an archive's scan that is read where it lies; set by operators only."""
    output: str | None
    """Digest of scan, model and settings, under which the products of an archive's scan lie."""
    request: dict[str, Any]
    priority: str
    state: JobState
    progress: dict[str, Any] | None
    plan: dict[str, Any] | None
    error: dict[str, Any] | None
    results: list[dict[str, Any]] | None
    summary: dict[str, Any] | None
    attempt: int
    worker: str | None
    traceparent: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    revision: int

    @property
    def place(self) -> str:
        """Where the storage has the products."""
        return self.output or self.id

    @property
    def parameters(self) -> ReconstructionParameters:
        """What was asked for, checked again."""
        return ReconstructionParameters.model_validate(self.request)


@dataclass(frozen=True)
class Event:
    """Something that happened to a job; ids grow."""

    id: int
    job_id: str
    type: str
    data: dict[str, Any]


def new_id() -> str:
    """A ULID: 26 characters that sort by time of creation."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "".join(_CROCKFORD[(value >> shift) & 31] for shift in range(125, -5, -5))


class Jobs:
    """All reads and writes of the job table; every method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(
        self,
        values: dict[str, Any],
        enqueue: Callable[[sa.Connection, str], None],
        also: Callable[[sa.Connection, Job], None] | None = None,
    ) -> Job:
        """Insert a queued job; `enqueue` and `also` write in the same transaction."""
        row = {"created_at": time.time(), "state": JobState.QUEUED, "revision": 0, "attempt": 0}
        with self._engine.begin() as connection:
            connection.execute(sa.insert(jobs).values(**row | values))
            job = _one(connection, jobs.c.id == values["id"])
            assert job is not None
            _record(connection, job.id, "state", {"state": JobState.QUEUED})
            enqueue(connection, job.id)
            if also is not None:
                also(connection, job)
        return job

    def get(self, job_id: str, owner: str | None = None) -> Job | None:
        """By id, or by the id that the owner gave it; None for others' jobs."""
        where = jobs.c.id == job_id
        if owner is not None:
            where = (jobs.c.owner == owner) & (where | (jobs.c.client_id == job_id))
        with self._engine.connect() as connection:
            return _one(connection, where)

    def page(
        self,
        owner: str | None,
        *,
        states: Sequence[str] = (),
        priority: str | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Newest first; `before` is the last id of the page before."""
        query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        if states:
            query = query.where(jobs.c.state.in_(states))
        if priority is not None:
            query = query.where(jobs.c.priority == priority)
        if before is not None:
            query = query.where(jobs.c.id < before)
        with self._engine.connect() as connection:
            return [_job(row) for row in connection.execute(query)]

    def counts(self, owner: str | None = None, *, batched: bool | None = None) -> dict[str, int]:
        """Number of jobs in each state; only those of batches, or all others, if that is said."""
        query = sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state)
        if batched is not None:
            query = query.where(jobs.c.output.is_not(None) if batched else jobs.c.output.is_(None))
        if owner is not None:
            query = query.where(jobs.c.owner == owner)
        with self._engine.connect() as connection:
            found = {row[0]: row[1] for row in connection.execute(query)}
        return {state.value: int(found.get(state.value, 0)) for state in JobState}

    def ahead_of(self, job: Job) -> int:
        """How many queued jobs start before this one."""
        order = [p.value for p in Priority]
        higher = order[: order.index(job.priority)]
        earlier = (jobs.c.priority == job.priority) & (jobs.c.created_at < job.created_at)
        query = sa.select(sa.func.count()).where(
            jobs.c.state == JobState.QUEUED, jobs.c.priority.in_(higher) | earlier
        )
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def waiting(self) -> dict[str, tuple[int, float]]:
        """For each priority with queued jobs: how many, and since when the first."""
        query = (
            sa.select(jobs.c.priority, sa.func.count(), sa.func.min(jobs.c.created_at))
            .where(jobs.c.state == JobState.QUEUED)
            .group_by(jobs.c.priority)
        )
        with self._engine.connect() as connection:
            return {row[0]: (row[1], row[2]) for row in connection.execute(query)}

    def running(self) -> int:
        """How many jobs workers are at."""
        query = sa.select(sa.func.count()).where(jobs.c.state.in_(_STARTED))
        with self._engine.connect() as connection:
            return int(connection.execute(query).scalar_one())

    def mean_seconds(self) -> float:
        """How long the last finished jobs ran; 60 before any has."""
        recent = (
            sa.select((jobs.c.finished_at - jobs.c.started_at).label("seconds"))
            .where(jobs.c.state == JobState.SUCCEEDED)
            .order_by(jobs.c.finished_at.desc())
            .limit(20)
            .subquery()
        )
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(sa.func.avg(recent.c.seconds))).scalar()
        return float(found) if found else 60.0

    def uses_output(self, output: str) -> bool:
        """Whether a job is left whose products lie there."""
        query = sa.select(sa.func.count()).where(jobs.c.output == output)
        with self._engine.connect() as connection:
            return bool(connection.execute(query).scalar_one())

    def uses_scan(self, scan_id: str) -> bool:
        """Whether an unfinished job needs the scan."""
        query = sa.select(sa.func.count()).where(
            jobs.c.scan_id == scan_id, jobs.c.state.in_(ACTIVE)
        )
        with self._engine.connect() as connection:
            return bool(connection.execute(query).scalar_one())

    def claim(self, job_id: str, worker: str) -> Job | None:
        """Mark as running on a worker; None when there is nothing left to do."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state.in_(ACTIVE))
                .values(
                    state=sa.case(
                        (jobs.c.state == JobState.QUEUED, JobState.RUNNING.value),
                        else_=jobs.c.state,
                    ),
                    worker=worker,
                    attempt=jobs.c.attempt + 1,
                    started_at=sa.func.coalesce(jobs.c.started_at, time.time()),
                    revision=jobs.c.revision + 1,
                )
            ).rowcount
            if not changed:
                return None
            job = _one(connection, jobs.c.id == job_id)
            assert job is not None
            _record(
                connection,
                job_id,
                "state",
                {"state": job.state, "attempt": job.attempt, "worker": worker},
            )
            return job

    def report(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        """Record an event of a running job; `progress` is also kept in its row."""
        with self._engine.begin() as connection:
            if kind == "progress":
                changed = connection.execute(
                    sa.update(jobs)
                    .where(jobs.c.id == job_id, jobs.c.state.in_(_STARTED))
                    .values(progress=data, revision=jobs.c.revision + 1)
                ).rowcount
                if not changed:
                    return
            _record(connection, job_id, kind, data)

    def plan(self, job_id: str, plan: dict[str, Any]) -> None:
        """Keep what a deadline or target was turned into."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state.in_(_STARTED))
                .values(plan=plan, revision=jobs.c.revision + 1)
            )

    def state(self, job_id: str) -> JobState | None:
        """The state alone, cheaply; None when the job is gone."""
        with self._engine.connect() as connection:
            found = connection.execute(sa.select(jobs.c.state).where(jobs.c.id == job_id)).scalar()
        return None if found is None else JobState(found)

    def finish(
        self,
        job_id: str,
        state: JobState,
        *,
        error: dict[str, Any] | None = None,
        results: list[dict[str, Any]] | None = None,
        summary: dict[str, Any] | None = None,
    ) -> bool:
        """End a started job once; False when it had ended already."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state.in_(ACTIVE))
                .values(
                    state=state,
                    error=error,
                    results=results,
                    summary=summary,
                    finished_at=time.time(),
                    revision=jobs.c.revision + 1,
                )
            ).rowcount
            if changed:
                _end(connection, job_id, state, error)
        return bool(changed)

    @property
    def engine(self) -> sa.Engine:
        """The database that the jobs are in."""
        return self._engine

    def cancel(self, job_id: str) -> Job | None:
        """A queued job is cancelled at once, a running one when its worker sees it."""
        with self._engine.begin() as connection:
            ended = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
                .values(
                    state=JobState.CANCELLED,
                    finished_at=time.time(),
                    revision=jobs.c.revision + 1,
                )
            ).rowcount
            if ended:
                _end(connection, job_id, JobState.CANCELLED, None)
            elif connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.RUNNING)
                .values(state=JobState.CANCELLING, revision=jobs.c.revision + 1)
            ).rowcount:
                _record(connection, job_id, "state", {"state": JobState.CANCELLING})
            return _one(connection, jobs.c.id == job_id)

    def delete(self, job_id: str) -> bool:
        """Forget a finished job and its events; False when it has not finished."""
        with self._engine.begin() as connection:
            gone = connection.execute(
                sa.delete(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(_TERMINAL))
            ).rowcount
            if gone:
                connection.execute(sa.delete(events).where(events.c.job_id == job_id))
        return bool(gone)

    def events_of(self, job_id: str, after: int = 0, limit: int = 1000) -> list[Event]:
        """Events of one job in order."""
        query = sa.select(events).where(events.c.job_id == job_id, events.c.id > after)
        with self._engine.connect() as connection:
            rows = connection.execute(query.order_by(events.c.id).limit(limit))
            return [Event(row.id, row.job_id, row.type, row.data) for row in rows]

    def events_after(self, event_id: int, limit: int = 2000) -> list[Event]:
        """Events of all jobs in order."""
        query = sa.select(events).where(events.c.id > event_id).order_by(events.c.id).limit(limit)
        with self._engine.connect() as connection:
            rows = connection.execute(query)
            return [Event(row.id, row.job_id, row.type, row.data) for row in rows]

    def last_event(self) -> int:
        """The highest event id given so far."""
        with self._engine.connect() as connection:
            return int(connection.execute(sa.select(sa.func.max(events.c.id))).scalar() or 0)


def _record(connection: sa.Connection, job_id: str, kind: str, data: dict[str, Any]) -> None:
    connection.execute(sa.insert(events).values(job_id=job_id, type=kind, data=data))


def _end(
    connection: sa.Connection, job_id: str, state: JobState, error: dict[str, Any] | None
) -> None:
    # An hour of progress is of no use once it is over, and would be thousands of rows.
    connection.execute(
        sa.delete(events).where(events.c.job_id == job_id, events.c.type == "progress")
    )
    _record(connection, job_id, "state", {"state": state})
    _record(connection, job_id, "end", {"state": state, "error": error})


def _one(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Job | None:
    row = connection.execute(sa.select(jobs).where(where).order_by(jobs.c.id)).first()
    return None if row is None else _job(row)


def _job(row: sa.Row[Any]) -> Job:
    return job_of_row(dict(row._mapping))


def job_of_row(values: dict[str, Any]) -> Job:
    """A job from the columns of its row, by name."""
    return Job(**values | {"state": JobState(values["state"])})


def record_ends(connection: sa.Connection, job_ids: Sequence[str], state: JobState) -> None:
    """Record in the caller's transaction that queued jobs have ended."""
    for kind, data in (("state", {"state": state}), ("end", {"state": state, "error": None})):
        rows = [{"job_id": job_id, "type": kind, "data": data} for job_id in job_ids]
        if rows:
            connection.execute(sa.insert(events), rows)
