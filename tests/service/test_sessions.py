"""Sessions against the tables alone: what is kept and queued before any worker has a look."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from ismrmrd.serialization import ConfigFile

from recon.io.files import read_scan
from service.intake.intake import open_intake
from service.offers import Offers
from service.scanner.gateway import Gateway
from service.scanner.mrd_stream import CLOSE, FileSource
from service.settings import load_settings
from service.store.database import create_database
from tests.mrd_files import header, lines
from tests.service.mrd_sessions import (
    ACQUISITIONS,
    FAST,
    FULL,
    HEADER,
    SCAN,
    Answer,
    header_message,
    sent,
    understood,
)

TRIGGER = '{"parameters": {"mode": "trigger", "numsamples": 2}}'
OFFERS = Offers(models=(), default_model="none", presets={}, versions={})


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.delenv("MRI_POSTERIOR_CONFIG", raising=False)
    settings = load_settings(data=tmp_path, disk_floor_bytes=0)
    create_database(settings.database_url)
    intake = open_intake(settings)
    intake.storage.prepare()
    intake.workers.enter("worker", "cpu", 1, OFFERS)
    yield Gateway(intake)
    intake.close()


def answered(gateway: Gateway, content: bytes) -> Answer:
    async def collect() -> bytes:
        source = FileSource(io.BytesIO(content))
        return b"".join([chunk async for chunk in gateway.answer(source)])

    return understood(asyncio.run(collect()))


def test_triggered_raw_data_wait_as_a_job_with_a_preview(gateway: Gateway) -> None:
    answer = answered(gateway, sent(FAST, HEADER, TRIGGER, *ACQUISITIONS))
    assert [image.image_series_index for image in answer.images] == [3]
    [job] = gateway.intake.jobs.page(None)
    assert (job.state, job.priority, job.parameters.identified) == ("queued", "scanner", True)
    assert job.id in answer.texts[0]
    assert list(gateway.intake.storage.incoming.iterdir()) == []


def test_interleaved_images_wait_as_a_job_each(gateway: Gateway) -> None:
    other = [line for line in range(32) if line % 2 or 9 <= line < 23]
    more = list(lines(FULL.kspace[0], other, repetition=1))
    answered(gateway, sent(FAST, HEADER, TRIGGER, *ACQUISITIONS, *more))
    jobs = gateway.intake.jobs.page(None)
    assert sorted(str(job.parameters.select) for job in jobs) == ["repetition=0", "repetition=1"]


def test_a_waiting_measurement_is_spoken_of(gateway: Gateway) -> None:
    extra = (
        "<measurementInformation><measurementID>M</measurementID><patientPosition>HFS"
        "</patientPosition></measurementInformation>"
    )
    named = header_message(header((32, 32, 1), extra=extra))
    answered(gateway, sent(FAST, named, TRIGGER, *ACQUISITIONS))
    [text] = answered(gateway, sent(ConfigFile("retrieve"), named)).texts
    assert "is queued, 0 before it" in text


@pytest.mark.parametrize("cut", [1, 5000])
def test_what_arrived_of_a_broken_session_is_kept(cut: int, gateway: Gateway) -> None:
    content = sent(FAST, HEADER, TRIGGER, *ACQUISITIONS)[:-cut]
    [text] = answered(gateway, content).texts
    assert text.startswith("ERROR   (client-disconnect)")
    [job] = gateway.intake.jobs.page(None)
    assert job.state == "cancelled"
    assert job.error is not None
    scan = gateway.intake.scans.get(job.scan_id, None)
    assert scan is not None
    assert gateway.intake.storage.scan(scan.sha256).is_file()


def test_spools_of_a_process_that_died_are_kept_once(gateway: Gateway) -> None:
    incoming = gateway.intake.storage.incoming
    (incoming / "a.session").write_bytes(sent(FAST, HEADER, TRIGGER, *ACQUISITIONS)[:-2])
    (incoming / "b.session").write_bytes(b"\x01")
    assert asyncio.run(gateway.recover()) == 2
    [job] = gateway.intake.jobs.page(None)
    assert job.error is not None
    assert job.error["type"] == "/problems/client-disconnect"
    assert list(incoming.iterdir()) == []
    assert asyncio.run(gateway.recover()) == 0


def test_a_spiral_without_positions_is_refused_by_name(gateway: Gateway) -> None:
    head = header_message(header((32, 32, 1), trajectory="spiral"))
    [text] = answered(gateway, sent(FAST, head, *ACQUISITIONS)).texts
    assert text.startswith("ERROR   (no-trajectory)")
    assert gateway.intake.jobs.page(None) == []


def test_a_session_that_wants_nothing_is_answered_so(gateway: Gateway) -> None:
    assert answered(gateway, CLOSE).texts == []


def test_texts_and_parameters_of_a_session_are_bounded(gateway: Gateway) -> None:
    names = {f"name{n}": n for n in range(100)}
    many = json.dumps({"parameters": names})
    [text] = answered(gateway, sent(FAST, HEADER, many, *ACQUISITIONS)).texts
    assert "mrd-parameters" in text
    remark = "x" * (1 << 20)
    [text] = answered(gateway, sent(FAST, HEADER, *[remark] * 5, *ACQUISITIONS)).texts
    assert "mrd-too-large" in text
    deep = '{"parameters": {"numsamples": 2, "mode": "trigger", "other": [[[1]]]}}'
    answered(gateway, sent(FAST, HEADER, deep, *ACQUISITIONS))
    assert len(gateway.intake.jobs.page(None)) == 1


def test_a_disk_that_fills_up_ends_a_session(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([1 << 40])  # there is room when the session begins
    free = lambda _: next(looks, 0)  # noqa: E731
    monkeypatch.setattr(type(gateway.intake.storage), "free_bytes", free)
    monkeypatch.setattr("service.scanner.mrd_stream._ROOM_BYTES", 4096)
    [text] = answered(gateway, sent(FAST, HEADER, TRIGGER, *ACQUISITIONS)).texts
    assert text.startswith("ERROR   (storage-full)")
    assert list(gateway.intake.storage.incoming.iterdir()) == []


def test_samples_go_to_the_disk_piece_by_piece(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a readout is said to be, no more than a piece of it is asked for at once."""
    asked: list[int] = []

    class Watched(FileSource):
        async def readexactly(self, n: int, /) -> bytes:
            asked.append(n)
            return await super().readexactly(n)

    monkeypatch.setattr("service.scanner.mrd_stream._PIECE_BYTES", 100)
    content = sent(FAST, HEADER, TRIGGER, *ACQUISITIONS)

    async def collect() -> bytes:
        return b"".join([chunk async for chunk in gateway.answer(Watched(io.BytesIO(content)))])

    assert understood(asyncio.run(collect())).images
    assert sum(n == 100 for n in asked) > len(ACQUISITIONS)
    [job] = gateway.intake.jobs.page(None)
    scan = gateway.intake.scans.get(job.scan_id, None)
    assert scan is not None
    stored = read_scan(gateway.intake.storage.scan(scan.sha256))
    np.testing.assert_array_equal(stored.kspace[0], SCAN.kspace[0])
