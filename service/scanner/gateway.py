"""A server for scanners on the durable jobs of the service.

A session sends raw data. They are safe on the disk before anything is made of them, also when the
session breaks off, and their reconstruction is a job like any other, of the highest priority. Its
images come in the same session (inline) or in a later one (trigger, then retrieve).
"""

from __future__ import annotations

import asyncio
import fcntl
import secrets
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from hashlib import file_digest
from pathlib import Path
from typing import BinaryIO

import structlog

from recon.errors import ReconError, ScanError
from recon.io.mrd_scan import selections_in
from recon.io.mrd_writing import write_raw
from service.gateway_configs import Choice, Mode, configs_of
from service.intake.intake import Intake
from service.intake.new_scans import Received, keep_scan, require_room
from service.intake.submission import Also, Submission, submit
from service.jobs.job import Job, JobState
from service.problems import ProblemError, is_full
from service.products import RESULT
from service.requests import Priority, ReconstructionParameters
from service.scanner import images
from service.scanner.measurements import Measurements
from service.scanner.mrd_stream import (
    CLOSE,
    ByteSource,
    FileSource,
    Measurement,
    StreamLimits,
    encode_images,
    encode_text,
    read_measurement,
)
from service.scanner.parameters import Parameters, choice_of, header_of, parameters_of
from service.store.identifiers import new_id
from service.store.keys import Key, Scope
from service.store.scans import StoredScan

log = structlog.get_logger()

SCANNER = Key("scanner", "scanner", frozenset({Scope.READ, Scope.WRITE}), 0.0, None, None)
"""Owner of what scanners send; keys of the scope admin see it too."""
_LOOK_SECONDS = 0.3
_STEP = 0.1
"""Share of a slice between two progress texts."""
_SPOOL = ".session"


