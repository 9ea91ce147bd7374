"""What is refused early, in words, and counted against who is to blame."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from service.http.context import Context
from service.jobs.processes import note_moved, worker_lock
from service.jobs.supervisor import _Child
from service.problems import ProblemError
from service.store.archive import archived_file
from service.store.database import create_database, open_database
from service.store.scans import Scans
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5, problem

Make = Callable[..., Context]


def test_deeply_nested_lines_of_a_batch_are_a_bad_request(make: Make) -> None:
    deep = b'{"scan_id": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    answer = ask(
        make(),
        "POST",
        "/v1/batches",
        content=deep,
        headers={"Content-Type": "application/x-ndjson"},
    )
    problem(answer, 400, "invalid-request")


def test_a_default_model_that_no_worker_offers_is_a_refusal(make: Make, scan: Path) -> None:
    context = make(disk_floor_bytes=0)
    context.workers.enter("one", "cpu", 1, OFFERS)
    sent = ask(context, "POST", "/v1/scans", content=scan.read_bytes(), headers=HDF5).json()
    answer = ask(context, "POST", "/v1/batches", json={"items": [{"scan_id": sent["id"]}]})
    assert "default model" in problem(answer, 422, "invalid-parameter")["detail"]


@pytest.mark.parametrize("damage", ["first page", "middle", "gone"])
def test_readiness_notices_a_broken_database(
    make: Make,
    damage: str,
) -> None:
    context = make(disk_floor_bytes=0)
    context.workers.enter("one", "cpu", 1, OFFERS)
    assert ask(context, "GET", "/readyz").status_code == 200
    file = context.settings.data / "service.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    if damage == "gone":
        file.rename(file.with_name("elsewhere"))
    else:
        content = bytearray(file.read_bytes())
        start = 0 if damage == "first page" else len(content) // 2
        content[start : start + 16384] = b"\xa5" * 16384
        with file.open("r+b") as there:
            there.write(content)
    context.integrity._checked = -1e9  # as after a minute
    answer = ask(context, "GET", "/readyz")
    assert (answer.status_code, answer.json()["checks"]["database"]) == (503, False)
    assert ask(context, "GET", "/livez").status_code == 200


def test_a_worker_that_starts_is_not_one_that_is_stuck(tmp_path: Path) -> None:
    lock = worker_lock(tmp_path, 0)
    lock.parent.mkdir()
    lock.touch()
    note_moved(lock, time.monotonic())  # of the worker before
    time.sleep(0.05)
    child = _Child("worker-0", [sys.executable, "-c", "import time; time.sleep(60)"], lock=lock)
    child.look({}, 0.1, 60)
    note_moved(lock, 0.0)
    time.sleep(0.3)
    child.look({}, 0.1, 60)
    assert child.process is not None
    assert child.process.poll() is None  # it starts
    note_moved(lock, time.monotonic())
    time.sleep(0.3)
    child.look({}, 0.1, 60)
    assert child.process.poll() is not None  # it is stuck
    other = _Child("worker-0", child.command, lock=lock)
    other.look({}, 60, 0.1)
    note_moved(lock, 0.0)
    time.sleep(0.3)
    other.look({}, 60, 0.1)
    assert other.process is not None
    assert other.process.poll() is not None  # it did not start


def test_streams_of_batches_count(make: Make) -> None:
    context = make(max_streams=1)
    batch = context.batches.create("local", "continue", {})
    with context.feed.place():
        answer = ask(context, "GET", f"/v1/batches/{batch.id}/events")
    problem(answer, 429, "rate-limited")
    context.batches.seal(batch)
    assert "event: end" in ask(context, "GET", f"/v1/batches/{batch.id}/events").text
    context.feed.require_place(1)


def digest_of(content: bytes, name: str = "sha-256") -> str:
    return f"{name}=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("sha-256=:AAAA:", 400),
        ("sha-256=AAAA", 400),
        ("nonsense", 400),
        ("sha-512=:AAAA:", 400),
        (digest_of(b"another"), 400),
        (digest_of(b"x") + ", " + digest_of(b"y"), 400),
        ("right", 201),
    ],
)
def test_digests_are_checked_or_refused(make: Make, scan: Path, value: str, status: int) -> None:
    content = scan.read_bytes()
    given = digest_of(content) if value == "right" else value
    headers = HDF5 | {"Content-Digest": given}
    context = make(disk_floor_bytes=0)
    assert ask(context, "POST", "/v1/scans", content=content, headers=headers).status_code == status
    assert list(context.storage.incoming.iterdir()) == []


def test_digests_of_json_are_checked(make: Make) -> None:
    context = make()
    context.workers.enter("one", "cpu", 1, OFFERS)
    body = json.dumps({"scan_id": "none"}).encode()
    headers = {"Content-Type": "application/json"}
    wrong = headers | {"Content-Digest": digest_of(b"another")}
    right = headers | {"Content-Digest": digest_of(body)}
    answer = ask(context, "POST", "/v1/reconstructions", content=body, headers=wrong)
    problem(answer, 400, "digest-mismatch")
    answer = ask(context, "POST", "/v1/reconstructions", content=body, headers=right)
    problem(answer, 404, "not-found")


def test_the_digest_of_a_form_is_of_the_form(make: Make, scan: Path) -> None:
    context = make(disk_floor_bytes=0)
    context.workers.enter("one", "cpu", 1, OFFERS)
    body = b"\r\n".join(
        [
            b"--cut",
            b'Content-Disposition: form-data; name="file"; filename="a.h5"',
            b"Content-Type: application/x-hdf5",
            b"",
            scan.read_bytes(),
            b"--cut--",
            b"",
        ]
    )
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    for content, status in ((body, 202), (scan.read_bytes(), 400)):
        given = headers | {"Content-Digest": digest_of(content)}
        answer = ask(context, "POST", "/v1/reconstructions", content=body, headers=given)
        assert answer.status_code == status, answer.text


def test_encoded_bodies_are_refused(make: Make) -> None:
    headers = HDF5 | {"Content-Encoding": "gzip"}
    answer = ask(make(), "POST", "/v1/scans", content=b"x", headers=headers)
    problem(answer, 415, "unsupported-media-type")
    assert answer.headers["accept-encoding"] == "identity"


def test_a_scan_that_the_service_lost_is_the_services_fault(make: Make, scan: Path) -> None:
    context = make(disk_floor_bytes=0)
    content = scan.read_bytes()
    assert ask(context, "POST", "/v1/scans", content=content, headers=HDF5).status_code == 201
    sha256 = hashlib.sha256(content).hexdigest()
    context.storage.scan(sha256).unlink()
    with pytest.raises(ProblemError) as lost, archived_file(context.storage, sha256, None) as file:
        file.read_bytes()
    assert (lost.value.kind, lost.value.status) == ("file-lost", 500)
    gone = str(scan.with_name("gone.h5"))
    with (
        pytest.raises(ProblemError) as missing,
        archived_file(context.storage, sha256, gone) as file,
    ):
        file.read_bytes()
    assert missing.value.kind == "invalid-scan"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nan", "not-finite"),
        ("infinite at the end", "not-finite"),
        ("zero", "empty-kspace"),
        ("mask of another matrix", "mask-shape"),
        ("mask of halves", "mask-values"),
        ("huge mask", "mask-shape"),
        ("doctype", "header-doctype"),
        ("half a header", "header-invalid"),
    ],
)
def test_what_cannot_be_reconstructed_is_no_scan(
    make: Make,
    tmp_path: Path,
    name: str,
    reason: str,
) -> None:
    rng = np.random.default_rng(0)
    kspace = (rng.normal(size=(3, 2, 16, 12)) + 1j).astype(np.complex64)
    mask: Any = np.ones(12)
    header = "<ismrmrdHeader/>"
    if name == "nan":
        kspace[0, 0, 0, 0] = np.nan
    elif name == "infinite at the end":
        kspace[-1, -1, -1, -1] = np.inf
    elif name == "zero":
        kspace[:] = 0
    elif name == "mask of another matrix":
        mask = np.ones(11)
    elif name == "mask of halves":
        mask = np.full(12, 0.5)
    elif name == "huge mask":
        mask = np.ones((300, 300))
    elif name == "doctype":
        header = '<!DOCTYPE a [<!ENTITY b "c">]><ismrmrdHeader>&b;</ismrmrdHeader>'
    elif name == "half a header":
        header = "<ismrmrdHeader>"
    file = tmp_path / "bad.h5"
    with h5py.File(file, "w") as writing:
        writing["kspace"] = kspace
        writing["mask"] = mask
        writing["ismrmrd_header"] = header
    answer = ask(
        make(disk_floor_bytes=0), "POST", "/v1/scans", content=file.read_bytes(), headers=HDF5
    )
    assert problem(answer, 422, "invalid-scan")["reason"] == reason


SLOW_SECONDS = 1.0


def test_a_slow_bucket_keeps_nobody_from_writing(tmp_path: Path) -> None:
    """Four scans at once to a store that takes its time, and short writes beside them."""
    url = f"sqlite:///{tmp_path}/s.sqlite"
    create_database(url)
    engine = open_database(url, busy_milliseconds=100)
    scans = Scans(engine)
    placed: list[str] = []

    def upload(number: int) -> None:
        sha256 = f"{number:064x}"

        def place() -> None:
            time.sleep(SLOW_SECONDS)
            placed.append(sha256)

        scans.add("me", sha256, 1, (1, 1, 1, 1), place)

    threads = [threading.Thread(target=upload, args=(number,)) for number in range(4)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    scans.add("me", "f" * 64, 1, (1, 1, 1, 1), lambda: None)
    between = time.monotonic() - began
    for thread in threads:
        thread.join()
    assert between < SLOW_SECONDS
    assert time.monotonic() - began < 3 * SLOW_SECONDS
    assert len(placed) == 4
    assert len(scans.digests()) == 5
    assert list((tmp_path / "locks").iterdir()) == []
    engine.dispose()


def test_content_that_is_placed_is_not_removed_meanwhile(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/s.sqlite"
    create_database(url)
    engine = open_database(url)
    scans, file, begun = Scans(engine), tmp_path / "scan.h5", threading.Event()

    def place() -> None:
        file.write_bytes(b"scan")
        begun.set()
        time.sleep(0.3)

    adding = threading.Thread(
        target=scans.add, args=("me", "a" * 64, 1, (1, 1, 1, 1), place), daemon=True
    )
    adding.start()
    begun.wait(10)
    assert not scans.unused("a" * 64, file.unlink)  # waits, and then somebody has it
    adding.join()
    assert file.exists()
    engine.dispose()
