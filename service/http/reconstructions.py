"""/v1/reconstructions: submit, follow, cancel, retry, delete."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import JSONResponse, Response

from service.delivery.records import Deliveries
from service.http.context import Context, InContext
from service.http.idempotency import Attempt, attempt, replay
from service.http.principal import Reader, Writer, owner_of
from service.http.problems import problems
from service.http.receiving import (
    announced_digest,
    content_length,
    keep_scan,
    media_type,
    received,
    require_room,
)
from service.http.scans import BODY, Id, find_scan, require_hdf5
from service.http.schemas import JobOut, JobPage
from service.http.submission import (
    body_of,
    digest_of,
    parameters_from_query,
    parsed,
    require_queue,
    submit,
)
from service.jobs.records import Job, JobState
from service.problems import ProblemError
from service.requests import CLIENT_ID, Priority, ReconstructionParameters, ReconstructionRequest
from service.store.keys import Key
from service.store.scans import StoredScan

router = APIRouter(prefix="/v1/reconstructions", tags=["reconstructions"])

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")
_FORM_OVERHEAD = 1 << 20
_SUBMISSION = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ReconstructionRequest"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "params": {"type": "string", "description": "the parameters as JSON"},
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            },
            **BODY["content"],
        },
    },
}
_REFUSALS = (
    "not-found",
    "digest-mismatch",
    "upload-too-large",
    "unsupported-media-type",
    "not-hdf5",
    "storage-full",
    "idempotency-in-flight",
    "queue-full",
)
_QUEUED: dict[int | str, dict[str, Any]] = {
    200: {"model": JobOut, "description": "Finished within the time that `Prefer: wait` allowed"}
}


class JobQuery(BaseModel):
    """Which reconstructions to list."""

    model_config = ConfigDict(extra="forbid")

    state: list[JobState] = Field(default_factory=list, max_length=6)
    priority: Priority | None = None
    limit: int = Field(50, ge=1, le=500)
    cursor: str | None = Field(None, max_length=64)


class Counts(BaseModel):
    """How many reconstructions are in each state."""

    counts: dict[JobState, int]


@router.post(
    "",
    status_code=202,
    response_model=JobOut,
    responses=_QUEUED | problems(*_REFUSALS),
    openapi_extra=_SUBMISSION,
)
@router.put("", include_in_schema=False)
async def submit_reconstruction(request: Request, context: InContext, key: Writer) -> Response:
    """Reconstruct: JSON with a `scan_id`; or the scan itself, parameters in the query or a form."""
    await run_in_threadpool(require_queue, context, key)
    with attempt(request, key, request.app.state.at_work) as made:
        async with AsyncExitStack() as stack:
            scan, parameters, digest = await _asked(request, context, key, stack, made)
            if isinstance(scan, Response):
                return scan
            job = await run_in_threadpool(
                submit,
                context,
                key,
                scan,
                parameters,
                traceparent=request.headers.get("traceparent"),
                also=_remembering(made, digest),
            )
    return await _job_answer(request, context, job, 202)


@router.put(
    "/{client_id}",
    status_code=202,
    response_model=JobOut,
    responses=_QUEUED | problems(*_REFUSALS),
    openapi_extra=_SUBMISSION,
)
async def put_reconstruction(
    request: Request,
    context: InContext,
    key: Writer,
    client_id: Annotated[str, Path(pattern=CLIENT_ID)],
) -> Response:
    """Reconstruct under an id of the client's choice; the same request again changes nothing."""
    known = await run_in_threadpool(context.jobs.get, client_id, key.id)
    if known is None:
        await run_in_threadpool(require_queue, context, key)
    async with AsyncExitStack() as stack:
        scan, parameters, digest = await _asked(request, context, key, stack, None)
        assert isinstance(scan, StoredScan)
        if known is None:
            try:
                known = await run_in_threadpool(
                    submit,
                    context,
                    key,
                    scan,
                    parameters,
                    digest=digest,
                    client_id=client_id,
                    traceparent=request.headers.get("traceparent"),
                )
            except IntegrityError:  # the same request came twice at once
                known = await run_in_threadpool(context.jobs.get, client_id, key.id)
    assert known is not None
    if known.request_digest != digest:
        raise ProblemError("id-reused", "this id belongs to another request; choose a new one")
    return await _job_answer(request, context, known, 200 if known.state.terminal else 202)


