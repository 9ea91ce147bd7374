"""Much work and much memory: what a service sees in a year, in minutes."""

from __future__ import annotations

import os
import socket
import statistics
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.service.live import (
    QUICK,
    note,
    serving,
    tiny_scan,
    wait_for,
)
from tests.service.mrd_sessions import FAST, HEADER, readout_head, sent

pytestmark = pytest.mark.slow  # whole servers at work: `make proofs`

QUEUED = int(os.environ.get("MRI_POSTERIOR_QUEUED", "500"))
FINISHED = int(os.environ.get("MRI_POSTERIOR_FINISHED", "100"))
SETTLED = 10
"""Jobs after which a worker has loaded what it keeps."""
SESSIONS = 32


def counts(client: httpx.Client) -> dict[str, int]:
    found: dict[str, int] = client.get("/v1/reconstructions/counts").json()["counts"]
    return found


def test_five_hundred_jobs_wait_and_the_memory_of_a_worker_does_not_grow(
    tmp_path: Path, models: Path
) -> None:
    scan = tiny_scan(tmp_path / "scan.h5")
    limits = {"max_active_per_key": 10 * QUEUED, "max_queue": 10 * QUEUED}
    with serving(tmp_path / "data", models, **limits) as server, server.client() as client:
        scan_id = client.post("/v1/scans", content=scan.read_bytes()).json()["id"]
        began = time.monotonic()
        for seed in range(QUEUED):
            body = {**QUICK, "scan_id": scan_id, "seed": seed}
            assert client.post("/v1/reconstructions", json=body).status_code == 202
        queueing = time.monotonic() - began
        worker = psutil.Process(server.pid("worker-0"))
        memory: dict[int, int] = {}
        answered = []
        while (done := counts(client)["succeeded"]) < FINISHED:
            memory[done] = worker.memory_info().rss
            before = time.perf_counter()
            assert client.get("/v1/reconstructions", params={"limit": 100}).status_code == 200
            answered.append(time.perf_counter() - before)
            time.sleep(0.2)
        settled = statistics.median(rss for n, rss in memory.items() if SETTLED <= n < 2 * SETTLED)
        late = statistics.median(rss for n, rss in memory.items() if n >= FINISHED - SETTLED)
        note(
            f"{QUEUED} jobs queued in {queueing:.1f} s; {FINISHED} done after "
            f"{time.monotonic() - began:.0f} s; RSS of the worker {settled / 2**20:.0f} MiB after "
            f"{SETTLED}, {late / 2**20:.0f} MiB after {FINISHED}; a page of 100 jobs in "
            f"{1000 * statistics.median(answered):.0f} ms"
        )
        assert worker.pid == server.pid("worker-0")  # it was never started again
        assert late <= 1.05 * settled
        waiting = client.get("/v1/reconstructions", params={"state": "queued", "limit": 500}).json()
        for job in waiting["items"]:
            client.post(job["links"]["cancel"])
        wait_for(lambda: not counts(client)["queued"] and not counts(client)["running"], 120)
        assert sum(counts(client).values()) == QUEUED


def test_two_servers_on_one_folder(tmp_path: Path, models: Path) -> None:
    with serving(tmp_path / "data", models) as server:
        second = serving(tmp_path / "data", models)
        with pytest.raises(AssertionError, match="another `serve`"), second:
            pass
        with server.client() as client:
            assert client.get("/readyz").status_code == 200


def test_many_scanners_at_once_have_bounded_memory(tmp_path: Path, models: Path) -> None:
    settings = {"gateway_port": 0, "default_model": "tiny", "disk_floor_bytes": 0}
    with serving(tmp_path / "data", models, **settings) as server:
        port = next(x["port"] for x in server.log if x.get("event") == "listening for scanners")
        gateway = psutil.Process(server.pid("gateway"))
        before = gateway.memory_info().rss
        open_ones, highest = [], 0
        texts = ['{"parameters": {"note": "' + "x" * (60 << 10) + '"}}'] * 20
        remarks = ["y" * ((1 << 20) - 1)] * 2
        begin = sent(FAST, HEADER, *texts, *remarks, close=False)
        samples = bytes(1 << 20)
        for _ in range(SESSIONS):
            connection = socket.create_connection(("127.0.0.1", port), timeout=60)
            connection.sendall(begin + readout_head(samples=65000, channels=120))
            open_ones.append(connection)
        for _ in range(16):  # of 62 MB each
            for connection in open_ones:
                connection.sendall(samples)
            highest = max(highest, gateway.memory_info().rss)
        spooled = sum(f.stat().st_size for f in (server.data / "incoming").glob("*.session"))
        note(
            f"{SESSIONS} scanners, {spooled >> 20} MiB on the disk: the gateway grew from "
            f"{before >> 20} to {highest >> 20} MiB"
        )
        assert spooled > SESSIONS * (15 << 20)
        assert highest - before < SESSIONS * (8 << 20)
        for connection in open_ones:
            connection.close()
        wait_for(lambda: not list((server.data / "incoming").glob("*.session")), 120)
        assert server.pid("gateway") == gateway.pid
