"""Idempotency-Key: the same request twice is done once.

The answer is stored in the transaction that does the work, so that a crash leaves both or neither.
"""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from fastapi import Request
from sqlalchemy.exc import IntegrityError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from service.http.context import Context
from service.problems import ProblemError
from service.store.database import idempotency
from service.store.keys import Key

Done = TypeVar("Done")

_FORM = re.compile(r"[\x21-\x7e]{1,255}")
_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Attempt:
    """One request with a key."""

    owner: str
    route: str
    key: str

    @property
    def _row(self) -> sa.ColumnElement[bool]:
        return (
            (idempotency.c.owner == self.owner)
            & (idempotency.c.route == self.route)
            & (idempotency.c.key == self.key)
        )

    def find(self, connection: sa.Connection) -> sa.Row[Any] | None:
        """The answer that is stored, if it is not too old."""
        recent = idempotency.c.created_at > time.time() - _SECONDS
        return connection.execute(sa.select(idempotency).where(self._row & recent)).first()

    def remember(
        self,
        connection: sa.Connection,
        digest: str,
        status: int,
        location: str | None,
        body: dict[str, Any],
    ) -> None:
        """Store the answer within the caller's transaction.

        Raises IntegrityError when another host has answered the same request in the meantime.
        """
        now = time.time()
        expired = self._row & (idempotency.c.created_at < now - _SECONDS)
        connection.execute(sa.delete(idempotency).where(expired))
        connection.execute(
            sa.insert(idempotency).values(
                owner=self.owner,
                route=self.route,
                key=self.key,
                digest=digest,
                status=status,
                location=location,
                body=body,
                created_at=now,
            )
        )


@contextmanager
def attempt(request: Request, key: Key, at_work: set[Attempt]) -> Iterator[Attempt | None]:
    """The attempt that a request is; None without a key. Raises ProblemError."""
    value = request.headers.get("idempotency-key")
    if value is None:
        yield None
        return
    if not _FORM.fullmatch(value):
        raise ProblemError("invalid-request", "an Idempotency-Key has 1 to 255 visible characters")
    found = Attempt(key.id, f"{request.method} {request.url.path}", value)
    if found in at_work:
        raise ProblemError(
            "idempotency-in-flight",
            "a request with this key is still at work; wait for it",
            headers={"Retry-After": "2"},
        )
    at_work.add(found)
    try:
        yield found
    finally:
        at_work.discard(found)


async def once(
    context: Context, made: Attempt | None, digest: str, act: Callable[[], Awaitable[Done]]
) -> Done | Response:
    """What `act` does, or the stored answer where this request was answered before.

    `act` stores its answer by `Attempt.remember`. Raises ProblemError.
    """
    if again := await replay(context, made, digest):
        return again
    try:
        return await act()
    except IntegrityError:  # another host has answered the same request
        if again := await replay(context, made, digest):
            return again
        raise


async def replay(context: Context, made: Attempt | None, digest: str) -> Response | None:
    """The stored answer, if this request was answered before. Raises ProblemError."""
    if made is None:
        return None
    row = await run_in_threadpool(_find, context.engine, made)
    if row is None:
        return None
    if row.digest != digest:
        raise ProblemError(
            "idempotency-conflict", "this key was used with another request; use a new one"
        )
    headers = {"Idempotency-Replayed": "true"}
    if row.location is not None:
        headers["Location"] = row.location
    return JSONResponse(row.body, row.status, headers=headers)


def _find(engine: sa.Engine, made: Attempt) -> sa.Row[Any] | None:
    with engine.connect() as connection:
        return made.find(connection)


def forget_old_answers(engine: sa.Engine) -> int:
    """Remove the answers that are replayed no more; returns how many."""
    old = idempotency.c.created_at < time.time() - _SECONDS
    with engine.begin() as connection:
        return connection.execute(sa.delete(idempotency).where(old)).rowcount
