"""Refusals, repairs and bounds of a real server process, attacked over loopback.

What each rule is in detail stands with the application itself (`test_refusals`, `test_sessions`,
`test_upkeep`); here whole processes are asked, as strangers would ask them.
"""

from __future__ import annotations

import hashlib
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import h5py
import httpx
import numpy as np
import psutil
import pytest

from service.store.database import SCHEMA
from tests.service.live import (
    HDF5,
    ROOT,
    Server,
    api_alone,
    cli,
    ended,
    environment,
    note,
    problem,
    serving,
    submitted,
    tiny_scan,
    wait_for,
)
from tests.service.mrd_sessions import ACQUISITIONS, FAST, HEADER, readout_head, sent, talk
from tests.service.tus import TUS, begun, part

pytestmark = pytest.mark.slow  # whole servers attacked: `make proofs`

SCHEMAS = Path(__file__).parent / "schemas"


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("attacked")
    with api_alone(folder, disk_floor_bytes=0, max_streams=1) as running:
        yield running


@pytest.fixture
def stranger(attacked: Server) -> Iterator[httpx.Client]:
    with attacked.client() as client:
        yield client


def test_lines_that_nest_without_end_are_refused(stranger: httpx.Client) -> None:
    deep = b'{"scan_id": ' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}"
    headers = {"Content-Type": "application/x-ndjson"}
    answer = stranger.post("/v1/batches", content=deep, headers=headers)
    problem(answer, 400, "invalid-request")


@pytest.mark.parametrize("value", ["sha-256=:AAAA:", "nonsense", "sha-512=:AAAA:"])
def test_a_digest_that_says_nothing_is_refused(
    attacked: Server, stranger: httpx.Client, scan: Path, value: str
) -> None:
    headers = HDF5 | {"Content-Digest": value}
    answer = stranger.post("/v1/scans", content=scan.read_bytes(), headers=headers)
    assert answer.status_code == 400
    assert list((attacked.data / "incoming").iterdir()) == []


def test_an_encoded_body_is_refused(stranger: httpx.Client) -> None:
    headers = HDF5 | {"Content-Encoding": "gzip"}
    problem(
        stranger.post("/v1/scans", content=b"x", headers=headers), 415, "unsupported-media-type"
    )


@pytest.mark.parametrize("reason", ["not-finite", "mask-shape", "header-doctype"])
def test_what_cannot_be_reconstructed_is_refused_before_201(
    stranger: httpx.Client, tmp_path: Path, reason: str
) -> None:
    kspace = np.ones((2, 2, 16, 12), np.complex64)
    doctype = '<!DOCTYPE a [<!ENTITY b "c">]><ismrmrdHeader>&b;</ismrmrdHeader>'
    if reason == "not-finite":
        kspace[1, 0, 3, 4] = np.nan
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["kspace"] = kspace
        file["mask"] = np.ones(11 if reason == "mask-shape" else 12)
        file["ismrmrd_header"] = doctype if reason == "header-doctype" else "<ismrmrdHeader/>"
    answer = stranger.post("/v1/scans", content=(tmp_path / "bad.h5").read_bytes(), headers=HDF5)
    assert problem(answer, 422, "invalid-scan")["reason"] == reason


def test_streams_of_batches_have_places(attacked: Server, stranger: httpx.Client) -> None:
    values = ("BATCH", "local", "continue", "{}", True, time.time())
    with closing(sqlite3.connect(attacked.data / "service.sqlite")) as connection, connection:
        connection.execute(
            "INSERT INTO service_batches (id, owner, on_error, request, sealed, created_at) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            values,
        )
        connection.execute(
            "INSERT INTO service_jobs (id, owner, scan_id, scan_sha256, request, priority, state, "
            "attempt, revision, created_at) VALUES "
            "('WAITING', 'local', 'S', ?, '{}', 'archive', 'queued', 0, 0, 0)",
            ("0" * 64,),
        )
        connection.execute(
            "INSERT INTO service_batch_items (batch_id, position, name, job_id) "
            "VALUES ('BATCH', 0, 'one', 'WAITING')"
        )
    with stranger.stream("GET", "/v1/batches/BATCH/events") as first:
        assert first.status_code == 200
        lines = first.iter_lines()  # kept: an iterator that is dropped closes the stream
        assert next(lines).startswith("event:")
        with stranger.stream("GET", "/v1/batches/BATCH/events") as second:
            assert second.status_code == 429
            second.read()
        problem(second, 429, "rate-limited")
    wait_for(lambda: _opens(stranger, "/v1/batches/BATCH/events"), 20)  # its place is free again


