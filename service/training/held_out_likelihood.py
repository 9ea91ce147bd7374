"""Priors compared without ground truth: by the likelihood of lines that draws did not see."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recon.slice_draws import HeldOutLines


class Place(NamedTuple):
    """Where predicted lines are of."""

    subject: str
    scan: str
    slice: int


Predictions = Mapping[Place, HeldOutLines]
_FEWEST_UNITS = 3


@dataclass(frozen=True)
class Gain:
    """Log density of one prior less that of another, of the same lines, nats per component."""

    mean: float
    error: float
    """Standard error of the mean over units; NaN of a single one."""
    units: int
    unit: str
    """What was counted as independent: subjects where there are three, else scans or slices."""

    @property
    def sure(self) -> bool:
        """Whether it is above zero by more than its standard error."""
        return self.mean > (self.error if math.isfinite(self.error) else 0.0)

    def __str__(self) -> str:
        spread = f" ± {self.error:.4f}" if math.isfinite(self.error) else ""
        plural = "" if self.units == 1 else "s"
        return f"{self.mean:+.4f}{spread} ({self.units} {self.unit}{plural})"


def gain(after: Predictions, before: Predictions) -> Gain:
    """How much better `after` predicts than `before`, where both did. Raises ValueError."""
    both = sorted(after.keys() & before.keys())
    if not both:
        raise ValueError("no slice was predicted by both")
    differences = np.array([after[k].log_density - before[k].log_density for k in both])
    for unit, labels in (
        ("subject", [place.subject for place in both]),
        ("scan", [place.scan for place in both]),
        ("slice", [f"{place.scan}/{place.slice}" for place in both]),
    ):
        names = sorted(set(labels))
        if len(names) >= _FEWEST_UNITS or unit == "slice":
            break
    chosen = np.array(labels)
    means = np.array([differences[chosen == name].mean() for name in names])
    error = float(means.std(ddof=1)) / math.sqrt(len(means)) if len(means) > 1 else math.nan
    return Gain(float(means.mean()), error, len(means), unit)


@dataclass(frozen=True)
class Summary:
    """Means over all predicted slices."""

    log_density: float
    coverage_90: float
    residual_std: float
    slices: int


def summary(predictions: Predictions) -> Summary:
    """Of at least one slice."""
    found = list(predictions.values())
    return Summary(
        log_density=float(np.mean([each.log_density for each in found])),
        coverage_90=float(np.mean([each.coverage_90 for each in found])),
        residual_std=float(np.mean([each.residual_std for each in found])),
        slices=len(found),
    )
