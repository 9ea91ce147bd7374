"""A bucket that answers late or not at all: who needs nothing of it does not notice."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks.cluster import BUCKET, object_store
from tests.service.attacks import patience, worst
from tests.service.live import HDF5, api_alone, note, tiny_scan, wait_for

pytestmark = pytest.mark.slow  # a store, a server before it, and the service: `make proofs`

SECONDS = 5.0
AT_STORAGE = 16
UPLOADS = 60
"""More than the threads that answer requests."""
PATHS = ("/livez", "/readyz", "/v1/scans")


class _Slow(BaseHTTPRequestHandler):
    """Hands every request on, after a while."""

    protocol_version = "HTTP/1.1"
    behind = 0
    opened = threading.Event()
    """Until then nobody is answered."""
    waiting = 0
    pause = 0.0

    def handle_one_request(self) -> None:
        """Whatever the method is."""
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        type(self).waiting += 1
        if not self.opened.wait(60):
            return
        time.sleep(self.pause)
        store = HTTPConnection("127.0.0.1", self.behind, timeout=60)
        store.request(self.command, self.path, body, dict(self.headers))
        answer = store.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "date", "server"):
                self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        store.close()

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


@pytest.fixture
def slow_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with object_store() as variables:
        monkeypatch.setattr(_Slow, "behind", int(variables["AWS_ENDPOINT_URL"].rpartition(":")[2]))
        server = _Server(("127.0.0.1", 0), _Slow)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        for name, value in (variables | {"AWS_ENDPOINT_URL": address}).items():
            monkeypatch.setenv(name, value)
        yield
        server.shutdown()
        server.server_close()


def test_a_bucket_that_takes_its_time_keeps_nobody_else_waiting(
    slow_store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = [tiny_scan(tmp_path / f"{n}.h5", seed=n).read_bytes() for n in range(UPLOADS)]
    settings = {"storage": f"s3://{BUCKET}/slow", "disk_floor_bytes": 0}
    with api_alone(tmp_path / "data", requests_per_minute=10**6, **settings) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")

        def upload(content: bytes) -> None:
            with server.client() as client:
                answer = client.post("/v1/scans", content=content, headers=HDF5)
            assert answer.status_code == 201, answer.text

        async def others() -> list[list[float]]:
            address = host, int(port)
            return await asyncio.gather(*(patience(address, SECONDS, path) for path in PATHS))

        with ThreadPoolExecutor(UPLOADS) as pool:
            uploads = [pool.submit(upload, content) for content in scans]
            wait_for(lambda: _Slow.waiting >= AT_STORAGE)
            time.sleep(SECONDS)  # all the others have come too
            taken = dict(zip(PATHS, asyncio.run(others()), strict=True))
            assert not any(one.done() for one in uploads)
            at_bucket = _Slow.waiting
            _Slow.opened.set()
            for one in uploads:
                one.result()
        said = ", ".join(f"{path} {1000 * worst(times):.0f} ms" for path, times in taken.items())
        note(f"{UPLOADS} uploads, {at_bucket} at a bucket that is silent; p99 beside them: {said}")
        for path, times in taken.items():
            assert worst(times) < 1, path
        with server.client() as client:
            found = client.get("/v1/scans", params={"limit": 100}).json()["items"]
            assert len(found) == UPLOADS
            # While one is at the bucket anybody may write into the tables.
            last = tiny_scan(tmp_path / "last.h5", 2).read_bytes()
            monkeypatch.setattr(_Slow, "pause", SECONDS)
            late = threading.Thread(target=upload, args=(last,))
            late.start()
            looks = []
            while late.is_alive():
                before = time.monotonic()
                with closing(sqlite3.connect(server.data / "service.sqlite")) as other, other:
                    other.execute("BEGIN IMMEDIATE")
                looks.append(time.monotonic() - before)
                time.sleep(0.05)
            assert len(looks) > SECONDS
            assert max(looks) < 1
