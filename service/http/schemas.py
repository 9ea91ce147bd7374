"""What answers look like on the wire."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, Field

from service.jobs.job import Job, JobState
from service.store.scans import StoredScan


class ScanOut(BaseModel):
    """An uploaded scan."""

    id: str
    sha256: str
    bytes: int
    slices: int
    coils: int
    rows: int
    columns: int
    created_at: datetime
    tags: dict[str, str]

    @classmethod
    def of(cls, scan: StoredScan) -> ScanOut:
        """From a row of the table."""
        return cls(
            id=scan.id,
            sha256=scan.sha256,
            bytes=scan.bytes,
            slices=scan.slices,
            coils=scan.coils,
            rows=scan.rows,
            columns=scan.columns,
            created_at=_time(scan.created_at),
            tags=scan.tags or {},
        )


class ScanPage(BaseModel):
    """Scans, newest first."""

    items: list[ScanOut]
    next_cursor: str | None


class ScanRef(BaseModel):
    """The scan of a job."""

    id: str
    sha256: str


class ProgressOut(BaseModel):
    """How far a running job is."""

    phase: str
    stage: str | None = None
    fraction: float
    slice: int | None = None
    position: int | None = None
    slices: int | None = None
    eta_s: float | None = None
    updated_at: datetime | None = None


class ResultOut(BaseModel):
    """One product that can be downloaded."""

    name: str
    media_type: str
    bytes: int
    sha256: str
    href: str


class JobOut(BaseModel):
    """A reconstruction."""

    id: str
    client_id: str | None
    state: JobState
    priority: str
    preset: str
    model: str | None = Field(description="null: the service's default")
    scan: ScanRef
    params: dict[str, Any]
    plan: dict[str, Any] | None = Field(description="what a deadline or target was turned into")
    progress: ProgressOut | None
    attempt: int
    worker: str | None
    queue_position: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="when the results are removed")
    tags: dict[str, str]
    summary: dict[str, Any] | None
    error: dict[str, Any] | None
    predecessor: str | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job, queue_position: int | None = None, *, keep_days: float = 0) -> JobOut:
        """From a row of the table; results are kept so many days, or for ever."""
        here = f"/v1/reconstructions/{job.id}"
        asked = job.parameters
        chosen = (job.plan or {}).get("preset")
        progress = dict(job.progress) if job.progress else None
        if progress and "updated_at" in progress:
            progress["updated_at"] = _time(progress["updated_at"])
        return cls(
            id=job.id,
            client_id=job.client_id,
            state=job.state,
            priority=job.priority,
            preset=chosen or asked.preset or "standard",
            model=asked.model,
            scan=ScanRef(id=job.scan_id, sha256=job.scan_sha256),
            params=asked.model_dump(mode="json", exclude={"tags"}),
            plan=job.plan,
            progress=None if progress is None else ProgressOut(**progress),
            attempt=job.attempt,
            worker=job.worker,
            queue_position=queue_position,
            created_at=_time(job.created_at),
            started_at=_maybe_time(job.started_at),
            finished_at=_maybe_time(job.finished_at),
            expires_at=_time(job.finished_at + 86400 * keep_days)
            if keep_days and job.finished_at is not None
            else None,
            tags=asked.tags,
            summary=job.summary,
            error=job.error,
            predecessor=job.predecessor,
            links={
                "self": here,
                "events": f"{here}/events",
                "logs": f"{here}/logs",
                "results": f"{here}/results",
                "preview": f"{here}/preview.png",
                "volumes": f"{here}/volumes",
                "view": f"/view/reconstructions/{job.id}",
                "cancel": f"{here}/cancel",
                "scan": f"/v1/scans/{job.scan_id}",
            },
        )


class JobPage(BaseModel):
    """Reconstructions, newest first."""

    items: list[JobOut]
    next_cursor: str | None


class ResultList(BaseModel):
    """The products of a finished reconstruction."""

    items: list[ResultOut]


def _time(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _maybe_time(seconds: float | None) -> datetime | None:
    return None if seconds is None else _time(seconds)
