"""By what factor intervals must be wider to hold what they say: conformal prediction by scan.

What is exchangeable is a scan (or a slice), never a voxel: the voxels of one image err together. So
each held-out scan gives one score, the factor on the half-widths of its 90 % intervals with which
they would have held 90 % of its own true values. Of n scores the factor is the k-th smallest, k =
ceil((n + 1) confidence). A further scan, exchangeable with the n, then has a score below the factor
with at least that probability, whatever the prior and the distribution (split conformal
prediction, Vovk, Gammerman and Shafer 2005, with one score per scan as the group's).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from recon.errors import ScanError
from recon.posterior import SlicePosterior

Array = NDArray[np.float32]

LEVEL = 0.9
"""Share of true values that the intervals are to hold, and that a score is about."""


@dataclass(frozen=True)
class Comparison:
    """The object pixels of one scan beside their true values; (pixels,) float32 in its units."""

    off: Array
    """True magnitude minus the middle of the intervals."""
    reach_50: Array
    """From the middle to the end of the 50 % interval, on the side of the true value."""
    reach_90: Array
    error: Array
    """True magnitude minus that of the mean."""
    std: Array
    noise: Array
    """Standard deviation of the true value's own noise in samples that the result had not seen."""

    def coverage(self, level: float, factor: float = 1.0, *, noisy: bool = True) -> float:
        """Share of true values in the intervals of `level` (0.5 or 0.9), `factor` times as wide.

        `noisy` widens them by the noise of the true values; without, intervals are as read off.
        NaN without an object.
        """
        reach = np.float32(factor) * (self.reach_90 if level == LEVEL else self.reach_50)
        noise = _score(level) * self.noise if noisy else np.zeros_like(self.noise)
        inside = np.abs(self.off) <= np.hypot(reach, noise)
        return float(inside.mean()) if inside.size else math.nan

    def standardized_error(self, factor: float = 1.0) -> float:
        """Root mean square of error over predicted standard deviation, noise included: 1 if right.

        NaN without an object.
        """
        predicted = np.hypot(np.float32(factor) * self.std, self.noise)
        if not predicted.size:
            return math.nan
        return float(np.sqrt(np.mean(np.square(self.error / np.maximum(predicted, 1e-38)))))

    @property
    def score(self) -> float:
        """Smallest factor with which the 90 % intervals hold 90 % of the true values.

        The noise of the true values is allowed for. Infinite without an object.
        """
        if not self.off.size:
            return math.inf
        beyond = np.square(self.off, dtype=np.float64) - np.square(_score(LEVEL) * self.noise)
        needed = np.sqrt(np.maximum(beyond, 0)) / np.maximum(self.reach_90, 1e-38)
        place = math.ceil(LEVEL * needed.size) - 1
        return float(np.partition(needed, place)[place])


def compare(
    posterior: SlicePosterior, reference: NDArray[np.complex64], unseen: float
) -> Comparison:
    """One slice beside its fully sampled combination (rows, columns) by the same coil maps.

    `unseen` is the share of the reference's k-space samples that the result was not made from.
    Raises ScanError where shapes differ.
    """
    if reference.shape != posterior.mean.shape:
        raise ScanError(
            "reference-shape",
            f"the reference must have shape {posterior.mean.shape}, not {reference.shape}",
        )
    inside = posterior.object_mask
    true = np.abs(reference)[inside]
    ends = posterior.quantiles[:, inside]
    middle = _middle(ends)
    below = true < middle
    # White noise stays white of the same std in a combination with sum |S|^2 = 1.
    noise = posterior.noise_std * unseen**0.5 * posterior.sensitivity[inside]
    columns = (
        true - middle,
        np.where(below, middle - ends[1], ends[2] - middle),
        np.where(below, middle - ends[0], ends[3] - middle),
        true - np.abs(posterior.mean[inside]),
        posterior.magnitude_std[inside],
        noise,
    )
    return Comparison(*(np.asarray(column, np.float32) for column in columns))


def joined(slices: Sequence[Comparison]) -> Comparison:
    """Several slices as one scan."""
    names = Comparison.__dataclass_fields__
    return Comparison(*(np.concatenate([getattr(s, name) for s in slices]) for name in names))


def fewest_scans(confidence: float) -> int:
    """Scans without which no factor has that confidence: the (n + 1)-th would be needed."""
    return math.ceil(confidence / (1 - confidence) - 1e-9)


def conformal_factor(scores: Sequence[float], confidence: float) -> float:
    """The factor that is enough for a further exchangeable scan, with at least `confidence`.

    Raises ScanError("too-few-scans") where so few scores promise nothing, and
    ScanError("no-object") where an infinite one would decide.
    """
    if not 0 < confidence < 1:
        raise ScanError("confidence", f"the confidence must lie between 0 and 1, not {confidence}")
    count = len(scores)
    fewest = fewest_scans(confidence)
    if count < fewest:
        raise ScanError(
            "too-few-scans",
            f"a factor that is enough in {confidence:.0%} of scans needs {fewest} of them or more, "
            f"not {count}; give more scans, or ask for less confidence",
        )
    place = math.ceil((count + 1) * confidence - 1e-9)
    factor = sorted(scores)[place - 1]
    if not math.isfinite(factor):
        raise ScanError("no-object", "too many of these scans show no object; leave them out")
    return factor


def left_out_factors(scores: Sequence[float], confidence: float) -> list[float]:
    """For each score the factor by all others: what a scan would have been given unseen.

    Raises ScanError as `conformal_factor` does for one scan fewer.
    """
    return [
        conformal_factor([*scores[:k], *scores[k + 1 :]], confidence) for k in range(len(scores))
    ]


def widened(posterior: SlicePosterior, factor: float) -> SlicePosterior:
    """Intervals and standard deviation of the magnitude `factor` times as wide.

    Mean, samples and phase are as they were; an end that would lie below zero lies at zero.
    """
    middle = _middle(posterior.quantiles)
    ends = np.maximum(middle + factor * (posterior.quantiles - middle), 0)
    return replace(
        posterior,
        quantiles=np.asarray(ends, np.float32),
        magnitude_std=np.asarray(factor * posterior.magnitude_std, np.float32),
    )


def _middle(ends: NDArray[np.float32]) -> NDArray[np.float32]:
    """Middle of the 50 % interval, which the 90 % interval has in common (or nearly)."""
    return np.asarray((ends[1] + ends[2]) / 2, np.float32)


def _score(level: float) -> np.float32:
    return np.float32(stats.norm.ppf((1 + level) / 2))
