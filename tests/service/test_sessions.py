"""Sessions against the tables alone: what is kept and queued before any worker has a look."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from ismrmrd.serialization import ConfigFile

from service.intake.intake import open_intake
from service.scanner.gateway import Gateway
from service.scanner.mrd_stream import FileSource
from service.settings import load_settings
from service.store.database import create_database
from tests.mrd_files import header, lines
from tests.service.mrd_sessions import (
    ACQUISITIONS,
    FAST,
    FULL,
    HEADER,
    Answer,
    header_message,
    sent,
    understood,
)

TRIGGER = '{"parameters": {"mode": "trigger", "numsamples": 2}}'
OFFERS = {"models": [], "default_model": "none", "presets": {}, "versions": {}}


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
