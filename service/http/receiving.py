"""Bytes from the network to a scan in the storage: streamed, counted, digested, looked at."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from recon.errors import ReconError
from recon.io.files import inspect_scan
from recon.io.read_limits import ReadLimits
from service.http.body_file import writing
from service.http.context import Context
from service.problems import ProblemError, problem_of
from service.store.durable import sync
from service.store.scans import StoredScan

MEDIA_TYPES = ("application/x-hdf5", "application/x-hdf", "application/octet-stream")
_BLOCK = 1 << 20
_LOOK_SECONDS = 60
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/=]{1,64}):")


class Received(NamedTuple):
    """A whole body on the disk, under a temporary name."""

    path: Path
    sha256: str
    bytes: int


def announced_digest(request: Request) -> str | None:
    """SHA-256 that the client says the body has, as hex. Raises ProblemError."""
    for name in ("content-digest", "repr-digest"):
        value = request.headers.get(name)
        if value is None:
            continue
        for item in value.split(","):
            form = _DIGEST.fullmatch(item.strip())
            if form is not None:
                try:
                    digest = base64.b64decode(form[1], validate=True)
                except binascii.Error:
                    digest = b""
                if len(digest) == hashlib.sha256().digest_size:
                    return digest.hex()
                raise ProblemError("invalid-request", f"{name} holds no valid sha-256")
    return None


def require_room(context: Context, coming: int = 0, arrived: int = 0) -> None:
    """Refuse early what is too large or would fill the disk; in bytes. Raises ProblemError."""
    if arrived + coming > context.settings.max_upload_bytes:
        raise ProblemError(
            "upload-too-large",
            f"a scan may have {context.settings.max_upload_bytes} bytes; split it",
        )
    free = context.storage.free_bytes() - context.settings.disk_floor_bytes
    if free <= coming:
        raise ProblemError(
            "storage-full", "the disk of the service is full; delete results or try again later"
        )


def require_quota(context: Context, owner: str, coming: int) -> None:
    """Refuse what would be more than a key may keep; in bytes. Raises ProblemError."""
    allowed = context.settings.max_scan_bytes_per_key
    if allowed and context.scans.bytes_of(owner) + coming > allowed:
        raise ProblemError(
            "quota-exceeded",
            f"the scans of a key may have {allowed} bytes together; delete some of them",
            headers={"Retry-After": "3600"},
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
        if announced is not None and announced != digest.hexdigest():
            raise ProblemError(
                "digest-mismatch", "the body arrived with another SHA-256; send it again"
            )
        context.metrics.uploaded.inc(body.bytes)
        yield Received(part, digest.hexdigest(), body.bytes)
    finally:
        part.unlink(missing_ok=True)


async def keep_scan(
    context: Context,
    owner: str,
    body: Received,
    also: Callable[[sa.Connection, StoredScan, bool], None] | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[StoredScan, bool]:
    """Look at an uploaded file in a child process and make it a scan. Raises ProblemError."""
    await run_in_threadpool(require_quota, context, owner, body.bytes)
    limits = ReadLimits(
        file_bytes=context.settings.max_upload_bytes, cpu_seconds=_LOOK_SECONDS, wall_seconds=120.0
    )
    try:
        async with context.readers:
            shape = await run_in_threadpool(inspect_scan, body.path, limits, context.nursery)
    except ReconError as error:
        problem = problem_of(error)
        context.metrics.rejected.labels(problem.kind).inc()
        raise problem from error
    await run_in_threadpool(sync, body.path)
    place = partial(context.storage.adopt_scan, body.path, body.sha256)
    return await run_in_threadpool(
        context.scans.add, owner, body.sha256, body.bytes, shape, place, also, tags
    )


def media_type(request: Request) -> str:
    """The type of the body in lower case, without parameters; empty when it is not said."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def content_length(request: Request) -> int:
    """What the client says; 0 when it says nothing."""
    value = request.headers.get("content-length", "")
    return int(value) if value.isascii() and value.isdigit() else 0
