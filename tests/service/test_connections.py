"""The socket under attack: what never ends is ended, and others are answered meanwhile."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.service.attacks import (
    BEGUN,
    allow_sockets,
    answer_to,
    endless,
    patience,
    silent_sockets,
    worst,
)
from tests.service.live import HDF5, Server, api_alone, note

Address = tuple[str, int]
HOST = b"Host: 127.0.0.1\r\n"
CHUNKED = b"POST /v1/scans HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n"
MANY = 2050
STREAMS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    allow_sockets()
    with api_alone(tmp_path_factory.mktemp("attacked"), idle_seconds=3) as running:
        yield running


@pytest.fixture
def address(server: Server) -> Address:
    host, _, port = server.url.removeprefix("http://").partition(":")
    return host, int(port)


def problem(content: bytes) -> tuple[int, str]:
    """Status and type of a refusal."""
    head, _, body = content.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert b"connection: close" in head.lower()
    document = json.loads(body)
    return int(head.split()[1]), document["type"].removeprefix("/problems/")


@pytest.mark.parametrize(
    ("request_", "status", "kind"),
    [
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 70_000, 431, "headers-too-large"),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"X: a\r\n" * 101, 431, "headers-too-large"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n", 414, "address-too-long"),
        (b"GET /" + b"a" * 9000, 414, "address-too-long"),
        (b"\x16\x03\x01 TLS", 400, "invalid-request"),
        (b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\nGET / HTTP/9\r\n\r\n", 200, ""),
    ],
)
def test_a_head_is_bounded(address: Address, request_: bytes, status: int, kind: str) -> None:
    began = time.monotonic()
    content = asyncio.run(answer_to(address, request_))
    assert time.monotonic() - began < 5
    if kind:
        assert problem(content) == (status, kind)
    else:
        assert content.startswith(b"HTTP/1.1 200 ")


def test_a_large_head_below_the_bound_is_served(address: Address) -> None:
    request = b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\nX: " + b"a" * 60_000
    assert asyncio.run(answer_to(address, request + b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "tail", [b"0\r\nX: " + b"a" * 200_000, b"1;" + b"a" * 200_000, b"0\r\n" + b"X: a\r\n" * 20_000]
)
def test_what_stands_behind_a_body_is_bounded(address: Address, tail: bytes) -> None:
    began = time.monotonic()
    asyncio.run(answer_to(address, CHUNKED + tail))
    assert time.monotonic() - began < 5


def test_a_head_has_ten_seconds(address: Address) -> None:
    async def waited(begin: bytes) -> tuple[float, bytes]:
        began = time.monotonic()
        content = await answer_to(address, begin)
        return time.monotonic() - began, content

    async def all_of(*begins: bytes) -> list[tuple[float, bytes]]:
        return await asyncio.gather(*map(waited, begins))

    begun = asyncio.run(all_of(BEGUN, CHUNKED[:-2], b"", b"\r\n"))
    assert all(9 < seconds < 20 for seconds, _ in begun)
    assert [problem(content) for _, content in begun[:2]] == [(408, "request-timeout")] * 2
    assert [content for _, content in begun[2:]] == [b"", b""]


def test_a_body_that_trickles_is_ended(address: Address, server: Server) -> None:
    """Each byte comes in time, and the whole never would."""
    head = b"POST /v1/scans HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\n"
    began = time.monotonic()
    with socket.create_connection(address, timeout=60) as connection:
        connection.sendall(head)
        connection.settimeout(0.2)
        answer = b""
        while time.monotonic() - began < 30 and b"upload-incomplete" not in answer:
            connection.sendall(b"a")
            try:
                answer += connection.recv(65536)
            except TimeoutError:
                continue
    assert b"upload-incomplete" in answer
    assert 3 <= time.monotonic() - began < 15


@pytest.mark.slow
def test_an_answer_that_is_never_read_is_given_up(address: Address, server: Server) -> None:
    api = psutil.Process(server.process.pid)
    before = len(api.net_connections("tcp"))
    request = b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n"
    deaf = socket.create_connection(address)
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.sendall(request * 200)
    end = time.monotonic() + 30
    while len(api.net_connections("tcp")) > before and time.monotonic() < end:
        time.sleep(0.5)
    deaf.close()
    assert len(api.net_connections("tcp")) <= before


def test_silent_sockets_and_endless_heads_keep_nobody_waiting(address: Address) -> None:
    async def attacked() -> tuple[list[float], list[float], int]:
        silent = await silent_sockets(address, MANY // 2)
        silent += await silent_sockets(address, MANY // 2, BEGUN)
        beside_silent = await patience(address, 4)
        beside_endless, taken = await asyncio.gather(
            patience(address, 4), endless(address, BEGUN, b"a" * 65536, 4)
        )
        for writer in silent:
            writer.transport.abort()
        return beside_silent, beside_endless, taken

    silent, header, taken = asyncio.run(attacked())
    note(
        f"/livez beside {MANY} silent sockets: {len(silent)} answers, p99 "
        f"{1000 * worst(silent):.0f} ms; beside an endless header ({taken >> 20} MiB): "
        f"{len(header)} answers, p99 {1000 * worst(header):.0f} ms"
    )
    assert worst(silent) < 0.25
    assert worst(header) < 0.25


@pytest.mark.slow
def test_places_are_kept_for_other_addresses(tmp_path: Path) -> None:
    limits = {"max_connections": 30, "max_connections_per_address": 10, "max_streams": 100}
    with api_alone(tmp_path / "data", **limits) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        head = b"POST /v1/scans HTTP/1.1\r\n" + HOST + b"Content-Length: 1000000\r\n\r\naaaa"

        async def crowded() -> tuple[bytes, bytes]:
            # These are at work: they wait for a body that their client goes on with.
            busy = await silent_sockets((host, int(port)), 10, head)
            await asyncio.sleep(1)
            own = await answer_to((host, int(port)), b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n")
            request = b"GET /livez HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n"
            reader, writer = await asyncio.open_connection(
                host, int(port), local_addr=("127.0.0.2", 0)
            )
            writer.write(request)
            other = await reader.read()
            writer.close()
            for one in busy:
                one.transport.abort()
            return own, other

        own, other = asyncio.run(crowded())
        assert problem(own) == (503, "not-ready")
        assert other.startswith(b"HTTP/1.1 200 ")


def test_streams_that_begin_at_once_take_few_threads(
    server: Server, address: Address, scan: Path
) -> None:
    with server.client() as client:
        upload = {"content": scan.read_bytes(), "headers": HDF5}
        job = client.post("/v1/reconstructions", **upload).json()
    asked = f"GET {job['links']['events']} HTTP/1.1\r\n".encode() + HOST + b"\r\n"
    before = psutil.Process(server.process.pid).num_threads()

    async def follow() -> asyncio.StreamWriter:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(asked)
        assert b" 200 OK" in await reader.readuntil(b"event: state")
        return writer

    async def follow_all() -> int:
        writers = await asyncio.gather(*(follow() for _ in range(STREAMS)))
        threads = psutil.Process(server.process.pid).num_threads()
        for writer in writers:
            writer.close()
        return threads

    assert asyncio.run(follow_all()) <= before + STREAMS // 3
