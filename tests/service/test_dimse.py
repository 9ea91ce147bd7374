"""C-STORE: what a node says of every instance is read, and what may pass is tried again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pydicom
import pytest
from pydantic import ValidationError
from pynetdicom import AE, evt
from pynetdicom.sop_class import MRImageStorage, ParametricMapStorage
from typer.testing import CliRunner

from recon.io.files import write_result
from service.cli import app
from service.delivery.sending import push
from service.delivery.stow import instance_of
from service.exports.dicom import write_dicom
from service.settings import DimseTarget, ServiceSettings
from tests.mrd_files import header
from tests.service.marked_results import IDENTITY, marked, posterior
from tests.service.orthanc import free_port, orthanc, retrieved


class Node:
    """Answers each instance with the next of its statuses, then with success."""

    def __init__(self, statuses: list[int], kinds: list[str]) -> None:
        self.statuses = list(statuses)
        self.received: list[str] = []
        self._ae = AE(ae_title="PACS")
        for kind in kinds:
            self._ae.add_supported_context(kind)
        self._server = self._ae.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._take)]
        )
        port = self._server.socket.getsockname()[1]
        self.target = DimseTarget(host="127.0.0.1", port=port, called_title="PACS", seconds=10)

    def _take(self, event: evt.Event) -> int:
        self.received.append(str(event.request.AffectedSOPInstanceUID))
        return self.statuses.pop(0) if self.statuses else 0

    def close(self) -> None:
        self._server.shutdown()


@contextmanager
def node(*statuses: int, kinds: tuple[str, ...] = (MRImageStorage,)) -> Iterator[Node]:
    made = Node(list(statuses), list(kinds))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return write_dicom(marked((6, 8)), tmp_path / "made", b"key")


def quick(attempts: int = 4) -> ServiceSettings:
    return ServiceSettings(delivery_attempts=attempts, delivery_pause_seconds=0.01)


def test_only_what_may_pass_is_sent_again(files: list[Path]) -> None:
    with node(0x0000, 0xA700, 0x0122, 0xB000, 0xC123) as pacs:
        outcome = push(quick(), pacs.target, files, lambda _: None)
        first, second = pacs.received[:6], pacs.received[6:]
    assert second == [first[1]]
    assert sorted(outcome.stored) == sorted([first[0], first[1], first[3], first[5]])


def test_each_refusal_is_said_in_words(files: list[Path]) -> None:
    with node(0x0122, 0xC123) as pacs:
        outcome = push(quick(attempts=1), pacs.target, files[:2], lambda _: None)
        first, second = pacs.received
    assert outcome.failures == {
        first: "its kind is not taken (0x0122)",
        second: "cannot be understood (0xC123)",
    }
    assert not outcome.again


def test_a_kind_that_the_node_does_not_take_leaves_the_others_alone(tmp_path: Path) -> None:
    files = write_dicom(marked((6, 8)), tmp_path, b"key", parametric_map=True)
    uids = {file.name: instance_of(file.read_bytes()).uid for file in files}
    with node() as pacs:
        outcome = push(quick(), pacs.target, files, lambda _: None)
    assert len(outcome.stored) == 6
    assert list(outcome.failures) == [uids["std_map_0001.dcm"]]
    with node(kinds=(MRImageStorage, ParametricMapStorage)) as pacs:
        assert len(push(quick(), pacs.target, files, lambda _: None).stored) == 7


# The library drops the socket of a connection that failed without closing it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_node_that_is_away_or_refuses_us_is_tried_again(files: list[Path]) -> None:
    with node() as pacs:
        target = pacs.target
    said: list[str] = []
    gone = push(quick(attempts=2), target, files, said.append)
    assert set(gone.failures.values()) == {"127.0.0.1: no answer"}
    assert len(said) == 1
    with node() as pacs:
        pacs._ae.require_called_aet = True
        wrong = pacs.target.model_copy(update={"called_title": "OTHER"})
        refused = push(quick(attempts=1), wrong, files, said.append)
    assert set(refused.failures.values()) == {"127.0.0.1: it refused the association"}


def test_settings_hold_titles_and_ports_to_what_dicom_allows() -> None:
    for wrong in ({"called_title": "x" * 17}, {"called_title": "a\\b"}, {"port": 0}, {"url": "x"}):
        with pytest.raises(ValidationError):
            DimseTarget(host="pacs", **wrong)
    both = {"a": {"url": "https://x/dicom-web"}, "b": {"host": "pacs", "port": 11112}}
    kinds = ServiceSettings(delivery_targets=both).delivery_targets
    assert [type(target).__name__ for target in kinds.values()] == ["StowTarget", "DimseTarget"]


def test_a_real_orthanc_stores_what_it_gets_by_c_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = marked((6, 8), identified=True)
    posteriors = [posterior(i, image) for i, image in enumerate(images.mean)]
    provenance = {"image_planes": images.stack.to_text(), "seed": 3, "acceleration": 2.0}
    xml = header((6, 8, 1), extra=IDENTITY)
    write_result(tmp_path / "r.h5", posteriors, provenance, header=xml)
    port = free_port()
    with orthanc(tmp_path / "orthanc", dicom_port=port) as url:
        target = {"pacs": {"host": "127.0.0.1", "port": port, "called_title": "ORTHANC"}}
        monkeypatch.setenv("MRI_POSTERIOR_DELIVERY_TARGETS", json.dumps(target))
        out = tmp_path / "dicom"
        arguments = ["export", str(tmp_path / "r.h5"), "-o", str(out), "--push", "pacs"]
        done = CliRunner().invoke(app, [*arguments, "--parametric-map"], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        sent = {str(pydicom.dcmread(file).SOPInstanceUID): file for file in out.iterdir()}
        back = retrieved(url, str(pydicom.dcmread(next(iter(sent.values()))).StudyInstanceUID))
        assert set(back) == set(sent)
        for uid, content in back.items():
            theirs = pydicom.dcmread(pydicom.filebase.DicomBytesIO(content))
            assert theirs == pydicom.dcmread(sent[uid])
