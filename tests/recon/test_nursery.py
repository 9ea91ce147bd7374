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
from recon.io.nursery import Nursery
from recon.io.read_limits import ReadLimits
from tests.recon.scan_files import noise, store

LIMITS = ReadLimits()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def good(tmp_path: Path) -> Path:
    return store(tmp_path / "good.h5", kspace=noise(2, 3, 4, 5))


def nurses() -> list[psutil.Process]:
    return [
        c for c in psutil.Process().children() if c.is_running() and "nurse" in str(c.cmdline())
    ]


def code(path: Path, nursery: Nursery, limits: ReadLimits = LIMITS) -> str:
    with pytest.raises(ScanError) as caught:
        inspect_scan(path, limits, nursery)
    return caught.value.code


def test_files_are_looked_at_one_after_the_other(good: Path, nursery: Nursery) -> None:
    other = store(good.with_name("other.h5"), other=noise(3))
    cut = good.with_name("cut.h5")
    cut.write_bytes(good.read_bytes()[:900])
    for _ in range(3):
        assert inspect_scan(good, LIMITS, nursery) == (2, 3, 4, 5)
        assert code(other, nursery) == "no-kspace"
        assert code(cut, nursery) == "unreadable"
    assert len(nurses()) == 1


def test_a_fork_keeps_to_its_limits_and_the_next_has_its_own(good: Path, nursery: Nursery) -> None:
    assert code(good, nursery, replace(LIMITS, memory_bytes=1 << 20)) in (
        "reader-memory",
        "reader-crashed",
    )
    assert code(good, nursery, replace(LIMITS, wall_seconds=0.0)) == "reader-timeout"
    assert inspect_scan(good, LIMITS, nursery) == (2, 3, 4, 5)


def test_a_nurse_that_dies_is_replaced(good: Path, nursery: Nursery) -> None:
    inspect_scan(good, LIMITS, nursery)
    (nurse,) = nurses()
    os.kill(nurse.pid, signal.SIGKILL)
    nurse.wait(5)
    assert inspect_scan(good, LIMITS, nursery) == (2, 3, 4, 5)
    (nurse,) = nurses()
    os.kill(nurse.pid, signal.SIGSTOP)
    killer = threading.Timer(0.3, os.kill, (nurse.pid, signal.SIGKILL))
    killer.start()
    assert code(good, nursery) == "reader-crashed"
    killer.join()
    assert inspect_scan(good, LIMITS, nursery) == (2, 3, 4, 5)


def test_several_threads_have_a_nurse_each(good: Path, nursery: Nursery) -> None:
    found: list[object] = []
    threads = [
        threading.Thread(target=lambda: found.append(inspect_scan(good, LIMITS, nursery)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [(2, 3, 4, 5)] * 3
    nursery.close()
    assert nurses() == []
