"""The same service on PostgreSQL, as several hosts would share it; skipped where it is absent."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.service.live import QUICK, ended, events, serving, submitted, tiny_scan, wait_for
from tests.service.test_durability import happened

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
