"""A conformal factor as `calibration.json` holds it."""

from __future__ import annotations

from typing import Any

from models.conformal_factors import (
    ConformalFactor,
)

HELD = {"as_read_off": 0.8, "before": 0.85, "after": 0.91}


def entry(**changes: Any) -> ConformalFactor:
    values = {
        "preset": "fast", "samples": 4, "evaluations": 47, "acceleration": 4.0,
        "pattern": "equispaced", "center_fraction": 0.08, "factor": 1.25, "confidence": 0.9,
        "unit": "scan", "units": 12, "scans": 12, "data": "heads", "date": "2026-11-25",
        "software_version": "0.1.0",
        "standardized_error": 1.2, "coverage_50": HELD, "coverage_90": HELD,
    }  # fmt: skip
    return ConformalFactor.model_validate(values | changes)
