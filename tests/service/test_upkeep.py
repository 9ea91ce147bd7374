"""Backups that bring everything back, tables of older and newer versions, and what is let go."""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from service.cli import app
from service.http.context import Context, create_context
from service.jobs import supervisor
from service.jobs.job import JobState
from service.settings import SettingsError, load_settings
from service.store.backup import NOTE, back_up, restore
from service.store.database import SCHEMA, create_database, open_database
from service.store.database import jobs as job_table
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5

SCHEMAS = Path(__file__).parent / "schemas"
RESULT = b"the result of a job"


@pytest.fixture
def kept(make: Callable[..., Context], scan: Path) -> Context:
    """A service with a scan, a job with a result, and one that waits."""
    context = make(disk_floor_bytes=0)
    context.workers.enter("one", "cpu", 1, OFFERS)
    for _ in range(2):
        answer = ask(
            context, "POST", "/v1/reconstructions", content=scan.read_bytes(), headers=HDF5
        )
        assert answer.status_code == 202, answer.text
    first = context.jobs.page(None)[1]
    folder = context.storage.root / "reconstructions" / first.id
    folder.mkdir()
    (folder / "result.h5").write_bytes(RESULT)
    entry = {
        "name": "result.h5",
        "media_type": "application/x-hdf5",
        "bytes": len(RESULT),
        "sha256": sha256(RESULT).hexdigest(),
    }
    values = {"state": JobState.SUCCEEDED, "finished_at": time.time() - 1000, "results": [entry]}
    with context.engine.begin() as connection:
        connection.execute(sa.update(job_table).where(job_table.c.id == first.id).values(**values))
    context.storage.secret()
    return context


def result_of(context: Context) -> bytes:
    job = context.jobs.page(None)[1]
    return ask(context, "GET", f"/v1/reconstructions/{job.id}/results/result.h5").content


def test_a_backup_brings_everything_back(kept: Context, tmp_path: Path) -> None:
    saved, new = (
        tmp_path.parent / f"{tmp_path.name}-saved",
        tmp_path.parent / f"{tmp_path.name}-new",
    )
    made = back_up(kept.settings, saved)
    assert (made.schema, made.files, made.tables) == (SCHEMA, 3, True)
    secret = kept.storage.secret()
    shutil.rmtree(kept.storage.root / "scans")
    settings = load_settings(data=new, disk_floor_bytes=0)
    assert restore(saved, settings) == made
    context = create_context(settings)
    try:
        assert result_of(context) == RESULT
        assert context.storage.secret() == secret
        assert [job.state for job in context.jobs.page(None)] == ["queued", "succeeded"]
        [stored] = context.scans.page(None, sha256=None, before=None, limit=9)
        assert sha256(context.storage.scan(stored.sha256).read_bytes()).hexdigest() == stored.sha256
        with sqlite3.connect(new / "service.sqlite") as connection:
            waiting = "SELECT count(*) FROM workflow_status WHERE status = 'ENQUEUED'"
            assert connection.execute(waiting).fetchone() == (2,)
    finally:
        context.close()


def test_a_second_backup_drops_what_is_gone(kept: Context, tmp_path: Path) -> None:
    saved = tmp_path.parent / f"{tmp_path.name}-saved"
    back_up(kept.settings, saved)
    job = kept.jobs.page(None)[1]
    kept.jobs.delete(job.id)
    kept.storage.remove(job.id)
    assert back_up(kept.settings, saved).files == 2
    assert not list(saved.rglob("result.h5"))


def test_what_is_no_whole_backup_is_not_restored(kept: Context, tmp_path: Path) -> None:
    saved = tmp_path.parent / f"{tmp_path.name}-saved"
    new = load_settings(data=tmp_path.parent / f"{tmp_path.name}-new")
    back_up(kept.settings, saved)
    with pytest.raises(SettingsError, match="already"):
        restore(saved, kept.settings)
    note = json.loads((saved / NOTE).read_text())
    (saved / NOTE).write_text(json.dumps(note | {"schema": SCHEMA + 1}))
    with pytest.raises(SettingsError, match="newer"):
        restore(saved, new)
    (saved / NOTE).write_text(json.dumps(note))
    [stored] = saved.rglob("scans/*/*.h5")
    whole = stored.read_bytes()
    stored.write_bytes(whole[:-1] + b"?")
    with pytest.raises(SettingsError, match="damaged"):
        restore(saved, new)
    stored.write_bytes(whole)
    (saved / "service.sqlite").write_bytes(b"SQLite format 3\0" + bytes(8192))
    with pytest.raises(SettingsError, match="damaged"):
        restore(saved, new)
    (saved / NOTE).unlink()
    with pytest.raises(SettingsError, match="no complete backup"):
        restore(saved, new)
    assert not new.data.exists()


