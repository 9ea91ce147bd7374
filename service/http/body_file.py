"""A request's body on its way to a file: written and digested beside the arrival of the rest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import BinaryIO

import anyio
from starlette.concurrency import run_in_threadpool

_BLOCK = 4 << 20
"""Bytes that are collected before a thread writes them; twice as many are held at most."""


class BodyFile:
    """Takes the chunks of one body in order; made by `writing`."""

    def __init__(self, file: BinaryIO, digest: hashlib._Hash | None) -> None:
        self._file = file
        self._digest = digest
        self._pending: list[bytes] = []
        self._collected = 0
        self._writing: asyncio.Task[None] | None = None
        self.bytes = 0
        """How many were taken."""

    async def take(self, chunk: bytes) -> None:
        """The next chunk. Raises OSError when one before it could not be written."""
        self._pending.append(chunk)
        self._collected += len(chunk)
        self.bytes += len(chunk)
        if self._collected >= _BLOCK:
            await self._written()
            block, self._pending, self._collected = self._pending, [], 0
            # A thread: neither the digest nor the disk holds up other requests, and while it
            # works the next block arrives.
            self._writing = asyncio.create_task(
                run_in_threadpool(_write, self._file, self._digest, block)
            )

    async def finish(self) -> None:
        """Wait until all that was taken is written. Raises OSError."""
        await self._written()
        block, self._pending, self._collected = self._pending, [], 0
        await run_in_threadpool(_write, self._file, self._digest, block)

    async def _written(self) -> None:
        """Wait for the block that a thread has; one at a time keeps them in order."""
        if self._writing is not None:
            await asyncio.shield(self._writing)  # who is cancelled here must still wait for it
            self._writing = None

    async def let_go(self) -> None:
        """Wait until no thread uses the file any more, whatever came of it."""
        if self._writing is not None:
            with anyio.CancelScope(shield=True):
                await asyncio.wait({self._writing})
            self._writing.exception()  # or it would be logged as never looked at


@asynccontextmanager
async def writing(file: BinaryIO, digest: hashlib._Hash | None) -> AsyncIterator[BodyFile]:
    """While the block runs, chunks may be taken; after it the file may be closed."""
    body = BodyFile(file, digest)
    try:
        yield body
    finally:
        await body.let_go()


def _write(file: BinaryIO, digest: hashlib._Hash | None, block: list[bytes]) -> None:
    for chunk in block:
        if digest is not None:
            digest.update(chunk)
        file.write(chunk)