def _opens(client: httpx.Client, path: str) -> bool:
    with client.stream("GET", path) as answer:
        return answer.status_code == 200


def test_parts_that_are_no_parts_are_refused_in_words(server: Server, scan: Path) -> None:
    with server.client() as client:
        job = ended(client, submitted(client, scan))
        link = job["links"]["results"] + "/mean.npy"
        beyond = client.get(link, headers={"Range": "bytes=99999999999-"})
        problem(beyond, 416, "range-not-satisfiable")
        size = int(client.head(link).headers["content-length"])
        assert beyond.headers["content-range"] == f"bytes */{size}"
        problem(client.get(link, headers={"Range": "bytes=a-b"}), 400, "invalid-request")
        assert client.get(link, headers={"Range": "bytes=0-9"}).status_code == 206


def test_a_scan_that_was_deleted_under_the_service_is_not_the_clients_fault(
    server: Server, tmp_path: Path
) -> None:
    content = tiny_scan(tmp_path / "lost.h5", seed=77).read_bytes()
    with server.client() as client:
        stored = client.post("/v1/scans", content=content, headers=HDF5).json()
        [file] = server.data.glob(f"scans/*/{hashlib.sha256(content).hexdigest()}.h5")
        file.unlink()
        body = {"scan_id": stored["id"], "model": "tiny", "preset": "fast"}
        job = ended(client, client.post("/v1/reconstructions", json=body).json())
        assert (job["state"], job["error"]["type"]) == ("failed", "/problems/file-lost")
        assert job["error"]["status"] == 500
        assert client.post("/v1/scans", content=content, headers=HDF5).status_code == 200
        again = client.post("/v1/reconstructions", json=body).json()
        assert ended(client, again)["state"] == "succeeded"  # sent again, it is there again


def test_readiness_notices_tables_that_were_damaged_under_it(tmp_path: Path) -> None:
    with api_alone(tmp_path / "data", disk_floor_bytes=0) as server, server.client() as client:
        assert client.get("/readyz").status_code == 200
        file = server.data / "service.sqlite"
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        content = bytearray(file.read_bytes())
        start = len(content) // 2 // 4096 * 4096
        content[start : start + 16384] = b"\xa5" * 16384
        with file.open("r+b") as there:
            there.write(content)
        began = time.monotonic()
        wait_for(lambda: client.get("/readyz").status_code == 503, 120)
        note(f"/readyz noticed damaged tables after {time.monotonic() - began:.0f} s")
        assert client.get("/readyz").json()["checks"]["database"] is False
        assert client.get("/livez").status_code == 200


def test_a_worker_that_starts_slowly_is_not_killed_as_one_that_is_stuck(
    tmp_path: Path, models: Path
) -> None:
    """It loads its libraries for longer than a step may stand still."""
    with serving(tmp_path / "data", models, stuck_seconds=1) as server:
        starts = [line for line in server.log if line.get("event") == "started"]
        assert [line["child"] for line in starts].count("worker-0") == 1


def test_uploads_that_nobody_goes_on_with_are_swept_away(tmp_path: Path) -> None:
    settings = {"upload_expiry_hours": 2 / 3600, "housekeeping_seconds": 0.5}
    with (
        api_alone(tmp_path / "data", disk_floor_bytes=0, **settings) as server,
        server.client() as client,
    ):
        link = begun(client, 1000)
        half = client.patch(link, content=b"x" * 500, headers=part(0, b""))
        assert half.status_code in (204, 410)
        wait_for(lambda: not list((server.data / "incoming").iterdir()), 30)
        assert client.head(link, headers=TUS).status_code in (404, 410)