def test_what_a_backup_cannot_hold_is_said(tmp_path: Path) -> None:
    elsewhere = tmp_path / "saved"
    tables = load_settings(data=tmp_path / "data", database="postgresql://mri@host/mri")
    with pytest.raises(SettingsError, match="pg_dump"):
        back_up(tables, elsewhere)
    bucket = load_settings(data=tmp_path / "data", storage="s3://bucket/here")
    with pytest.raises(SettingsError, match="bucket"):
        back_up(bucket, elsewhere)
    inside = load_settings(data=tmp_path)
    with pytest.raises(SettingsError, match="another disk"):
        back_up(inside, elsewhere)


def test_old_results_and_scans_are_pruned(kept: Context) -> None:
    def prune(*options: str) -> str:
        arguments = ["prune", "--data", str(kept.settings.data), *options]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        return done.output

    with kept.engine.begin() as connection:  # it would keep its scan
        connection.execute(sa.update(job_table).values(finished_at=time.time() - 1000))
    assert "0 jobs and 0 scans" in prune("--older-than", "1h", "--scans")
    assert "1 jobs and 0 scans would be" in prune("--older-than", "0.1h", "--dry-run")
    assert result_of(kept) == RESULT
    assert "1 jobs and 0 scans are" in prune("--older-than", "0.1h")
    assert not list(kept.storage.root.rglob("result.h5"))
    assert b"result-expired" in result_of(kept)
    assert list(kept.storage.root.rglob("scans/*/*.h5"))
    assert "0 jobs and 1 scans are" in prune("--older-than", "0h", "--scans")
    assert not list(kept.storage.root.rglob("scans/*/*.h5"))
    assert CliRunner().invoke(app, ["prune", "--older-than", "soon"]).exit_code == 2


@pytest.mark.parametrize("version", range(1, SCHEMA))
def test_tables_of_older_versions_are_brought_up_to_date(version: int, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "service.sqlite")) as connection:
        connection.executescript((SCHEMAS / f"{version}.sql").read_text())
    settings = load_settings(data=tmp_path, disk_floor_bytes=0)
    for _ in range(2):
        create_database(settings.database_url)
    context = create_context(settings)
    context.storage.prepare()
    try:
        jobs = {job.id: job for job in context.jobs.page(None)}
        assert [jobs[name].state for name in ("job1", "job2")] == ["succeeded", "failed"]
        assert jobs["job1"].parameters.seed == 3
        [stored] = context.scans.page(None, sha256=None, before=None, limit=9, tags=None)
        assert (stored.id, stored.slices, stored.tags or {}) == ("scan1", 2, {})
        assert context.keys.required()
        assert [event.type for event in context.history.of("job1", 0)] == ["end"]
        context.workers.enter("one", "cpu", 1, OFFERS)
        assert ask(context, "GET", "/readyz").status_code == 200
    finally:
        context.close()
    with sqlite3.connect(tmp_path / "service.sqlite") as connection:
        found = connection.execute("SELECT version FROM service_schema").fetchall()
    assert found[-1] == (SCHEMA,)


def test_tables_of_a_newer_version_are_left_alone(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/service.sqlite"
    create_database(url)
    with sqlite3.connect(tmp_path / "service.sqlite") as connection:
        connection.execute("INSERT INTO service_schema VALUES (?, 0)", (SCHEMA + 1,))
    with pytest.raises(SettingsError, match="newer mri-posterior"):
        create_database(url)


def test_the_number_of_the_schema_changes_with_its_tables(tmp_path: Path) -> None:
    """Fails when tables change and `SCHEMA` does not: raise it, and add the old one's file here."""
    url = f"sqlite:///{tmp_path}/service.sqlite"
    create_database(url)
    engine = open_database(url)
    look = sa.inspect(engine)
    columns: dict[str, Any] = {
        name: sorted(column["name"] for column in look.get_columns(name))
        for name in sorted(look.get_table_names())
        if name.startswith("service_")
    }
    engine.dispose()
    now = sha256(json.dumps(columns).encode()).hexdigest()[:16]
    assert (SCHEMA, now) == (5, FINGERPRINT)
    assert sorted(file.stem for file in SCHEMAS.glob("*.sql")) == [
        str(version) for version in range(1, SCHEMA)
    ]


FINGERPRINT = "5934a67aef43a295"


def test_a_second_server_on_a_folder_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_PORT_SECONDS", 0.1)
    first = supervisor._sole_server(tmp_path)
    with pytest.raises(SettingsError, match="another `serve`"):
        supervisor.serve(load_settings(data=tmp_path, port=0))
    first.close()
    supervisor._sole_server(tmp_path).close()
