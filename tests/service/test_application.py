"""The application without processes around it: what it refuses when it is not well."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from recon.choices import CoarseName, PathName, PresetName
from recon.coarse import CoarseMethod
from recon.paths import PATHS
from recon.schedule import PRESETS
from service.http.context import Context
from service.problems import PROBLEMS
from service.requests import Priority
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5, problem


def test_a_full_disk_refuses_uploads_and_readiness(
    make: Callable[..., Context], scan: Path
) -> None:
    context = make(disk_floor_bytes=1 << 60)
    answer = ask(context, "POST", "/v1/scans", content=scan.read_bytes(), headers=HDF5)
    problem(answer, 507, "storage-full")
    assert list(context.storage.incoming.iterdir()) == []
    ready = ask(context, "GET", "/readyz")
    assert (ready.status_code, ready.json()["checks"]["disk"]) == (503, False)
    assert ask(context, "GET", "/livez").status_code == 200


def test_a_disk_that_fills_up_while_a_file_arrives(
    make: Callable[..., Context], scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make(disk_floor_bytes=0)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.http.body_file._write", full)
    answer = ask(context, "POST", "/v1/scans", content=scan.read_bytes(), headers=HDF5)
    problem(answer, 507, "storage-full")
    assert list(context.storage.incoming.iterdir()) == []


def test_a_locked_database_is_a_503_and_no_scan_is_half_there(
    make: Callable[..., Context], scan: Path
) -> None:
    context = make()
    upload = {"content": scan.read_bytes(), "headers": HDF5}
    with sqlite3.connect(context.settings.data / "service.sqlite", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        answer = ask(context, "POST", "/v1/scans", **upload)
        problem(answer, 503, "not-ready")
        assert answer.headers["retry-after"] == "5"
        assert ask(context, "GET", "/v1/scans").json()["items"] == []
        other.execute("ROLLBACK")
    assert ask(context, "POST", "/v1/scans", **upload).status_code == 201


def test_jobs_are_refused_before_a_worker_has_started_and_when_the_queue_is_full(
    make: Callable[..., Context], scan: Path
) -> None:
    context = make(max_queue=2)
    upload = {"content": scan.read_bytes(), "headers": HDF5}
    answer = ask(context, "POST", "/v1/reconstructions", **upload)
    problem(answer, 503, "not-ready")
    context.workers.enter("one", "cpu", 1, OFFERS)
    for _ in range(2):
        answer = ask(context, "POST", "/v1/reconstructions", **upload)
        assert answer.status_code == 202
    answer = ask(context, "POST", "/v1/reconstructions", **upload)
    problem(answer, 429, "queue-full")
    assert int(answer.headers["retry-after"]) >= 1
    assert context.jobs.counts()["queued"] == 2


def test_a_job_and_its_workflow_appear_together_or_not_at_all(
    make: Callable[..., Context], scan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = make()
    context.workers.enter("one", "cpu", 1, OFFERS)

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("between the two")

    monkeypatch.setattr(type(context.queue), "enqueue", broken)
    upload = {"content": scan.read_bytes(), "headers": HDF5}
    answer = ask(context, "POST", "/v1/reconstructions", **upload)
    assert "between" not in problem(answer, 500, "internal")["detail"]
    assert sum(context.jobs.counts().values()) == 0


def test_a_worker_that_was_silent_does_not_count(make: Callable[..., Context]) -> None:
    context = make(worker_lost_seconds=0.001)
    context.workers.enter("one", "cpu", 1, OFFERS)
    assert ask(context, "GET", "/readyz").json()["checks"]["worker"] is False


def test_the_memory_of_gpus_is_told_where_there_are_any(make: Callable[..., Context]) -> None:
    context = make()
    context.workers.enter("one", "cpu", 1, OFFERS)
    context.workers.beat("one", {"steps": []})
    assert "recon_gpu_memory" not in ask(context, "GET", "/metrics").text
    for name, device, held in (("two", "cuda:0", 3), ("three", "cuda:1", 5), ("four", "cuda:1", 8)):
        context.workers.enter(name, device, 1, OFFERS)
        context.workers.beat(name, {"steps": [], "gpu_bytes": held << 30})
    text = ask(context, "GET", "/metrics").text
    lines = [line for line in text.splitlines() if line.startswith("recon_gpu_memory_bytes{")]
    told = dict(line.rsplit(" ", 1) for line in lines)
    assert {name: float(value) for name, value in told.items()} == {
        'recon_gpu_memory_bytes{device="cuda:0"}': 3.0 * 2**30,
        'recon_gpu_memory_bytes{device="cuda:1"}': 13.0 * 2**30,
    }


def test_names_of_choices_are_those_of_the_pipeline() -> None:
    assert set(get_args(CoarseName)) == set(CoarseMethod)
    assert set(get_args(PathName)) == set(PATHS)
    assert set(get_args(PresetName)) == set(PRESETS)
    ranks = [Priority(name).rank for name in ("scanner", "interactive", "archive")]
    assert ranks == sorted(set(ranks))


def test_every_problem_type_can_be_looked_up(make: Callable[..., Context]) -> None:
    context = make()
    for kind, expected in PROBLEMS.items():
        found = ask(context, "GET", f"/problems/{kind}").json()
        assert found == {"type": f"/problems/{kind}", **expected._asdict()}
        assert found["advice"].endswith(".")
    problem(ask(context, "GET", "/problems/none"), 404, "not-found")
