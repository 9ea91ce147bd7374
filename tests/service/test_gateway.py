from __future__ import annotations

import asyncio
import io
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import ismrmrd
import numpy as np
import pytest
import torch
from ismrmrd.serialization import ConfigFile, ConfigText, ProtocolDeserializer, ProtocolSerializer

from recon.phantom import simulate
from recon.pipeline import Settings, reconstruct
from recon.posterior import SlicePosterior
from recon.prior import GaussianPrior
from recon.undersampling import undersample, undersampling_mask
from service.scanner.gateway import Engine, Session, serve
from service.scanner.mrd_stream import FileSource, StreamLimits
from tests.mrd_files import header, lines

SIZE = 32
XML = header((SIZE, SIZE, 1))
PRIOR = GaussianPrior(torch.zeros(SIZE, SIZE, dtype=torch.complex64), torch.full((SIZE, SIZE), 0.3))
FULL = simulate(1, 4, SIZE, SIZE, 40, 0)[0]
SCAN = undersample(FULL, undersampling_mask((SIZE, SIZE), "equispaced", 1.6, 0.4, 0))
ACQUISITIONS = list(lines(SCAN.kspace[0], np.flatnonzero(SCAN.mask[0]).tolist()))
ENGINE = Engine(
    prior=PRIOR,
    device=torch.device("cpu"),
    describe=lambda scan, settings: {"model_id": "gaussian", "seed": settings.seed},
    presets={"fast": "fast", "openrecon": "fast"},
    base=Settings(self_check=False),
)
SESSION = Session(ENGINE, limits=StreamLimits(message_bytes=1 << 20, idle_seconds=60))


def sent(*objects: object, close: bool = True) -> bytes:
    buffer = io.BytesIO()
    serializer = ProtocolSerializer(buffer)
    for item in objects:
        if isinstance(item, bytes):
            buffer.write(item)
        else:
            serializer.serialize(item)
    if close:
        serializer.close()
    return buffer.getvalue()


def header_message(xml: str = XML) -> bytes:
    return struct.pack("<HI", 3, len(xml)) + xml.encode()


PARAMETERS = '{"version": "1.0", "parameters": {"numsamples": 2, "seed": 5}}'
GOOD = sent(ConfigFile("fast"), header_message(), PARAMETERS, *ACQUISITIONS)


@dataclass(frozen=True)
class Answer:
    texts: list[str]
    images: list[ismrmrd.Image]


