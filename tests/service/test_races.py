"""Requests that meet each other: nothing is doubled, lost or left without its file."""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from service.http.authentication import Doorkeeper
from service.http.context import Context
from service.http.feed import Feed
from service.http.housekeeping import clean_up
from service.jobs.history import History, record
from service.problems import ProblemError
from service.store.database import create_database, open_database
from service.store.database import jobs as job_table
from service.store.files import Storage
from service.store.keys import LOCAL
from service.store.scans import Scans
from service.store.uploads import Uploads
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5, QUICK, at_once, ended

Make = Callable[..., Context]


@pytest.fixture
def engine(tmp_path: Path) -> sa.Engine:
    url = f"sqlite:///{tmp_path}/s.sqlite"
    create_database(url)
    return open_database(url)


def test_the_same_id_at_once_is_one_job(client: httpx.Client, scan: Path) -> None:
    content = scan.read_bytes()
    parameters = {key: str(value).lower() for key, value in QUICK.items()} | {"slices": "0"}
    link = "/v1/reconstructions/met-each-other"
    answers = at_once(6, lambda _: client.put(link, params=parameters, content=content))
    assert {answer.status_code for answer in answers} <= {200, 202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    ended(client, answers[0].json())


def test_the_same_idempotency_key_at_once_is_one_job(client: httpx.Client, scan: Path) -> None:
    scan_id = client.post("/v1/scans", content=scan.read_bytes(), headers=HDF5).json()["id"]
    body = {**QUICK, "scan_id": scan_id, "slices": "0", "tags": {"met": "1"}}
    headers = {"Idempotency-Key": "met"}
    answers = at_once(6, lambda _: client.post("/v1/reconstructions", json=body, headers=headers))
    assert {answer.status_code for answer in answers} <= {202, 409}
    assert {a.json()["type"] for a in answers if a.status_code == 409} <= {
        "/problems/idempotency-in-flight"
    }
    found = client.get("/v1/reconstructions", params={"tag": "met:1"}).json()["items"]
    assert {a.json()["id"] for a in answers if a.status_code == 202} == {found[0]["id"]}
    assert len(found) == 1
    ended(client, found[0])


def test_a_scan_that_is_deleted_and_uploaded_at_once_keeps_its_file(
    tmp_path: Path, engine: sa.Engine
) -> None:
    scans, storage = Scans(engine), Storage(tmp_path)
    storage.prepare()
    content = b"content"
    sha256 = hashlib.sha256(content).hexdigest()
    rng = random.Random(0)

    def upload(number: int) -> None:
        part = storage.incoming / f"{number}.part"
        part.write_bytes(content)
        time.sleep(rng.random() / 200)
        scans.add(
            f"owner-{number % 3}", sha256, 7, (1, 1, 1, 1),
            lambda: storage.adopt_scan(part, sha256),
        )  # fmt: skip

    def delete(number: int) -> None:
        for scan in scans.page(f"owner-{number % 3}", sha256=sha256, before=None, limit=9):
            time.sleep(rng.random() / 200)
            assert scans.remove(scan)
            scans.unused(sha256, lambda: storage.remove_scan(sha256))

    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(rng.choice((upload, delete)), k) for k in range(150)]:
            done.result()
    assert bool(scans.digests()) == storage.scan(sha256).exists()
    engine.dispose()


