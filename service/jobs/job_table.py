"""Jobs and their events: the one record of what was asked, how far it is, and how it ended.

queued → running → succeeded | failed | cancelled, with `cancelling` between running and
cancelled. A terminal state never changes: every update names the states it may leave.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from service.jobs.history import forget, forget_passing, record
from service.jobs.job import ACTIVE, STARTED, TERMINAL, Job, JobState, job_of_row
from service.jobs.totals import EndedJob, count_end
from service.problems import Problem
from service.report import Plan, ProductFile, Report
from service.requests import Priority
from service.store.database import hold, jobs, now_after, scans


class Jobs:
    """All reads and writes of the job table; every method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(
        self,
        values: dict[str, Any],
        admit: Callable[[int, int], None],
        enqueue: Callable[[sa.Connection, str], None],
        also: Callable[[sa.Connection, Job], None] | None = None,
    ) -> Job | None:
        """Insert a queued job; None when its scan has been deleted meanwhile.

        `admit` is told how many jobs wait in all and how many of the owner's have not ended, and
        may raise; `enqueue` and `also` write in the same transaction.
        """
        row = {"created_at": time.time(), "state": JobState.QUEUED, "revision": 0, "attempt": 0}
        with self._engine.begin() as connection:
            hold(connection, "scans")  # neither is the scan deleted nor the queue filled meanwhile
            known = sa.select(scans.c.id).where(scans.c.id == values["scan_id"])
            if connection.execute(known).first() is None:
                return None
            admit(*_unfinished(connection, values["owner"]))
            connection.execute(sa.insert(jobs).values(**row | values))
            job = _one(connection, jobs.c.id == values["id"])
            assert job is not None
            record(connection, job.id, "state", {"state": JobState.QUEUED})
            enqueue(connection, job.id)
            if also is not None:
                also(connection, job)
        return job

    def create_ended(
        self,
        values: dict[str, Any],
        error: Problem,
        also: Callable[[sa.Connection, Job], None],
    ) -> Job:
        """Insert a job that is cancelled from the start; it can be tried again like any other."""
        now = time.time()
        row = {"created_at": now, "finished_at": now, "revision": 0, "attempt": 0, "error": error}
        with self._engine.begin() as connection:
            connection.execute(
                sa.insert(jobs).values(**row | {"state": JobState.CANCELLED} | values)
            )
            job = _one(connection, jobs.c.id == values["id"])
            assert job is not None
            _end(connection, job.id)
            also(connection, job)
        return job

    def latest_retry(self, job: Job) -> Job:
        """What became of a job that was tried again, again and again; else the job itself."""
        with self._engine.connect() as connection:
            query = sa.select(jobs).where(jobs.c.predecessor == job.id).order_by(jobs.c.id.desc())
            row = connection.execute(query.limit(1)).first()
        return job if row is None else self.latest_retry(_job(row))

    def unfinished(self, owner: str) -> tuple[int, int]:
        """How many jobs wait in all, and how many of an owner's have not ended."""
        with self._engine.connect() as connection:
            return _unfinished(connection, owner)

    def change(
        self,
        job: Job,
        request: dict[str, Any],
        priority: Priority,
        requeue: Callable[[sa.Connection, str, Priority], None],
    ) -> Job | None:
        """Other tags or another priority; None when the job is no longer as the caller saw it."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job.id, jobs.c.revision == job.revision)
                .values(request=request, priority=priority, revision=jobs.c.revision + 1)
            ).rowcount
            if not changed:
                return None
            requeue(connection, job.id, priority)
            return _one(connection, jobs.c.id == job.id)

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
        tags: Mapping[str, str] | None = None,
        since: float | None = None,
        before: str | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Newest first; `before` is the last id of the page before.

        Times are shown to the microsecond, rounded; a job is found from the time shown for it on.
        """
        query = sa.select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        for name, value in (tags or {}).items():
            query = query.where(jobs.c.request["tags"][name].as_string() == value)
        if since is not None:
            query = query.where(jobs.c.created_at >= since - 1e-6)
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

    def ids(self) -> set[str]:
        """Of all jobs."""
        with self._engine.connect() as connection:
            return set(connection.execute(sa.select(jobs.c.id)).scalars())

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
        query = sa.select(sa.func.count()).where(jobs.c.state.in_(STARTED))
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
                    started_at=sa.func.coalesce(jobs.c.started_at, now_after(jobs.c.created_at)),
                    revision=jobs.c.revision + 1,
                )
            ).rowcount
            if not changed:
                return None
            job = _one(connection, jobs.c.id == job_id)
            assert job is not None
            record(
                connection,
                job_id,
                "state",
                {"state": job.state, "attempt": job.attempt, "worker": worker},
            )
            return job

    def report(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        """Record an event of a running job; `progress` is also kept in its row."""
        values: dict[str, Any] = {"revision": jobs.c.revision + 1}
        if kind == "progress":
            values["progress"] = data
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state.in_(STARTED))
                .values(**values)
            ).rowcount
            if changed:
                record(connection, job_id, kind, data)

    def plan(self, job_id: str, plan: Plan) -> None:
        """Keep what a deadline or target was turned into."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state.in_(STARTED))
                .values(plan=plan.model_dump(), revision=jobs.c.revision + 1)
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
        error: Problem | None = None,
        results: Sequence[ProductFile] | None = None,
        summary: Report | None = None,
    ) -> bool:
        """End a started job once; False when it had ended already."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state.in_(ACTIVE))
                .values(
                    state=state,
                    error=error,
                    results=None if results is None else [file.model_dump() for file in results],
                    summary=None if summary is None else summary.model_dump(mode="json"),
                    finished_at=now_after(jobs.c.started_at, jobs.c.created_at),
                    revision=jobs.c.revision + 1,
                )
            ).rowcount
            if changed:
                _end(connection, job_id)
        return bool(changed)

    @property
    def engine(self) -> sa.Engine:
        """The database that the jobs are in."""
        return self._engine

    def expirable(self, seconds: float) -> list[str]:
        """Jobs whose results `expire` would forget."""
        with self._engine.connect() as connection:
            return list(
                connection.execute(sa.select(jobs.c.id).where(_ended_before(seconds))).scalars()
            )

    def expire(self, seconds: float) -> list[str]:
        """Forget the results of jobs that ended so long ago; returns whose files may go."""
        with self._engine.begin() as connection:
            found = connection.execute(
                sa.update(jobs)
                .where(_ended_before(seconds))
                .values(results=sa.null(), revision=jobs.c.revision + 1)
                .returning(jobs.c.id)
            )
            return [row.id for row in found]

    def cancel(self, job_id: str) -> Job | None:
        """A queued job is cancelled at once, a running one when its worker sees it."""
        with self._engine.begin() as connection:
            ended = connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
                .values(
                    state=JobState.CANCELLED,
                    finished_at=now_after(jobs.c.started_at, jobs.c.created_at),
                    revision=jobs.c.revision + 1,
                )
            ).rowcount
            if ended:
                _end(connection, job_id)
            elif connection.execute(
                sa.update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.RUNNING)
                .values(state=JobState.CANCELLING, revision=jobs.c.revision + 1)
            ).rowcount:
                record(connection, job_id, "state", {"state": JobState.CANCELLING})
            return _one(connection, jobs.c.id == job_id)

    def delete(self, job_id: str) -> bool:
        """Forget a finished job and its events; False when it has not finished."""
        with self._engine.begin() as connection:
            gone = connection.execute(
                sa.delete(jobs).where(jobs.c.id == job_id, jobs.c.state.in_(TERMINAL))
            ).rowcount
            if gone:
                forget(connection, job_id)
        return bool(gone)


