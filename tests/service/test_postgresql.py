"""The same service on PostgreSQL, as several hosts would share it; skipped where it is absent."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from service.jobs.batches import Batches, NewItem
from service.jobs.history import record
from service.requests import ReconstructionParameters
from service.settings import load_settings
from service.store.database import jobs as job_table
from service.store.database import open_database
from service.store.keys import LOCAL
from tests.service.ledgers import happened, ledger
from tests.service.live import (
    HDF5,
    QUICK,
    ROOT,
    Server,
    api_alone,
    at_once,
    elsewhere,
    ended,
    environment,
    events,
    serving,
    submitted,
    tiny_scan,
    wait_for,
)
from tests.service.tus import TUS, begun, part

pytestmark = pytest.mark.slow  # whole servers started and killed: `make proofs`

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


@pytest.fixture
def postgresql() -> Iterator[str]:
    """URL of a database of our own, on a socket in a folder; it refuses to run as root."""
    if not BINARIES:
        pytest.skip("PostgreSQL is not installed")
    programs = BINARIES[-1].parent
    root = os.geteuid() == 0
    if root and "postgres" not in {user.pw_name for user in pwd.getpwall()}:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
    if root:
        shutil.chown(folder, "postgres")

    def run(program: str, *arguments: str) -> None:
        prefix = ["runuser", "-u", "postgres", "--"] if root else []
        subprocess.run(
            [*prefix, str(programs / program), *arguments],
            cwd=folder,
            check=True,
            timeout=120,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", "postgres", "--auth=trust", "-E", "UTF8")
        options = f"-k {folder} -c listen_addresses= -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            run("createdb", "-h", str(folder), "-U", "postgres", "service")
            yield f"postgresql://postgres@/service?host={folder}"
        finally:
            run("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_a_job_survives_its_worker_on_postgresql(
    postgresql: str, tmp_path: Path, models: Path
) -> None:
    scan = tiny_scan(tmp_path / "scan.h5", slices=4)
    with (
        serving(tmp_path / "data", models, database=postgresql) as server,
        server.client() as client,
    ):
        job = submitted(client, scan, **QUICK)
        wait_for(lambda: happened(server, job, "slice 1", "started"))
        server.kill("worker-0")
        story = events(client, job)
        assert ended(client, job)["state"] == "succeeded"
        assert [e["event"] for e in story].count("end") == 1
        assert len({e["data"]["slice"] for e in story if e["event"] == "slice"}) == 4
        assert client.get("/readyz").json()["checks"]["database"]
    assert not (tmp_path / "data" / "service.sqlite").exists()


@pytest.fixture
def two_hosts(postgresql: str, tmp_path: Path, models: Path) -> Iterator[tuple[Server, Server]]:
    """Two whole servers, of two names of this machine, on one database and one folder."""
    if subprocess.run([*elsewhere("second"), "true"], check=False, capture_output=True).returncode:
        pytest.skip("only root can give a process another name of the machine")
    settings = {"database": postgresql, "worker_lost_seconds": 4, "heartbeat_seconds": 0.5}
    with (
        serving(tmp_path / "data", models, **settings) as one,
        serving(tmp_path / "data", models, machine="second", **settings) as two,
    ):
        yield one, two


def test_a_host_that_dies_for_good_loses_no_job(
    two_hosts: tuple[Server, Server], tmp_path: Path
) -> None:
    one, two = two_hosts
    scan = tiny_scan(tmp_path / "scan.h5", slices=4)
    slow = {"preset": "standard", "samples": 8}
    with one.client() as client, two.client() as other:
        jobs = [submitted(client, scan, **slow, seed=seed) for seed in range(3)]

        def at_work() -> dict[str, str]:
            """Worker of each job that has begun its second slice and not its last."""
            return {
                job["id"]: other.get(job["links"]["self"]).json()["worker"]
                for job in jobs
                if happened(one, job, "slice 1", "started")
                and not happened(one, job, "slice 3", "started")
            }

        def of_both() -> dict[str, str] | None:
            found = at_work()
            return found if len(set(found.values())) == 2 else None

        working = wait_for(of_both, 300)
        second = {job: name for job, name in working.items() if two_is(two, name)}
        (taken,) = second
        for pid in (two.process.pid, *map(two.pid, two.children)):
            os.kill(pid, signal.SIGKILL)
        two.process.wait()
        done = [ended(client, job) for job in jobs]
        assert [job["state"] for job in done] == ["succeeded"] * 3
        (job,) = [job for job in done if job["id"] == taken]
        by = {e["step"]: e["worker"] for e in ledger(one, job) if e["what"] == "finished"}
        assert len(set(by.values())) == 2
        assert by["slice 0"] == second[taken]
        assert by["assemble"] != second[taken]
        finished = [e["step"] for e in ledger(one, job) if e["what"] == "finished"]
        assert sorted(finished) == sorted(set(finished))


def two_is(server: Server, worker: str) -> bool:
    """Whether a worker is one of this server's."""
    return any(line.get("worker") == worker for line in server.log)


