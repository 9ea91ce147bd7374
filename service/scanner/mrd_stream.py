"""The MRD streaming protocol (version 1): what a scanner sends, and how it is answered.

Every message is a 16-bit number and its content, little endian. Every length is checked before
anything of that size is asked for. Nothing that a client names is looked up outside our own tables.
"""

from __future__ import annotations

import asyncio
import ctypes
import io
import json
import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import BinaryIO, Protocol

import ismrmrd
import numpy as np
from ismrmrd.serialization import ProtocolSerializer
from ismrmrd.waveform import WaveformHeader

from recon.errors import ScanError
from recon.io.mrd_readouts import HEAD, Readouts, positions_of
from recon.io.mrd_writing import RawReadout

_TEXT_BYTES = 1 << 20
_HEADER_BYTES = 8 << 20
_CONFIG_FILE_BYTES = 1024
_READOUTS = 1 << 20
_IMAGE_HEADER = ctypes.sizeof(ismrmrd.ImageHeader)
_WAVEFORM_HEADER = ctypes.sizeof(WaveformHeader)


class Message(IntEnum):
    """Numbers of the messages that are understood."""

    CONFIG_FILE = 1
    CONFIG_TEXT = 2
    HEADER = 3
    CLOSE = 4
    TEXT = 5
    ACQUISITION = 1008
    IMAGE = 1022
    WAVEFORM = 1026


@dataclass(frozen=True)
class StreamLimits:
    """What one session may send."""

    message_bytes: int = 64 << 20
    session_bytes: int = 8 << 30
    idle_seconds: float = 300.0
    """Longest wait for the next bytes."""


@dataclass
class Measurement:
    """What a client has sent so far: all of it is in `spool`, the rest is an index."""

    spool: BinaryIO
    """Open for writing and reading."""
    config: str | None = None
    xml: str | None = None
    parameters: dict[str, object] = field(default_factory=dict)
    heads: bytearray = field(default_factory=bytearray)
    places: array[int] = field(default_factory=lambda: array("Q"))
    """Where in the spool the positions of each readout begin; its samples follow them."""

    def readouts(self) -> Readouts:
        """All of them, in memory. Raises ScanError when there are none."""
        if not self.places:
            raise ScanError("no-readouts", "no raw data were sent; send acquisitions (1008)")
        positions, samples = bytearray(), bytearray()
        for readout in self.each():
            positions += readout.trajectory
            samples += readout.samples
        return Readouts(
            np.frombuffer(bytes(self.heads), HEAD),
            np.frombuffer(samples, "<c8").astype(np.complex64, copy=False),
            np.frombuffer(positions, "<f4").astype(np.float32, copy=False),
        )

    def each(self) -> Iterator[RawReadout]:
        """One readout after the other, from the spool."""
        heads = np.frombuffer(bytes(self.heads), HEAD)
        positions = 4 * positions_of(heads)
        samples = 8 * heads["active_channels"].astype(np.int64) * heads["number_of_samples"]
        self.spool.flush()
        for head, place, before, after in zip(heads, self.places, positions, samples, strict=True):
            self.spool.seek(place)
            content = self.spool.read(int(before + after))
            yield RawReadout(head.tobytes(), content[: int(before)], content[int(before) :])

    def forget(self) -> None:
        """Empty the spool: what it held is safe elsewhere."""
        self.spool.truncate(0)
        self.spool.flush()

    def digest(self) -> str:
        """SHA-256 of header and readouts."""
        digest = sha256((self.xml or "").encode())
        for readout in self.each():
            digest.update(readout.head)
            digest.update(readout.trajectory)
            digest.update(readout.samples)
        return digest.hexdigest()


class ByteSource(Protocol):
    """Where messages come from; `asyncio.StreamReader` is one."""

    async def readexactly(self, n: int, /) -> bytes:
        """Exactly n bytes, or asyncio.IncompleteReadError."""
        ...


@dataclass(frozen=True)
class FileSource:
    """Bytes of a blocking file, such as standard input."""

    file: BinaryIO

    async def readexactly(self, n: int, /) -> bytes:
        content = await asyncio.to_thread(self.file.read, n)
        if len(content) < n:
            raise asyncio.IncompleteReadError(content, n)
        return content


async def read_measurement(
    source: ByteSource, limits: StreamLimits, measurement: Measurement, *, keep: bool = True
) -> None:
    """Add everything up to CLOSE to `measurement`, which holds what came before an error.

    `keep` writes it to the spool; without, the spool is where it comes from.

    Raises:
        ScanError: A message is not understood, too large, or in the wrong place.
        asyncio.IncompleteReadError: The stream ended before CLOSE: the scan was aborted.
    """
    reader = _Reader(source, limits, measurement.spool if keep else None)
    while True:
        number = struct.unpack("<H", await reader.take(2))[0]
        if number == Message.CLOSE:
            return
        if number in (Message.CONFIG_FILE, Message.CONFIG_TEXT):
            _only_once(measurement.config is None and measurement.xml is None, "config")
            if number == Message.CONFIG_FILE:
                measurement.config = _text(await reader.take(_CONFIG_FILE_BYTES))
            else:
                measurement.config = _text(await reader.sized(_TEXT_BYTES))
        elif number == Message.HEADER:
            _only_once(measurement.xml is None, "header")
            measurement.xml = _text(await reader.sized(_HEADER_BYTES))
        elif number == Message.TEXT:
            text = await reader.sized(_TEXT_BYTES)
            if not measurement.places:
                measurement.parameters |= _parameters(text)
        elif number == Message.ACQUISITION:
            if measurement.xml is None:
                raise ScanError("mrd-order", "raw data came before the header; send the header")
            await _acquisition(reader, measurement)
        elif number == Message.WAVEFORM:
            await _skip_waveform(reader)
        elif number == Message.IMAGE:
            await _skip_image(reader)
        else:
            raise ScanError(
                "mrd-message",
                f"message {number} is not understood; send config, header, acquisitions and close",
            )


