"""What the sampler returns for one slice, and how it is summarised from the chains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
