"""What every route needs, made once when the process starts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated

import sqlalchemy as sa
from fastapi import Depends, Request

from recon.io.nursery import Nursery
from service.http.feed import Feed
from service.http.metrics import Metrics
from service.jobs.batches import Batches
from service.jobs.history import History
from service.jobs.records import Jobs
from service.jobs.workers import Workers
from service.jobs.workflows import Queue
from service.settings import ServiceSettings
from service.store.files import Storage
from service.store.keys import Keys
from service.store.scans import Scans
from service.store.uploads import Uploads

_READERS = 2


@dataclass(frozen=True)
class Context:
    """The service behind the routes."""

    settings: ServiceSettings
    engine: sa.Engine
    storage: Storage
    jobs: Jobs
    history: History
    scans: Scans
    keys: Keys
    workers: Workers
    queue: Queue
    batches: Batches
    uploads: Uploads
    feed: Feed
    metrics: Metrics
    nursery: Nursery = field(default_factory=Nursery)
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READERS))
    """How many child processes may look at uploads at once."""

    def close(self) -> None:
        """End reading processes, and let go of the database."""
        self.nursery.close()
        self.queue.close()
        self.engine.dispose()


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


async def _async_context(request: Request) -> Context:
    return _context(request)


InContext = Annotated[Context, Depends(_async_context)]
