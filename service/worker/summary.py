"""What the report of a reconstruction says: what was asked, what was chosen, what was reached."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.conformal_factors import ConformalFactor
from recon.planes import ATTRIBUTE, ImagePlane, ImageStack
from recon.posterior import SlicePosterior
from recon.scan import Geometry, Scan
from recon.settings import Settings
from service.conformal_scaling import summary_of_factor
from service.jobs.job import Job
from service.worker.budget import reached_error

_OBLIQUE = 0.26
"""Sine of 15 degrees: what a direction must lean to another axis to be named after it too."""


def summary_of(
    job: Job,
    scan: Scan,
    model: str,
    settings: Settings,
    posteriors: list[SlicePosterior],
    entry: ConformalFactor | None = None,
) -> dict[str, Any]:
    """What the report says: what was asked, what was chosen, what was reached.

    `posteriors` are the plain ones, `entry` is the conformal factor that the files were given.
    """
    parameters = job.parameters
    took = time.time() - job.created_at
    text = scan.attributes.get(ATTRIBUTE)
    planes = ImageStack.from_text(text) if isinstance(text, str) else None
    return {
        "id": job.id,
        "scan_sha256": job.scan_sha256,
        "model": model,
        "preset": settings.preset,
        "samples": settings.resolved.chains,
        "seed": settings.seed,
        "evaluations_per_chain": settings.resolved.evaluations,
        "calibration": summary_of_factor(entry),
        "not_for_diagnostic_use": True,
        "image": {
            "shape": list(posteriors[0].mean.shape),
            "pixel_mm": _pixel(scan.geometry),
            "slice_mm": _thickness(scan, planes),
        },
        "reached": {
            "mc_error": reached_error(posteriors),
            "target_mc_error": parameters.target_mc_error,
            "seconds_since_submission": round(took, 3),
            "deadline_s": parameters.deadline_s,
            "deadline_met": None
            if parameters.deadline_s is None
            else took <= parameters.deadline_s,
        },
        "slices": [_of_slice(p, planes) for p in posteriors],
    }


def _pixel(geometry: Geometry) -> list[float] | None:
    """Height and width of a pixel; the header's x is the readout, which is our rows."""
    view, shape = geometry.field_of_view_mm, geometry.recon_shape
    return None if view is None or shape is None else [view[0] / shape[0], view[1] / shape[1]]


def _thickness(scan: Scan, planes: ImageStack | None) -> float | None:
    """From slice to slice; a header without planes knows the thickness of its slab only."""
    if planes is not None:
        return planes.voxel_mm[2]
    view = scan.geometry.field_of_view_mm
    return None if view is None else view[2]


def patient_sides(plane: ImagePlane) -> dict[str, str]:
    """Which side of the patient each edge of the picture is nearest to: R, L, A, P, F or H."""
    return {
        "top": _side(-np.array(plane.read_dir)),
        "bottom": _side(np.array(plane.read_dir)),
        "left": _side(-np.array(plane.phase_dir)),
        "right": _side(np.array(plane.phase_dir)),
    }


def _side(direction: NDArray[np.float64]) -> str:
    """Up to two letters, the larger component first; the second one where it is oblique."""
    letters = [pair[int(x > 0)] for pair, x in zip(("RL", "AP", "FH"), direction, strict=True)]
    order = np.argsort(-np.abs(direction))[:2]
    return "".join(letters[axis] for axis in order if abs(direction[axis]) > _OBLIQUE)


def _of_slice(p: SlicePosterior, planes: ImageStack | None) -> dict[str, Any]:
    known = p.rhat[p.object_mask & np.isfinite(p.rhat)]
    check = None if p.self_check is None else asdict(p.self_check)
    return {
        "slice": p.index,
        "converged": p.converged,
        "warnings": list(p.warnings),
        "edges": None if planes is None else patient_sides(planes.planes[p.index]),
        "chi2": float(p.chi2_per_coil.mean()),
        "chi2_per_coil": [float(value) for value in p.chi2_per_coil],
        "rhat_below_1.1": float((known < 1.1).mean()) if known.size else None,
        "noise_over_scale": p.noise_std / p.scale,
        "window": float(np.percentile(np.abs(p.mean), 99.7)),
        "self_check": check,
    }
