"""/v1/reconstructions/{id}/events: what happens, as it happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool

from service.http.context import InContext
from service.http.job_answers import find_job
from service.http.principal import Reader
from service.http.problems import problems
from service.http.scans import Id
from service.jobs.history import Event
from service.jobs.job import Job
from service.problems import ProblemError

router = APIRouter(prefix="/v1/reconstructions", tags=["reconstructions"])


async def _followed(context: InContext, key: Reader, job_id: Id) -> Job:
    """The job, looked up before the answer begins, so that refusals are plain answers."""
    if context.feed.listeners >= context.settings.max_streams:
        raise ProblemError(
            "rate-limited",
            "too many event streams are open; poll instead",
            headers={"Retry-After": "5"},
        )
    return await run_in_threadpool(find_job, context, key, job_id)


def _last_seen(
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$")] = None,
) -> int:
    return int(last_event_id or 0)


@router.get(
    "/{job_id}/events",
    response_class=EventSourceResponse,
    responses=problems("not-found"),
)
async def follow_reconstruction(
    context: InContext,
    job: Annotated[Job, Depends(_followed)],
    last: Annotated[int, Depends(_last_seen)],
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `state`, `progress`, `preview`, `slice`, and `end` as the last.

    `Last-Event-ID` goes on behind an event that was seen.
    """
    async with context.feed.listen(job.id) as listener:
        ended = (await run_in_threadpool(context.jobs.get, job.id) or job).state.terminal
        while missed := await run_in_threadpool(context.history.of, job.id, last):
            for event in missed:
                last = event.id
                yield _sent(event)
                ended = ended or event.type == "end"
        while not ended:
            heard = await listener.get()
            if heard is None:
                return  # the service stops, or the client is slow: it may go on behind `last`
            if heard.id > last:
                last = heard.id
                yield _sent(heard)
                ended = heard.type == "end"


def _sent(event: Event) -> ServerSentEvent:
    return ServerSentEvent(event=event.type, id=str(event.id), data=event.data)
