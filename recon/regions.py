"""The mean over a region of interest: one value per sample, and what they say of the true value.

Pixel-wise maps cannot tell it, because neighbouring pixels err together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recon.posterior import MANY_DRAWS


@dataclass(frozen=True)
class Region:
    """Posterior of one number, such as the mean magnitude of a region; regions can be subtracted.

    The difference of two regions of one posterior is taken sample by sample, so that what they
    share cancels.
    """

    values: NDArray[np.float64]
    """(samples,) one value per sample, in the units of the image; at least two."""

    @property
    def mean(self) -> float:
        """Posterior mean."""
        return float(self.values.mean())

    @property
    def std(self) -> float:
        """Posterior standard deviation."""
        return float(self.values.std(ddof=1))

    @property
    def mc_error(self) -> float:
        """Monte Carlo standard error of `mean`: what more samples would remove."""
        return self.std / math.sqrt(self.values.size)

    @property
    def method(self) -> str:
        """How intervals are made: `quantiles` of many samples, or `student-t` for few."""
        return "quantiles" if self.values.size >= MANY_DRAWS else "student-t"

    def interval(self, level: float = 0.9) -> tuple[float, float]:
        """Ends of the interval that holds the true value with probability `level`.

        With few samples it is that of a next draw under normality, mean ± t s √(1 + 1/n), which is
        wider than the samples' own quantiles, as it must be. Raises ValueError for a level that is
        not between 0 and 1.
        """
        tail = tail_of(level)
        if self.method == "quantiles":
            low, high = np.quantile(self.values, (tail, 1 - tail), method="weibull")
            return float(low), float(high)
        reach = student_reach(self.values.size, level) * self.std
        return self.mean - reach, self.mean + reach

    def __sub__(self, other: Region) -> Region:
        return Region(self.values - other.values)

    def __repr__(self) -> str:
        low, high = self.interval()
        return f"Region({self.mean:.4g} ± {self.std:.2g}, 90 % in {low:.4g} to {high:.4g})"


def tail_of(level: float) -> float:
    """Probability on either side of a central interval. Raises ValueError."""
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, not {level}")
    return (1 - level) / 2


def student_reach(samples: int, level: float) -> float:
    """Half-width, in standard deviations of n samples, of the interval of one more draw."""
    from scipy.special import stdtrit  # lazy: the process that answers need not hold scipy

    return float(stdtrit(samples - 1, 1 - tail_of(level))) * math.sqrt(1 + 1 / samples)
