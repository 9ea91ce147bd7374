"""Two hundred clients at once, and two gigabytes in one request: what it costs.

The numbers are printed; the bounds hold on two cores that do nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import threading
import time
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import h5py
import numpy as np
import psutil
import pytest

from tests.service.live import Server, ended, note, serving, submitted, tiny_scan, wait_for

CLIENTS = 200
POLL_SECONDS = 2.0
GIGABYTES = 2


async def crowd(server: Server, job: dict[str, str], stop: threading.Event) -> list[float]:
    """Half of the clients poll, half follow the events; returns the polls' seconds.

    Each has a connection of its own, and writes and reads it by hand: a client library takes three
    times the processor time of the server that is measured, on the same cores.
    """
    taken: list[float] = []
    host, _, port = server.url.removeprefix("http://").partition(":")
    link = f"/v1/reconstructions/{job['id']}"

    def request(path: str) -> bytes:
        return f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()

    async def poll(number: int) -> None:
        await asyncio.sleep(POLL_SECONDS * number / CLIENTS)
        before = time.perf_counter()
        reader, writer = await asyncio.open_connection(host, int(port))
        while not stop.is_set():
            writer.write(request(link))
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            body = await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
            taken.append(time.perf_counter() - before)
            assert head.startswith("http/1.1 200 "), head
            assert json.loads(body)["id"] == job["id"]
            await asyncio.sleep(POLL_SECONDS)
            before = time.perf_counter()
        writer.close()

    async def follow() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(request(f"{link}/events"))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        while not stop.is_set() and await reader.read(1 << 16):
            pass
        writer.close()

    pollers = [poll(number) for number in range(CLIENTS // 2)]
    await asyncio.gather(*pollers, *(follow() for _ in range(CLIENTS // 2)))
    return taken


@pytest.mark.slow
def test_a_crowd_slows_neither_the_answers_nor_the_job(tmp_path: Path, models: Path) -> None:
    scan = tiny_scan(tmp_path / "scan.h5", slices=2, size=96)
    limit = {"requests_per_minute": 1_000_000}
    with serving(tmp_path / "data", models, **limit) as server, server.client() as client:
        work = {"preset": "thorough", "samples": 16}
        ended(client, submitted(client, scan, preset="fast"))

        def seconds(job: dict[str, str]) -> float:
            entries = client.get(f"/v1/reconstructions/{job['id']}").json()
            start, end = (
                np.datetime64(entries[name].rstrip("Z")) for name in ("started_at", "finished_at")
            )
            return float((end - start) / np.timedelta64(1, "s"))

        alone = seconds(ended(client, submitted(client, scan, **work)))
        job = submitted(client, scan, **work)
        stop = threading.Event()
        api = psutil.Process(server.pid("api"))
        spent = sum(api.cpu_times()[:2])

        def watch() -> None:
            wait_for(
                lambda: client.get(f"/v1/reconstructions/{job['id']}").json()["finished_at"], 600
            )
            stop.set()

        watcher = threading.Thread(target=watch)
        watcher.start()
        taken = asyncio.run(crowd(server, job, stop))
        watcher.join()
        spent = sum(api.cpu_times()[:2]) - spent
        crowded = seconds(job)
        p50, p99 = np.quantile(taken, (0.5, 0.99))
        note(
            f"{CLIENTS} clients: {len(taken)} polls, p50 {1000 * p50:.0f} ms, "
            f"p99 {1000 * p99:.0f} ms; job {alone:.1f} s alone, {crowded:.1f} s in the crowd; "
            f"{spent:.1f} s of processor time in the API; "
            f"load {os.getloadavg()}"
        )
        assert p99 < 0.25
        assert crowded < 1.1 * alone


@pytest.mark.slow
def test_a_large_upload_is_streamed(tmp_path: Path, models: Path) -> None:
    big = tmp_path / "big.h5"
    slices = GIGABYTES * 128
    with h5py.File(big, "w") as file:
        data = file.create_dataset("kspace", (slices, 4, 512, 512), np.complex64)
        block = np.random.default_rng(0).normal(size=(4, 512, 512)).astype(np.complex64)
        for index in range(slices):
            data[index] = block + index
    before = time.perf_counter()
    shutil.copyfile(big, tmp_path / "copy.h5")
    with (tmp_path / "copy.h5").open("rb") as file:
        os.fsync(file.fileno())
    copying = time.perf_counter() - before
    (tmp_path / "copy.h5").unlink()
    with serving(tmp_path / "data", models) as server:
        api = psutil.Process(server.pid("api"))
        highest = 0
        done = threading.Event()

        def watch() -> None:
            nonlocal highest
            while not done.wait(0.05):
                highest = max(highest, api.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        before = time.perf_counter()
        spent = sum(api.cpu_times()[:2])
        host, _, port = server.url.removeprefix("http://").partition(":")
        with (
            closing(HTTPConnection(host, int(port), blocksize=1 << 20)) as connection,
            big.open("rb") as file,
        ):
            connection.request("POST", "/v1/scans", body=file)
            answer = connection.getresponse()
            said = answer.read()
        sending = time.perf_counter() - before
        spent = sum(api.cpu_times()[:2]) - spent
        done.set()
        watcher.join()
        size = big.stat().st_size
        note(
            f"{size >> 20} MiB: cp and fsync {copying:.1f} s ({size / copying / 1e6:.0f} MB/s), "
            f"upload {sending:.1f} s ({size / sending / 1e6:.0f} MB/s), RSS {highest >> 20} MiB, "
            f"{spent:.1f} s of processor time in the API; load {os.getloadavg()}"
        )
        assert answer.status == 201, said
        assert highest < 200 << 20
        assert sending < 2 * copying
