"""What a job is: what was asked, how far it is, and how it ended."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from service.problems import Problem
from service.report import Plan, ProductFile, Progress, Report
from service.requests import ReconstructionParameters


class JobState(StrEnum):
    """Where a job is."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether it can change no more."""
        return self in TERMINAL


TERMINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
ACTIVE = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
STARTED = (JobState.RUNNING, JobState.CANCELLING)


@dataclass(frozen=True)
class Job:
    """One row of the table; times are seconds since the epoch."""

    id: str
    owner: str
    client_id: str | None
    request_digest: str | None
    predecessor: str | None
    scan_id: str
    scan_sha256: str
    calibration_sha256: str | None
    """Of the scan whose lines make the coil maps, where they are not its own."""
    source: str | None
    """Path or URL of an archive's scan that is read where it lies; set by operators only."""
    output: str | None
    """Digest of scan, model and settings, under which the products of an archive's scan lie."""
    request: dict[str, Any]
    priority: str
    state: JobState
    progress: Progress | None
    plan: Plan | None
    error: Problem | None
    results: tuple[ProductFile, ...] | None
    summary: Report | None
    attempt: int
    worker: str | None
    traceparent: str | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    revision: int

    @property
    def age_seconds(self) -> float:
        """Since it was asked for; 0 where the clock was set back beyond that."""
        return max(0.0, time.time() - self.created_at)

    @property
    def place(self) -> str:
        """Where the storage has the products."""
        return self.output or self.id

    @property
    def parameters(self) -> ReconstructionParameters:
        """What was asked for, checked again."""
        return ReconstructionParameters.model_validate(self.request)


def job_of_row(values: dict[str, Any]) -> Job:
    """A job from the columns of its row, by name."""
    progress, results, summary = (values[name] for name in ("progress", "results", "summary"))
    plan = values["plan"]
    typed = {
        "state": JobState(values["state"]),
        "progress": None if progress is None else Progress.model_validate(progress),
        "plan": None if plan is None else Plan.model_validate(plan),
        "results": None if results is None else tuple(map(ProductFile.model_validate, results)),
        "summary": None if summary is None else Report.model_validate(summary),
    }
    return Job(**values | typed)
