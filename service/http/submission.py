"""From a request body to a queued job: the checks that do not need the scan's values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
import structlog
from fastapi import Request
from pydantic import BaseModel, ValidationError

from recon.errors import ScanError
from service.http.context import Context
from service.http.problems import validation_problem
from service.jobs.job import Job, new_id
from service.problems import ProblemError
from service.requests import ReconstructionParameters
from service.slices import parse_slices
from service.store.keys import Key
from service.store.scans import StoredScan
from service.tracing import span

log = structlog.get_logger()

Body = TypeVar("Body", bound=BaseModel)

_TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


def parameters_from_query(request: Request) -> ReconstructionParameters:
    """Parameters of a raw upload; tags are `tag.name=value`. Raises ProblemError."""
    values: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith("tag."):
            tags[name.removeprefix("tag.")] = value
        elif name in values:
            raise ProblemError("invalid-parameter", f"'{name[:100]}' is given twice")
        else:
            values[name] = value
    if tags:
        values["tags"] = tags
    return parsed(ReconstructionParameters, json.dumps(values).encode())


def parsed(model: type[Body], text: bytes) -> Body:
    """A checked model from JSON. Raises ProblemError."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise validation_problem(error.errors(include_url=False, include_input=False)) from error


def overridden(request: dict[str, Any], text: bytes) -> ReconstructionParameters:
    """The parameters of an earlier request, some replaced by a JSON object. Raises ProblemError."""
    if not text.strip():
        return ReconstructionParameters.model_validate(request)
    parsed(ReconstructionParameters, text)  # says what is wrong by the client's own names
    changes = json.loads(text)
    merged = {name: value for name, value in (request | changes).items() if value is not None}
    return parsed(ReconstructionParameters, json.dumps(merged).encode())


async def body_of(request: Request, limit: int) -> bytes:
    """A whole JSON body. Raises ProblemError."""
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > limit:
            raise ProblemError("upload-too-large", f"a JSON body may have {limit} bytes")
    return bytes(text)


def require_queue(context: Context, key: Key) -> None:
    """Refuse early what could not be queued. Raises ProblemError."""
    _admit(context, *context.jobs.unfinished(key.id))


def _admit(context: Context, waiting: int, own: int) -> None:
    if waiting >= context.settings.max_queue:
        kind, detail = "queue-full", f"{waiting} jobs wait"
    elif own >= context.settings.max_active_per_key:
        kind, detail = "quota-exceeded", f"this key has {own} unfinished jobs"
    else:
        return
    # A place is free when the next job ends: each worker ends one in a job's mean time.
    workers = len(context.workers.living(context.settings.worker_lost_seconds))
    seconds = max(1, round(context.jobs.mean_seconds() / max(1, workers)))
    raise ProblemError(
        kind, f"{detail}; try again in {seconds} s", headers={"Retry-After": str(seconds)}
    )


def require_model(context: Context, parameters: ReconstructionParameters) -> None:
    """Only models that a worker offers. Raises ProblemError."""
    known = context.workers.all()
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
    context: Context,
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
    require_queue(context, key)
    require_model(context, parameters)
    try:
        parse_slices(parameters.slices, scan.slices)
    except ScanError as error:
        raise ProblemError("invalid-parameter", error.message) from error
    if traceparent is not None and not _TRACEPARENT.fullmatch(traceparent):
        traceparent = None
    with span("submit", traceparent) as own:
        return _created(context, key, scan, parameters, digest, client_id, predecessor, own, also)


def _created(
    context: Context,
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
    job = context.jobs.create(
        values,
        lambda waiting, own: _admit(context, waiting, own),
        lambda connection, job_id: context.queue.enqueue(connection, job_id, parameters.priority),
        also,
    )
    if job is None:
        raise ProblemError("not-found", "the scan has just been deleted; upload it again")
    log.info("job queued", job=job.id, scan=scan.sha256[:12], priority=job.priority)
    return job


def digest_of(parameters: ReconstructionParameters, body: str) -> str:
    """What makes two requests the same: the scan and every parameter."""
    text = json.dumps(parameters.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{body}\n{text}".encode()).hexdigest()
