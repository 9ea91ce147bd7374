"""A server for scanners: raw data in over an MRD socket, images back in the same session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from recon.errors import ReconError, ScanError
from recon.io.mrd_scan import scans_from_readouts
from recon.io.read_limits import ReadLimits
from recon.pipeline import Event, Progress, Settings, reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.scan import Scan
from service.exports.images import images_of
from service.exports.mrd import mrd_images
from service.scanner.mrd_stream import (
    CLOSE,
    ByteSource,
    Measurement,
    StreamLimits,
    encode_header,
    encode_images,
    encode_text,
    read_measurement,
)

_LOG = logging.getLogger(__name__)
_STEP = 0.1  # share of a slice between two progress texts

Attributes = dict[str, str | int | float]


class Parameters(BaseModel):
    """What a scanner's protocol may set; its names have neither underscores nor hyphens."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    quality: Literal["fast", "standard", "thorough"] | None = None
    numsamples: int | None = Field(default=None, ge=2, le=64)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    sendstd: bool = True


@dataclass(frozen=True)
class Engine:
    """What reconstructs: a prior on a device, and how results name it."""

    prior: Prior
    device: torch.device
    describe: Callable[[Scan, Settings], Attributes]
    """Provenance of a result."""
    presets: Mapping[str, str]
    """Name of a client's config: preset. Other names are refused."""
    base: Settings = field(default_factory=Settings)
    """What the client cannot set."""


@dataclass(frozen=True)
class Session:
    """One client after the other on one engine; messages out are chunks of bytes."""

    engine: Engine
    limits: StreamLimits = field(default_factory=StreamLimits)
    most_seconds: float = 3600.0
    echo_header: bool = False
    """Send the header back first, as programs in a pipe do."""

    async def answer(self, source: ByteSource, turn: asyncio.Lock) -> AsyncGenerator[bytes, None]:
        """All messages for one client; ends with CLOSE whatever happens.

        Nothing is raised for what the client did: it becomes a TEXT of severity ERROR. A client
        that goes away before CLOSE gets no reconstruction.
        """
        try:
            measurement = await read_measurement(source, self.limits)
            scans, settings, parameters = await asyncio.to_thread(self._prepare, measurement)
            if self.echo_header:
                yield encode_header(measurement.xml or "")
            async with turn:
                for scan in scans:
                    chunks = self._reconstruct(scan, settings, parameters)
                    # Closed by hand: the turn must not end before the work does.
                    async with contextlib.aclosing(chunks):
                        async for chunk in chunks:
                            yield chunk
        except asyncio.IncompleteReadError:
            _LOG.info("a client left before the end of its measurement")
            yield encode_text("ERROR", "the stream ended before CLOSE; nothing was reconstructed")
        except ReconError as error:
            _LOG.info("refused: %s", error.code)
            yield encode_text("ERROR", f"({error.code}) {error.message}")
        except TimeoutError:
            yield encode_text("ERROR", f"not done after {self.most_seconds:g} s; use less samples")
        except Exception:  # noqa: BLE001  # the edge: logged, and the client is told
            _LOG.exception("a session failed")
            yield encode_text("ERROR", "the reconstruction failed; the server's log says why")
        yield CLOSE

    def _prepare(self, measurement: Measurement) -> tuple[tuple[Scan, ...], Settings, Parameters]:
        preset = self.engine.presets.get((measurement.config or "").strip())
        if preset is None:
            known = ", ".join(sorted(self.engine.presets))
            raise ScanError("mrd-config", f"this config is not known; the names are {known}")
        try:
            parameters = Parameters.model_validate(measurement.parameters)
        except ValidationError as error:
            names = ", ".join(str(item["loc"][0]) for item in error.errors())
            raise ScanError(
                "mrd-parameters", f"these parameters are out of range: {names}"
            ) from error
        if measurement.xml is None:
            raise ScanError("mrd-order", "no header was sent; send it before the raw data")
        scans = scans_from_readouts(
            measurement.xml, measurement.readouts(), measurement.digest(), ReadLimits()
        )
        settings = Settings(
            preset=parameters.quality or preset,
            samples=parameters.numsamples,
            seed=parameters.seed,
            self_check=self.engine.base.self_check,
            calibration=self.engine.base.calibration,
        )
        return scans, settings, parameters

    async def _reconstruct(
        self, scan: Scan, settings: Settings, parameters: Parameters
    ) -> AsyncGenerator[bytes, None]:
        posteriors: list[SlicePosterior] = []
        shown = -1.0
        count = scan.kspace.shape[0]
        events = _in_thread(
            reconstruct(scan, self.engine.prior, settings, device=self.engine.device)
        )
        async with asyncio.timeout(self.most_seconds), contextlib.aclosing(events):
            async for event in events:
                if isinstance(event, SlicePosterior):
                    posteriors.append(event)
                elif isinstance(event, Progress) and event.index + event.fraction >= shown + _STEP:
                    shown = event.index + event.fraction
                    progress = f"{event.stage}, {event.fraction:.0%}"
                    yield encode_text("INFO", f"image {event.index + 1} of {count}: {progress}")
        attributes = {**self.engine.describe(scan, settings), **scan.attributes}
        # Who was scanned is the scanner's to know: it attaches its own header to the images.
        images = images_of(posteriors, attributes, scan.header, identified=False)
        for warning in sorted({text for posterior in posteriors for text in posterior.warnings}):
            yield encode_text("WARNING", warning)
        made = mrd_images(images)
        for chunk in encode_images(made if parameters.sendstd else made[: len(posteriors)]):
            yield chunk


async def serve(session: Session, host: str, port: int, clients: int = 8) -> asyncio.Server:
    """Start listening; one reconstruction at a time, further clients wait for their turn.

    The protocol has neither passwords nor encryption: keep it on loopback or the scanner's net.
    """
    turn, places = asyncio.Lock(), asyncio.Semaphore(clients)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that left is found out when we write, which ends its reconstruction.
        with contextlib.suppress(ConnectionError):
            if places.locked():
                writer.write(encode_text("ERROR", "the server is busy; try again later") + CLOSE)
                await writer.drain()
            else:
                async with places, contextlib.aclosing(session.answer(reader, turn)) as answer:
                    async for chunk in answer:
                        writer.write(chunk)
                        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    return await asyncio.start_server(handle, host, port)


async def _in_thread(events: Iterator[Event]) -> AsyncGenerator[Event, None]:
    """Items of a slow iterator, advanced in a thread; it stops when nobody asks any more."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Event | BaseException | None] = asyncio.Queue()
    stopped = threading.Event()

    def run() -> None:
        last: BaseException | None = None
        try:
            for event in events:
                if stopped.is_set():
                    return
                loop.call_soon_threadsafe(queue.put_nowait, event)
        except Exception as error:  # noqa: BLE001  # raised again in the other thread
            last = error
        finally:
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, last)

    thread = loop.run_in_executor(None, run)
    try:
        while (event := await queue.get()) is not None:
            if isinstance(event, BaseException):
                raise event
            yield event
    finally:
        stopped.set()
        await thread