def test_two_hosts_are_one_service(two_hosts: tuple[Server, Server], tmp_path: Path) -> None:
    one, two = two_hosts
    content = tiny_scan(tmp_path / "scan.h5").read_bytes()
    with one.client() as first, two.client() as second:
        clients: list[httpx.Client] = [first, second]
        stored = at_once(
            6, lambda n: clients[n % 2].post("/v1/scans", content=content, headers=HDF5)
        )
        assert {answer.status_code for answer in stored} == {200, 201}
        (scan_id,) = {answer.json()["id"] for answer in stored}
        body = {**QUICK, "scan_id": scan_id}
        put = at_once(6, lambda n: clients[n % 2].put("/v1/reconstructions/of-both", json=body))
        assert len({answer.json()["id"] for answer in put}) == 1, [a.text for a in put]
        keyed = at_once(
            6,
            lambda n: clients[n % 2].post(
                "/v1/reconstructions", json=body, headers={"Idempotency-Key": "of-both"}
            ),
        )
        assert {answer.status_code for answer in keyed} <= {202, 409}
        assert len({a.json()["id"] for a in keyed if a.status_code == 202}) == 1
        for answer in (put[0], next(a for a in keyed if a.status_code == 202)):
            story = events(second, answer.json())
            assert [e["event"] for e in story].count("end") == 1
            assert ended(first, answer.json())["state"] == "succeeded"
        # An upload goes on at another host, and only one at a time writes it.
        link = begun(first, len(content))
        half = len(content) // 2
        assert first.patch(link, content=content[:half], headers=part(0, b"")).status_code == 204
        answer = second.patch(link, content=content[half:], headers=part(half, b""))
        assert answer.headers["content-location"] == f"/v1/scans/{scan_id}"
        assert first.head(link, headers=TUS).headers["content-location"].endswith(scan_id)


def documented_backup() -> list[str]:
    """The commands of docs/service.md that save and restore a service on PostgreSQL."""
    page = (ROOT / "docs" / "service.md").read_text()
    block = page.partition("With PostgreSQL, its own tools")[2].split("```")[1]
    lines = [line for line in block.splitlines()[1:] if line and not line.startswith("#")]
    assert [line.split()[0] for line in lines] == [
        "pg_dump", "mri-posterior", "pg_restore", "mri-posterior",
    ]  # fmt: skip
    return lines


def test_a_backup_by_the_documented_commands_goes_on_elsewhere(
    postgresql: str, tmp_path: Path, models: Path
) -> None:
    scan = tiny_scan(tmp_path / "scan.h5", slices=4)
    other = postgresql.replace("/service?", "/restored?")
    saving, restoring = documented_backup()[:2], documented_backup()[2:]
    kept = environment(models, data=tmp_path / "data", database=postgresql)
    kept["NEW_DATABASE"] = other

    def follow(lines: list[str]) -> None:
        for line in lines:
            command = line.replace("mri-posterior", f"{sys.executable} -m service.cli")
            command = command.replace("/backup/mri", str(tmp_path / "saved"))
            command = command.replace("/new/folder", str(tmp_path / "new"))
            done = subprocess.run(
                ["bash", "-c", command], env=kept, cwd=ROOT, capture_output=True, text=True,
                timeout=300, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr

    (tmp_path / "saved").mkdir()
    with (
        serving(tmp_path / "data", models, database=postgresql) as server,
        server.client() as client,
    ):
        finished = ended(client, submitted(client, scan))
        digests = client.get(finished["links"]["results"]).json()["items"]
        begun_one = submitted(client, scan, preset="thorough", samples=16)
        waiting = submitted(client, scan, seed=5)
        wait_for(lambda: happened(server, begun_one, "slice 0", "finished"))
        follow(saving)
    folder = postgresql.rpartition("=")[2]
    subprocess.run(["createdb", "-h", folder, "-U", "postgres", "restored"], check=True, timeout=60)
    follow(restoring)
    with serving(tmp_path / "new", models, database=other) as server, server.client() as client:
        assert client.get(finished["links"]["results"]).json()["items"] == digests
        content = client.get(digests[0]["href"]).content
        assert sha256(content).hexdigest() == digests[0]["sha256"]
        for job in (begun_one, waiting):
            assert ended(client, job)["state"] == "succeeded"


def test_a_follower_of_a_batch_hears_of_an_end_that_is_committed_late(
    postgresql: str, tmp_path: Path
) -> None:
    """Ids of events are given before they are committed: the first may appear after the second."""
    with (
        api_alone(tmp_path / "data", database=postgresql, disk_floor_bytes=0) as server,
        server.client() as client,
    ):
        engine = open_database(load_settings(data=tmp_path, database=postgresql).database_url)
        batches = Batches(engine, lambda *_: None)
        batch = batches.create(LOCAL.id, "continue", {})
        asked = ReconstructionParameters()
        batches.add(batch, [NewItem(f"{n}", "", f"{n:064x}", parameters=asked) for n in range(3)])
        batches.seal(batch)
        jobs = [item.job.id for item in batches.items(batch.id) if item.job is not None]
        story = {"links": {"events": f"/v1/batches/{batch.id}/events"}}

        def end(connection: sa.Connection, job: str) -> None:
            values = {"state": "cancelled", "finished_at": time.time()}
            connection.execute(sa.update(job_table).where(job_table.c.id == job).values(**values))
            record(connection, job, "end", {"state": "cancelled"})

        told: list[dict[str, Any]] = []
        listening = threading.Thread(target=lambda: told.extend(events(client, story)))
        listening.start()
        with engine.connect() as late:
            end(late, jobs[0])
            with engine.begin() as connection:
                end(connection, jobs[1])
            time.sleep(2)  # the follower has been told of the second
            late.commit()
        time.sleep(2)
        with engine.begin() as connection:
            end(connection, jobs[2])
        listening.join(60)
        engine.dispose()
    positions = [entry["data"]["position"] for entry in told if entry["event"] == "item"]
    assert positions == [1, 0, 2]
    assert told[-1]["event"] == "end"
