"""The report of a job, from what was asked and what was made."""

from __future__ import annotations

from collections.abc import Sequence

from models.conformal_factors import ConformalFactor
from recon.alarm import scan_verdict
from recon.posterior import Delivery, SlicePosterior
from recon.scan import Scan
from recon.settings import Settings
from recon.stacks import places
from service.conformal_scaling import applied_factor
from service.jobs.job import Job
from service.report import (
    ImageReport,
    ProductFile,
    Reached,
    Report,
    SliceReport,
    VerdictReport,
    planes_of,
)
from service.worker.budget import reached_error


def report_of(
    job: Job,
    scan: Scan,
    model: str,
    settings: Settings,
    posteriors: Sequence[SlicePosterior],
    entry: ConformalFactor | None = None,
    products: Sequence[ProductFile] = (),
) -> Report:
    """Every field of the report.

    `posteriors` are the plain ones, `entry` is the conformal factor that the files were given.
    """
    planes = planes_of(scan)
    delivery = Delivery(job.parameters.fallback, job.parameters.accept_refused)
    rows, columns = posteriors[0].mean.shape
    return Report(
        id=job.id,
        scan_sha256=job.scan_sha256,
        model=model,
        preset=settings.preset,
        samples=settings.resolved.chains,
        seed=settings.seed,
        evaluations_per_chain=settings.resolved.evaluations,
        calibration=applied_factor(entry),
        not_for_diagnostic_use=True,
        image=ImageReport.of(scan, (rows, columns), job.parameters.voxel_mm),
        reached=_reached(job, posteriors),
        verdict=VerdictReport.of(scan_verdict([one.verdict for one in posteriors])),
        slices=tuple(SliceReport.of(posterior, planes, delivery) for posterior in posteriors),
        joint=settings.volume
        or (settings.slice_coherence > 0 and all(place is not None for place in places(scan))),
        volume=settings.volume,
        products=tuple(products),
    )


def _reached(job: Job, posteriors: Sequence[SlicePosterior]) -> Reached:
    asked, took = job.parameters, job.age_seconds
    return Reached(
        mc_error=reached_error(posteriors),
        target_mc_error=asked.target_mc_error,
        seconds_since_submission=round(took, 3),
        deadline_s=asked.deadline_s,
        deadline_met=None if asked.deadline_s is None else took <= asked.deadline_s,
    )
