"""Connections: how many, how long one may take, and how much it may send before it is understood.

uvicorn's parser collects a header, or a trailer behind a body, for as long as bytes come, and
nobody looks at a watch before a request is complete. Its protocol class is where both are bounded:
bytes are counted before they are parsed, one look a second finds what is overdue, and where all
places are taken a connection that keeps nobody busy makes room for a new one.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.http.problems import MEDIA_TYPE
from service.problems import ProblemError

log = structlog.get_logger()

_LOOK_SECONDS = 1.0
_PARTING_SECONDS = 0.5
"""From an answer that refuses to the end of its connection, so that the client can read it."""


@dataclass(frozen=True)
class ConnectionLimits:
    """What one connection, one address and all of them may have."""

    connections: int = 2000
    connections_per_address: int = 1000
    line_bytes: int = 8 << 10
    """Of a request's address."""
    headers: int = 100
    head_bytes: int = 64 << 10
    """Of a request's line and headers together; as much may stand behind a chunked body."""
    head_seconds: float = 10.0
    """From the first byte of a request, or from the connection, to the end of its headers."""
    unread_seconds: float = 60.0
    """How long a client may leave lie what was sent to it."""


class Door:
    """All connections of this process, and which of them may be closed for others."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self._of: Counter[str] = Counter()
        self._inside: dict[Connection, None] = {}
        self._waiting: dict[Connection, None] = {}
        """Those that keep nobody busy, the longest waiting first."""
        self._look: asyncio.TimerHandle | None = None

    def connection(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> Connection:
        """What uvicorn makes for each client."""
        return Connection(self, config, server_state, app_state, _loop)

    def enter(self, connection: Connection) -> bool:
        """Whether there is a place, which may be that of another that only waits."""
        address, limits = connection.address, self.limits
        full = len(self._inside) >= limits.connections
        if self._of[address] >= limits.connections_per_address:
            room = self._close_one_of(address)
        elif full:
            # Whoever holds most of the places gives one up.
            room = self._close_one_of(max(self._of, key=lambda one: self._of[one]))
            room = room or self._close_one_of(None)
        else:
            room = True
        if not room:
            return False
        self._of[address] += 1
        self._inside[connection] = None
        if self._look is None:
            self._look = connection.loop.call_later(_LOOK_SECONDS, self._look_around)
        self.wait(connection)
        return True

    def _close_one_of(self, address: str | None) -> bool:
        """Close the connection, of this address or of any, that has waited longest."""
        found = (one for one in self._waiting if address is None or one.address == address)
        longest = next(found, None)
        if longest is None:
            return False
        self.leave(longest)
        longest.transport.abort()
        return True

    def leave(self, connection: Connection) -> None:
        """Its place is free."""
        self._waiting.pop(connection, None)
        if connection in self._inside:
            del self._inside[connection]
            self._of[connection.address] -= 1
            if not self._of[connection.address]:
                del self._of[connection.address]

    def wait(self, connection: Connection) -> None:
        """It keeps nobody busy from now on."""
        if connection in self._inside:
            self._waiting.pop(connection, None)
            self._waiting[connection] = None

    def work(self, connection: Connection) -> None:
        """A request of it is being answered."""
        self._waiting.pop(connection, None)

    def _look_around(self) -> None:
        self._look = None
        for connection in list(self._inside):
            connection.look()
        if self._inside:
            loop = next(iter(self._inside)).loop
            self._look = loop.call_later(_LOOK_SECONDS, self._look_around)


class Connection(HttpToolsProtocol):
    """One client: uvicorn's protocol with the limits of its door."""

    def __init__(
        self,
        door: Door,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._door = door
        self._limits = door.limits
        self.address = ""
        self._owed_since: float | None = None
        """Since when the rest of a request is waited for."""
        self._unread_since: float | None = None
        self._closing_since: float | None = None
        self._in_message = False
        self._in_head = True
        self._unparsed = 0
        """Bytes of the head, or behind the body, that are with the parser."""
        self._parsed = 0
        """Bytes of the headers that the parser has given back."""
        self._refused: ProblemError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self._owed_since = self.loop.time()
        if not self._door.enter(self):
            self._refuse(
                ProblemError(
                    "not-ready",
                    "all connections of this service are busy; try again",
                    headers={"Retry-After": "5"},
                )
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.leave(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused is not None or self.transport.is_closing():
            return
        if self._owed_since is None and not self._at_work:
            self._owed_since = self.loop.time()
        room = self._limits.head_bytes - self._unparsed
        if self._in_head and len(data) > room:
            # Only so much of it as a head may have, lest the parser collect the rest.
            first, data = data[: room + 1], data[room + 1 :]
            self._feed(first)
            if self._refused is not None or self.transport.is_closing():
                return
        self._feed(data)

    def _feed(self, data: bytes) -> None:
        self._unparsed += len(data)
        super().data_received(data)
        if self._refused is None and self._unparsed > self._limits.head_bytes:
            what = "the line and headers of a request" if self._in_head else "what is not the body"
            self._refuse(
                ProblemError(
                    "headers-too-large", f"{what} may have {self._limits.head_bytes} bytes"
                )
            )

    @property
    def _at_work(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def on_message_begin(self) -> None:
        self._in_message, self._in_head = True, True
        self._parsed = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > self._limits.line_bytes:
            text = f"the address of a request may have {self._limits.line_bytes} bytes"
            self._refuse(ProblemError("address-too-long", text))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._parsed += len(name) + len(value) + 4
        if len(self.headers) >= self._limits.headers or self._parsed > self._limits.head_bytes:
            text = f"a request may have {self._limits.headers} headers of {{}} bytes together"
            self._refuse(ProblemError("headers-too-large", text.format(self._limits.head_bytes)))
            return
        if self._in_head:  # what stands behind a body is of no use here
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._unparsed, self._in_head = 0, False
        if self._refused is not None:
            return
        self._owed_since = None
        self._door.work(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._unparsed = 0
        if self._refused is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._unparsed = 0
        self._in_message, self._in_head = False, True
        if self._refused is not None:
            return
        super().on_message_complete()
        if not self._at_work:
            self._owed_since = None

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.pipeline:
            # The client may still owe the rest of a body that nobody wants, or of the next head.
            self._owed_since = self.loop.time() if self._in_message else None
            self._door.wait(self)

    def pause_writing(self) -> None:
        self._unread_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._unread_since = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """As a problem, like every other refusal."""
        self._refuse(ProblemError("invalid-request", msg))

    def look(self) -> None:
        """End what is overdue; called every second."""
        now, limits = self.loop.time(), self._limits
        if self._closing_since is None and self.transport.is_closing():
            self._closing_since = now
        if self._closing_since is not None:
            if now - self._closing_since > limits.head_seconds:
                self.transport.abort()  # it was asked to close, and never took the rest
        elif self._unread_since is not None:
            if now - self._unread_since > limits.unread_seconds:
                self.transport.abort()
        elif self._owed_since is not None and now - self._owed_since > limits.head_seconds:
            if self._in_message and not self._at_work and self._in_head:
                text = f"a request has {limits.head_seconds:g} s to be complete"
                self._refuse(ProblemError("request-timeout", text))
            else:
                self.transport.close()

    def _refuse(self, problem: ProblemError) -> None:
        """Answer without the application, read no more, and close."""
        if self._refused is not None:
            return
        self._refused = problem
        self._unset_keepalive_if_required()
        if self.transport.is_closing():
            return
        self.transport.pause_reading()
        if not self._at_work:  # else the answer that is being sent would be broken into
            self.transport.write(_answer(problem, self.server_state.default_headers))
        self.loop.call_later(_PARTING_SECONDS, self.transport.close)
        log.info("connection refused", kind=problem.kind)


def _answer(problem: ProblemError, headers: list[tuple[bytes, bytes]]) -> bytes:
    """A whole response."""
    body = json.dumps(problem.document()).encode()
    own = {"content-type": MEDIA_TYPE, "content-length": len(body), "connection": "close"}
    lines = [f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}".encode()]
    lines += [b": ".join(pair) for pair in headers]
    lines += [f"{name}: {value}".encode() for name, value in (own | problem.headers).items()]
    return b"\r\n".join([*lines, b"", body])
