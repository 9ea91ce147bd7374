"""One MRD session reconstructed in this very process: raw data in on a pipe, images out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from recon.alarm import TypicalScans
from recon.errors import ReconError, ScanError
from recon.io.mrd_readouts import Readouts, joined, only_noise
from recon.io.mrd_scan import scans_from_readouts
from recon.io.read_limits import ReadLimits
from recon.pipeline import Event, Progress, reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.scan import Scan
from recon.settings import Settings
from service.exports.images import images_of
from service.exports.mrd import mrd_images
from service.gateway_configs import Choice, Mode
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
from service.scanner.parameters import Parameters, choice_of, parameters_of

_LOG = logging.getLogger(__name__)
_STEP = 0.1  # share of a slice between two progress texts

Attributes = dict[str, str | int | float]


@dataclass(frozen=True)
class Engine:
    """What reconstructs: a prior on a device, and how results name it."""

    prior: Prior
    device: torch.device
    describe: Callable[[Scan, Settings], Attributes]
    """Provenance of a result."""
    configs: Mapping[str, Choice]
    """What the names of configs stand for. Other names are refused."""
    base: Settings = field(default_factory=Settings)
    """What the client cannot set."""
    typical: TypicalScans | None = None
    """What the prior makes of right scans."""


@dataclass(frozen=True)
class Session:
    """A client on an engine; messages out are chunks of bytes."""

    engine: Engine
    limits: StreamLimits = field(default_factory=StreamLimits)
    most_seconds: float = 3600.0
    echo_header: bool = False
    """Send the header back first, as programs in a pipe do."""
    noise: Readouts | None = None
    """Of a measurement of its own, for one that has none."""

    async def answer(self, source: ByteSource) -> AsyncGenerator[bytes, None]:
        """All messages for one client; ends with CLOSE whatever happens.

        Nothing is raised for what the client did: it becomes a TEXT of severity ERROR. A client
        that goes away before CLOSE gets no reconstruction.
        """
        try:
            with tempfile.TemporaryFile() as spool:
                measurement = Measurement(spool)
                await read_measurement(source, self.limits, measurement)
                scans, settings, parameters = await asyncio.to_thread(self._prepare, measurement)
            if self.echo_header:
                yield encode_header(measurement.xml or "")
            for scan in scans:
                chunks = self._reconstruct(scan, settings, parameters)
                # Closed by hand: the session must not end before the work does.
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
        choice = choice_of(measurement, self.engine.configs)
        parameters = parameters_of(measurement)
        if (parameters.mode or choice.mode or Mode.INLINE) != Mode.INLINE:
            raise ScanError(
                "mrd-mode", "a pipe has the mode inline only; run a gateway to trigger and retrieve"
            )
        readouts = measurement.readouts()
        if self.noise is not None:
            readouts = joined(self.noise, readouts)
        scans = scans_from_readouts(
            measurement.xml or "", readouts, measurement.digest(), ReadLimits()
        )
        settings = Settings(
            preset=parameters.quality or choice.preset,
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
            reconstruct(
                scan,
                self.engine.prior,
                settings,
                device=self.engine.device,
                typical=self.engine.typical,
            )
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


async def noise_of(source: ByteSource) -> Readouts:
    """The noise readouts of a stream. Raises ScanError where it has none."""
    with tempfile.TemporaryFile() as spool:
        measurement = Measurement(spool)
        with contextlib.suppress(asyncio.IncompleteReadError):  # ends without CLOSE, as files do
            await read_measurement(source, StreamLimits(), measurement)
        return only_noise(measurement.readouts())


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