@router.get("", responses=problems())
def list_reconstructions(
    context: InContext, key: Reader, query: Annotated[JobQuery, Query()]
) -> JobPage:
    """Reconstructions, newest first."""
    found = context.jobs.page(
        owner_of(key),
        states=query.state,
        priority=query.priority,
        before=query.cursor,
        limit=query.limit,
    )
    more = found[-1].id if len(found) == query.limit else None
    return JobPage(items=[JobOut.of(job) for job in found], next_cursor=more)


@router.get("/counts", responses=problems())
def count_reconstructions(context: InContext, key: Reader) -> Counts:
    """How many there are in each state."""
    counts = context.jobs.counts(owner_of(key))
    return Counts(counts={JobState(state): count for state, count in counts.items()})


@router.get(
    "/{job_id}",
    response_model=JobOut,
    responses=problems("not-found") | {304: {"description": "It is as it was"}},
)
async def get_reconstruction(
    request: Request, context: InContext, key: Reader, job_id: Id
) -> Response:
    """How far it is; `Prefer: wait=N` answers when it has ended, or after N seconds."""
    job = await run_in_threadpool(find_job, context, key, job_id)
    return await _job_answer(request, context, job, 200)


@router.post(
    "/{job_id}/cancel",
    status_code=202,
    response_model=JobOut,
    responses=problems("not-found", "already-finished"),
)
def cancel_reconstruction(context: InContext, key: Writer, job_id: Id) -> Response:
    """Stop it; what runs stops within one step of the sampler."""
    job = find_job(context, key, job_id)
    if job.state.terminal and job.state is not JobState.CANCELLED:
        raise ProblemError("already-finished", f"the job has {job.state.value} already")
    changed = context.jobs.cancel(job.id)
    if changed is None:
        raise ProblemError("not-found", "there is no such reconstruction")
    if changed.state is JobState.CANCELLED:
        context.queue.withdraw(job.id)
    return _plain(context, changed, 202)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    response_model=JobOut,
    responses=problems("not-found", "job-not-finished", "queue-full"),
)
def retry_reconstruction(request: Request, context: InContext, key: Writer, job_id: Id) -> Response:
    """A new reconstruction from the same request, for one that has ended."""
    job = find_job(context, key, job_id)
    if not job.state.terminal:
        raise ProblemError("job-not-finished", "the job has not ended; cancel it first")
    scan = find_scan(context, key, job.scan_id)
    again = submit(
        context,
        key,
        scan,
        job.parameters,
        predecessor=job.id,
        traceparent=request.headers.get("traceparent"),
    )
    answer = _plain(context, again, 202)
    answer.headers["Link"] = f'</v1/reconstructions/{job.id}>; rel="predecessor-version"'
    return answer


@router.delete("/{job_id}", status_code=204, responses=problems("not-found", "job-not-finished"))
def delete_reconstruction(context: InContext, key: Writer, job_id: Id) -> None:
    """Delete an ended reconstruction and its results."""
    job = find_job(context, key, job_id)
    if not context.jobs.delete(job.id):
        raise ProblemError("job-not-finished", "the job has not ended; cancel it first")
    context.storage.remove(job.id)
    if job.output is not None and not context.jobs.uses_output(job.output):
        context.storage.remove(job.output)
    context.queue.forget(job.id)
    Deliveries(context.engine).forget(job.id)


def find_job(context: Context, key: Key, job_id: str) -> Job:
    """A job that the key may see. Raises ProblemError."""
    job = context.jobs.get(job_id, owner_of(key))
    if job is None and owner_of(key) is None:
        job = context.jobs.get(job_id, key.id)  # by the id that the administrator gave it
    if job is None:
        raise ProblemError("not-found", "there is no such reconstruction")
    return job


