"""Reports as the job table and report.json hold them, of every age there was."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

STORED: dict[str, Any] = {
    "id": "01K",
    "scan_sha256": "ab" * 32,
    "model": "tiny",
    "preset": "fast",
    "samples": 4,
    "seed": 0,
    "evaluations_per_chain": 47,
    "calibration": {
        "factor": 1.2,
        "level": 0.9,
        "confidence": 0.9,
        "unit": "scan",
        "units": 16,
        "scans": 16,
        "data": "brains",
        "date": "2026-11-26",
    },
    "not_for_diagnostic_use": True,
    "image": {"shape": [4, 6], "pixel_mm": [1.0, 1.5], "slice_mm": 4.0, "slice_sides": ["F", "H"]},
    "reached": {
        "mc_error": 0.2,
        "target_mc_error": None,
        "seconds_since_submission": 3.5,
        "deadline_s": None,
        "deadline_met": None,
    },
    "verdict": {
        "trust": "doubtful",
        "cause": "prior",
        "sentence": "The prior: odd; look.",
        "p_value": 0.01,
    },
    "slices": [
        {
            "slice": 7,
            "converged": False,
            "verdict": {
                "trust": "doubtful",
                "cause": "prior",
                "sentence": "The prior: odd; look.",
                "p_value": 0.01,
            },
            "shown": "posterior",
            "warnings": ["The chains do not agree."],
            "notes": [],
            "edges": {"top": "A", "bottom": "P", "left": "R", "right": "L"},
            "chi2": 1.01,
            "chi2_per_coil": [1.0, 1.02],
            "rhat_below_1.1": 0.5,
            "noise_over_scale": 0.01,
            "window": 3.0,
            "self_check": {
                "lines": 5,
                "residual_std": 1.1,
                "coverage_50": 0.5,
                "coverage_90": 0.88,
                "ratio": 1.2,
                "freedom": 300.0,
            },
        }
    ],
    "joint": False,
    "volume": False,
    "products": [
        {"name": "mean.npy", "media_type": "application/x", "bytes": 5, "sha256": "cd" * 32}
    ],
}
"""As the job table and report.json hold it; what a client reads has these names for ever."""


def without(*paths: str) -> dict[str, Any]:
    """The report as it was stored before these fields were there."""
    older = deepcopy(STORED)
    for path in paths:
        *folders, name = path.split("/")
        place = older
        for folder in folders:
            place = place[folder][0] if folder == "slices" else place[folder]
        del place[name]
    return older


VERDICT = ("volume", "verdict", "slices/verdict", "slices/shown", "slices/self_check/ratio")
PLANES = (*VERDICT, "image/slice_sides", "slices/notes")
FACTOR = (*PLANES, "calibration", "products")
VIEWER = (*FACTOR, "image/slice_mm", "slices/edges", "slices/chi2_per_coil")
AGES = {
    "today": STORED,
    "before volumes": without("volume"),
    "before verdicts": without(*VERDICT),
    "before three planes": without(*PLANES),
    "before conformal factors": without(*FACTOR),
    "before the viewer": without(*VIEWER),
    "the first": without(*(path for path in VIEWER if not path.startswith("image")), "image"),
    "from the future": STORED | {"weather": "fine"},
}
