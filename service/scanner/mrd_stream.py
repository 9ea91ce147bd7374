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
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from hashlib import sha256
from typing import BinaryIO, Protocol

import ismrmrd
import numpy as np
from ismrmrd.serialization import ProtocolSerializer
from ismrmrd.waveform import WaveformHeader
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.mrd_readouts import HEAD, Readouts
from recon.io.mrd_writing import RawReadout

_TEXT_BYTES = 1 << 20
_TEXTS_BYTES = 4 << 20
"""Of all texts of a session together."""
_PARAMETERS_BYTES = 64 << 10
"""Of a text that is looked through for parameters; longer ones are remarks."""
_PARAMETERS = 64
_HEADER_BYTES = 1 << 20
_PIECE_BYTES = 1 << 20
"""How much of a session's samples is in memory at a time."""
_ROOM_BYTES = 16 << 20
"""How much may arrive between two looks at the disk."""
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
    places: array[int] = field(default_factory=lambda: array("Q"))
    """Where in the spool each readout begins: head, positions, samples."""

    @property
    def empty(self) -> bool:
        """Whether nothing was asked for."""
        return self.config is None and self.xml is None and not self.places and not self.parameters

    def heads(self) -> NDArray[np.void]:
        """(readouts,) of type `HEAD`, from the spool."""
        self.spool.flush()
        found = np.empty(len(self.places), HEAD)
        for index, place in enumerate(self.places):
            self.spool.seek(place)
            found[index] = np.frombuffer(self.spool.read(HEAD.itemsize), HEAD)[0]
        return found

    def readouts(self) -> Readouts:
        """All of them, in memory. Raises ScanError when there are none."""
        if not self.places:
            raise ScanError("no-readouts", "no raw data were sent; send acquisitions (1008)")
        positions, samples = bytearray(), bytearray()
        for readout in self.each():
            positions += readout.trajectory
            samples += readout.samples
        return Readouts(
            self.heads(),
            np.frombuffer(samples, "<c8").astype(np.complex64, copy=False),
            np.frombuffer(positions, "<f4").astype(np.float32, copy=False),
        )

    def each(self) -> Iterator[RawReadout]:
        """One readout after the other, from the spool."""
        self.spool.flush()
        for place in self.places:
            self.spool.seek(place)
            head = self.spool.read(HEAD.itemsize)
            before, after = _sizes(np.frombuffer(head, HEAD)[0])
            content = self.spool.read(before + after)
            yield RawReadout(head, content[:before], content[before:])

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
    source: ByteSource,
    limits: StreamLimits,
    measurement: Measurement,
    *,
    keep: bool = True,
    require_room: Callable[[], None] = lambda: None,
) -> None:
    """Add everything up to CLOSE to `measurement`, which holds what came before an error.

    `keep` writes it to the spool; without, the spool is where it comes from. `require_room` is
    called while data arrive, and raises when there is no room for more.

    Raises:
        ScanError: A message is not understood, too large, or in the wrong place.
        asyncio.IncompleteReadError: The stream ended before CLOSE: the scan was aborted.
    """
    reader = _Reader(source, limits, measurement.spool if keep else None, require_room)
    texts = 0
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
            texts += len(text)
            if texts > _TEXTS_BYTES:
                raise ScanError(
                    "mrd-too-large", f"the texts of a session may have {_TEXTS_BYTES} bytes"
                )
            if not measurement.places and len(text) <= _PARAMETERS_BYTES:
                measurement.parameters |= _parameters(text)
                if len(measurement.parameters) > _PARAMETERS:
                    raise ScanError(
                        "mrd-parameters", f"a session may have {_PARAMETERS} parameters"
                    )
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
    require_room: Callable[[], None]
    taken: int = 0
    """Bytes of the messages so far, of the last one all that it declares."""
    written: int = 0
    looked: int = 0

    async def take(self, count: int) -> bytes:
        """So many bytes at once; for what is small."""
        self._count(count)
        return await self._piece(count)

    async def pass_on(self, count: int) -> None:
        """So many bytes to the spool, never more than a piece of them in memory."""
        self._count(count)
        for start in range(0, count, _PIECE_BYTES):
            await self._piece(min(_PIECE_BYTES, count - start))

    def _count(self, count: int) -> None:
        self.taken += count
        if count > self.limits.message_bytes or self.taken > self.limits.session_bytes:
            raise ScanError(
                "mrd-too-large", f"a message declares {count} bytes, more than is accepted"
            )

    async def _piece(self, count: int) -> bytes:
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
            self.written += count
            if self.written - self.looked >= _ROOM_BYTES:
                self.looked = self.written
                self.require_room()
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
        return {
            name[:64]: value[:512] if isinstance(value, str) else value
            for name, value in values.items()
            if value is None or isinstance(value, str | int | float)
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


async def _acquisition(reader: _Reader, measurement: Measurement) -> None:
    place = reader.taken
    head = np.frombuffer(await reader.take(HEAD.itemsize), HEAD)[0]
    if len(measurement.places) >= _READOUTS:
        raise ScanError(
            "mrd-too-large", f"more than {_READOUTS} readouts were sent; split the measurement"
        )
    for size in _sizes(head):
        await reader.pass_on(size)
    measurement.places.append(place)  # only whole readouts count


def _sizes(head: np.void) -> tuple[int, int]:
    """Bytes of the positions and of the samples of a readout."""
    samples = int(head["number_of_samples"])
    return 4 * samples * int(head["trajectory_dimensions"]), 8 * samples * int(
        head["active_channels"]
    )


async def _skip_waveform(reader: _Reader) -> None:
    head = WaveformHeader.from_buffer_copy(await reader.take(_WAVEFORM_HEADER))
    await reader.pass_on(4 * head.channels * head.number_of_samples)


async def _skip_image(reader: _Reader) -> None:
    head = ismrmrd.ImageHeader.from_buffer_copy(await reader.take(_IMAGE_HEADER))
    attributes = struct.unpack("<Q", await reader.take(8))[0]
    if attributes > _TEXT_BYTES or head.data_type not in range(1, 9):
        raise ScanError("mrd-too-large", "an image's attributes or type are not accepted")
    await reader.pass_on(attributes)
    voxels = head.channels * head.matrix_size[0] * head.matrix_size[1] * head.matrix_size[2]
    await reader.pass_on(voxels * ismrmrd.image.get_dtype_from_data_type(head.data_type).itemsize)
