"""Workers that live and do nothing: noticed, killed, and their jobs gone on with."""

from __future__ import annotations

import json
import signal
import sys
import time
from os import kill
from pathlib import Path

import pytest

from service.jobs.processes import moved_at, note_moved, worker_lock
from service.jobs.supervisor import _Child
from tests.service.ledgers import LONG, SETTINGS, happened, ledger
from tests.service.live import ended, environment, serving, submitted, tiny_scan, wait_for

STUCK = 20.0
"""Seconds; a worker needs some to start, on a machine that does other things too."""
HANGS = """
import time
from service.worker import process, steps

def hang(*_):
    yield time.sleep(3600)

steps.reconstruct = hang
process.main()
"""


def test_a_child_is_killed_when_it_says_nothing_and_not_before(tmp_path: Path) -> None:
    lock = worker_lock(tmp_path, 0)
    lock.parent.mkdir()
    lock.touch()
    child = _Child("worker-0", [sys.executable, "-c", "import time; time.sleep(60)"], lock=lock)
    child.look({}, 0.5)
    assert child.process is not None
    pid = child.process.pid
    for _ in range(8):
        note_moved(lock, time.monotonic())
        assert moved_at(lock) == pytest.approx(time.monotonic(), abs=0.2)
        child.look({}, 0.5)
        time.sleep(0.1)
    assert child.process.pid == pid
    assert child.process.poll() is None
    time.sleep(0.6)
    child.look({}, 0)  # never
    assert child.process.poll() is None
    child.look({}, 0.5)
    assert child.process.poll() == -signal.SIGKILL


@pytest.mark.slow
def test_a_worker_that_stands_still_again_and_again_costs_the_job(
    tmp_path: Path, models: Path
) -> None:
    scan = tiny_scan(tmp_path / "scan.h5", slices=2)
    settings = SETTINGS | {"stuck_seconds": STUCK}
    with serving(tmp_path / "data", models, **settings) as server, server.client() as client:
        job = submitted(client, scan, **LONG)
        for count in (1, 2):
            wait_for(
                lambda count=count: (
                    [e["what"] for e in ledger(server, job) if e["step"] == "slice 0"]
                    == ["started"] * count
                ),
                120,
            )
            stopped = server.pid("worker-0")
            kill(stopped, signal.SIGSTOP)
            wait_for(lambda stopped=stopped: server.pid("worker-0") != stopped, 120)
        done = ended(client, job)
        assert (done["state"], done["error"]["type"]) == ("failed", "/problems/worker-lost")
        assert sum(line.get("event") == "stuck" for line in server.log) == 2
        log = client.get(job["links"]["logs"]).text.splitlines()
        lost = [line["step"] for line in map(json.loads, log) if line.get("after_loss")]
        assert lost == ["slice 0"]
        assert ended(client, submitted(client, scan, slices="0"))["state"] == "succeeded"


@pytest.mark.slow
def test_a_step_in_which_nothing_moves_is_noticed_though_its_worker_says_that_it_lives(
    tmp_path: Path, models: Path
) -> None:
    scan = tiny_scan(tmp_path / "scan.h5", slices=2)
    settings = SETTINGS | {"worker_lost_seconds": 8}
    with serving(tmp_path / "data", models, **settings) as server, server.client() as client:
        blocker = submitted(client, scan, **LONG)
        wait_for(lambda: happened(server, blocker, "slice 0", "started"))
        lock = worker_lock(server.data, 7)
        child = _Child("worker-7", [sys.executable, "-c", HANGS, "7"], lock=lock)
        child.start(environment(models, data=server.data, **settings))
        assert child.process is not None
        try:
            job = submitted(client, scan)
            wait_for(lambda: happened(server, job, "slice 0", "started"), 120)
            began = time.monotonic()
            while child.process.poll() is None and time.monotonic() - began < 120:
                assert client.get("/v1/info").json()["workers"] == 2  # it beats all the time
                child.look({}, 3.0)
                time.sleep(0.2)
            assert child.process.poll() == -signal.SIGKILL
            assert time.monotonic() - began < 30
        finally:
            child.process.kill()
            child.process.wait()
        client.post(blocker["links"]["cancel"])
        done = ended(client, job)
        assert done["state"] == "succeeded"
        finished = [e for e in ledger(server, job) if e["what"] == "finished"]
        where = {e["step"]: e["worker"][-2:] for e in finished}
        assert where == {"prepare": "-7", "slice 0": "-0", "slice 1": "-0", "assemble": "-0"}
