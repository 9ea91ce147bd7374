"""The table of workers: who lives, what they offer, and who has fallen silent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from service.jobs.processes import steady_seconds
from service.offers import Offers
from service.problems import ProblemError
from service.store.database import add_to_total, jobs, workers


@dataclass(frozen=True)
class Worker:
    """One row; times are seconds since the epoch."""

    id: str
    device: str
    pid: int
    started_at: float
    heartbeat_at: float
    starts: int
    offers: Offers
    """Models, presets and versions of the process."""
    load: dict[str, Any] | None = None
    """What it is doing, as of its last beat."""

    @property
    def unheard_seconds(self) -> float:
        """How long ago its last beat was, as far as the date tells.

        One that seems to be of the future was before somebody set the clock back.
        """
        return abs(time.time() - self.heartbeat_at)


class Workers:
    """Reads and writes of the worker table."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def enter(self, worker: str, device: str, pid: int, offers: Offers) -> None:
        """Say that a process has started under this name."""
        now = time.time()
        values = {
            "device": device,
            "pid": pid,
            "started_at": now,
            "heartbeat_at": now,
            "offers": offers.model_dump(mode="json"),
        }
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(workers)
                .where(workers.c.id == worker)
                .values(starts=workers.c.starts + 1, **values)
            ).rowcount
            if changed:
                add_to_total(connection, "restarts", device.partition(":")[0])
            else:
                connection.execute(sa.insert(workers).values(id=worker, starts=1, **values))

    def beat(self, worker: str, load: dict[str, Any] | None = None) -> bool:
        """Say that it lives; False when another has taken its jobs over."""
        with self._engine.begin() as connection:
            changed = connection.execute(
                sa.update(workers)
                .where(workers.c.id == worker)
                .values(heartbeat_at=time.time(), load=load)
            ).rowcount
        return bool(changed)

    def leave(self, worker: str) -> None:
        """Say that it stops on purpose; its name keeps its jobs until it is silent too long."""
        with self._engine.begin() as connection:
            connection.execute(sa.update(workers).where(workers.c.id == worker).values(pid=0))

    def living(self, seconds: float) -> list[Worker]:
        """Those heard of within the last seconds."""
        return [one for one in self.all() if one.pid and one.unheard_seconds < seconds]

    def all(self) -> list[Worker]:
        """Every worker that is known."""
        with self._engine.connect() as connection:
            return [_worker(row) for row in connection.execute(sa.select(workers))]

    def offers(self) -> Offers:
        """What all known workers offer together. Raises ProblemError before any has started."""
        known = self.all()
        if not known:
            raise ProblemError(
                "not-ready", "no worker has started yet; try again", headers={"Retry-After": "2"}
            )
        models = {model.id: model for worker in known for model in worker.offers.models}
        together = tuple(models[name] for name in sorted(models))
        return known[0].offers.model_copy(update={"models": together})

    def done(self, seconds: float) -> dict[str, int]:
        """How many jobs each worker ended within the last seconds."""
        query = (
            sa.select(jobs.c.worker, sa.func.count())
            .where(jobs.c.finished_at > time.time() - seconds, jobs.c.worker.is_not(None))
            .group_by(jobs.c.worker)
        )
        with self._engine.connect() as connection:
            return {row[0]: int(row[1]) for row in connection.execute(query)}

    def beats(self, but: str) -> dict[str, float]:
        """The last beat of every other worker that is known."""
        query = sa.select(workers.c.id, workers.c.heartbeat_at).where(workers.c.id != but)
        with self._engine.connect() as connection:
            return {row.id: row.heartbeat_at for row in connection.execute(query)}

    def remove(self, worker: str, beat: float) -> None:
        """Strike one out, unless it was heard of after this beat."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.delete(workers).where(workers.c.id == worker, workers.c.heartbeat_at == beat)
            )


class Silence:
    """How long workers say nothing new, by the clock of the one that listens.

    What their beats say of the date counts for nothing: clocks of hosts differ, and are set.
    """

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, float]] = {}

    def longer_than(self, seconds: float, beats: Mapping[str, float]) -> dict[str, float]:
        """Of all `beats` as they are now, those that were the same for so long; ask it often."""
        now, before = steady_seconds(), self._heard
        self._heard = {
            worker: before[worker] if before.get(worker, (None,))[0] == beat else (beat, now)
            for worker, beat in beats.items()
        }
        return {
            worker: beat for worker, (beat, since) in self._heard.items() if now - since > seconds
        }


def _worker(row: sa.Row[Any]) -> Worker:
    values = dict(row._mapping)
    return Worker(**values | {"offers": Offers.model_validate(values["offers"])})
