"""Bytes from the network to a scan in the storage: streamed, counted, digested, looked at."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager

import sqlalchemy as sa
from fastapi import Request
from starlette.requests import ClientDisconnect

from recon.errors import ReconError
from service.http.body_file import writing
from service.http.context import Context
from service.intake.new_scans import Received, keep_scan, require_room
from service.problems import ProblemError, problem_of
from service.requests import AS_IT_SAYS, Reading
from service.store.scans import StoredScan

MEDIA_TYPES = ("application/x-hdf5", "application/x-hdf", "application/octet-stream")
_BLOCK = 1 << 20
_DIGEST = re.compile(r"\s*([a-z0-9-]{1,32})=:([A-Za-z0-9+/=]{1,128}):\s*")


def announced_digest(request: Request) -> str | None:
    """SHA-256 that the client says the body has, as hex; a digest is checked or refused.

    Raises ProblemError.
    """
    found = {
        digest
        for name in ("content-digest", "repr-digest")
        for value in request.headers.getlist(name)
        for digest in _digests(name, value)
    }
    if len(found) > 1:
        raise ProblemError("invalid-request", "the announced digests contradict each other")
    return next(iter(found), None)


def _digests(name: str, value: str) -> Iterator[str]:
    """SHA-256 in a header after RFC 9530, as hex. Raises ProblemError when there is none."""
    forms = [_DIGEST.fullmatch(item) for item in value.split(",")]
    texts = [form[2] for form in forms if form is not None and form[1] == "sha-256"]
    if None in forms or not texts:
        raise ProblemError(
            "invalid-request",
            f"{name} is sha-256=:BASE64:, no other digest is checked here",
            headers={"Want-Content-Digest": "sha-256=10"},
        )
    for text in texts:
        try:
            digest = base64.b64decode(text, validate=True)
        except binascii.Error:
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ProblemError("invalid-request", f"{name} holds no valid sha-256")
        yield digest.hex()


def require_digest(announced: str | None, digest: str) -> None:
    """Refuse a body that is not the one that was announced. Raises ProblemError."""
    if announced is not None and announced != digest:
        raise ProblemError(
            "digest-mismatch", "the body arrived with another SHA-256; send it again"
        )


async def with_room(context: Context, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    """The chunks, as long as there is room for them on the disk. Raises ProblemError."""
    arrived = looked = 0
    async for chunk in chunks:
        arrived += len(chunk)
        if arrived - looked >= _BLOCK:
            looked = arrived
            require_room(context, arrived=arrived)
        yield chunk
    require_room(context, arrived=arrived)


@asynccontextmanager
async def received(
    context: Context, chunks: AsyncIterable[bytes], announced: str | None
) -> AsyncIterator[Received]:
    """Write a stream to the disk; the file is removed after the block unless it was moved.

    Raises ProblemError.
    """
    part = context.storage.incoming / f"{secrets.token_hex(16)}.part"
    digest = hashlib.sha256()
    try:
        with part.open("xb") as file:
            async with writing(file, digest) as body:
                try:
                    async for chunk in with_room(context, chunks):
                        await body.take(chunk)
                except ClientDisconnect as error:
                    raise ProblemError("upload-incomplete", "the body ended early") from error
                await body.finish()
        require_digest(announced, digest.hexdigest())
        context.metrics.uploaded.inc(body.bytes)
        yield Received(part, digest.hexdigest(), body.bytes)
    finally:
        part.unlink(missing_ok=True)


async def keep_body(
    context: Context,
    owner: str,
    body: Received,
    also: Callable[[sa.Connection, StoredScan, bool], None] | None = None,
    tags: Mapping[str, str] | None = None,
    reading: Reading = AS_IT_SAYS,
) -> tuple[StoredScan, bool]:
    """`keep_scan`, with refusals counted. Raises ProblemError."""
    try:
        return await keep_scan(context, owner, body, also, tags, reading)
    except ReconError as error:
        problem = problem_of(error)
        context.metrics.rejected.labels(problem.kind).inc()
        raise problem from error


def media_type(request: Request) -> str:
    """The type of the body in lower case, without parameters; empty when it is not said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def content_length(request: Request) -> int:
    """What the client says; 0 when it says nothing."""
    value = request.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else 0