async def _asked(
    request: Request, context: Context, key: Key, stack: AsyncExitStack, made: Attempt | None
) -> tuple[StoredScan | Response, ReconstructionParameters, str]:
    """Scan, parameters and digest of a submission in any of its three forms."""
    kind = media_type(request)
    if kind == "application/json":
        text = await body_of(request, context.settings.max_json_bytes)
        asked = parsed(ReconstructionRequest, text)
        digest = digest_of(asked, asked.scan_id)
        if again := await replay(context, made, digest):
            return again, asked, digest
        scan = await run_in_threadpool(find_scan, context, key, asked.scan_id)
        return scan, asked, digest
    announced = announced_digest(request)
    require_room(context, content_length(request))
    if kind == "multipart/form-data":
        form = await stack.enter_async_context(
            request.form(max_files=1, max_fields=2, max_part_size=_FORM_OVERHEAD)
        )
        text = str(form.get("params") or "{}").encode()
        parameters = parsed(ReconstructionParameters, text)
        file = form.get("file")
        if set(form) - {"params", "file"} or not isinstance(file, UploadFile):
            raise ProblemError(
                "invalid-request", "a form has the parts 'params' (JSON) and 'file' (the scan)"
            )
        chunks = _chunks(file)
    else:
        require_hdf5(request)
        parameters = parameters_from_query(request)
        chunks = request.stream()
    body = await stack.enter_async_context(received(context, chunks, announced))
    digest = digest_of(parameters, body.sha256)
    if again := await replay(context, made, digest):
        return again, parameters, digest
    kept, _ = await keep_scan(context, key.id, body)
    return kept, parameters, digest


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(1 << 20):
        yield chunk


def _remembering(made: Attempt | None, digest: str) -> Any:  # noqa: ANN401
    if made is None:
        return None

    def remember(connection: sa.Connection, job: Job) -> None:
        document = JobOut.of(job).model_dump(mode="json")
        made.remember(connection, digest, 202, document["links"]["self"], document)

    return remember


async def _job_answer(request: Request, context: Context, job: Job, status: int) -> Response:
    """The job, after the wait that the client prefers."""
    waited = _wanted_wait(request, context)
    if waited and not job.state.terminal:
        job = await _ended(context, job, waited)
        if status == 202 and job.state.terminal:
            status = 200
    tag = f'"{job.id}-{job.revision}"'
    if request.method == "GET" and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    answer = await run_in_threadpool(_plain, context, job, status)
    if waited is not None:
        answer.headers["Preference-Applied"] = f"wait={waited:g}"
    elif status == 202:
        answer.headers["Preference-Applied"] = "respond-async"
    return answer


def _wanted_wait(request: Request, context: Context) -> float | None:
    found = _WAIT.search(request.headers.get("prefer", ""))
    return None if found is None else min(float(found[1]), context.settings.max_wait_seconds)


async def _ended(context: Context, job: Job, seconds: float) -> Job:
    """The job as it is at its end, or after so many seconds."""
    until = time.monotonic() + seconds
    async with context.feed.listen(job.id) as listener:
        now = await run_in_threadpool(context.jobs.get, job.id)
        while now is not None and not now.state.terminal:
            try:
                event = await listener.get(max(0.0, until - time.monotonic()))
            except TimeoutError:
                return await run_in_threadpool(context.jobs.get, job.id) or now
            if event is None or event.type == "end":
                return await run_in_threadpool(context.jobs.get, job.id) or now
    return now or job


def _plain(context: Context, job: Job, status: int) -> Response:
    queued = job.state is JobState.QUEUED
    position = context.jobs.ahead_of(job) if queued else None
    document = JobOut.of(job, position).model_dump(mode="json")
    headers = {"Location": document["links"]["self"], "ETag": f'"{job.id}-{job.revision}"'}
    headers["Vary"] = "Prefer, Authorization"
    if not job.state.terminal:
        left = (job.progress or {}).get("eta_s") or 1
        headers["Retry-After"] = str(min(30, max(1, round(left / 4))))
    return JSONResponse(document, status, headers=headers)
