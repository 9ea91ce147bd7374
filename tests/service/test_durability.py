"""Processes are killed; jobs are not lost, not doubled, and not begun again from nothing."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.client import Client
from tests.service.ledgers import LONG, SETTINGS, happened, ledger, recorded
from tests.service.live import (
    ROOT,
    Server,
    ended,
    environment,
    serving,
    submitted,
    tiny_scan,
    wait_for,
)

pytestmark = pytest.mark.slow  # whole servers started and killed: `make proofs`


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("durable"), models, **SETTINGS) as server:
        yield server


@pytest.fixture
def durable_client(durable: Server) -> Iterator[httpx.Client]:
    with durable.client() as client:
        yield client


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six slices."""
    return tiny_scan(tmp_path_factory.mktemp("stack") / "scan.h5", slices=6)


def workflow_status(server: Server, job: dict[str, Any]) -> str:
    """An ended job is an outcome of its workflow; a workflow in error would be a bug of ours."""
    with sqlite3.connect(server.data / "service.sqlite") as connection:
        query = "SELECT status FROM workflow_status WHERE workflow_uuid = ?"
        (status,) = connection.execute(query, (job["id"],)).fetchone()
    return str(status)


def assert_no_step_ran_after_it_was_recorded(server: Server, job: dict[str, Any]) -> None:
    slices = [when for name, when in recorded(server, job) if name == "slice"]
    for index, when in enumerate(slices):
        starts = [
            e["at"]
            for e in ledger(server, job)
            if e["step"] == f"slice {index}" and e["what"] == "started"
        ]
        assert starts
        assert max(starts) <= when


def test_a_killed_worker_loses_at_most_the_slice_it_was_at(
    durable: Server, durable_client: httpx.Client, stack: Path
) -> None:
    undisturbed = ended(durable_client, submitted(durable_client, stack, seed=3))
    job = submitted(durable_client, stack, seed=3)
    wait_for(lambda: happened(durable, job, "slice 2", "started"))
    durable.kill("worker-0")
    done = ended(durable_client, job)
    assert (done["state"], done["attempt"]) == ("succeeded", 1)
    finished = [e["step"] for e in ledger(durable, job) if e["what"] == "finished"]
    assert [step for step in finished if step in ("slice 0", "slice 1")] == ["slice 0", "slice 1"]
    assert_no_step_ran_after_it_was_recorded(durable, job)
    both = [
        durable_client.get(each["links"]["results"] + "/samples.npy").content
        for each in (undisturbed, done)
    ]
    assert both[0] == both[1]


def test_clients_do_not_notice_that_the_api_was_killed(
    durable: Server, durable_client: httpx.Client, stack: Path
) -> None:
    job = submitted(durable_client, stack)
    with Client(durable.url) as client:
        kinds = []
        for event in client.events(job["id"]):
            kinds.append(event.type)
            if kinds.count("slice") == 2 and event.type == "slice":
                durable.kill("api")
        assert client.get(job["id"]).state == "succeeded"
    assert kinds.count("slice") == 6
    assert kinds[-1] == "end"


def test_a_running_job_is_cancelled_within_a_step_of_the_sampler(
    durable: Server, durable_client: httpx.Client, stack: Path
) -> None:
    job = submitted(durable_client, stack, **LONG)
    wait_for(lambda: happened(durable, job, "slice 0", "started"))
    before = time.monotonic()
    durable_client.post(job["links"]["cancel"])
    done = ended(durable_client, job)
    assert done["state"] == "cancelled"
    assert time.monotonic() - before < 3
    assert not happened(durable, job, "slice 0", "finished")
    wait_for(lambda: workflow_status(durable, job) == "SUCCESS")
    follower = ended(durable_client, submitted(durable_client, stack, slices="0"))
    assert follower["state"] == "succeeded"
    again = durable_client.post(job["links"]["cancel"])
    assert again.json()["state"] == "cancelled"


def test_scanner_jobs_start_before_interactive_ones_and_those_before_archives(
    durable_client: httpx.Client, stack: Path
) -> None:
    blocker = submitted(durable_client, stack, **LONG)
    order = ("archive", "interactive", "archive", "scanner")
    jobs = [submitted(durable_client, stack, slices="0", priority=p) for p in order]
    waiting = durable_client.get(jobs[3]["links"]["self"]).json()
    assert waiting["queue_position"] == 0
    durable_client.post(blocker["links"]["cancel"])
    done = [ended(durable_client, job) for job in jobs]
    started = sorted(done, key=lambda job: job["started_at"])
    assert [job["id"] for job in started] == [jobs[k]["id"] for k in (3, 1, 0, 2)]


def test_a_slice_that_keeps_killing_its_worker_fails_the_job(
    durable: Server, durable_client: httpx.Client, stack: Path
) -> None:
    job = submitted(durable_client, stack, **LONG)
    for count in (1, 2):
        wait_for(
            lambda count=count: (
                [(e["step"], e["what"]) for e in ledger(durable, job)].count(("slice 0", "started"))
                == count
            )
        )
        durable.kill("worker-0")
    done = ended(durable_client, job)
    assert done["state"] == "failed"
    assert done["error"]["type"] == "/problems/worker-lost"
    assert done["error"]["step"] == "slice 0"
    wait_for(lambda: workflow_status(durable, job) == "SUCCESS")


def test_jobs_of_a_worker_that_is_gone_for_good_are_taken_over(
    durable: Server, durable_client: httpx.Client, models: Path, stack: Path
) -> None:
    blocker = submitted(durable_client, stack, **LONG)
    wait_for(lambda: happened(durable, blocker, "slice 0", "started"))
    other = subprocess.Popen(
        [sys.executable, "-m", "service.worker.process", "7"],
        env=environment(models, data=durable.data, **SETTINGS),
        cwd=ROOT,
        stderr=subprocess.DEVNULL,
    )
    try:
        job = submitted(durable_client, stack)
        wait_for(lambda: happened(durable, job, "slice 1", "started"))
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
    durable_client.post(blocker["links"]["cancel"])
    done = ended(durable_client, job)
    assert done["state"] == "succeeded"
    workers = {e["step"]: e["worker"] for e in ledger(durable, job) if e["what"] == "finished"}
    assert workers["slice 0"].endswith("-7")
    assert workers["slice 5"].endswith("-0")
    assert_no_step_ran_after_it_was_recorded(durable, job)


def test_a_server_that_is_told_to_stop_goes_on_where_it_was(
    tmp_path: Path, models: Path, stack: Path
) -> None:
    with serving(tmp_path, models, grace_seconds=20) as server, server.client() as client:
        job = submitted(client, stack)
        wait_for(lambda: happened(server, job, "slice 1", "started"))
        before = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - before < 20
    assert happened(server, job, "slice 1", "finished")
    assert not happened(server, job, "slice 5", "started")
    with serving(tmp_path, models) as server, server.client() as client:
        done = ended(client, job)
        assert done["state"] == "succeeded"
        starts = [e["step"] for e in ledger(server, job) if e["what"] == "started"]
        assert sorted(starts) == sorted(set(starts))


def test_a_request_that_was_answered_survives_everything(
    tmp_path: Path, models: Path, scan: Path
) -> None:
    with serving(tmp_path, models) as server, server.client() as client:
        jobs = [submitted(client, scan, seed=seed) for seed in range(3)]
        for pid in (server.process.pid, server.pid("api"), server.pid("worker-0")):
            os.kill(pid, signal.SIGKILL)
        server.process.wait()
    with serving(tmp_path, models) as server, server.client() as client:
        assert [ended(client, job)["state"] for job in jobs] == ["succeeded"] * 3
