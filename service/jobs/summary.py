"""What the report of a reconstruction says: what was asked, what was chosen, what was reached."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np

from recon.pipeline import Settings
from recon.posterior import SlicePosterior
from recon.scan import Geometry, Scan
from service.jobs.budget import reached_error
from service.jobs.records import Job


def summary_of(
    job: Job, scan: Scan, model: str, settings: Settings, posteriors: list[SlicePosterior]
) -> dict[str, Any]:
    """What the report says: what was asked, what was chosen, what was reached."""
    parameters = job.parameters
    took = time.time() - job.created_at
    return {
        "id": job.id,
        "scan_sha256": job.scan_sha256,
        "model": model,
        "preset": settings.preset,
        "samples": settings.resolved.chains,
        "seed": settings.seed,
        "evaluations_per_chain": settings.resolved.evaluations,
        "not_for_diagnostic_use": True,
        "image": {"shape": list(posteriors[0].mean.shape), "pixel_mm": _pixel(scan.geometry)},
        "reached": {
            "mc_error": reached_error(posteriors),
            "target_mc_error": parameters.target_mc_error,
            "seconds_since_submission": round(took, 3),
            "deadline_s": parameters.deadline_s,
            "deadline_met": None
            if parameters.deadline_s is None
            else took <= parameters.deadline_s,
        },
        "slices": [_of_slice(p) for p in posteriors],
    }


def _pixel(geometry: Geometry) -> list[float] | None:
    """Height and width of a pixel; the header's x is the readout, which is our rows."""
    view, shape = geometry.field_of_view_mm, geometry.recon_shape
    return None if view is None or shape is None else [view[0] / shape[0], view[1] / shape[1]]


def _of_slice(p: SlicePosterior) -> dict[str, Any]:
    known = p.rhat[p.object_mask & np.isfinite(p.rhat)]
    check = None if p.self_check is None else asdict(p.self_check)
    return {
        "slice": p.index,
        "converged": p.converged,
        "warnings": list(p.warnings),
        "chi2": float(p.chi2_per_coil.mean()),
        "rhat_below_1.1": float((known < 1.1).mean()) if known.size else None,
        "noise_over_scale": p.noise_std / p.scale,
        "window": float(np.percentile(np.abs(p.mean), 99.7)),
        "self_check": check,
    }
