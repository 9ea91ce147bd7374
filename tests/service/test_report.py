"""The report is one thing from the worker to the client, whatever its age."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
from pydantic import BaseModel

from models.conformal_factors import ConformalFactor
from recon.planes import ATTRIBUTE, axial
from recon.posterior import SelfCheck
from recon.scan import Geometry, Scan
from recon.settings import Settings
from recon.verdict import Cause, Trust, Verdict
from service.client import Reconstruction
from service.http.context import Context
from service.jobs.job import JobState
from service.products import MARKER
from service.report import ProductFile, Report
from service.store.database import jobs as job_table
from service.worker.report import report_of
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5, problem
from tests.service.marked_results import posterior
from tests.service.stored_reports import AGES, STORED


@pytest.fixture
def stored(make: Callable[..., Context], scan: Path) -> Callable[[Any], tuple[Context, str]]:
    """A job of any age: what was stored is put where the service finds it."""
    context = make()
    context.workers.enter("one", "cpu", 1, OFFERS)

    def put(document: Any) -> tuple[Context, str]:
        upload = {"content": scan.read_bytes(), "headers": HDF5}
        job = ask(context, "POST", "/v1/reconstructions", **upload).json()
        context.jobs.claim(job["id"], "one")
        file = {"name": "mean.npy", "media_type": "application/x", "bytes": 1, "sha256": "ab" * 32}
        values = {"state": JobState.SUCCEEDED, "summary": document, "results": [file]}
        with context.engine.begin() as connection:
            update = sa.update(job_table).where(job_table.c.id == job["id"])
            connection.execute(update.values(finished_at=1e9, **values))
        return context, job["links"]["self"]

    return put


@pytest.mark.parametrize("age", AGES)
def test_reports_of_every_age_are_served(age: str, stored: Any) -> None:
    context, link = stored(AGES[age])
    answer = ask(context, "GET", link).json()
    told = answer["summary"]
    for name, value in AGES[age].items():
        if name not in ("slices", "image", "weather"):
            assert told[name] == value
    [(old, new)] = zip(AGES[age]["slices"], told["slices"], strict=True)
    check = new["self_check"] | old["self_check"]
    assert new["self_check"] == check
    assert new | old | {"self_check": check} == new
    assert told["image"] is None or told["image"]["shape"] == [4, 6]
    assert set(told) == set(STORED)
    assert ask(context, "GET", "/v1/reconstructions").json()["items"][0]["summary"] == told
    client = Reconstruction.model_validate(answer).summary
    assert client is not None
    assert client.model_dump(mode="json") == told
    assert ask(context, "GET", f"{link}/results").json()["items"][0]["name"] == "mean.npy"


def test_regions_of_a_result_without_a_size_are_refused(stored: Any) -> None:
    context, link = stored(AGES["the first"])
    question = {"slice": 7, "region": {"polygon": [[0, 0], [0, 2], [2, 2]]}}
    refused = problem(ask(context, "POST", f"{link}/roi", json=question), 410, "result-expired")
    assert "retry" in refused["detail"]


def parts(part: BaseModel, name: str = "report") -> Iterator[tuple[str, BaseModel]]:
    yield name, part
    for field, value in part:
        for one in value if isinstance(value, tuple) else (value,):
            if isinstance(one, BaseModel):
                yield from parts(one, f"{name}.{field}")


def test_the_worker_fills_in_every_field(stored: Any) -> None:
    """What was forgotten would be the default, for ever, and nobody would see it."""
    context, link = stored(None)
    job = context.jobs.get(link.rpartition("/")[2])
    assert job is not None
    shape = (4, 6)
    scan = Scan(
        np.ones((1, 1, *shape), np.complex64),
        np.ones(shape, np.bool_),
        attributes={ATTRIBUTE: axial(1, shape, (1.0, 1.5, 4.0)).to_text()},
        geometry=Geometry(recon_shape=shape, field_of_view_mm=(4.0, 9.0, 4.0)),
    )
    check = SelfCheck(3, 1.0, coverage_50=0.5, coverage_90=0.9, ratio=1.1, freedom=40.0)
    verdict = Verdict(Trust.DOUBTFUL, "The prior: odd; look.", Cause.PRIOR, 0.01)
    made = replace(posterior(0, np.ones(shape, np.float32)), self_check=check, verdict=verdict)
    entry = ConformalFactor.model_construct(
        factor=1.5, level=0.9, confidence=0.9, unit="slice", units=3, scans=2, data="d",
        date=date(2026, 1, 2),
    )  # fmt: skip
    file = ProductFile(name="a", media_type="b", bytes=1, sha256="c")
    report = report_of(job, scan, "tiny", Settings(), [made], entry, [file])
    found = dict(parts(report))
    assert set(found) == {
        "report", "report.calibration", "report.image", "report.reached", "report.slices",
        "report.slices.edges", "report.slices.self_check", "report.slices.verdict",
        "report.verdict", "report.products",
    }  # fmt: skip
    for name, part in found.items():
        assert part.model_fields_set == set(type(part).model_fields), name
    assert report.image is not None
    assert (report.image.pixel_mm, report.image.slice_mm) == ((1.0, 1.5), 4.0)
    text = json.dumps(report.model_dump(mode="json"))
    assert Report.model_validate_json(text) == report


def test_what_another_job_has_made_is_read_with_the_same_type(stored: Any) -> None:
    """A report.json of an archive has its ledger too."""
    context, _ = stored(None)
    text = json.dumps(STORED | {"steps": [{"step": "prepare"}]})
    context.storage.write_product("ab" * 32, MARKER, lambda file: file.write(text.encode()))
    read = context.storage.product("ab" * 32, MARKER).read_bytes()
    assert Report.model_validate_json(read).model_dump(mode="json") == STORED
