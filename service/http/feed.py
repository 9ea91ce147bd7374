"""Events from the database to everyone who waits for them: one reader, many listeners."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

import structlog
from starlette.concurrency import run_in_threadpool

from service.jobs.history import Event, History
from service.problems import ProblemError

log = structlog.get_logger()

_OVERLAP = 256
"""PostgreSQL gives ids before it commits, so a smaller one may appear after a larger one."""
_BACKLOG = 2000


class Listener:
    """The events of one job from now on; None means that no more will come."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Event | None] = asyncio.Queue(_BACKLOG)

    def put(self, event: Event | None) -> None:
        """Called by the feed; who does not keep up hears no more, and may ask for the rest."""
        if self._queue.full():
            return
        self._queue.put_nowait(None if self._queue.qsize() == _BACKLOG - 1 else event)

    async def get(self, timeout: float | None = None) -> Event | None:
        """The next event. Raises TimeoutError."""
        async with asyncio.timeout(timeout):
            return await self._queue.get()


class Feed:
    """Looks for new events while somebody listens, and hands them out by job."""

    def __init__(self, history: History, seconds: float, *, overlap: bool) -> None:
        self._history = history
        self._seconds = seconds
        self.overlap = _OVERLAP if overlap else 0
        """So many ids behind the last one may still appear."""
        self._listeners: dict[str, set[Listener]] = {}
        self._wanted = asyncio.Event()
        self._reading = asyncio.Event()
        self._streams = 0
        self.stopping = False

    def require_place(self, most: int) -> None:
        """Refuse one more stream than may be open. Raises ProblemError."""
        if self._streams >= most:
            raise ProblemError(
                "rate-limited",
                "too many event streams are open; poll instead",
                headers={"Retry-After": "5"},
            )

    @contextmanager
    def place(self) -> Iterator[None]:
        """While the block runs, one more stream is open."""
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    @asynccontextmanager
    async def listen(self, job_id: str) -> AsyncIterator[Listener]:
        """Hear of everything that happens to a job once the block has begun."""
        listener = Listener()
        self._listeners.setdefault(job_id, set()).add(listener)
        self._wanted.set()
        try:
            if self.stopping:
                listener.put(None)
            else:
                # What happens before the reader knows where it begins is for the block to look up.
                await self._reading.wait()
            with self.place():
                yield listener
        finally:
            self._listeners[job_id].discard(listener)
            if not self._listeners[job_id]:
                del self._listeners[job_id]

    def stop(self) -> None:
        """Tell all listeners that no more will come."""
        self.stopping = True
        self._reading.set()
        for listeners in self._listeners.values():
            for listener in listeners:
                listener.put(None)

    def _there(self, last: int) -> set[int]:
        """Ids that need not be handed out: those who listen from now on look them up."""
        return {event.id for event in self._history.after(max(0, last - self.overlap))}

    async def run(self) -> None:
        """Read until cancelled."""
        last = 0
        seen: set[int] = set()
        while True:
            if not self._listeners:
                self._wanted.clear()
                self._reading.clear()
                await self._wanted.wait()
                with suppress(Exception):
                    last = await run_in_threadpool(self._history.last)
                    seen = await run_in_threadpool(self._there, last)
                self._reading.set()
            try:
                found = await run_in_threadpool(self._history.after, max(0, last - self.overlap))
            except Exception:
                log.exception("events cannot be read")
                found = []
            for event in found:
                if event.id in seen:
                    continue
                seen.add(event.id)
                last = max(last, event.id)
                for listener in self._listeners.get(event.job_id, ()):
                    listener.put(event)
            seen = {event_id for event_id in seen if event_id > last - 2 * _OVERLAP}
            await asyncio.sleep(self._seconds)
