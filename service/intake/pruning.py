"""Old results and scans are let go at an operator's word."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

from service.intake.intake import Intake


@dataclass(frozen=True)
class Pruned:
    """How much went, or would."""

    jobs: int
    scans: int
    bytes: int


def prune(intake: Intake, seconds: float, *, scans: bool, dry_run: bool) -> Pruned:
    """Remove results of jobs that ended so long ago, and scans that came before that.

    An archive's products stay, and so do scans that an unfinished job needs. Safe beside a server
    that runs: rows go first, and files that a crash leaves behind are swept by its housekeeping.
    """
    storage = intake.storage
    if dry_run:
        jobs = intake.jobs.expirable(seconds)
        old = intake.scans.older_than(time.time() - seconds) if scans else []
        held = sum(storage.bytes_of(job) for job in jobs) + sum(scan.bytes for scan in old)
        return Pruned(len(jobs), len(old), held)
    jobs = intake.jobs.expire(seconds)
    freed = 0
    for job in jobs:
        freed += storage.bytes_of(job)
        storage.remove(job)
    gone = 0
    for scan in intake.scans.older_than(time.time() - seconds) if scans else []:
        if intake.scans.remove(scan):
            gone += 1
            if intake.scans.unused(scan.sha256, partial(storage.remove_scan, scan.sha256)):
                freed += scan.bytes
    return Pruned(len(jobs), gone, freed)
