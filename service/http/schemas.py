"""What answers look like on the wire."""

from __future__ import annotations

from datetime import UTC, datetime

from pydantic import BaseModel, ConfigDict, Field

from service.jobs.job import Job, JobState
from service.problems import Problem
from service.products import PRODUCTS
from service.report import Plan, ProductFile, Progress, Report
from service.requests import ReconstructionChoices
from service.store.scans import StoredScan

WHOLE = ConfigDict(json_schema_serialization_defaults_required=True)
"""Of answers with defaults: these are written, so that a client may count on every field."""


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
    layout: str | None = Field(None, description="how the file is read, where that was said")
    axes: str | None = Field(None, description="what its axes count, where that was said")
    two_phase_encodings: bool | None = Field(
        None,
        description="true: it was encoded in three dimensions, and may be sampled as one `volume`; "
        "false: slice by slice; null: shows when it is read",
    )

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
            layout=scan.layout,
            axes=scan.axes,
            two_phase_encodings=scan.two_phase_encodings,
        )


class ScanPage(BaseModel):
    """Scans, newest first."""

    items: list[ScanOut]
    next_cursor: str | None


class ScanRef(BaseModel):
    """The scan of a job."""

    id: str
    sha256: str


class ResultOut(BaseModel):
    """One product that can be downloaded."""

    name: str
    contents: str = Field(description="what is in it, in a few words")
    media_type: str
    bytes: int
    sha256: str
    href: str

    @classmethod
    def of(cls, file: ProductFile, here: str) -> ResultOut:
        """From what the job says of a file, and where its files can be had."""
        known = PRODUCTS.get(file.name)
        contents = "" if known is None else known.contents
        return cls(**file.model_dump(), contents=contents, href=f"{here}/{file.name}")


class JobOut(BaseModel):
    """A reconstruction."""

    id: str
    client_id: str | None
    state: JobState
    priority: str
    preset: str
    model: str | None = Field(description="null: the service's default")
    scan: ScanRef
    params: ReconstructionChoices
    plan: Plan | None = Field(description="what a deadline or target was turned into")
    progress: Progress | None
    attempt: int
    worker: str | None
    queue_position: int | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None = Field(description="when the results are removed")
    tags: dict[str, str]
    summary: Report | None
    error: Problem | None
    predecessor: str | None
    links: dict[str, str]

    @classmethod
    def of(cls, job: Job, queue_position: int | None = None, *, keep_days: float = 0) -> JobOut:
        """From a row of the table; results are kept so many days, or for ever."""
        here = f"/v1/reconstructions/{job.id}"
        asked = job.parameters
        return cls(
            id=job.id,
            client_id=job.client_id,
            state=job.state,
            priority=job.priority,
            preset=job.plan.preset if job.plan else asked.preset or "standard",
            model=asked.model,
            scan=ScanRef(id=job.scan_id, sha256=job.scan_sha256),
            params=ReconstructionChoices(**asked.model_dump(exclude={"tags"})),
            plan=job.plan,
            progress=job.progress,
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
