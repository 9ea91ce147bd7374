"""A running slice as others see it: progress, pictures, and a look at the order to stop."""

from __future__ import annotations

import math
import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.pipeline import CoarseReady, Event, Progress
from service.jobs.job import Job, JobState
from service.jobs.job_table import Jobs
from service.settings import ServiceSettings
from service.store.files import Storage

_PREVIEW_SECONDS = 1.0
_CANCEL_SECONDS = 0.1
_TELLING_FRACTION = 0.02
"""Of a slice: what its beginning took says little of the rest."""


class Stopped(Exception):  # noqa: N818 - an order, not an error
    """The job is to stop."""


class Watch:
    """Turns what happens in a job's slices into progress, previews and a look at the order to stop.

    One for all slices that a process reconstructs of a job, so that the pace is that of the job,
    however quickly its slices follow each other.
    """

    def __init__(self, jobs: Jobs, storage: Storage, settings: ServiceSettings, job: Job) -> None:
        self._jobs = jobs
        self._storage = storage
        self._settings = settings
        self._job = job
        self._position, self._count = 0, 1
        self._slice_began = time.monotonic()
        self._found = 0.0
        self._seconds: list[float] = []
        self._reported = self._pictured = self._looked = -math.inf

    @property
    def job_id(self) -> str:
        """Whose slices these are."""
        return self._job.id

    def begin_slice(self, position: int, count: int) -> None:
        """The slice at this position of so many is next."""
        self._position, self._count = position, count
        self._slice_began = time.monotonic()

    def begin_volume(self, found: float) -> None:
        """All slices are next, as one; this share of the work was found done."""
        self.begin_slice(0, 1)
        self._found = found

    def end_slice(self) -> None:
        """It is done; the time left is told from how long such slices took."""
        self._seconds.append(time.monotonic() - self._slice_began)

    def note(self, phase: str) -> None:
        """Say what is done outside of slices, unless something was said just now."""
        if self._job.output is not None:
            return  # nobody watches an archive's scans one by one
        now = time.monotonic()
        if now - self._reported >= self._settings.progress_seconds:
            self._reported = now
            self._report({"phase": phase, "fraction": self._position / self._count, "slice": None})

    def look(self) -> None:
        """Raise Stopped if somebody has cancelled the job."""
        now = time.monotonic()
        if now - self._looked >= _CANCEL_SECONDS:
            self._looked = now
            if self._jobs.state(self._job.id) is not JobState.RUNNING:
                raise Stopped

    def see(self, event: Event) -> None:
        """Pass on what others should know. Raises Stopped."""
        self.look()
        now = time.monotonic()
        if isinstance(event, CoarseReady):
            self._picture(event.index, "coarse", np.abs(event.image))
        elif isinstance(event, Progress):
            if event.estimates is not None and now - self._pictured >= _PREVIEW_SECONDS:
                self._pictured = now
                mean = event.estimates.mean(dim=0).abs().float().cpu().numpy()
                self._picture(event.index, "mean", mean)
            if now - self._reported >= self._settings.progress_seconds:
                self._reported = now
                self._progress(event, now)

    def _progress(self, event: Progress, now: float) -> None:
        left = self._left(event.fraction, now)
        self._report(
            {
                "phase": "sampling" if event.stage != "calibration" else "calibration",
                "stage": event.stage,
                "slice": event.index,
                "position": self._position,
                "slices": self._count,
                "fraction": round((self._position + event.fraction) / self._count, 4),
                "eta_s": None if left is None else round(left, 1),
            }
        )

    def _left(self, fraction: float, now: float) -> float | None:
        """Seconds until the last slice is done; None before anything is known."""
        if self._seconds:
            per_slice = sum(self._seconds) / len(self._seconds)
        elif fraction - self._found >= _TELLING_FRACTION:
            per_slice = (now - self._slice_began) / (fraction - self._found)
        else:
            return None
        return per_slice * (self._count - self._position - fraction)

    def _report(self, progress: dict[str, Any]) -> None:
        self._jobs.report(self._job.id, "progress", progress | {"updated_at": time.time()})

    def _picture(self, index: int, kind: str, image: NDArray[np.floating]) -> None:
        if self._job.output is not None:
            return  # nobody watches an archive's scans one by one
        self._storage.write_preview(self._job.id, index, np.asarray(image, np.float32))
        self._jobs.report(self._job.id, "preview", {"slice": index, "kind": kind})


class Watches:
    """The watch of each job at hand; safe to share between the threads of a worker."""

    def __init__(self, jobs: Jobs, storage: Storage, settings: ServiceSettings) -> None:
        self._jobs = jobs
        self._storage = storage
        self._settings = settings
        self._watches: dict[str, Watch] = {}
        self._lock = threading.Lock()

    def of(self, job: Job) -> Watch:
        """That of a job; it begins when it is first asked for."""
        with self._lock:
            if job.id not in self._watches:
                self._watches[job.id] = Watch(self._jobs, self._storage, self._settings, job)
            return self._watches[job.id]

    def forget(self, job_id: str) -> None:
        """Let go of an ended job's."""
        with self._lock:
            self._watches.pop(job_id, None)
