"""What every route needs, made once when the process starts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Depends, Request

from service.http.feed import Feed
from service.http.metrics import Metrics
from service.intake.intake import Intake, open_intake
from service.jobs.batches import Batches
from service.jobs.history import History
from service.settings import ServiceSettings
from service.store.database import Integrity
from service.store.keys import Keys
from service.store.uploads import Uploads

_FEED_SECONDS = 0.2
_AT_STORAGE = 16
_LOOKING_UP = 4
_OPENING = 2

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Context(Intake):
    """The service behind the routes."""

    history: History
    keys: Keys
    batches: Batches
    uploads: Uploads
    feed: Feed
    metrics: Metrics
    integrity: Integrity
    lookups: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_LOOKING_UP))
    openings: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_OPENING))
    """Threads of streams that begin: those who ask something short do not queue behind them."""

    async def look_up(
        self,
        question: Callable[..., T],
        *given: Any,  # noqa: ANN401
        limiter: CapacityLimiter | None = None,
    ) -> T:
        """Ask the tables something short, in one of few threads.

        These take turns in the interpreter with the one that answers: more of them are no faster,
        and each lets all others wait longer.
        """
        return await to_thread.run_sync(partial(question, *given), limiter=limiter or self.lookups)


def create_context(settings: ServiceSettings, *, busy_milliseconds: int = 5000) -> Context:
    """Open database and storage; the tables must have been made."""
    intake = open_intake(settings, busy_milliseconds=busy_milliseconds)
    engine = intake.engine
    history = History(engine)
    return Context(
        **vars(intake),
        history=history,
        keys=Keys(engine),
        batches=Batches(engine, intake.queue.enqueue),
        uploads=Uploads(intake.storage.incoming, settings.upload_expiry_hours),
        feed=Feed(history, _FEED_SECONDS, overlap=engine.dialect.name != "sqlite"),
        metrics=Metrics(engine, intake.jobs, intake.workers, settings.worker_lost_seconds),
        integrity=Integrity(engine),
    )


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _async_context(request: Request) -> Context:
    return _context(request)


InContext = Annotated[Context, Depends(_async_context)]


async def _at_storage() -> AsyncIterator[None]:
    yield


AT_STORAGE = Depends(_at_storage, scope="function", max_concurrency=_AT_STORAGE)
"""Of routes that read or write files, which may lie in an object store that takes its time.

So many are at it at once; others wait without one of the threads that look things up in tables.
"""
