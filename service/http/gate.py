"""The outermost layer: request ids, size limits, security headers, access log, metrics.

Plain ASGI, so that streams pass through untouched.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from secrets import token_hex

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.http.metrics import Metrics
from service.http.problems import problem_response
from service.problems import ProblemError
from service.settings import ServiceSettings, is_loopback

log = structlog.get_logger("access")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UPLOADS = re.compile(r"/v1/(scans|uploads(/[^/]*)?|reconstructions(/[^/]*)?)/?")
_SLOWEST = 1024
"""Bytes a second that a body must bring on average, where it is its client that is waited for."""
_SECURITY = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "private, no-cache",
}


class Gate:
    """Wraps the application."""

    def __init__(self, app: ASGIApp, settings: ServiceSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else token_hex(8)
        scope["request_id"] = request_id
        began = time.perf_counter()
        status, started = 500, False

        async def sending(message: Message) -> None:
            nonlocal status, started
            if message["type"] == "http.response.start":
                status, started = message["status"], True
                answer = MutableHeaders(scope=message)
                answer["x-request-id"] = request_id
                for name, value in _SECURITY.items():
                    answer.setdefault(name, value)
            await send(message)

        try:
            refusal = self._refusal(scope, headers)
            if refusal is not None:
                response = problem_response(Request(scope), refusal)
                response.headers["connection"] = "close"
                await response(scope, receive, sending)
            else:
                await self._answered(scope, receive, sending, lambda: started)
        finally:
            self._note(scope, status, time.perf_counter() - began, request_id)

    async def _answered(
        self, scope: Scope, receive: Receive, send: Send, started: Callable[[], bool]
    ) -> None:
        """Pass on; what nobody foresaw is logged, and the answer tells nothing of it."""
        try:
            await self._app(scope, self._counted(scope, receive), send)
        except Exception:
            # Not the path: it may hold an id that a client made of a patient's.
            log.exception("unforeseen", route=_route(scope), request_id=scope["request_id"])
            if started():
                raise
            text = "something went wrong in the service; its log has the request's id"
            await problem_response(Request(scope), ProblemError("internal", text))(
                scope, receive, send
            )

    def _refusal(self, scope: Scope, headers: Headers) -> ProblemError | None:
        """What can be said before anything is read."""
        host = headers.get("host", "")
        name = re.sub(r":\d*$", "", host)
        # A page in a browser may make it send requests to this machine; it cannot choose these.
        if self._settings.loopback and not (
            is_loopback(name) or name in self._settings.allowed_hosts
        ):
            return ProblemError(
                "forbidden", "this host name is not served; add it to allowed_hosts"
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return ProblemError("forbidden", "requests from pages of other origins are refused")
        if headers.get("content-encoding", "identity").lower() != "identity":
            return ProblemError(
                "unsupported-media-type",
                "bodies are taken as they are; send this one without Content-Encoding",
                headers={"Accept-Encoding": "identity"},
            )
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self._limit(scope):
            return _too_large(self._limit(scope))
        return None

    def _limit(self, scope: Scope) -> int:
        if scope["method"] in ("POST", "PUT", "PATCH") and _UPLOADS.fullmatch(scope["path"]):
            return self._settings.max_upload_bytes + self._settings.max_json_bytes
        return self._settings.max_json_bytes

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """The announced length is only a hint, so the bytes are counted, and waited for so long.

        A body may fall behind the slowest that is borne by so many seconds.
        """
        left, whole, patience = self._limit(scope), False, self._settings.idle_seconds

        async def counting() -> Message:
            nonlocal left, whole, patience
            began = time.monotonic()
            try:
                # Once the body is whole, what is waited for is the end of the connection.
                async with asyncio.timeout(None if whole else patience):
                    message = await receive()
            except TimeoutError:
                return {"type": "http.disconnect"}
            if message["type"] == "http.request":
                whole = not message.get("more_body", False)
                size = len(message.get("body", b""))
                left -= size
                patience += size / _SLOWEST - (time.monotonic() - began)
                patience = min(patience, self._settings.idle_seconds)
                if left < 0:
                    raise _too_large(self._limit(scope))
            return message

        return counting

    def _note(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = _route(scope)
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.requests.labels(route, method, str(status)).observe(seconds)
        log.debug(
            "request",
            request_id=request_id,
            route=route,
            method=method,
            status=status,
            ms=round(1000 * seconds, 1),
        )


_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "none"))


def _too_large(limit: int) -> ProblemError:
    return ProblemError("upload-too-large", f"a body may have {limit} bytes; split the scan")
