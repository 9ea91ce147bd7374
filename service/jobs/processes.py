"""Small facts about processes that both ends of the supervision need."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import signal
import sys
import time
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Receive SIGTERM when the supervisor dies, however it dies (Linux)."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == 1:  # it died before the line above
        os.kill(os.getpid(), signal.SIGTERM)


def steady_seconds() -> float:
    """A clock that nobody sets, and that goes on while the machine sleeps."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def worker_name(data: Path, slot: int) -> str:
    """The same for the same slot on the same host and folder, telling neither."""
    where = f"{platform.node()}:{data}"
    return f"{hashlib.sha256(where.encode()).hexdigest()[:8]}-{slot}"


def worker_lock(data: Path, slot: int) -> Path:
    """The file that a worker holds locked, and whose time says when it last moved."""
    return data / "workers" / f"{worker_name(data, slot)}.lock"


def note_moved(lock: Path, when: float) -> None:
    """Say that the worker moved then, in seconds of the monotonic clock.

    Clocks that tell the date may be set; this one is the same for all processes of a machine.
    """
    os.utime(lock, (when, when))


def moved_at(lock: Path) -> float:
    """When the worker last moved, in seconds of the monotonic clock; 0 before it ever has."""
    try:
        return lock.stat().st_mtime
    except FileNotFoundError:
        return 0.0