def _ended_before(seconds: float) -> sa.ColumnElement[bool]:
    return sa.and_(
        jobs.c.state == JobState.SUCCEEDED,
        jobs.c.output.is_(None),  # an archive's products stay
        jobs.c.finished_at < time.time() - seconds,
        jobs.c.results.is_not(None),
    )


def _end(connection: sa.Connection, job_id: str) -> None:
    """What follows in the transaction that has ended a job."""
    job = _one(connection, jobs.c.id == job_id)
    assert job is not None
    forget_passing(connection, job_id, "progress", "preview")
    record(connection, job_id, "state", {"state": job.state})
    record(connection, job_id, "end", {"state": job.state, "error": job.error})
    count_end(connection, job.state, _facts(job))


def _facts(job: Job) -> EndedJob:
    assert job.finished_at is not None
    started = job.started_at or job.finished_at
    return EndedJob(
        preset=job.plan.preset if job.plan else job.request.get("preset") or "standard",
        waited=started - job.created_at,
        ran=job.finished_at - started,
        samples=0 if job.summary is None else job.summary.samples * len(job.summary.slices),
    )


def _unfinished(connection: sa.Connection, owner: str) -> tuple[int, int]:
    waiting = sa.func.sum(sa.case((jobs.c.state == JobState.QUEUED, 1), else_=0))
    own = sa.func.sum(sa.case((jobs.c.owner == owner, 1), else_=0))
    # Archives queue as much as they like; they wait for everybody else.
    counted = jobs.c.state.in_(ACTIVE) & jobs.c.output.is_(None)
    row = connection.execute(sa.select(waiting, own).where(counted)).one()
    return int(row[0] or 0), int(row[1] or 0)


def _one(connection: sa.Connection, where: sa.ColumnElement[bool]) -> Job | None:
    row = connection.execute(sa.select(jobs).where(where).order_by(jobs.c.id)).first()
    return None if row is None else _job(row)


def _job(row: sa.Row[Any]) -> Job:
    return job_of_row(dict(row._mapping))


def record_ends(connection: sa.Connection, job_ids: Sequence[str]) -> None:
    """Record in the transaction that has ended them that queued jobs have ended."""
    for job_id in job_ids:
        _end(connection, job_id)
