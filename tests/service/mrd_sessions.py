"""Sessions as a scanner sends them, by the public `ismrmrd` package: good ones and bad ones."""

from __future__ import annotations

import io
import socket
import struct
from dataclasses import dataclass

import ismrmrd
import numpy as np
from ismrmrd.serialization import ConfigFile, ProtocolDeserializer, ProtocolSerializer

from recon.phantom import simulate
from recon.undersampling import undersample, undersampling_mask
from tests.mrd_files import header, lines

SIZE = 32
XML = header((SIZE, SIZE, 1))
FULL = simulate(1, 4, SIZE, SIZE, 40, 0)[0]
SCAN = undersample(FULL, undersampling_mask((SIZE, SIZE), "equispaced", 1.6, 0.4, 0))
ACQUISITIONS = list(lines(SCAN.kspace[0], np.flatnonzero(SCAN.mask[0]).tolist()))


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


def talk(port: int, content: bytes) -> Answer:
    """Send all, then read to the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    return understood(answer)


def huge(number: int, length: int = 0xFFFFFFFF) -> bytes:
    return struct.pack("<HI", number, length)


def readout_head(samples: int = 65535, channels: int = 65535) -> bytes:
    """The beginning of a readout, which declares so much to follow."""
    head = ismrmrd.AcquisitionHeader()
    head.number_of_samples, head.active_channels = samples, channels
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
    "huge readout": (sent(FAST, HEADER, readout_head()), "mrd-too-large"),
    "no text": (sent(FAST, huge(3, 2) + b"\xff\xfe"), "text-encoding"),
    "no xml": (sent(FAST, header_message("hello"), READOUT), "invalid-mrd-header"),
    "entities": (sent(FAST, header_message("<!DOCTYPE a>" + XML), READOUT), "header-doctype"),
    "spiral": (
        sent(FAST, header_message(header((32, 32, 1), trajectory="spiral")), READOUT),
        "no-trajectory",
    ),
    "wrong parameters": (
        sent(FAST, HEADER, '{"parameters": {"numsamples": 100000}}', READOUT),
        "mrd-parameters",
    ),
}
