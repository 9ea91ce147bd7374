"""Priors compared without ground truth: by the likelihood of lines that draws did not see.

Each prior is given the one spread of its draws at which all lines are likeliest. As drawn, a prior
that errs little but is too sure loses to one that errs much and says so: a prior of a few images is
too sure, the Gaussian is not. One number mends the first, nothing the second. What is left to
compare is how far predictions err, and where they know that they do; the number is told beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.slice_draws import SPREADS, HeldOutLines


class Place(NamedTuple):
    """Where predicted lines are of."""

    subject: str
    scan: str
    slice: int


Predictions = Mapping[Place, HeldOutLines]
_FEWEST_UNITS = 3
_LEAST = 1e-3
"""Nats per component below which a gain is none: twice what the steps of `SPREADS` may cost."""


@dataclass(frozen=True)
class Gain:
    """Log density of one prior less that of another, of the same lines, nats per component.

    Each at the spread that suits it best.
    """

    mean: float
    error: float
    """Standard error of the mean over units; NaN of a single one."""
    units: int
    unit: str
    """What was counted as independent: subjects where there are three, else scans or slices."""

    @property
    def sure(self) -> bool:
        """Whether it is above nothing by more than its standard error."""
        return self.mean > max(_LEAST, self.error if math.isfinite(self.error) else 0.0)

    def __str__(self) -> str:
        spread = f" ± {self.error:.4f}" if math.isfinite(self.error) else ""
        plural = "" if self.units == 1 else "s"
        return f"{self.mean:+.4f}{spread} ({self.units} {self.unit}{plural})"


def gain(after: Predictions, before: Predictions) -> Gain:
    """How much better `after` predicts than `before`, where both did. Raises ValueError."""
    both = sorted(after.keys() & before.keys())
    if not both:
        raise ValueError("no slice was predicted by both")
    _, better = _at_best_spread([after[place] for place in both])
    _, worse = _at_best_spread([before[place] for place in both])
    differences = better - worse
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


def _at_best_spread(found: Sequence[HeldOutLines]) -> tuple[float, NDArray[np.float64]]:
    """The factor at which all slices are likeliest, and the log density of each there."""
    densities = np.array([each.log_densities for each in found])
    best = int(densities.mean(axis=0).argmax())
    return SPREADS[best], densities[:, best]


@dataclass(frozen=True)
class Summary:
    """Means over all predicted slices."""

    log_density: float
    """At the best spread."""
    spread: float
    """By which the draws' spread is multiplied there: 1 when honest, above it when too sure."""
    coverage_90: float
    """Of the spread as drawn."""
    slices: int


def summary(predictions: Predictions) -> Summary:
    """Of at least one slice."""
    found = list(predictions.values())
    spread, densities = _at_best_spread(found)
    return Summary(
        log_density=float(densities.mean()),
        spread=spread,
        coverage_90=float(np.mean([each.coverage_90 for each in found])),
        slices=len(found),
    )
