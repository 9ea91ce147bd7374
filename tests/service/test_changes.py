"""Jobs that are found by tag, changed, retried otherwise, and that outlive their results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from service.http.context import Context
from service.http.housekeeping import clean_up
from service.jobs.job import JobState
from service.logs import _without_values
from service.report import Report
from service.store.database import jobs as job_table
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5, problem
from tests.service.stored_reports import STORED

Make = Callable[..., Context]
Submit = Callable[..., dict[str, Any]]


@pytest.fixture
def context(make: Make) -> Context:
    made = make(keep_results_days=2)
    made.workers.enter("one", "cpu", 1, OFFERS)
    return made


@pytest.fixture
def submit(context: Context, scan: Path) -> Submit:
    made = ask(context, "POST", "/v1/scans", content=scan.read_bytes(), headers=HDF5).json()

    def queued(**parameters: Any) -> dict[str, Any]:
        body = {"scan_id": made["id"]} | parameters
        answer = ask(context, "POST", "/v1/reconstructions", json=body)
        assert answer.status_code == 202, answer.text
        return answer.json()

    return queued


def listed(context: Context, **query: Any) -> list[str]:
    answer = ask(context, "GET", "/v1/reconstructions", params=query)
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]]


def test_jobs_are_found_by_tags_and_time(context: Context, submit: Submit) -> None:
    one = submit(tags={"study": "a:b", "run": "1"})
    two = submit(tags={"study": "a:b", "run": "2"})
    submit()
    assert listed(context, tag="study:a:b") == [two["id"], one["id"]]
    assert listed(context, tag=["study:a:b", "run:1"]) == [one["id"]]
    assert listed(context, tag="run:3") == []
    assert len(listed(context, since=two["created_at"])) == 2
    problem(ask(context, "GET", "/v1/reconstructions?tag=x'y:1"), 422, "invalid-parameter")


def test_the_time_shown_for_a_job_finds_it_though_it_was_rounded_up(
    context: Context, submit: Submit
) -> None:
    job = submit()
    with context.engine.begin() as connection:
        connection.execute(sa.update(job_table).values(created_at=1764081559.4967005))
    shown = ask(context, "GET", f"/v1/reconstructions/{job['id']}").json()["created_at"]
    assert shown == "2025-11-25T14:39:19.496701Z"
    assert listed(context, since=shown) == [job["id"]]


def test_a_page_names_the_next_one(context: Context, submit: Submit) -> None:
    for _ in range(3):
        submit(tags={"a": "b"})
    first = ask(context, "GET", "/v1/reconstructions", params={"limit": 2, "tag": "a:b"})
    link = first.headers["link"]
    assert link.endswith('>; rel="next"')
    second = ask(context, "GET", link[1:].partition(">")[0])
    assert len(second.json()["items"]) == 1
    assert "link" not in second.headers


def test_tags_and_priority_change_for_who_saw_the_job_last(
    context: Context, submit: Submit
) -> None:
    low, high = submit(priority="archive"), submit(priority="archive")
    link = high["links"]["self"]
    change = {"priority": "scanner", "tags": {"new": "1"}}
    problem(ask(context, "PATCH", link, json=change), 428, "precondition-required")
    stale = {"If-Match": '"something-0"'}
    problem(ask(context, "PATCH", link, json=change, headers=stale), 412, "precondition-failed")
    tag = {"If-Match": ask(context, "GET", link).headers["etag"]}
    changed = ask(context, "PATCH", link, json=change, headers=tag)
    assert changed.status_code == 200, changed.text
    assert (changed.json()["tags"], changed.json()["priority"]) == ({"new": "1"}, "scanner")
    assert changed.json()["params"]["priority"] == "scanner"
    problem(ask(context, "PATCH", link, json=change, headers=tag), 412, "precondition-failed")
    assert ask(context, "GET", low["links"]["self"]).json()["queue_position"] == 1
    with context.engine.connect() as connection:
        query = sa.text("SELECT workflow_uuid FROM workflow_status ORDER BY priority")
        assert connection.execute(query).scalars().first() == high["id"]
    context.jobs.claim(low["id"], "one")
    late = ask(context, "PATCH", low["links"]["self"], json=change, headers={"If-Match": "*"})
    problem(late, 409, "already-finished")


def test_a_retry_may_ask_for_something_else(context: Context, submit: Submit) -> None:
    job = submit(preset="fast", seed=3, tags={"a": "b"})
    link = job["links"]["self"] + "/retry"
    problem(ask(context, "POST", link), 409, "job-not-finished")
    ask(context, "POST", job["links"]["cancel"])
    same = ask(context, "POST", link).json()
    assert (same["params"], same["tags"]) == (job["params"], job["tags"])
    body = {"preset": None, "deadline_s": 600}
    key = {"Idempotency-Key": "again"}
    other, replayed = (ask(context, "POST", link, json=body, headers=key) for _ in range(2))
    assert other.json()["params"]["seed"] == 3
    assert (other.json()["params"]["preset"], other.json()["params"]["deadline_s"]) == (None, 600)
    assert replayed.json()["id"] == other.json()["id"]
    assert replayed.headers["idempotency-replayed"] == "true"
    problem(ask(context, "POST", link, json={"sede": 1}), 422, "invalid-parameter")
    problem(ask(context, "POST", link, json={"deadline_s": 5}), 422, "invalid-parameter")


def test_results_are_kept_as_long_as_was_said(context: Context, submit: Submit) -> None:
    old, recent = submit(), submit()
    for job in (old, recent):
        context.jobs.claim(job["id"], "one")
        context.storage.write_product(job["id"], "mean.npy", lambda file: file.write(b"x"))
        entry = context.storage.describe_product(job["id"], "mean.npy")
        context.jobs.finish(
            job["id"], JobState.SUCCEEDED, results=[entry], summary=Report.model_validate(STORED)
        )
    with context.engine.begin() as connection:
        connection.execute(
            sa.update(job_table)
            .where(job_table.c.id == old["id"])
            .values(finished_at=job_table.c.finished_at - 3 * 86400)
        )
    assert clean_up(context)["results"] == 1
    assert clean_up(context)["results"] == 0
    gone = ask(context, "GET", old["links"]["results"])
    assert "retry" in problem(gone, 410, "result-expired")["detail"]
    problem(ask(context, "GET", old["links"]["preview"]), 410, "result-expired")
    assert not (context.storage.root / "reconstructions" / old["id"]).exists()
    assert ask(context, "GET", recent["links"]["results"] + "/mean.npy").content == b"x"
    told = ask(context, "GET", recent["links"]["self"]).json()
    assert told["expires_at"] > told["finished_at"]


def test_counters_do_not_fall_when_jobs_are_deleted(context: Context, submit: Submit) -> None:
    def counted() -> list[str]:
        text = ask(context, "GET", "/metrics").text
        names = ("recon_jobs_total", "recon_job_duration_seconds_bucket")
        return [line for line in text.splitlines() if line.startswith(names)]

    job = submit(preset="fast")
    context.jobs.claim(job["id"], "one")
    context.jobs.finish(job["id"], JobState.FAILED, error={"type": "/problems/internal"})
    before = counted()
    assert 'recon_jobs_total{preset="fast",state="failed"} 1.0' in before
    assert 'recon_job_duration_seconds_bucket{le="1",phase="running",preset="fast"} 1.0' in before
    assert ask(context, "DELETE", job["links"]["self"]).status_code == 204
    assert counted() == before


def test_an_id_that_is_a_name_of_a_list_is_refused(context: Context, scan: Path) -> None:
    answer = ask(context, "PUT", "/v1/reconstructions/counts", content=scan.read_bytes())
    problem(answer, 422, "invalid-parameter")


@pytest.mark.parametrize("path", ["/livez", "/healthcheck", "/v2/health/live"])
def test_health_has_the_names_that_others_use(context: Context, path: str) -> None:
    assert ask(context, "GET", path).status_code == 200
    ready = [ask(context, "GET", p) for p in ("/readyz", "/startupz", "/v2/health/ready")]
    assert len({answer.text for answer in ready}) == 1


def test_logged_errors_do_not_quote_what_a_client_sent() -> None:
    try:
        try:
            raise ValueError("MUELLER^HANS")
        except ValueError as error:
            raise OSError(28, "No space left on device") from error
    except OSError as error:
        text = _without_values((type(error), error, error.__traceback__))
    assert "MUELLER" not in text
    assert "ValueError at" in text
    assert "No space left" in text
    assert "test_changes.py" in text


def test_a_statement_that_fails_does_not_show_its_values(context: Context) -> None:
    with (
        pytest.raises(sa.exc.SQLAlchemyError) as caught,
        context.engine.begin() as connection,
    ):
        connection.execute(sa.text("INSERT INTO nowhere VALUES (:name)"), {"name": "MUELLER"})
    assert "MUELLER" not in str(caught.value)


def test_headers_of_answers_protect_browsers(context: Context) -> None:
    answer: httpx.Response = ask(context, "GET", "/v1/limits")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["cache-control"] == "private, no-cache"
    assert "access-control-allow-origin" not in answer.headers
