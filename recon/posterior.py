"""What the sampler returns for one slice, and how it is summarised from the chains."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

import numpy as np
from numpy.typing import NDArray

from recon.verdict import NOTHING_KNOWN, Evidence, Trust, Verdict

UNITS = "root sum of squares of the coils as received"
"""Of every magnitude in a result."""
QUANTILE_LEVELS = (0.05, 0.25, 0.75, 0.95)
"""Levels stored per pixel: the ends of the 90 % and the 50 % interval."""
MANY_DRAWS = 40
"""Independent draws from which on quantiles can be read off."""

TOO_FEW_DRAWS = (
    "There are too few draws per chain to check that the chains agree (R-hat). "
    "Use the standard or thorough preset."
)
TOO_FEW_LINES = "Too few lines outside the calibration region for a self-check."
LEFT_OUT = frozenset({TOO_FEW_DRAWS, TOO_FEW_LINES})
"""Warnings of checks that could not be made; they say nothing against the slice."""


@dataclass(frozen=True)
class SelfCheck:
    """Prediction of acquired lines that a second, short run did not see: no ground truth needed."""

    lines: int
    """Number of held-out lines (or samples, for a two-dimensional mask)."""
    residual_std: float
    """Standard deviation of (measured - predicted mean) / predicted std; 1 when honest."""
    coverage_50: float
    coverage_90: float
    ratio: float = math.nan
    """Mean squared error over its expectation, both weighted alike; 1 when honest. NaN in old
    results."""
    freedom: float = math.nan
    """Independent real components that the ratio rests on: when all is as assumed it is nearly
    chi^2 / freedom with as many degrees of freedom."""


@dataclass(frozen=True)
class SlicePosterior:
    """Posterior of one slice, in input units.

    Magnitudes are those of a root of the sum of squares over the coils as they were received.
    Maps are float32 (rows, columns) unless said; images complex64.
    """

    index: int
    mean: NDArray[np.complex64]
    samples: NDArray[np.complex64]
    """(samples, rows, columns): one independent draw per chain."""
    coarse: NDArray[np.complex64]
    magnitude_std: NDArray[np.float32]
    """Corrected for the number of independent draws that the chains are worth."""
    phase_std: NDArray[np.float32]
    """Circular standard deviation, radians."""
    quantiles: NDArray[np.float32]
    """(4, rows, columns): ends of the 90 % and 50 % intervals of the magnitude, at
    `QUANTILE_LEVELS`, widened for the finite number of draws (`diagnostics.interval_ends`)."""
    mean_error: NDArray[np.float32]
    """Monte Carlo standard error of the mean's magnitude."""
    rhat: NDArray[np.float32]
    """Rank-normalised, folded R-hat of the magnitude, over neighbours; 1 when chains agree."""
    effective_samples: NDArray[np.float32]
    chi2_per_coil: NDArray[np.float32]
    """(coils,) mean squared residual of acquired samples over the noise variance; 1 when right."""
    object_mask: NDArray[np.bool_]
    """(rows, columns): where there is signal to judge."""
    sensitivity: NDArray[np.float32]
    """Smooth factor that is in all of the above, from images in the metric of the noise to those of
    the coils as received (`recon.sensitivity`); zero where no coil sees, and there all is zero."""
    noise_std: float
    """Noise per real component of the whitened k-space, in input units: times `sensitivity` it is
    that of an optimal coil combination of all samples."""
    scale: float
    """Input units per internal unit, before `sensitivity`."""
    evaluations: int
    """Network evaluations per chain."""
    converged: bool
    warnings: tuple[str, ...]
    self_check: SelfCheck | None
    evidence: Evidence = NOTHING_KNOWN
    """For and against what was assumed of the scan."""
    verdict: Verdict | None = None
    """Whether the slice may be trusted; None in results that were made before there was one."""
    classical: NDArray[np.complex64] | None = None
    """L1-wavelet reconstruction, without the learned prior, of slices that are not trusted."""

    @property
    def difference(self) -> NDArray[np.float32] | None:
        """Magnitude of the mean less that of the classical image, where there is one."""
        if self.classical is None:
            return None
        return np.abs(self.mean) - np.abs(self.classical)


class Shown(StrEnum):
    """What is delivered as the image of a slice."""

    POSTERIOR = "posterior"
    CLASSICAL = "classical"
    NOTHING = "nothing"


@dataclass(frozen=True)
class Delivery:
    """What is delivered of slices that are not trusted."""

    fallback: bool = False
    """The classical image in place of the posterior mean."""
    accept_refused: bool = False
    """The posterior also where it was refused; otherwise the image of such a slice is empty."""

    @property
    def attributes(self) -> dict[str, int]:
        """What a result file says of it: nothing of what was not chosen."""
        return {name: 1 for name, chosen in vars(self).items() if chosen}

    @classmethod
    def of(cls, attributes: Mapping[str, str | int | float]) -> Self:
        """As a result file says it."""
        return cls(*(bool(attributes.get(name, 0)) for name in cls.__dataclass_fields__))

    def beyond(self, attributes: Mapping[str, str | int | float]) -> Delivery:
        """This, and what a result file says already."""
        kept = Delivery.of(attributes)
        return Delivery(self.fallback or kept.fallback, self.accept_refused or kept.accept_refused)

    def shows(self, posterior: SlicePosterior) -> Shown:
        """What of this slice."""
        trust = Trust.TRUSTED if posterior.verdict is None else posterior.verdict.trust
        if trust is not Trust.TRUSTED and self.fallback and posterior.classical is not None:
            return Shown.CLASSICAL
        if trust is Trust.REFUSED and not self.accept_refused:
            return Shown.NOTHING
        return Shown.POSTERIOR


PLAIN = Delivery()


def delivered(posterior: SlicePosterior, delivery: Delivery = PLAIN) -> SlicePosterior:
    """The slice as other programs get it: mean, samples and standard deviation as chosen.

    Zero where nothing is delivered; with the classical image only the mean is not.
    """
    shown = delivery.shows(posterior)
    if shown is Shown.POSTERIOR:
        return posterior
    mean = np.zeros_like(posterior.mean)
    if shown is Shown.CLASSICAL and posterior.classical is not None:
        mean = posterior.classical
    return replace(
        posterior,
        mean=mean,
        samples=np.zeros_like(posterior.samples),
        magnitude_std=np.zeros_like(posterior.magnitude_std),
        quantiles=np.zeros_like(posterior.quantiles),
    )