@dataclass(frozen=True)
class Gateway:
    """Sessions on one service; messages out are chunks of bytes."""

    intake: Intake
    limits: StreamLimits = field(default_factory=StreamLimits)

    @property
    def configs(self) -> Mapping[str, Choice]:
        """What the names of configs stand for."""
        return configs_of(self.intake.settings.gateway_configs)

    async def answer(self, source: ByteSource) -> AsyncGenerator[bytes, None]:
        """All messages for one client; ends with CLOSE whatever happens.

        Nothing is raised for what the client did: it becomes a TEXT of severity ERROR. What was
        received of a session that breaks off is kept, as a cancelled job that can be retried.
        """
        with _spool(self.intake.storage.incoming) as spool:
            try:
                async for chunk in self._session(source, Measurement(spool)):
                    yield chunk
            except ReconError as error:
                yield _refusal(error.code, error.message)
            except ProblemError as problem:
                yield _refusal(str(problem.members.get("reason", problem.kind)), problem.detail)
            except Exception as error:  # the edge: logged, and the client is told
                if is_full(error):
                    log.error("a session found the disk full")
                    yield _refusal("storage-full", "the disk of the service is full")
                else:
                    log.exception("a session failed")
                    yield encode_text("ERROR", "the session failed; the server's log says why")
        yield CLOSE

    async def recover(self) -> int:
        """Keep the raw data of sessions that an earlier process did not live to the end of.

        Returns how many there were.
        """
        found = 0
        for path in sorted(self.intake.storage.incoming.glob(f"*{_SPOOL}")):
            with path.open("r+b") as file:
                if not _locked(file):  # a living gateway on the same folder
                    continue
                found += 1
                try:
                    async for _ in self._session(FileSource(file), Measurement(file), again=True):
                        pass
                except (ReconError, ProblemError) as error:
                    log.warning("a broken session holds nothing to keep", reason=str(error)[:200])
                except Exception:  # the file stays for another time
                    log.exception("a broken session could not be kept", file=path.name)
                    continue
                path.unlink(missing_ok=True)
        return found

    async def _session(
        self, source: ByteSource, measurement: Measurement, *, again: bool = False
    ) -> AsyncGenerator[bytes, None]:
        require_room(self.intake)
        broken: ProblemError | None = None
        try:
            await read_measurement(
                source,
                self.limits,
                measurement,
                keep=not again,
                require_room=partial(require_room, self.intake),
            )
        except asyncio.IncompleteReadError:
            broken = ProblemError(
                "client-disconnect", "the session ended before CLOSE; the scan was aborted"
            )
        except ScanError as error:
            broken = ProblemError("invalid-scan", f"({error.code}) {error.message}")
        if broken is None and not again and measurement.empty:
            return  # somebody asked whether we are there
        if broken is None and again:
            broken = ProblemError("client-disconnect", "the gateway ended during the session")
        if broken is not None:
            async for chunk in self._keep_broken(measurement, broken):
                yield chunk
            return
        choice = choice_of(measurement, self.configs)
        parameters = await asyncio.to_thread(parameters_of, measurement)
        default = Mode(self.intake.settings.gateway_mode)
        mode = Mode(parameters.mode) if parameters.mode else choice.mode or default
        if mode is Mode.RETRIEVE:
            answer = self._retrieve(measurement, parameters)
        else:
            answer = self._reconstruct(measurement, parameters, choice, mode)
        async for chunk in answer:
            yield chunk

    async def _reconstruct(
        self, measurement: Measurement, parameters: Parameters, choice: Choice, mode: Mode
    ) -> AsyncGenerator[bytes, None]:
        scan = await self._keep(measurement)
        asked = ReconstructionParameters(
            preset=parameters.quality or choice.preset,
            samples=parameters.numsamples,
            seed=parameters.seed,
            priority=Priority.SCANNER,
            identified=True,
        )
        try:
            also = self._remembering(measurement)
            jobs = [
                await asyncio.to_thread(submit, self.intake, Submission(SCANNER, scan, each), also)
                for each in _parts(measurement, asked)
            ]
        except ProblemError as problem:
            await asyncio.to_thread(self._note, measurement, scan, asked, problem)
            raise
        finally:
            measurement.forget()
        log.info("measurement received", jobs=[job.id for job in jobs], mode=mode.value)
        if mode is Mode.INLINE:
            for job in jobs:
                async for chunk in self._wait(job, parameters):
                    yield chunk
            return
        for job in jobs:
            ahead = await asyncio.to_thread(self.intake.jobs.ahead_of, job)
            yield encode_text(
                "INFO", f"raw data kept, job {job.id} queued, {ahead} before it; retrieve it later"
            )
        if parameters.sendpreview:
            path = self.intake.storage.scan(scan.sha256)
            try:
                preview = await asyncio.to_thread(images.preview, path, jobs[0].parameters.select)
            except ReconError as error:
                yield encode_text("WARNING", f"no preview: {error.message}")
            else:
                for chunk in encode_images(preview):
                    yield chunk

    async def _retrieve(
        self, measurement: Measurement, parameters: Parameters
    ) -> AsyncGenerator[bytes, None]:
        marks = self._measurements.marks(header_of(measurement), parameters.measurementid)
        hours = self.intake.settings.gateway_hours
        found = await asyncio.to_thread(self._measurements.find, marks, hours)
        jobs = [await asyncio.to_thread(self._current, job_id) for job_id in found]
        if not jobs:
            raise ProblemError(
                "not-found",
                "no measurement of this number, or of this device, protocol and frame of "
                f"reference in the last {hours:g} hours, was received",
            )
        for job in jobs:
            if job is None:  # deleted since
                continue
            if job.state is JobState.QUEUED:
                ahead = await asyncio.to_thread(self.intake.jobs.ahead_of, job)
                yield encode_text(
                    "INFO", f"job {job.id} is queued, {ahead} before it; come back later"
                )
            elif not job.state.terminal:
                yield encode_text("INFO", f"job {job.id} is {job.state.value}, {_said(job)}")
            else:
                async for chunk in self._ended(job, parameters):
                    yield chunk

    async def _wait(self, job: Job, parameters: Parameters) -> AsyncGenerator[bytes, None]:
        """Progress, then the images; the job goes on when the client or the time has gone."""
        shown, loop = -1.0, asyncio.get_running_loop()
        end = loop.time() + self.intake.settings.gateway_seconds
        while not job.state.terminal:
            if loop.time() > end:
                seconds = self.intake.settings.gateway_seconds
                yield encode_text(
                    "ERROR", f"not done after {seconds:g} s; job {job.id} goes on, retrieve it"
                )
                return
            await asyncio.sleep(_LOOK_SECONDS)
            now = await asyncio.to_thread(self._current, job.id)
            job = job if now is None else now
            at = _slices_done(job)
            if at is not None and at >= shown + _STEP and not job.state.terminal:
                shown = at
                yield encode_text("INFO", _said(job))
        async for chunk in self._ended(job, parameters):
            yield chunk

    async def _ended(self, job: Job, parameters: Parameters) -> AsyncGenerator[bytes, None]:
        if job.state is not JobState.SUCCEEDED:
            kind = "/problems/cancelled" if job.error is None else job.error["type"]
            detail = "" if job.error is None else job.error["detail"]
            text = f"job {job.id} has {job.state.value}. {detail}"
            yield _refusal(kind.rpartition("/")[2], text)
            return
        result = self.intake.storage.product(job.place, RESULT)
        made, warnings = await asyncio.to_thread(
            images.finished, result, job, std=parameters.sendstd
        )
        for warning in warnings:
            yield encode_text("WARNING", warning)
        for chunk in encode_images(made):
            yield chunk

    async def _keep_broken(
        self, measurement: Measurement, broken: ProblemError
    ) -> AsyncGenerator[bytes, None]:
        """What can be kept of an aborted session, as a job that never began."""
        log.info("a session broke off", reason=broken.kind, readouts=len(measurement.places))
        if measurement.xml is None or not measurement.places:
            raise broken
        try:
            choice, parameters = Choice(), Parameters()
            with suppress(ScanError):
                choice = choice_of(measurement, self.configs)
                parameters = parameters_of(measurement)
            if Mode.RETRIEVE in (parameters.mode, choice.mode):
                raise broken
            scan = await self._keep(measurement)
        except (ReconError, ProblemError) as error:
            log.info("nothing of it could be kept", reason=str(error)[:200])
            raise broken from error
        asked = ReconstructionParameters(
            preset=parameters.quality or choice.preset,
            samples=parameters.numsamples,
            seed=parameters.seed,
            priority=Priority.SCANNER,
            identified=True,
        )
        job = await asyncio.to_thread(self._note, measurement, scan, asked, broken)
        measurement.forget()
        count = len(measurement.places)
        yield _refusal(
            broken.kind,
            f"{broken.detail}. The {count} readouts that arrived are kept as job {job.id}",
        )

    async def _keep(self, measurement: Measurement) -> StoredScan:
        """The raw data as a scan of the storage. Raises ScanError and ProblemError."""
        part = self.intake.storage.incoming / f"{secrets.token_hex(16)}.part"
        try:
            received = await asyncio.to_thread(_written, part, measurement)
            scan, _ = await keep_scan(self.intake, SCANNER.id, received)
        finally:
            part.unlink(missing_ok=True)
        return scan

    def _note(
        self,
        measurement: Measurement,
        scan: StoredScan,
        asked: ReconstructionParameters,
        problem: ProblemError,
    ) -> Job:
        """A cancelled job, so that the raw data are found and can be reconstructed after all."""
        values = {
            "id": new_id(),
            "owner": SCANNER.id,
            "scan_id": scan.id,
            "scan_sha256": scan.sha256,
            "request": asked.model_dump(mode="json"),
            "priority": asked.priority.value,
        }
        also = self._remembering(measurement)
        return self.intake.jobs.create_ended(values, problem.document(), also)

    def _remembering(self, measurement: Measurement) -> Also:
        marks = self._measurements.marks(header_of(measurement))
        table, now = self._measurements, time.time()
        return lambda connection, job: table.remember(connection, job.id, marks, now)

    @property
    def _measurements(self) -> Measurements:
        return Measurements(self.intake.engine, self.intake.storage.secret())

    def _current(self, job_id: str) -> Job | None:
        job = self.intake.jobs.get(job_id)
        return None if job is None else self.intake.jobs.latest_retry(job)


