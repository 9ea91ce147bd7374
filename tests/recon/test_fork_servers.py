"""Readers that are ready before they are needed answer as new ones do, and are as replaceable."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from recon.errors import ScanError
from recon.io.files import inspect_scan
from recon.io.fork_servers import ForkServers
from recon.io.read_limits import ReadLimits
from tests.recon.scan_files import noise, store

LIMITS = ReadLimits()


@pytest.fixture
def fork_servers() -> Iterator[ForkServers]:
    made = ForkServers()
    yield made
    made.close()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return store(tmp_path / "good.h5", kspace=noise(2, 3, 4, 5))


def running() -> list[psutil.Process]:
    return [
        c
        for c in psutil.Process().children()
        if c.is_running() and "fork_server" in str(c.cmdline())
    ]


def code(path: Path, fork_servers: ForkServers, limits: ReadLimits = LIMITS) -> str:
    with pytest.raises(ScanError) as caught:
        inspect_scan(path, limits, fork_servers)
    return caught.value.code


def test_files_are_looked_at_one_after_the_other(good: Path, fork_servers: ForkServers) -> None:
    other = store(good.with_name("other.h5"), other=noise(3))
    cut = good.with_name("cut.h5")
    cut.write_bytes(good.read_bytes()[:900])
    for _ in range(3):
        assert inspect_scan(good, LIMITS, fork_servers) == (2, 3, 4, 5)
        assert code(other, fork_servers) == "no-kspace"
        assert code(cut, fork_servers) == "unreadable"
    assert len(running()) == 1


def test_a_fork_keeps_to_its_limits_and_the_next_has_its_own(
    good: Path, fork_servers: ForkServers
) -> None:
    assert code(good, fork_servers, replace(LIMITS, memory_bytes=1 << 20)) in (
        "reader-memory",
        "reader-crashed",
    )
    assert code(good, fork_servers, replace(LIMITS, wall_seconds=0.0)) == "reader-timeout"
    assert inspect_scan(good, LIMITS, fork_servers) == (2, 3, 4, 5)


def test_a_fork_server_that_dies_is_replaced(good: Path, fork_servers: ForkServers) -> None:
    inspect_scan(good, LIMITS, fork_servers)
    (fork_server,) = running()
    os.kill(fork_server.pid, signal.SIGKILL)
    fork_server.wait(5)
    assert inspect_scan(good, LIMITS, fork_servers) == (2, 3, 4, 5)
    (fork_server,) = running()
    os.kill(fork_server.pid, signal.SIGSTOP)
    killer = threading.Timer(0.3, os.kill, (fork_server.pid, signal.SIGKILL))
    killer.start()
    assert code(good, fork_servers) == "reader-crashed"
    killer.join()
    assert inspect_scan(good, LIMITS, fork_servers) == (2, 3, 4, 5)


def test_several_threads_have_a_fork_server_each(good: Path, fork_servers: ForkServers) -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(inspect_scan(good, LIMITS, fork_servers)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(2, 3, 4, 5)] * 3
    fork_servers.close()
    assert running() == []
