"""What takes scans and requests in, whichever way they come: over HTTP or from a scanner."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import sqlalchemy as sa
from anyio import CapacityLimiter

from recon.io.fork_servers import ForkServers
from service.jobs.job_table import Jobs
from service.jobs.workers import Workers
from service.jobs.workflows import Queue
from service.settings import ServiceSettings
from service.store.database import open_database
from service.store.files import Storage, open_storage
from service.store.scans import Scans

_READERS = 2
_PLACING = 16


@dataclass(frozen=True, kw_only=True)
class Intake:
    """Storage, tables and queue; one per process."""

    settings: ServiceSettings
    engine: sa.Engine
    storage: Storage
    jobs: Jobs
    scans: Scans
    workers: Workers
    queue: Queue
    fork_servers: ForkServers = field(default_factory=ForkServers)
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READERS))
    """How many child processes may look at scans at once."""
    placing: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_PLACING))
    """Threads of their own for scans on their way into the storage, which may take its time."""

    def close(self) -> None:
        """End reading processes, and let go of the database."""
        self.fork_servers.close()
        self.queue.close()
        self.engine.dispose()


def open_intake(settings: ServiceSettings, *, busy_milliseconds: int = 5000) -> Intake:
    """Open database and storage; the tables must have been made.

    A locked database is waited for no longer than a client would.
    """
    engine = open_database(settings.database_url, busy_milliseconds=busy_milliseconds)
    return Intake(
        settings=settings,
        engine=engine,
        storage=open_storage(settings),
        jobs=Jobs(engine),
        scans=Scans(engine),
        workers=Workers(engine),
        queue=Queue(settings, engine),
    )