def _parts(
    measurement: Measurement, asked: ReconstructionParameters
) -> list[ReconstructionParameters]:
    """One request, or one for each of the sampling patterns of interleaved images."""
    heads = measurement.heads()
    return [
        asked.model_copy(update={"select": ",".join(f"{k}={v}" for k, v in select.items()) or None})
        for select in selections_in(measurement.xml or "", heads)
    ]


def _written(path: Path, measurement: Measurement) -> Received:
    if not measurement.places:
        raise ScanError("no-readouts", "no raw data were sent; send acquisitions (1008)")
    write_raw(path, measurement.xml or "", measurement.each())
    with path.open("rb") as file:
        return Received(path, file_digest(file, "sha256").hexdigest(), path.stat().st_size)


@contextmanager
def _spool(folder: Path) -> Iterator[BinaryIO]:
    """A file for the bytes of a session; it outlives a process that is killed, not the session."""
    path = folder / f"{secrets.token_hex(16)}{_SPOOL}"
    with path.open("x+b") as file:
        _locked(file)
        try:
            yield file
        except asyncio.CancelledError:  # the process ends: the next one keeps what is here
            file.flush()
            raise
        except BaseException:
            _discard(path, file)
            raise
        _discard(path, file)


def _discard(path: Path, file: BinaryIO) -> None:
    path.unlink(missing_ok=True)
    with suppress(OSError):  # what did not find room is of no use now
        file.close()


def _locked(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _refusal(code: str, message: str) -> bytes:
    log.info("refused", code=code)
    return encode_text("ERROR", f"({code}) {message}")


def _slices_done(job: Job) -> float | None:
    progress = job.progress
    if progress is None or progress.slices is None:
        return None
    return progress.fraction * progress.slices


def _said(job: Job) -> str:
    """How far a job is, in words."""
    progress, done = job.progress, _slices_done(job)
    if progress is None or progress.position is None or done is None:
        return "at its beginning"
    image, left = progress.position + 1, progress.eta_s
    text = f"image {image} of {progress.slices}: {progress.stage}, {done - image + 1:.0%}"
    return text if left is None else f"{text}; about {left:.0f} s left"
