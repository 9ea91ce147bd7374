"""A running slice as others see it: progress, pictures, and a look at the order to stop."""

from __future__ import annotations

import time

import numpy as np
from numpy.typing import NDArray

from recon.pipeline import CoarseReady, Event, Progress
from service.jobs.records import Job, Jobs, JobState
from service.settings import ServiceSettings
from service.store.files import Storage

_PREVIEW_SECONDS = 1.0
_CANCEL_SECONDS = 0.1


class Stopped(Exception):  # noqa: N818 - an order, not an error
    """The job is to stop."""


class Watch:
    """Turns the events of a slice into progress, previews and a look at the order to stop."""

    def __init__(
        self,
        jobs: Jobs,
        storage: Storage,
        settings: ServiceSettings,
        job: Job,
        position: int,
        count: int,
    ) -> None:
        self._jobs = jobs
        self._storage = storage
        self._settings = settings
        self._job = job
        self._position = position
        self._count = count
        self._began = time.monotonic()
        self._reported = self._pictured = self._looked = 0.0

    def see(self, event: Event) -> None:
        now = time.monotonic()
        if now - self._looked >= _CANCEL_SECONDS:
            self._looked = now
            if self._jobs.state(self._job.id) is not JobState.RUNNING:
                raise Stopped
        if isinstance(event, CoarseReady):
            self._picture(event.index, "coarse", np.abs(event.image))
        elif isinstance(event, Progress):
            if event.estimates is not None and now - self._pictured >= _PREVIEW_SECONDS:
                self._pictured = now
                mean = event.estimates.mean(dim=0).abs().float().cpu().numpy()
                self._picture(event.index, "mean", mean)
            if now - self._reported >= self._settings.progress_seconds:
                self._reported = now
                self._report(event, now)

    def _report(self, event: Progress, now: float) -> None:
        elapsed, slice_fraction = now - self._began, max(event.fraction, 1e-3)
        per_slice = elapsed / slice_fraction
        left = per_slice * (self._count - self._position - slice_fraction)
        self._jobs.report(
            self._job.id,
            "progress",
            {
                "phase": "sampling" if event.stage != "calibration" else "calibration",
                "stage": event.stage,
                "slice": event.index,
                "position": self._position,
                "slices": self._count,
                "fraction": round((self._position + event.fraction) / self._count, 4),
                "eta_s": round(left, 1) if event.fraction > 0 else None,
                "updated_at": time.time(),
            },
        )

    def _picture(self, index: int, kind: str, image: NDArray[np.floating]) -> None:
        if self._job.output is not None:
            return  # nobody watches an archive's scans one by one
        self._storage.write_preview(self._job.id, index, np.asarray(image, np.float32))
        self._jobs.report(self._job.id, "preview", {"slice": index, "kind": kind})
