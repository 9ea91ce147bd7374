"""From a request body to a queued job: the checks that do not need the scan's values."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy as sa
from fastapi import Request
from pydantic import ValidationError

from recon.errors import ScanError
from service.http.context import Context
from service.http.problems import validation_problem
from service.jobs.records import ACTIVE, Job, new_id
from service.problems import ProblemError
from service.requests import ReconstructionParameters
from service.slices import parse_slices
from service.store.keys import Key
from service.store.scans import StoredScan
from service.tracing import span

Model = TypeVar("Model", bound=ReconstructionParameters)

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


def parsed(model: type[Model], text: bytes) -> Model:
    """A checked model from JSON. Raises ProblemError."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise validation_problem(error.errors(include_url=False, include_input=False)) from error


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
    waiting = context.jobs.counts(batched=False)["queued"]
    if waiting >= context.settings.max_queue:
        seconds = max(1, round(context.jobs.mean_seconds()))
        raise ProblemError(
            "queue-full",
            f"{waiting} jobs wait; try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )
    counts = context.jobs.counts(key.id, batched=False)
    active = sum(counts[state.value] for state in ACTIVE)
    if active >= context.settings.max_active_per_key:
        seconds = max(1, round(context.jobs.mean_seconds()))
        raise ProblemError(
            "quota-exceeded",
            f"this key has {active} unfinished jobs; wait for one of them",
            headers={"Retry-After": str(seconds)},
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
    return context.jobs.create(
        values,
        lambda connection, job_id: context.queue.enqueue(connection, job_id, parameters.priority),
        also,
    )


def digest_of(parameters: ReconstructionParameters, body: str) -> str:
    """What makes two requests the same: the scan and every parameter."""
    text = json.dumps(parameters.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{body}\n{text}".encode()).hexdigest()
