"""A clock that is set back or on, by an hour, loses nothing and kills nobody."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from service.http.context import Context
from service.jobs.job import JobState
from service.jobs.workers import Silence
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5, answers, ended, serving, submitted, tiny_scan, wait_for
from tests.service.movable_clock import COMPILER, MovableClock
from tests.service.tus import begun, part

MOMENT = np.timedelta64(1, "m")


def runs(client: httpx.Client, job: dict[str, Any]) -> bool:
    return bool(client.get(f"/v1/reconstructions/{job['id']}").json()["state"] == "running")


@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no C compiler: apt-get install gcc")
def test_a_clock_that_is_set_loses_nothing(tmp_path: Path, models: Path) -> None:
    clock = MovableClock(tmp_path)
    scan = tiny_scan(tmp_path / "scan.h5", slices=2)
    long = tiny_scan(tmp_path / "long.h5", slices=3, size=48)
    settings = {"worker_lost_seconds": 8, "workers": 2, "housekeeping_seconds": 2}
    with (
        serving(tmp_path / "data", models, variables=clock.environment, **settings) as server,
        server.client() as client,
    ):
        content = tiny_scan(tmp_path / "sent.h5", seed=5).read_bytes()
        upload = begun(client, len(content))
        work = {"preset": "thorough", "samples": 4}
        jobs: list[dict[str, Any]] = []
        for hours in (-1, 0, 1, 0):
            running = submitted(client, long, seed=len(jobs), **work)
            wait_for(partial(runs, client, running))
            clock.set(3600 * hours)
            time.sleep(3)  # heartbeats and housekeeping go by the new time
            wait_for(lambda: answers(server, "/readyz"))
            quick = submitted(client, scan, seed=len(jobs))
            now = np.datetime64(time.time_ns(), "ns") + np.timedelta64(hours, "h")
            assert abs(np.datetime64(quick["created_at"].rstrip("Z")) - now) < MOMENT
            ended(client, quick)
            jobs += [running, quick]
        done = [ended(client, job) for job in jobs]
        assert not [job["error"] for job in done if job["state"] != "succeeded"]
        assert {job["attempt"] for job in done} == {1}
        assert all(job["created_at"] <= job["started_at"] <= job["finished_at"] for job in done)
        assert not {"taking over", "jobs were taken over", "ended"} & {
            line.get("event") for line in server.log
        }
        last = client.patch(upload, content=content, headers=part(0, content))
        assert last.status_code == 204, last.text


def test_silence_is_told_by_a_clock_that_nobody_sets(
    make: Callable[..., Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, true = make(), time.time
    workers, silence, steady = context.workers, Silence(), iter((0.0, 6.0, 12.0, 18.0, 24.0))
    monkeypatch.setattr("service.jobs.workers.steady_seconds", lambda: next(steady))
    for worker in ("one", "two"):
        workers.enter(worker, "cpu", 1, OFFERS)
    assert workers.beats(but="two").keys() == {"one"}
    said = []
    for hours in (0, -1, 1, 1, 1):
        monkeypatch.setattr(time, "time", lambda hours=hours: true() + 3600 * hours)
        workers.beat("one")  # the other has died
        assert [one.id for one in workers.living(30)] == ["one", "two"][: 2 if not hours else 1]
        said.append(list(silence.longer_than(10, workers.beats(but="none"))))
    assert said == [[], [], ["two"], ["two"], ["two"]]
    silent = workers.beats(but="one")
    workers.beat("two")
    workers.remove("two", silent["two"])  # it was heard of since
    assert workers.beats(but="one").keys() == {"two"}
    workers.remove("two", workers.beats(but="one")["two"])
    assert workers.beats(but="one") == {}


def test_nothing_ends_before_it_began_when_the_clock_is_set_back(
    make: Callable[..., Context], scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, true = make(), time.time
    context.workers.enter("one", "cpu", 1, OFFERS)
    upload = {"content": scan.read_bytes(), "headers": HDF5}
    first, second = (
        ask(context, "POST", f"/v1/reconstructions?seed={n}", **upload).json()["id"] for n in "12"
    )
    monkeypatch.setattr(time, "time", lambda: true() - 3600)
    context.jobs.claim(first, "one")
    context.jobs.finish(first, JobState.FAILED)
    context.jobs.cancel(second)
    ended = [context.jobs.get(job) for job in (first, second)]
    assert [(job.started_at, job.finished_at) for job in ended if job] == [
        (job.created_at if job.id == first else None, job.created_at) for job in ended if job
    ]
    assert [job.age_seconds for job in ended if job] == [0, 0]
    assert context.jobs.mean_seconds() >= 0
    context.jobs.cancel(second)
