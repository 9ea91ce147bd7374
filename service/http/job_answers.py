"""A reconstruction as the answer to a request: found, waited for, put into headers and body."""

from __future__ import annotations

import re
import time

from fastapi import Request
from starlette.responses import JSONResponse, Response

from service.http.authentication import owner_of
from service.http.context import Context
from service.http.schemas import JobOut
from service.jobs.job import Job, JobState
from service.problems import ProblemError
from service.store.keys import Key

_WAIT = re.compile(r"(?:^|[,;\s])wait=(\d{1,6})(?:$|[,;\s])")


def find_job(context: Context, key: Key, job_id: str) -> Job:
    """A job that the key may see. Raises ProblemError."""
    job = context.jobs.get(job_id, owner_of(key))
    if job is None and owner_of(key) is None:
        job = context.jobs.get(job_id, key.id)  # by the id that the administrator gave it
    if job is None:
        raise ProblemError("not-found", "there is no such reconstruction")
    return job


async def job_answer(request: Request, context: Context, job: Job, status: int) -> Response:
    """The job, after the wait that the client prefers."""
    waited = _wanted_wait(request, context)
    if waited and not job.state.terminal:
        job = await _ended(context, job, waited)
        if status == 202 and job.state.terminal:
            status = 200
    tag = etag_of(job)
    if request.method == "GET" and request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    if job.state is JobState.QUEUED:  # its place in the queue has to be looked up
        answer = await context.look_up(plain_answer, context, job, status)
    else:
        answer = plain_answer(context, job, status)
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
        now = await context.look_up(context.jobs.get, job.id)
        while now is not None and not now.state.terminal:
            try:
                event = await listener.get(max(0.0, until - time.monotonic()))
            except TimeoutError:
                return await context.look_up(context.jobs.get, job.id) or now
            if event is None or event.type == "end":
                return await context.look_up(context.jobs.get, job.id) or now
    return now or job


def etag_of(job: Job) -> str:
    """Changes whenever something of the job does."""
    return f'"{job.id}-{job.revision}"'


def plain_answer(context: Context, job: Job, status: int) -> Response:
    """The job as it is, and when to ask again."""
    queued = job.state is JobState.QUEUED
    position = context.jobs.ahead_of(job) if queued else None
    out = JobOut.of(job, position, keep_days=context.settings.keep_results_days)
    document = out.model_dump(mode="json")
    headers = {"Location": document["links"]["self"], "ETag": etag_of(job)}
    headers["Vary"] = "Prefer, Authorization"
    if not job.state.terminal:
        left = (job.progress and job.progress.eta_s) or 1
        headers["Retry-After"] = str(min(30, max(1, round(left / 4))))
    return JSONResponse(document, status, headers=headers)