def test_a_client_moves_the_service_to_no_address(attacked: Server, scan: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as trap, attacked.client() as client:
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/"
        scan_id = client.post("/v1/scans", content=scan.read_bytes(), headers=HDF5).json()["id"]
        bodies = (
            ("/v1/reconstructions", {"scan_id": scan_id, "source": url}),
            ("/v1/reconstructions", {"scan_id": scan_id, "model": url}),
            ("/v1/reconstructions", {"scan_id": scan_id, "storage": "s3://b"}),
            ("/v1/reconstructions", {"scan_id": url}),
            ("/v1/batches", {"items": [{"scan_id": url}]}),
            ("/v1/batches", {"items": [{"scan_id": scan_id, "source": url}]}),
            ("/v1/reconstructions/any/deliveries", {"target": url, "products": ["dicom"]}),
        )
        for path, body in bodies:
            answer = client.post(path, json=body, headers={"Forwarded": f"host={url}"})
            assert 400 <= answer.status_code < 500, (path, body, answer.text)
        trap.settimeout(1)
        with pytest.raises(TimeoutError):
            trap.accept()


def session_port(server: Server) -> int:
    return next(x["port"] for x in server.log if x.get("event") == "listening for scanners")


def answer_to_flood(port: int, begin: bytes, more: bytes, times: int) -> tuple[int, bytes]:
    """What was taken, in bytes, of a session that goes on and on, and the answer."""
    taken, answer = 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        try:
            connection.sendall(begin)
            for _ in range(times):
                connection.sendall(more)
                taken += len(more)
            connection.shutdown(socket.SHUT_WR)
        except OSError:  # it is refused while it sends
            pass
        try:
            while chunk := connection.recv(1 << 16):
                answer += chunk
        except OSError:
            pass
    return taken, answer


def test_texts_of_a_scanner_without_end_fill_no_memory(tmp_path: Path, models: Path) -> None:
    """An audit sent 76 MB of parameters: the gateway grew from 377 to 981 MB."""
    settings = {"gateway_port": 0, "default_model": "tiny", "disk_floor_bytes": 0}
    names = ",".join(f'"n{k}": "{"x" * 100}"' for k in range(50))
    flood = sent(f'{{"parameters": {{{names}}}}}', close=False)
    with serving(tmp_path / "data", models, **settings) as server:
        port = session_port(server)
        gateway = psutil.Process(server.pid("gateway"))
        talk(port, sent(FAST, HEADER, *ACQUISITIONS))  # what is loaded once is no leak
        before = gateway.memory_info().rss
        taken, answer = answer_to_flood(port, sent(FAST, HEADER, close=False), flood, 15_000)
        grown = gateway.memory_info().rss - before
        note(f"{taken >> 20} MiB of parameters sent: the gateway grew by {grown >> 20} MiB")
        assert b"mrd-too-large" in answer or taken < len(flood) * 15_000
        assert grown < 32 << 20
        assert server.pid("gateway") == gateway.pid
        assert talk(port, sent(FAST, HEADER, *ACQUISITIONS)).images


def test_a_scanner_does_not_fill_the_disk(small_disk: Path, models: Path) -> None:
    floor = 16 << 20
    settings = {"gateway_port": 0, "default_model": "tiny", "disk_floor_bytes": floor}
    with serving(small_disk / "data", models, **settings) as server:
        begin = sent(FAST, HEADER, close=False)
        readout = readout_head(samples=60000, channels=128) + bytes(8 * 60000 * 128)
        _, answer = answer_to_flood(session_port(server), begin, readout, 2)
        assert b"storage-full" in answer
        wait_for(lambda: not list((server.data / "incoming").glob("*.session")), 30)
        with server.client() as client:
            assert client.get("/livez").status_code == 200
            wait_for(lambda: client.get("/readyz").status_code == 200, 60)


@pytest.mark.parametrize("version", [SCHEMA - 2, SCHEMA - 1])
def test_a_server_starts_on_the_tables_of_an_older_version(
    version: int, tmp_path: Path, models: Path, scan: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    with closing(sqlite3.connect(data / "service.sqlite")) as connection:
        connection.executescript((SCHEMAS / f"{version}.sql").read_text())
    with serving(data, models, disk_floor_bytes=0) as server:
        made = cli(environment(models, data=data), "keys", "create", "me", "--scope", "admin",
                   "--scope", "write", "--scope", "read")  # fmt: skip
        assert made.returncode == 0, made.stderr
        token = next(word for word in made.stdout.split() if word.startswith("mrip_"))
        with server.client(headers={"Authorization": f"Bearer {token}"}) as client:
            answer = client.get("/v1/reconstructions/job1")
            assert answer.json()["state"] == "succeeded"
            assert '"seed":3' in answer.text
            assert ended(client, submitted(client, scan))["state"] == "succeeded"


def test_a_server_refuses_the_tables_of_a_newer_version(tmp_path: Path, models: Path) -> None:
    with api_alone(tmp_path / "data"):
        pass
    with closing(sqlite3.connect(tmp_path / "data" / "service.sqlite")) as connection, connection:
        connection.execute("INSERT INTO service_schema VALUES (?, 0)", (SCHEMA + 1,))
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0"]
    done = subprocess.run(
        [*command, "--data", str(tmp_path / "data")],
        env=environment(models), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "newer mri-posterior" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