def encode_text(severity: str, text: str) -> bytes:
    """TEXT message; the first eight characters are the severity, padded."""
    content = f"{severity:<8}{text}".encode()[:_TEXT_BYTES]
    return struct.pack("<HI", Message.TEXT, len(content)) + content


def is_error(message: bytes) -> bool:
    """Whether a message is a TEXT that ends a session in failure."""
    return message.startswith(struct.pack("<H", Message.TEXT)) and message[6:].startswith(b"ERROR")


def encode_images(images: Sequence[ismrmrd.Image]) -> Iterator[bytes]:
    """IMAGE messages."""
    for image in images:
        buffer = io.BytesIO()
        ProtocolSerializer(buffer).serialize(image)
        yield buffer.getvalue()


def encode_header(xml: str) -> bytes:
    """HEADER message."""
    content = xml.encode()
    return struct.pack("<HI", Message.HEADER, len(content)) + content


CLOSE = struct.pack("<H", Message.CLOSE)


@dataclass
class _Reader:
    """Counts what was taken and refuses more than the limits."""

    source: ByteSource
    limits: StreamLimits
    spool: BinaryIO | None
    taken: int = 0

    async def take(self, count: int) -> bytes:
        self.taken += count
        if count > self.limits.message_bytes or self.taken > self.limits.session_bytes:
            raise ScanError(
                "mrd-too-large", f"a message declares {count} bytes, more than is accepted"
            )
        if not count:
            return b""
        try:
            content = await asyncio.wait_for(
                self.source.readexactly(count), self.limits.idle_seconds
            )
        except TimeoutError as error:
            raise ScanError(
                "mrd-idle", "nothing came for too long; send CLOSE when done"
            ) from error
        if self.spool is not None:
            self.spool.write(content)
        return content

    async def sized(self, most: int) -> bytes:
        """Content after its 32-bit length."""
        length = struct.unpack("<I", await self.take(4))[0]
        if length > most:
            raise ScanError(
                "mrd-too-large", f"a text declares {length} bytes, more than {most}; shorten it"
            )
        return await self.take(length)


def _only_once(first: bool, what: str) -> None:
    if not first:
        raise ScanError("mrd-order", f"a second or late {what} was sent; open another session")


def _text(content: bytes) -> str:
    """UTF-8 up to the first NUL: writers disagree on whether to send and count one."""
    try:
        return content.split(b"\0", 1)[0].decode("utf-8")
    except UnicodeDecodeError as error:
        raise ScanError("text-encoding", "a text is not UTF-8; send it as UTF-8") from error


def _parameters(text: bytes) -> dict[str, object]:
    """`parameters` of a JSON text; all other texts are remarks."""
    try:
        values = json.loads(_text(text))["parameters"]
        return {str(name): value for name, value in values.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


async def _acquisition(reader: _Reader, measurement: Measurement) -> None:
    content = await reader.take(HEAD.itemsize)
    head = np.frombuffer(content, HEAD)[0]
    samples, channels = int(head["number_of_samples"]), int(head["active_channels"])
    if len(measurement.places) >= _READOUTS:
        raise ScanError(
            "mrd-too-large", f"more than {_READOUTS} readouts were sent; split the measurement"
        )
    place = reader.taken
    await reader.take(4 * samples * int(head["trajectory_dimensions"]))
    await reader.take(8 * samples * channels)
    # Only whole readouts count.
    measurement.places.append(place)
    measurement.heads += content


async def _skip_waveform(reader: _Reader) -> None:
    head = WaveformHeader.from_buffer_copy(await reader.take(_WAVEFORM_HEADER))
    await reader.take(4 * head.channels * head.number_of_samples)


async def _skip_image(reader: _Reader) -> None:
    head = ismrmrd.ImageHeader.from_buffer_copy(await reader.take(_IMAGE_HEADER))
    attributes = struct.unpack("<Q", await reader.take(8))[0]
    if attributes > _TEXT_BYTES or head.data_type not in range(1, 9):
        raise ScanError("mrd-too-large", "an image's attributes or type are not accepted")
    await reader.take(attributes)
    voxels = head.channels * head.matrix_size[0] * head.matrix_size[1] * head.matrix_size[2]
    await reader.take(voxels * ismrmrd.image.get_dtype_from_data_type(head.data_type).itemsize)
