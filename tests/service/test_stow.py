"""STOW-RS: what a target says of every instance is read, and what may pass is tried again."""

from __future__ import annotations

import io
import json
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pydicom
import pytest
from typer.testing import CliRunner

from recon.io.files import write_result
from service.cli import app
from service.delivery.delivery_table import Deliveries
from service.delivery.sending import Sender, push, send
from service.delivery.stow import instance_of
from service.exports.dicom import write_dicom
from service.jobs.job_table import Jobs
from service.jobs.workflows import Queue
from service.settings import ServiceSettings, StowTarget
from service.store.database import create_database, open_database
from service.store.files import Storage
from tests.mrd_files import header
from tests.service.marked_results import IDENTITY, marked, posterior
from tests.service.orthanc import orthanc, retrieved

STORED, FAILED = "00081199", "00081198"


class Pacs(ThreadingHTTPServer):
    """Answers each request with the next of its answers, the last one for ever."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[tuple[int, dict[str, str | None]]] = []
        """Status; and for each instance, by its place in the request, why it is refused."""
        self.received: list[list[str]] = []

    @property
    def target(self) -> StowTarget:
        return StowTarget(url=f"http://127.0.0.1:{self.server_port}/dicom-web", token="t")


class Handler(BaseHTTPRequestHandler):
    server: Pacs

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        parts = message_from_bytes(kind + body, policy=HTTP).iter_parts()
        uids = [instance_of(part.get_content()).uid for part in parts]
        assert self.path == "/dicom-web/studies"
        assert self.headers["Authorization"] == "Bearer t"
        self.server.received.append(uids)
        queue = self.server.answers
        status, refused = queue.pop(0) if len(queue) > 1 else queue[0]
        said: dict[str, list[dict[str, object]]] = {STORED: [], FAILED: []}
        for place, uid in enumerate(uids):
            item: dict[str, object] = {"00081155": {"vr": "UI", "Value": [uid]}}
            reason = refused.get(str(place))
            if reason is not None:
                item["00081197"] = {"vr": "US", "Value": [int(reason, 16)]}
            said[FAILED if str(place) in refused else STORED].append(item)
        document = {tag: {"vr": "SQ", "Value": items} for tag, items in said.items() if items}
        text = json.dumps(document).encode() if status < 400 or status == 409 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def pacs() -> Iterator[Pacs]:
    server = Pacs()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_dicom(marked((6, 8)), tmp_path / "dicom", b"key")


def quick(target: StowTarget, attempts: int = 4) -> ServiceSettings:
    return ServiceSettings(
        delivery_targets={"pacs": target}, delivery_attempts=attempts, delivery_pause_seconds=0.01
    )


def test_failures_in_a_success_are_read_and_only_those_that_may_pass_are_sent_again(
    files: list[Path],
) -> None:
    with pacs() as server:
        server.answers = [(202, {"1": "A700", "2": "0122", "4": "C000"}), (200, {})]
        outcome = push(quick(server.target), server.target, files, lambda _: None)
        first, second = server.received
    assert second == [first[1]]
    assert sorted(outcome.stored) == sorted([first[0], first[1], first[3], first[5]])


def test_what_is_refused_for_good_is_said_for_each_instance(files: list[Path]) -> None:
    instances = [instance_of(file.read_bytes()) for file in files]
    with pacs() as server:
        server.answers = [(409, {str(k): "0122" for k in range(6)})]
        outcome = send(server.target, instances)
    assert outcome.failures == {i.uid: "its kind is not taken (0x0122)" for i in instances}
    assert (outcome.stored, outcome.again) == ([], set())


def test_a_server_that_is_away_is_tried_again_and_a_refusal_is_not(files: list[Path]) -> None:
    said: list[str] = []
    with pacs() as server:
        server.answers = [(503, {}), (503, {}), (200, {})]
        assert len(push(quick(server.target), server.target, files, said.append).stored) == 6
        assert len(said) == 2
        server.received.clear()
        server.answers = [(401, {})]
        outcome = push(quick(server.target), server.target, files, said.append)
        assert len(server.received) == 1
        assert set(outcome.failures.values()) == {"the server answered 401"}
        target = server.target
    gone = push(quick(target, attempts=2), target, files, said.append)
    assert set(gone.failures.values()) == {"no answer (ConnectError)"}


def test_a_redirect_is_not_followed(files: list[Path]) -> None:
    with pacs() as server:
        server.answers = [(307, {})]
        outcome = send(server.target, [instance_of(files[0].read_bytes())])
    assert list(outcome.failures.values()) == ["the server answered 307"]


def test_an_address_with_a_password_or_another_scheme_is_refused() -> None:
    for url in ("file:///etc/passwd", "http://user:pass@host/x", "http://host/x?y=1"):
        with pytest.raises(ValueError, match="url"):
            StowTarget(url=url)


def test_the_command_sends_to_orthanc_which_returns_everything_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = marked((6, 8))
    posteriors = [posterior(i, image) for i, image in enumerate(images.mean)]
    provenance = {"image_planes": images.stack.to_text(), "seed": 3, "acceleration": 2.0}
    xml = header((6, 8, 1), extra=IDENTITY)
    write_result(tmp_path / "r.h5", posteriors, provenance, header=xml)
    with orthanc(tmp_path / "orthanc") as url:
        target = {"pacs": {"url": url, "user": "user", "password": "secret"}}
        monkeypatch.setenv("MRI_POSTERIOR_DELIVERY_TARGETS", json.dumps(target))
        out = tmp_path / "dicom"
        arguments = ["export", str(tmp_path / "r.h5"), "-o", str(out), "--push", "pacs"]
        done = CliRunner().invoke(app, [*arguments, "--parametric-map"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        sent = {str(pydicom.dcmread(file).SOPInstanceUID): file for file in out.iterdir()}
        study = str(pydicom.dcmread(next(iter(sent.values()))).StudyInstanceUID)
        back = retrieved(url, study)
        assert set(back) == set(sent)
        for uid, content in back.items():
            assert pydicom.dcmread(pydicom.filebase.DicomBytesIO(content)) == pydicom.dcmread(
                sent[uid]
            )


def test_a_durable_delivery_goes_on_where_it_was(files: list[Path], tmp_path: Path) -> None:
    with pacs() as server:
        settings = quick(server.target, attempts=3).model_copy(update={"data": tmp_path})
        create_database(settings.database_url)
        engine = open_database(settings.database_url)
        storage, deliveries = Storage(tmp_path), Deliveries(engine)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for file in files:
                archive.write(file, file.name)
        content = packed.getvalue()
        storage.write_product("JOB", "dicom.zip", lambda out: out.write(content))
        sender = Sender(settings, deliveries, Jobs(engine), storage)
        queue = Queue(settings, engine)
        made = deliveries.create("JOB", "pacs", ["mean"], queue.enqueue_delivery)
        server.answers = [(202, {"0": "A700"}), (503, {}), (200, {})]
        assert sender.try_once(made.id) == pytest.approx(0.01)
        assert sender.try_once(made.id) == pytest.approx(0.02)
        assert sender.try_once(made.id) is None
        done = deliveries.get(made.id)
        assert done is not None
        assert (done.state, done.attempts, len(done.stored)) == ("delivered", 3, 3)
        assert [len(batch) for batch in server.received] == [3, 1, 1]
        assert sender.try_once(made.id) is None
        queue.close()
        engine.dispose()
