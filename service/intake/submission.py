"""From a wish to a queued job: the checks that do not need the scan's values."""

from __future__ import annotations

import re
from collections.abc import Callable

import sqlalchemy as sa
import structlog

from recon.errors import ScanError
from service.intake.intake import Intake
from service.jobs.job import Job
from service.problems import ProblemError
from service.requests import ReconstructionParameters
from service.slices import parse_slices
from service.store.identifiers import new_id
from service.store.keys import Key
from service.store.scans import StoredScan
from service.tracing import span

log = structlog.get_logger()

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
    known = intake.workers.all()
    if not known:
        raise ProblemError(
            "not-ready", "no worker has started yet; try again", headers={"Retry-After": "2"}
        )
    if parameters.model is None:
        return
    names = {model["id"] for worker in known for model in worker.offers["models"]}
    if parameters.model not in names:
        raise ProblemError("unknown-model", f"there is no model '{parameters.model}'")


def submit(
    intake: Intake,
    key: Key,
    scan: StoredScan,
    parameters: ReconstructionParameters,
    *,
    digest: str | None = None,
    client_id: str | None = None,
    predecessor: str | None = None,
    traceparent: str | None = None,
    also: Callable[[sa.Connection, Job], None] | None = None,
) -> Job:
    """Queue a reconstruction; its row and its workflow appear together. Raises ProblemError."""
    require_queue(intake, key)
    require_model(intake, parameters)
    try:
        parse_slices(parameters.slices, scan.slices)
    except ScanError as error:
        raise ProblemError("invalid-parameter", error.message) from error
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None
    with span("submit", traceparent) as own:
        return _created(intake, key, scan, parameters, digest, client_id, predecessor, own, also)


def _created(
    intake: Intake,
    key: Key,
    scan: StoredScan,
    parameters: ReconstructionParameters,
    digest: str | None,
    client_id: str | None,
    predecessor: str | None,
    traceparent: str | None,
    also: Callable[[sa.Connection, Job], None] | None,
) -> Job:
    values = {
        "id": new_id(),
        "owner": key.id,
        "client_id": client_id,
        "request_digest": digest,
        "predecessor": predecessor,
        "scan_id": scan.id,
        "scan_sha256": scan.sha256,
        "request": parameters.model_dump(mode="json", exclude={"scan_id"}),
        "priority": parameters.priority.value,
        "traceparent": traceparent,
    }
    job = intake.jobs.create(
        values,
        lambda waiting, own: _admit(intake, waiting, own),
        lambda connection, job_id: intake.queue.enqueue(connection, job_id, parameters.priority),
        also,
    )
    if job is None:
        raise ProblemError("not-found", "the scan has just been deleted; upload it again")
    log.info("job queued", job=job.id, scan=scan.sha256[:12], priority=job.priority)
    return job
