"""Attackers of a listening socket, and the patient client that measures what they do to others."""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Iterable
from contextlib import suppress

BEGUN = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "
"""A request that somebody forgot to finish."""


def allow_sockets() -> None:
    """As many open files as this process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def silent_sockets(
    address: tuple[str, int], count: int, begin: bytes = b""
) -> list[asyncio.StreamWriter]:
    """Connections that send so much, and then nothing."""
    writers = []
    for _ in range(count):
        with suppress(OSError):
            _, writer = await asyncio.open_connection(*address)
            writer.write(begin)
            writers.append(writer)
    return writers


async def endless(address: tuple[str, int], begin: bytes, more: bytes, seconds: float) -> int:
    """One request that never ends, again and again; returns the bytes that were taken."""
    end, sent = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(begin)
            try:
                while time.monotonic() < end and not reader.at_eof() and not reader._buffer:
                    writer.write(more)
                    with suppress(TimeoutError):
                        await asyncio.wait_for(writer.drain(), 0.5)
                        sent += len(more)
            finally:
                writer.transport.abort()
        await asyncio.sleep(0)
    return sent


async def answer_to(address: tuple[str, int], request: bytes, seconds: float = 30) -> bytes:
    """What comes back until the connection is closed, or empty."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(request)
    content = b""
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            while chunk := await reader.read(1 << 16):
                content += chunk
    writer.transport.abort()
    return content


async def patience(
    address: tuple[str, int], seconds: float, path: str = "/livez", pause: float = 0.02
) -> list[float]:
    """Seconds that each of many fresh connections waits for its 200."""
    host, port = address
    request = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
    end, taken = time.monotonic() + seconds, []
    while time.monotonic() < end:
        before = time.perf_counter()
        answer = await answer_to(address, request)
        well = answer.startswith(b"HTTP/1.1 200 ")
        taken.append(time.perf_counter() - before if well else float("inf"))
        await asyncio.sleep(pause)
    return taken


def worst(taken: Iterable[float], share: float = 0.99) -> float:
    """The seconds that this share of the answers did not exceed."""
    ordered = sorted(taken)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
