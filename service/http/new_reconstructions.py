"""Three ways to ask for a reconstruction: POST, PUT under an id of the client's, retry."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Path, Request
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.responses import Response

from service.http.authentication import Writer
from service.http.context import Context, InContext
from service.http.idempotency import Attempt, attempt, once
from service.http.job_answers import find_job, job_answer, plain_answer
from service.http.problems import Responses, problems
from service.http.receiving import (
    announced_digest,
    content_length,
    keep_body,
    media_type,
    received,
    require_digest,
    with_room,
)
from service.http.request_bodies import (
    body_of,
    digest_of,
    overridden,
    parameters_from_query,
    parsed,
)
from service.http.scans import BODY, Id, find_calibration, find_scan, require_hdf5
from service.http.schemas import JobOut
from service.intake.new_scans import require_quota, require_room
from service.intake.submission import Also, Submission, require_queue, submit
from service.jobs.job import Job
from service.problems import ProblemError
from service.requests import CLIENT_ID, ReconstructionParameters, ReconstructionRequest
from service.store.keys import Key

router = APIRouter(prefix="/v1/reconstructions", tags=["reconstructions"])

_RESERVED_IDS = ("counts",)
_FORM = "multipart/form-data"
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
_QUEUED: Responses = {
    200: {"model": JobOut, "description": "Finished within the time that `Prefer: wait` allowed"}
}


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
            asked = await _asked(request, context, key, stack)

            async def queue() -> Job:
                also = _remembering(made, asked.digest)
                return await run_in_threadpool(submit, context, await asked.submission(), also)

            job = await once(context, made, asked.digest, queue)
    if isinstance(job, Response):
        return job
    return await job_answer(request, context, job, 202)


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
    if client_id in _RESERVED_IDS:
        raise ProblemError("invalid-parameter", f"'{client_id}' is no id here; choose another")
    known = await run_in_threadpool(context.jobs.get, client_id, key.id)
    if known is None:
        await run_in_threadpool(require_queue, context, key)
    async with AsyncExitStack() as stack:
        asked = await _asked(request, context, key, stack)
        submission = replace(await asked.submission(), digest=asked.digest, client_id=client_id)
        if known is None:
            try:
                known = await run_in_threadpool(submit, context, submission)
            except IntegrityError:  # the same request came twice at once
                known = await run_in_threadpool(context.jobs.get, client_id, key.id)
    assert known is not None
    if known.request_digest != asked.digest:
        raise ProblemError("id-reused", "this id belongs to another request; choose a new one")
    return await job_answer(request, context, known, 200 if known.state.terminal else 202)


@router.post(
    "/{job_id}/retry",
    status_code=202,
    response_model=JobOut,
    responses=problems("not-found", "job-not-finished", "queue-full", "idempotency-in-flight"),
    openapi_extra={
        "requestBody": {
            "required": False,
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/ReconstructionParameters"}
                }
            },
        }
    },
)
async def retry_reconstruction(
    request: Request, context: InContext, key: Writer, job_id: Id
) -> Response:
    """A new reconstruction from the same request, for one that has ended.

    Parameters in the body replace those of the request; null takes one back to its default.
    """
    text = await body_of(request, context.settings.max_json_bytes)
    with attempt(request, key, request.app.state.at_work) as made:
        digest = hashlib.sha256(text).hexdigest()
        also = _remembering(made, digest)
        retry = partial(run_in_threadpool, _retried, request, context, key, job_id, text, also)
        return await once(context, made, digest, retry)


def _retried(
    request: Request, context: Context, key: Key, job_id: str, text: bytes, also: Also | None
) -> Response:
    job = find_job(context, key, job_id)
    if not job.state.terminal:
        raise ProblemError("job-not-finished", "the job has not ended; cancel it first")
    parameters = overridden(job.request, text)
    asked = Submission(
        key,
        find_scan(context, key, job.scan_id),
        parameters,
        predecessor=job.id,
        calibration=find_calibration(context, key, parameters),
        traceparent=request.headers.get("traceparent"),
    )
    answer = plain_answer(context, submit(context, asked, also), 202)
    answer.headers["Link"] = f'</v1/reconstructions/{job.id}>; rel="predecessor-version"'
    return answer


@dataclass(frozen=True)
class _Asked:
    """A request that has arrived; its scan is looked up, or looked into, when it is needed."""

    digest: str
    """The same for the same scan and parameters."""
    submission: Callable[[], Awaitable[Submission]]


async def _asked(request: Request, context: Context, key: Key, stack: AsyncExitStack) -> _Asked:
    """What a request asks for, in any of its three forms. Raises ProblemError."""
    traceparent = request.headers.get("traceparent")
    if media_type(request) == "application/json":
        text = await body_of(request, context.settings.max_json_bytes)
        named = parsed(ReconstructionRequest, text)

        async def known() -> Submission:
            scan = await run_in_threadpool(find_scan, context, key, named.scan_id)
            lines = await run_in_threadpool(find_calibration, context, key, named)
            return Submission(key, scan, named, calibration=lines, traceparent=traceparent)

        return _Asked(digest_of(named, named.scan_id), known)
    announced = announced_digest(request)
    require_room(context, content_length(request))
    await run_in_threadpool(require_quota, context, key.id, content_length(request))
    parameters, chunks = await _sent(request, context, stack, announced)
    if media_type(request) == _FORM:
        announced = None  # of the form; it was checked
    body = await stack.enter_async_context(received(context, chunks, announced))

    async def kept() -> Submission:
        scan, _ = await keep_body(context, key.id, body, reading=parameters)
        lines = await run_in_threadpool(find_calibration, context, key, parameters)
        return Submission(key, scan, parameters, calibration=lines, traceparent=traceparent)

    return _Asked(digest_of(parameters, body.sha256), kept)


async def _sent(
    request: Request, context: Context, stack: AsyncExitStack, announced: str | None
) -> tuple[ReconstructionParameters, AsyncIterator[bytes]]:
    """Parameters and bytes of a scan that is sent along. Raises ProblemError."""
    if media_type(request) != _FORM:
        require_hdf5(request)
        return parameters_from_query(request), request.stream()
    whole = _FormRequest(request, context)
    form = await stack.enter_async_context(
        whole.form(max_files=1, max_fields=2, max_part_size=_FORM_OVERHEAD)
    )
    require_digest(announced, whole.digest.hexdigest())
    parameters = parsed(ReconstructionParameters, str(form.get("params") or "{}").encode())
    file = form.get("file")
    if set(form) - {"params", "file"} or not isinstance(file, UploadFile):
        raise ProblemError(
            "invalid-request", "a form has the parts 'params' (JSON) and 'file' (the scan)"
        )
    return parameters, _chunks(file)


class _FormRequest(Request):
    """A request whose form is spooled to the disk as long as there is room."""

    def __init__(self, request: Request, context: Context) -> None:
        super().__init__(request.scope, request.receive)
        self._context = context
        self.digest = hashlib.sha256()

    async def stream(self) -> AsyncGenerator[bytes, None]:
        async for chunk in with_room(self._context, super().stream()):
            self.digest.update(chunk)
            yield chunk


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(1 << 20):
        yield chunk


def _remembering(made: Attempt | None, digest: str) -> Also | None:
    """Stores the answer of an attempt beside the job that it has made."""
    if made is None:
        return None

    def remember(connection: sa.Connection, job: Job) -> None:
        document = JobOut.of(job).model_dump(mode="json")
        made.remember(connection, digest, 202, document["links"]["self"], document)

    return remember
