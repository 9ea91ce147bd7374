"""/v1/reconstructions/{id}/events: what happens, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event
from starlette.responses import StreamingResponse

from service.http.authentication import Reader
from service.http.context import Context, InContext
from service.http.job_answers import find_job
from service.http.problems import Responses, problems
from service.http.scans import Id
from service.jobs.history import PAGE, Event
from service.jobs.job import Job

router = APIRouter(prefix="/v1/reconstructions", tags=["reconstructions"])

_QUIET_SECONDS = 15.0
_STREAM: Responses = {200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}}


async def _followed(context: InContext, key: Reader, job_id: Id) -> Job:
    """The job, looked up before the answer begins, so that refusals are plain answers."""
    context.feed.require_place(context.settings.max_streams)
    return await context.look_up(find_job, context, key, job_id, limiter=context.openings)


def _last_seen(
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$")] = None,
) -> int:
    return int(last_event_id or 0)


@router.get(
    "/{job_id}/events",
    response_class=StreamingResponse,
    responses=_STREAM | problems("not-found"),
)
async def follow_reconstruction(
    context: InContext,
    job: Annotated[Job, Depends(_followed)],
    last: Annotated[int, Depends(_last_seen)],
) -> StreamingResponse:
    """Server-sent events: `state`, `progress`, `preview`, `slice`, and `end` as the last.

    `Last-Event-ID` goes on behind an event that was seen.
    """
    # Not FastAPI's own server-sent events: these take two tasks for every listener, and write
    # every event anew for each of them.
    return StreamingResponse(
        _heard(context, job, last),
        media_type="text/event-stream",
        headers={"X-Accel-Buffering": "no"},
    )


async def _heard(context: Context, job: Job, last: int) -> AsyncIterator[bytes]:
    """Events behind `last`, those that were and those to come, until the job has ended."""
    async with context.feed.listen(job.id) as listener:
        ended, missed = await context.look_up(_missed, context, job, last, limiter=context.openings)
        while missed:
            yield b"".join(map(_written, missed))
            last = missed[-1].id
            ended = ended or missed[-1].type == "end"
            if len(missed) < PAGE:
                break
            missed = await context.look_up(context.history.of, job.id, last)
        while not ended:
            try:
                heard = await listener.get(_QUIET_SECONDS)
            except TimeoutError:
                yield KEEPALIVE_COMMENT  # proxies close what is silent
                continue
            if heard is None:
                return  # the service stops, or the client is slow: it may go on behind `last`
            if heard.id > last:
                last = heard.id
                yield _written(heard)
                ended = heard.type == "end"


def _missed(context: Context, job: Job, last: int) -> tuple[bool, list[Event]]:
    """Whether the job has ended, and its events behind `last`."""
    ended = (context.jobs.state(job.id) or job.state).terminal
    return ended, context.history.of(job.id, last)


def _written(event: Event) -> bytes:
    return format_sse_event(data_str=event.text, event=event.type, id=str(event.id))
