"""Who asks: the key of a request, its scopes, and how often it may ask."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.http.context import Context, InContext
from service.problems import ProblemError
from service.store.keys import LOCAL, Key, Scope

_REMEMBERED_SECONDS = 2.0
"""How long a key that was checked is believed; a revoked one works no longer than that."""
_MAX_REMEMBERED = 10_000
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")

_bearer = HTTPBearer(auto_error=False, description="An API key: `mri-posterior keys create`")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]


@dataclass
class Bucket:
    """Tokens of one key; one is taken by each request."""

    tokens: float
    filled: float


@dataclass
class Doorkeeper:
    """What is remembered between requests; one per process."""

    required: bool = True
    checked: float = -1e9
    keys: dict[str, tuple[float, Key]] = field(default_factory=dict)
    buckets: dict[str, Bucket] = field(default_factory=dict)
    at_work: Counter[str] = field(default_factory=Counter)

    async def identify(self, context: Context, token: str | None, *, forwarded: bool) -> Key:
        """The key of a token. Raises ProblemError."""
        now = time.monotonic()
        if now - self.checked > _REMEMBERED_SECONDS:
            self.required = await context.look_up(context.keys.required)
            self.checked = now
        if not self.required and context.settings.loopback:
            if forwarded:
                raise ProblemError(
                    "forbidden",
                    "this request comes through a proxy, perhaps from anywhere, and there is no "
                    "API key; make one with `mri-posterior keys create`",
                )
            return LOCAL
        if token is None:
            raise _unauthorized("send an API key: Authorization: Bearer mrip_…")
        known = self.keys.get(token)
        if known is not None and now - known[0] < _REMEMBERED_SECONDS:
            return known[1]
        key = await context.look_up(context.keys.check, token)
        if key is None:
            self.keys.pop(token, None)
            raise _unauthorized("the API key is unknown, revoked or expired")
        if len(self.keys) >= _MAX_REMEMBERED:
            self.keys.clear()
        self.keys[token] = (now, key)
        return key

    def admit(self, key: Key, per_minute: int) -> None:
        """Take a token of the key's bucket. Raises ProblemError."""
        now = time.monotonic()
        bucket = self.buckets.setdefault(key.id, Bucket(per_minute, now))
        rate = per_minute / 60
        bucket.tokens = min(per_minute, bucket.tokens + (now - bucket.filled) * rate)
        bucket.filled = now
        if bucket.tokens < 1:
            seconds = max(1, round((1 - bucket.tokens) / rate))
            raise ProblemError(
                "rate-limited",
                f"this key may ask {per_minute} times a minute; wait {seconds} s",
                headers={"Retry-After": str(seconds)},
            )
        bucket.tokens -= 1

    @contextmanager
    def occupied(self, key: Key, limit: int) -> Iterator[None]:
        """While the block runs, one more request of the key is answered. Raises ProblemError."""
        if self.at_work[key.id] >= limit:
            raise ProblemError(
                "rate-limited",
                f"{limit} requests of this key are being answered; wait for one of them",
                headers={"Retry-After": "1"},
            )
        self.at_work[key.id] += 1
        try:
            yield
        finally:
            self.at_work[key.id] -= 1
            if not self.at_work[key.id]:
                del self.at_work[key.id]


def _unauthorized(detail: str) -> ProblemError:
    return ProblemError("unauthorized", detail, headers={"WWW-Authenticate": "Bearer"})


def _requires(scope: Scope) -> Callable[..., AsyncIterator[Key]]:
    async def authenticate(
        request: Request, context: InContext, credentials: Credentials
    ) -> AsyncIterator[Key]:
        doorkeeper: Doorkeeper = request.app.state.doorkeeper
        token = None if credentials is None else credentials.credentials
        forwarded = any(name in request.headers for name in _FORWARDED)
        key = await doorkeeper.identify(context, token, forwarded=forwarded)
        doorkeeper.admit(key, context.settings.requests_per_minute)
        if not key.allows(scope):
            raise ProblemError("forbidden", f"the key lacks the scope '{scope.value}'")
        with doorkeeper.occupied(key, context.settings.max_requests_per_key):
            yield key  # until the last byte of the answer

    return authenticate


Reader = Annotated[Key, Depends(_requires(Scope.READ))]
READS = [Depends(_requires(Scope.READ))]
Writer = Annotated[Key, Depends(_requires(Scope.WRITE))]


def owner_of(key: Key) -> str | None:
    """Whose jobs and scans the key sees; None: everybody's."""
    return None if Scope.ADMIN in key.scopes else key.id
