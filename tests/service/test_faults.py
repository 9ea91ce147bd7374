"""A full disk, a locked database, lines that break: typed answers, and a server that goes on."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from pathlib import Path

import psutil
import pytest

from tests.service.live import HDF5, Server, ended, problem, serving, submitted, tiny_scan, wait_for

pytestmark = pytest.mark.slow  # whole servers in trouble: `make proofs`


def fill(disk: Path, leave: int) -> Path:
    """All of a disk but so many bytes."""
    file = disk / "filling"
    with file.open("ab") as out:
        while (free := os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize) > leave:
            out.write(bytes(min(1 << 20, free - leave)))
            out.flush()
    return file


def test_a_disk_that_is_full_is_said_and_survived(small_disk: Path, models: Path) -> None:
    scan = tiny_scan(small_disk.parent / "scan.h5", slices=3)
    big = bytes(8 << 20)
    with serving(small_disk / "data", models, disk_floor_bytes=0) as server:
        with server.client() as client:
            stored = client.post("/v1/scans", content=scan.read_bytes(), headers=HDF5).json()
            filling = fill(small_disk, 4 << 20)
            # One that says its size is refused before it is read, one that does not while it is.
            problem(client.post("/v1/scans", content=big, headers=HDF5), 507, "storage-full")
            chunks = (big[: 1 << 20] for _ in range(8))
            problem(client.post("/v1/scans", content=chunks, headers=HDF5), 507, "storage-full")
            form = client.post("/v1/reconstructions", files={"file": ("a.h5", big)})
            problem(form, 507, "storage-full")
            assert list((server.data / "incoming").iterdir()) == []
            # What a worker cannot write ends the job in words, or waits for room.
            fill(small_disk, 0)
            body = {"scan_id": stored["id"], "model": "tiny", "preset": "fast"}
            answer = client.post("/v1/reconstructions", json=body)
            problem(answer, 507, "storage-full")
            filling.unlink()
            wait_for(lambda: client.get("/readyz").status_code == 200, 60)
            assert ended(client, submitted(client, scan))["state"] == "succeeded"
            job = submitted(client, scan, samples=48, preset="standard")
            wait_for(lambda: list((server.data / "reconstructions" / job["id"]).glob("slices/*")))
            filling = fill(small_disk, 64 << 10)
            time.sleep(3)
            filling.unlink()
            done = ended(client, job)
            assert done["state"] in ("succeeded", "failed")
            if done["state"] == "failed":
                assert done["error"]["type"] == "/problems/storage-full"
                again = client.post(f"{done['links']['self']}/retry", json={"samples": 2}).json()
                done = ended(client, again)
            assert done["state"] == "succeeded"
        assert "unforeseen" not in "".join(server.text)


def test_a_database_that_is_locked_is_waited_for(tmp_path: Path, models: Path) -> None:
    scan = tiny_scan(tmp_path / "scan.h5", slices=2)
    with serving(tmp_path / "data", models) as server, server.client() as client:
        stored = client.post("/v1/scans", content=scan.read_bytes(), headers=HDF5).json()
        body = {"scan_id": stored["id"], "model": "tiny", "preset": "thorough", "samples": 16}
        running = client.post("/v1/reconstructions", json=body).json()
        wait_for(lambda: client.get(running["links"]["self"]).json()["state"] == "running")
        other = sqlite3.connect(server.data / "service.sqlite", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        answer = client.post("/v1/reconstructions", json=body)
        problem(answer, 503, "not-ready")
        assert time.monotonic() - began < 15
        assert client.get(running["links"]["self"]).status_code == 200  # readers do not wait
        other.execute("ROLLBACK")
        other.close()
        assert ended(client, running)["state"] == "succeeded"
        assert sum(client.get("/v1/reconstructions/counts").json()["counts"].values()) == 1
        assert "unforeseen" not in "".join(server.text)


def raw(server: Server, head: str, body: bytes) -> bytes:
    """Send the beginning of a request, close one's end, and read the answer."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(head.replace("\n", "\r\n").encode() + body)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while block := connection.recv(65536):
            answer += block
    return answer


def descriptors(process: psutil.Process) -> int:
    """Open ones, but those of the database: a pool keeps its connections, few and for good."""
    return process.num_fds() - sum(".sqlite" in file.path for file in process.open_files())


def test_clients_that_go_away_leave_nothing(tmp_path: Path, models: Path) -> None:
    with serving(tmp_path / "data", models, idle_seconds=1) as server:
        api = psutil.Process(server.pid("api"))
        head = "{} {} HTTP/1.1\nHost: localhost\nContent-Type: {}\nContent-Length: 9000000\n\n"
        form = "multipart/form-data; boundary=x"
        opened = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        requests = [
            (head.format("POST", "/v1/scans", HDF5["Content-Type"]), b"x" * 3_000_000),
            (head.format("PUT", "/v1/reconstructions/mine", HDF5["Content-Type"]), b"x" * 2000),
            (head.format("POST", "/v1/reconstructions", form), opened + b"x" * 3_000_000),
            (head.format("POST", "/v1/reconstructions", "application/json"), b'{"scan_id"'),
        ]
        for text, body in requests:  # what is made once is not a leak
            raw(server, text, body)
        before = (descriptors(api), api.num_threads())
        for _ in range(10):
            for text, body in requests:
                raw(server, text, body)
        wait_for(lambda: descriptors(api) <= before[0])
        assert api.num_threads() <= before[1] + 4
        assert list((server.data / "incoming").iterdir()) == []
        assert "unforeseen" not in "".join(server.text)
        # One that stays and says nothing more is told so, and let go.
        host, _, port = server.url.removeprefix("http://").partition(":")
        text, body = requests[0]
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(text.replace("\n", "\r\n").encode() + body)
            answer = b""
            while b"upload-incomplete" not in answer and (part := connection.recv(65536)):
                answer += part
        assert b" 400 " in answer.split(b"\r\n")[0]
        assert b"upload-incomplete" in answer
        with server.client() as client:
            assert client.get("/readyz").status_code == 200


def test_many_connections_that_say_nothing_do_not_keep_others_out(
    tmp_path: Path, models: Path
) -> None:
    with serving(tmp_path / "data", models, max_connections=300) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(200)]
        try:
            with server.client() as client:
                began = time.monotonic()
                assert client.get("/v1/limits").status_code == 200
                assert time.monotonic() - began < 5
        finally:
            for connection in silent:
                connection.close()
        assert server.stop() == 0
