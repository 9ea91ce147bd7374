"""A hundred jobs while processes are killed at random moments.

`MRI_POSTERIOR_CHAOS=20` in the environment makes it twenty, with as many kills for each.
"""

from __future__ import annotations

import json
import os
import random
import sqlite3
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from recon.io.files import read_result
from tests.recon.scan_files import assert_same
from tests.service.ledgers import ledger, recorded
from tests.service.live import (
    QUICK,
    Server,
    cli,
    ended,
    environment,
    note,
    serving,
    tiny_scan,
    wait_for,
)

JOBS = int(os.environ.get("MRI_POSTERIOR_CHAOS", "100"))
WORKER_KILLS, API_KILLS = JOBS // 5, JOBS // 20
SUPERVISOR_KILLS = STOPS = max(1, JOBS // 50)
STUCK_SECONDS = 20


@pytest.mark.slow
def test_every_job_ends_succeeded_once(tmp_path: Path, models: Path) -> None:
    scan = tiny_scan(tmp_path / "scan.h5", slices=2)
    rng = random.Random(0)
    limits = {
        "max_attempts": 30,  # of one slice without success; a slow machine may need them
        "max_active_per_key": 1000,
        "stuck_seconds": STUCK_SECONDS,
    }
    with serving(tmp_path / "data", models, **limits) as server:
        transport = httpx.HTTPTransport(retries=5)
        with httpx.Client(base_url=server.url, timeout=120, transport=transport) as client:
            scan_id = client.post("/v1/scans", content=scan.read_bytes()).json()["id"]
            ids: dict[int, str] = {}

            def submit() -> None:
                for seed in range(JOBS):
                    # The id is the client's, so a request that was cut off can be sent again.
                    while seed not in ids:
                        try:
                            answer = client.put(
                                f"/v1/reconstructions/chaos-{seed}",
                                json={**QUICK, "scan_id": scan_id, "seed": seed},
                            )
                            ids[seed] = answer.json()["id"]
                        except httpx.HTTPError:
                            time.sleep(0.2)

            submitter = threading.Thread(target=submit, daemon=True)
            submitter.start()
            began = time.monotonic()
            blows = ["kill worker"] * WORKER_KILLS + ["kill API"] * API_KILLS
            blows += ["kill supervisor"] * SUPERVISOR_KILLS + ["stop worker"] * STOPS
            rng.shuffle(blows)
            # Moments of the work, not of the clock, so that a slow machine is hit all over too.
            moments = sorted(rng.randrange(JOBS - 5) for _ in blows)
            for blow, moment in zip(blows, moments, strict=True):
                wait_for(lambda moment=moment: succeeded(server) >= moment, 2400)
                time.sleep(rng.uniform(0, 2))
                strike(server, blow)
            submitter.join()
            done = [ended(client, {"id": ids[seed]}) for seed in range(JOBS)]
            seconds = time.monotonic() - began
            states = Counter(job["state"] for job in done)
            counts = client.get("/v1/reconstructions/counts").json()["counts"]
            restarted = sum(
                ledger_starts > 1
                for job in done
                for ledger_starts in Counter(
                    entry["step"] for entry in ledger(server, job) if entry["what"] == "started"
                ).values()
            )
            note(
                f"{JOBS} jobs, kills: {WORKER_KILLS} of workers, {API_KILLS} of the API, "
                f"{SUPERVISOR_KILLS} of the supervisor; {STOPS} stops; {seconds:.0f} s: "
                f"{dict(states)}, {restarted} steps begun more than once"
            )
            assert states == {"succeeded": JOBS}
            assert len({job["id"] for job in done}) == JOBS
            assert sum(counts.values()) == JOBS
            for job in done:
                steps = [name for name, _ in recorded(server, job)]
                assert steps == ["prepare", "slice", "slice", "assemble"]
                assert_recorded_steps_do_not_run(server, job)
            again = [submitted_again(client, scan_id, seed) for seed in range(JOBS)]
            undisturbed = [digests(client, ended(client, job)) for job in again]
            assert [digests(client, job) for job in done] == undisturbed
            assert len({str(each) for each in undisturbed}) == JOBS  # the seeds do count
            by_command = tmp_path / "command.h5"
            options = ("--model", "tiny", "--preset", "fast", "--no-self-check", "--quiet")
            run = cli(
                environment(models), "reconstruct", scan, "-o", by_command, "--seed", 7, *options
            )
            assert run.returncode == 0, run.stderr
            by_service = tmp_path / "service.h5"
            link = done[7]["links"]["results"] + "/result.h5"
            by_service.write_bytes(client.get(link).content)
            for one, other in zip(
                read_result(by_service)[0], read_result(by_command)[0], strict=True
            ):
                assert_same(one, other)


def strike(server: Server, blow: str) -> None:
    """One accident, and the wait until somebody has noticed it."""
    if blow == "kill supervisor":
        server.kill_supervisor()
    elif blow == "stop worker":
        frozen = server.freeze("worker-0")
        wait_for(lambda: server.pid("worker-0") != frozen, 300)
    else:
        server.kill("api" if blow == "kill API" else "worker-0")


def submitted_again(client: httpx.Client, scan_id: str, seed: int) -> dict[str, Any]:
    answer = client.post("/v1/reconstructions", json={**QUICK, "scan_id": scan_id, "seed": seed})
    assert answer.status_code == 202, answer.text
    return answer.json()


def digests(client: httpx.Client, job: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of the arrays of a job's results; result.h5 holds the time too."""
    found = client.get(job["links"]["results"]).json()["items"]
    return {item["name"]: item["sha256"] for item in found if item["name"].endswith(".npy")}


def succeeded(server: Server) -> int:
    """Read from the database: the API may be away at this moment."""
    with sqlite3.connect(server.data / "service.sqlite") as connection:
        query = "SELECT count(*) FROM service_jobs WHERE state = 'succeeded'"
        return int(connection.execute(query).fetchone()[0])


def assert_recorded_steps_do_not_run(server: object, job: dict[str, object]) -> None:
    """By the clock of one machine: the last start of a step is before its record."""
    names = ["prepare", "slice 0", "slice 1", "assemble"]
    entries = ledger(server, job)  # type: ignore[arg-type]
    for name, (_, when) in zip(names, recorded(server, job), strict=True):  # type: ignore[arg-type]
        starts = [e["at"] for e in entries if (e["step"], e["what"]) == (name, "started")]
        assert starts, json.dumps(entries)
        assert max(starts) <= when + 0.001