def understood(content: bytes) -> Answer:
    """By the public package; it raises unless the last message is CLOSE."""
    stream = io.BytesIO(content)
    found = list(ProtocolDeserializer(stream).deserialize())
    assert stream.read() == b""
    return Answer(
        [item for item in found if isinstance(item, str)],
        [item for item in found if isinstance(item, ismrmrd.Image)],
    )


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(serve(SESSION, "127.0.0.1", 0), loop).result(30)
    yield server.sockets[0].getsockname()[1]

    async def stop() -> None:
        server.close()
        await server.wait_closed()
        await loop.shutdown_default_executor()

    asyncio.run_coroutine_threadsafe(stop(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def talk(port: int, content: bytes) -> Answer:
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return understood(answer)


def test_a_session_returns_what_a_reconstruction_of_the_same_scan_gives(port: int) -> None:
    answer = talk(port, GOOD)
    settings = Settings(preset="fast", samples=2, seed=5, self_check=False)
    scan = SCAN.__class__(kspace=SCAN.kspace.copy(), mask=SCAN.mask.copy())
    [expected] = [e for e in reconstruct(scan, PRIOR, settings) if isinstance(e, SlicePosterior)]
    mean, std = answer.images
    assert [image.image_series_index for image in (mean, std)] == [1, 2]
    slope = float(mean.meta["RescaleSlope"])
    for image, values in ((mean, np.abs(expected.mean)), (std, expected.magnitude_std)):
        assert np.abs(image.data[0, 0].T * slope - values).max() < slope
    assert any(text.startswith("INFO    image 1 of 1") for text in answer.texts)
    assert mean.meta["ReconSeed"] == "5"
    assert not any(text.startswith("ERROR") for text in answer.texts)


def test_config_texts_and_waveforms_and_images_do_no_harm(port: int) -> None:
    image = ismrmrd.Image.from_array(np.zeros((1, 1, 3, 4), np.float32))
    waveform = ismrmrd.Waveform.from_array(np.zeros((2, 5), np.uint32))
    content = sent(
        ConfigText("openrecon\0"),
        header_message(XML + "\0"),
        '{"parameters": {"numsamples": 2, "sendstd": false, "other": 1}}',
        image,
        *ACQUISITIONS[:5],
        waveform,
        "a remark",
        *ACQUISITIONS[5:],
    )
    answer = talk(port, content)
    assert [image.image_series_index for image in answer.images] == [1]


def huge(number: int, length: int = 0xFFFFFFFF) -> bytes:
    return struct.pack("<HI", number, length)


def huge_readout() -> bytes:
    head = ismrmrd.AcquisitionHeader()
    head.number_of_samples = head.active_channels = 65535
    return struct.pack("<H", 1008) + bytes(head)


FAST = ConfigFile("fast")
HEADER = header_message()
READOUT = sent(ACQUISITIONS[0], close=False)
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "ended before"),
    "half a number": (b"\x01", "ended before"),
    "half a readout": (sent(FAST, HEADER, READOUT[:500], close=False), "ended before"),
    "no close": (sent(FAST, HEADER, *ACQUISITIONS, close=False), "ended before"),
    "unknown message": (sent(FAST, struct.pack("<H", 999)), "mrd-message"),
    "old image": (sent(FAST, struct.pack("<H", 1004)), "mrd-message"),
    "dependency query": (struct.pack("<H", 1019), "mrd-message"),
    "array": (sent(FAST, np.zeros(3, np.float32)), "mrd-message"),
    "no config": (sent(HEADER, *ACQUISITIONS), "mrd-config"),
    "unknown config": (sent(ConfigFile("other"), HEADER, *ACQUISITIONS), "mrd-config"),
    "path as config": (sent(ConfigFile("../../etc/passwd"), HEADER, READOUT), "mrd-config"),
    "two configs": (sent(FAST, FAST), "mrd-order"),
    "two headers": (sent(FAST, HEADER, HEADER), "mrd-order"),
    "late config": (sent(FAST, HEADER, FAST), "mrd-order"),
    "data first": (sent(FAST, READOUT), "mrd-order"),
    "no header": (sent(FAST), "mrd-order"),
    "no data": (sent(FAST, HEADER), "no-readouts"),
    "huge text": (sent(FAST, huge(5)), "mrd-too-large"),
    "huge header": (sent(FAST, huge(3)), "mrd-too-large"),
    "huge config": (huge(2), "mrd-too-large"),
    "huge readout": (sent(FAST, HEADER, huge_readout()), "mrd-too-large"),
    "no text": (sent(FAST, huge(3, 2) + b"\xff\xfe"), "text-encoding"),
    "no xml": (sent(FAST, header_message("hello"), READOUT), "invalid-mrd-header"),
    "entities": (sent(FAST, header_message("<!DOCTYPE a>" + XML), READOUT), "header-doctype"),
    "spiral": (
        sent(FAST, header_message(header((32, 32, 1), trajectory="spiral")), READOUT),
        "unsupported-trajectory",
    ),
    "wrong parameters": (
        sent(FAST, HEADER, '{"parameters": {"numsamples": 100000}}', READOUT),
        "mrd-parameters",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_malformed_session_is_answered_and_closed(name: str, port: int) -> None:
    content, reason = BAD[name]
    answer = talk(port, content)
    [text] = answer.texts
    assert text.startswith("ERROR   ")
    assert reason in text
    assert answer.images == []


def test_the_server_goes_on_after_clients_that_vanish(port: int) -> None:
    for cut in (1, 1500, len(GOOD) // 2, len(GOOD)):
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(GOOD[:cut])
            # A reset, not an orderly end.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert len(talk(port, GOOD).images) == 2


def test_a_pipe_gets_the_header_back_first() -> None:
    async def answer() -> bytes:
        session = Session(ENGINE, echo_header=True)
        chunks = session.answer(FileSource(io.BytesIO(GOOD)), asyncio.Lock())
        return b"".join([chunk async for chunk in chunks])

    content = asyncio.run(answer())
    found = list(ProtocolDeserializer(io.BytesIO(content)).deserialize())
    assert isinstance(found[0], ismrmrd.xsd.ismrmrdHeader)
    assert sum(isinstance(item, ismrmrd.Image) for item in found) == 2


def test_a_measurement_that_takes_too_long_is_given_up() -> None:
    async def answer() -> bytes:
        session = Session(ENGINE, most_seconds=0.001)
        chunks = session.answer(FileSource(io.BytesIO(GOOD)), asyncio.Lock())
        return b"".join([chunk async for chunk in chunks])

    answered = understood(asyncio.run(answer()))
    assert "not done" in answered.texts[-1]
    assert answered.images == []
