"""/v1/reconstructions: list, look at, change, cancel, delete; asking for one is elsewhere."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from service.delivery.delivery_table import Deliveries
from service.http.authentication import Reader, Writer, owner_of
from service.http.context import AT_STORAGE, InContext
from service.http.job_answers import etag_of, find_job, job_answer, plain_answer
from service.http.problems import problems
from service.http.scans import Id, link_to_next, tags_of
from service.http.schemas import JobOut, JobPage
from service.jobs.job import JobState
from service.problems import ProblemError
from service.requests import Priority, Tag, TagName, TagPair

router = APIRouter(prefix="/v1/reconstructions", tags=["reconstructions"])


class JobQuery(BaseModel):
    """Which reconstructions to list."""

    model_config = ConfigDict(extra="forbid")

    state: list[JobState] = Field(default_factory=list, max_length=6)
    priority: Priority | None = None
    tag: list[TagPair] = Field(
        default_factory=list, max_length=16, description="NAME:VALUE; all of them"
    )
    since: datetime | None = Field(None, description="created then or later")
    limit: int = Field(50, ge=1, le=500)
    cursor: str | None = Field(None, max_length=64)


class Counts(BaseModel):
    """How many reconstructions are in each state."""

    counts: dict[JobState, int]


class JobChange(BaseModel):
    """What of a reconstruction may be changed; what is left out stays."""

    model_config = ConfigDict(extra="forbid")

    tags: dict[TagName, Tag] | None = Field(None, max_length=16, description="replace all tags")
    priority: Priority | None = Field(None, description="of a job that still waits")


@router.get("", responses=problems())
def list_reconstructions(
    request: Request,
    response: Response,
    context: InContext,
    key: Reader,
    query: Annotated[JobQuery, Query()],
) -> JobPage:
    """Reconstructions, newest first."""
    found = context.jobs.page(
        owner_of(key),
        states=query.state,
        priority=query.priority,
        tags=tags_of(query.tag),
        since=None if query.since is None else query.since.timestamp(),
        before=query.cursor,
        limit=query.limit,
    )
    more = found[-1].id if len(found) == query.limit else None
    link_to_next(request, response, more)
    days = context.settings.keep_results_days
    return JobPage(items=[JobOut.of(job, keep_days=days) for job in found], next_cursor=more)


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
    job = await context.look_up(find_job, context, key, job_id)
    return await job_answer(request, context, job, 200)


@router.patch(
    "/{job_id}",
    response_model=JobOut,
    responses=problems(
        "not-found", "already-finished", "precondition-failed", "precondition-required"
    ),
    openapi_extra={
        "parameters": [
            {
                "name": "If-Match",
                "in": "header",
                "required": True,
                "schema": {"type": "string"},
                "description": "the ETag that was seen, or *",
            }
        ]
    },
)
def change_reconstruction(
    request: Request, context: InContext, key: Writer, job_id: Id, change: JobChange
) -> Response:
    """Other tags, or another priority while it waits."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        raise ProblemError(
            "precondition-required", "send If-Match with the ETag that you saw, or with *"
        )
    job = find_job(context, key, job_id)
    if change.priority not in (None, job.priority) and job.state is not JobState.QUEUED:
        raise ProblemError("already-finished", "the job has started; its priority is of no use")
    while True:
        if wanted not in ("*", etag_of(job)):
            raise ProblemError("precondition-failed", "the job has changed; look at it again")
        priority = change.priority or Priority(job.priority)
        request_now = job.request | {"priority": priority.value}
        if change.tags is not None:
            request_now["tags"] = change.tags
        done = context.jobs.change(job, request_now, priority, context.queue.reprioritise)
        if done is not None:
            return plain_answer(context, done, 200)
        job = find_job(context, key, job_id)


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
    return plain_answer(context, changed, 202)


@router.delete(
    "/{job_id}",
    status_code=204,
    dependencies=[AT_STORAGE],
    responses=problems("not-found", "job-not-finished"),
)
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
