"""From a wish to a queued job: the checks that do not need the scan's values."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog

from recon.errors import ScanError
from recon.presets import preset_of
from recon.volume_size import volume_cost
from service.intake.intake import Intake
from service.jobs.job import Job
from service.problems import ProblemError
from service.requests import ReconstructionParameters
from service.slices import parse_slices
from service.store.identifiers import new_id
from service.store.keys import Key
from service.store.scans import StoredScan
from service.tracing import span
from service.volume_limits import require_room_for_volume

log = structlog.get_logger()

Also = Callable[[sa.Connection, Job], None]
"""Writes something more in the transaction that makes a job."""

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def require_queue(intake: Intake, key: Key) -> None:
    """Refuse early what could not be queued. Raises ProblemError."""
    _admit(intake, *intake.jobs.unfinished(key.id))


def _admit(intake: Intake, waiting: int, own: int) -> None:
    if waiting >= intake.settings.max_queue:
        kind, detail = "queue-full", f"{waiting} jobs wait"
    elif own >= intake.settings.max_active_per_key:
        kind, detail = "quota-exceeded", f"this key has {own} unfinished jobs"
    else:
        return
    # A place is free when the next job ends: each worker ends one in a job's mean time.
    workers = len(intake.workers.living(intake.settings.worker_lost_seconds))
    seconds = max(1, round(intake.jobs.mean_seconds() / max(1, workers)))
    raise ProblemError(
        kind, f"{detail}; try again in {seconds} s", headers={"Retry-After": str(seconds)}
    )


def require_model(intake: Intake, parameters: ReconstructionParameters) -> None:
    """Only models that a worker offers. Raises ProblemError."""
    names = {model.id for model in intake.workers.offers().models}
    if parameters.model is not None and parameters.model not in names:
        raise ProblemError("unknown-model", f"there is no model '{parameters.model}'")


@dataclass(frozen=True)
class Submission:
    """One reconstruction that somebody asks for."""

    key: Key
    scan: StoredScan
    parameters: ReconstructionParameters
    digest: str | None = None
    """Of the request, where it has an id of the client's."""
    client_id: str | None = None
    predecessor: str | None = None
    """The job that this is another try of."""
    calibration: StoredScan | None = None
    """Whose lines make the coil maps, where they are not the scan's own."""
    traceparent: str | None = None
    """The W3C trace that the request belongs to, as it was sent."""


def submit(intake: Intake, asked: Submission, also: Also | None = None) -> Job:
    """Queue a reconstruction; its row and its workflow appear together, with what `also` writes.

    Raises ProblemError.
    """
    require_queue(intake, asked.key)
    require_model(intake, asked.parameters)
    try:
        slices = parse_slices(asked.parameters.slices, asked.scan.slices)
    except ScanError as error:
        raise ProblemError("invalid-parameter", error.message) from error
    if asked.parameters.volume:
        _require_volume(intake, asked, len(slices))
    sent = asked.traceparent
    trace = sent if sent is not None and _TRACEPARENT.fullmatch(sent) else None
    priority = asked.parameters.priority
    with span("submit", trace) as own:
        job = intake.jobs.create(
            _row(asked, own),
            lambda waiting, unfinished: _admit(intake, waiting, unfinished),
            lambda connection, job_id: intake.queue.enqueue(connection, job_id, priority),
            also,
        )
        if job is None:
            raise ProblemError("not-found", "the scan has just been deleted; upload it again")
        log.info("job queued", job=job.id, scan=asked.scan.sha256[:12], priority=job.priority)
        return job


def _require_volume(intake: Intake, asked: Submission, slices: int) -> None:
    """Refuse at once what the scan's size and mask tell; the rest shows when it is read."""
    scan, parameters = asked.scan, asked.parameters
    if scan.two_phase_encodings is False or slices < 2:
        raise ProblemError(
            "no-volume",
            "one slice is no volume; choose more, or leave `volume` out"
            if slices < 2
            else "the samples of this scan are whole lines: it has one phase encoding, and its "
            "slices were measured one by one; leave `volume` out",
        )
    cost = volume_cost(
        (slices, scan.rows, scan.columns),
        scan.coils,
        preset_of(parameters.preset or "standard", parameters.samples),
        compress_above=parameters.compress_above,
    )
    require_room_for_volume(cost, intake.settings.max_volume_bytes)


def as_said(parameters: ReconstructionParameters, scan: StoredScan) -> ReconstructionParameters:
    """The parameters, read as was said when the scan came where they do not say it."""
    if parameters.layout is not None or parameters.axes is not None:
        return parameters
    return parameters.model_copy(update={"layout": scan.layout, "axes": scan.axes})


def _row(asked: Submission, traceparent: str | None) -> dict[str, Any]:
    """The columns of the job's row that the request decides."""
    return {
        "id": new_id(),
        "owner": asked.key.id,
        "client_id": asked.client_id,
        "request_digest": asked.digest,
        "predecessor": asked.predecessor,
        "scan_id": asked.scan.id,
        "scan_sha256": asked.scan.sha256,
        "calibration_sha256": None if asked.calibration is None else asked.calibration.sha256,
        "request": as_said(asked.parameters, asked.scan).model_dump(
            mode="json", exclude={"scan_id"}
        ),
        "priority": asked.parameters.priority.value,
        "traceparent": traceparent,
    }
