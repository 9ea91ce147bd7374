"""Processor cores and memory that are really there: what the machine has, and what it allows us.

A container sees all cores of its host, whatever its quota; threads beyond the quota only wait for
one another. And threads that wait by spinning take the cores from those that work: where two
programs share a machine, each then takes many times as long. Both is settled here, in the
environment, before torch is loaded and reads it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
"""For GNU's and Intel's OpenMP: a thread without work does not spin until there is some."""
_SPINS = "1000"
"""Of GNU's before a thread sleeps, turns of a loop: some microseconds. `fast` on two cores takes
14.6 s alone and 30.7 two at once; with no spinning 21 and 24.7, with ten times as much 14.8 and 89.
"""


def available_cores(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Cores this process may keep busy: affinity, and the quota of its container; one or more."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    quotas = [quota for folder in _folders("cpu", groups, own) if (quota := _quota(folder))]
    return max(1, int(min([cores or 1, *quotas])))


def memory_limit(groups: Path = _GROUPS, own: Path = _OWN) -> int | None:
    """Bytes that the container may use; None: as many as the machine has."""
    limits = [
        limit
        for folder in _folders("memory", groups, own)
        for name in ("memory.max", "memory.limit_in_bytes")
        if (limit := _number(folder / name)) is not None and limit < 1 << 60
    ]
    return min(limits, default=None)


def prepare_threads(environment: MutableMapping[str, str]) -> None:
    """Let libraries start one thread a core that is there, which waits asleep.

    Choices that are in the environment already stay.
    """
    if "OMP_WAIT_POLICY" not in environment:
        environment.setdefault("GOMP_SPINCOUNT", _SPINS)
    for name, value in _WAITING.items():
        environment.setdefault(name, value)
    environment.setdefault("OMP_NUM_THREADS", str(available_cores()))


def _folders(controller: str, groups: Path, own: Path) -> Iterator[Path]:
    """Folders of the groups this process is in, up to the root, in both versions of cgroups."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        root = groups / controllers if controllers else groups
        place = root / path.lstrip("/")
        # Inside a container the path is the host's, and its own group is mounted as the root.
        yield from (folder for folder in (place, *place.parents) if folder.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    """Cores, as a fraction of time, that a group may use; None without a limit."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError):
        quota_us = _number(folder / "cpu.cfs_quota_us")
        period_us = _number(folder / "cpu.cfs_period_us")
    return quota_us / period_us if quota_us and period_us and quota_us > 0 else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # "max", or no such file
        return None