def test_a_job_is_not_queued_for_a_scan_that_is_gone(
    make: Make,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = make()
    context.workers.enter("one", "cpu", 1, OFFERS)
    made = ask(context, "POST", "/v1/scans", content=scan.read_bytes(), headers=HDF5).json()
    looked = context.scans.get(made["id"], None)
    assert looked is not None
    assert ask(context, "DELETE", f"/v1/scans/{made['id']}").status_code == 204
    monkeypatch.setattr(Scans, "get", lambda *_: looked)  # it was there a moment ago
    answer = ask(context, "POST", "/v1/reconstructions", json={"scan_id": made["id"]})
    assert (answer.status_code, answer.json()["type"]) == (404, "/problems/not-found")
    assert sum(context.jobs.counts().values()) == 0


def test_a_follower_that_comes_while_things_happen_misses_nothing(engine: sa.Engine) -> None:
    class SlowHistory(History):
        def last(self) -> int:
            found = super().last()
            time.sleep(0.2)  # what is recorded now is neither before nor after
            return found

    def happen(number: int) -> None:
        with engine.begin() as connection:
            record(connection, "JOB", "slice", {"slice": number})

    async def follow() -> list[int]:
        history = SlowHistory(engine)
        feed = Feed(history, 0.01, overlap=False)
        reader = asyncio.create_task(feed.run())
        await asyncio.sleep(0.05)
        writer = asyncio.create_task(
            asyncio.to_thread(lambda: [happen(n) or time.sleep(0.02) for n in range(30)])
        )
        await asyncio.sleep(0.1)
        async with feed.listen("JOB") as listener:
            seen = [event.id for event in history.of("JOB")]
            while len(seen) < 30:
                event = await listener.get(2)
                assert event is not None
                if event.id not in seen:
                    seen.append(event.id)
        await writer
        reader.cancel()
        return seen

    assert asyncio.run(follow()) == list(range(1, 31))
    engine.dispose()


def test_a_long_story_is_told_to_the_end(make: Make) -> None:
    context = make()
    with context.engine.begin() as connection:
        connection.execute(
            sa.insert(job_table).values(
                id="JOB", owner="local", scan_id="S", scan_sha256="0" * 64, request={},
                priority="archive", state="succeeded", created_at=1.0, finished_at=2.0, revision=0,
            )
        )  # fmt: skip
        for number in range(2500):
            record(connection, "JOB", "slice", {"slice": number})
        for fraction in range(50):
            record(connection, "JOB", "progress", {"fraction": fraction})
        record(connection, "JOB", "end", {})

    context.feed.stop()  # the job has ended: nothing is waited for
    text = ask(context, "GET", "/v1/reconstructions/JOB/events").text
    assert text.count("event: slice") == 2500
    assert text.count("event: progress") == 1  # the last one replaces those before it
    assert text.count("event: end") == 1
    assert text.rindex("event: end") > text.rindex("event: slice")


def test_an_upload_that_is_being_written_does_not_expire(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 1e-9)
    upload = uploads.create("me", 10)
    time.sleep(0.01)
    with uploads.held(upload.id) as mine:
        assert mine
        assert uploads.sweep() == 0
        with uploads.held(upload.id) as another:
            assert not another
    assert uploads.sweep() == 1
    assert list(tmp_path.iterdir()) == []


def test_housekeeping_removes_what_crashes_left_and_nothing_else(
    make: Make,
    scan: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = make()
    made = ask(context, "POST", "/v1/scans", content=scan.read_bytes(), headers=HDF5).json()
    orphan = context.storage.scan("a" * 64)
    orphan.parent.mkdir()
    orphan.write_bytes(b"x")
    (context.storage.root / "reconstructions" / "GONE").mkdir(parents=True)
    assert clean_up(context)["orphans"] == 0  # it may be of a request at work
    monkeypatch.setattr("service.http.housekeeping._ORPHAN_SECONDS", -1.0)
    assert clean_up(context)["orphans"] == 2
    assert context.storage.scan(made["sha256"]).exists()
    assert not orphan.exists()


def test_uploads_of_one_key_are_limited(make: Make) -> None:
    context = make(max_uploads_per_key=2)
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10"}
    answers = [ask(context, "POST", "/v1/uploads", headers=headers) for _ in range(3)]
    assert [a.status_code for a in answers] == [201, 201, 429]
    assert answers[2].json()["type"] == "/problems/quota-exceeded"


def test_scans_of_one_key_may_fill_only_so_much(make: Make, scan: Path) -> None:
    content = scan.read_bytes()
    context = make(max_scan_bytes_per_key=len(content) + 10)
    upload = {"content": content, "headers": HDF5}
    made = ask(context, "POST", "/v1/scans", **upload)
    assert made.status_code == 201
    for answer in (
        ask(context, "POST", "/v1/scans", **upload),
        ask(context, "POST", "/v1/reconstructions", **upload),
    ):
        assert (answer.status_code, answer.json()["type"]) == (429, "/problems/quota-exceeded")
    assert ask(context, "DELETE", made.headers["location"]).status_code == 204
    assert ask(context, "POST", "/v1/scans", **upload).status_code == 201


def test_a_key_may_ask_only_so_much_at_the_same_time(make: Make) -> None:
    context = make(max_requests_per_key=1)
    doorkeeper = Doorkeeper()
    with (
        doorkeeper.occupied(LOCAL, 1),
        pytest.raises(ProblemError, match="rate-limited"),
        doorkeeper.occupied(LOCAL, 1),
    ):
        pass
    with doorkeeper.occupied(LOCAL, 1):
        pass
    for _ in range(3):  # each is over before the next begins
        assert ask(context, "GET", "/v1/limits").status_code == 200


def test_a_proxy_needs_keys(make: Make) -> None:
    context = make()
    assert ask(context, "GET", "/v1/limits").status_code == 200
    through = ask(context, "GET", "/v1/limits", headers={"X-Forwarded-For": "203.0.113.9"})
    assert (through.status_code, through.json()["type"]) == (403, "/problems/forbidden")
    assert "keys create" in through.json()["detail"]


def test_a_database_on_a_full_disk_is_a_507(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    context = make()

    def full(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("x", {}, Exception("database or disk is full"))

    monkeypatch.setattr(type(context.scans), "page", full)
    answer = ask(context, "GET", "/v1/scans")
    assert (answer.status_code, answer.json()["type"]) == (507, "/problems/storage-full")
