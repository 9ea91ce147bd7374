"""Sequences of levels: the two annealing paths, and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from recon.sampler import Level

STEP = 1.3
"""Langevin step h: with shared noise it costs no bias for Gaussians, and it mixes fastest."""


class Path(StrEnum):
    """Which target the annealed Langevin part follows down."""

    PRIOR = "prior"
    """Exact likelihood, the prior's noise level falls (Parulekar et al.)."""
    MEASUREMENT = "measurement"
    """Re-noised measurement whose noise falls, prior fixed (Xun, Gupta and Price)."""


@dataclass(frozen=True)
class Preset:
    """How many network evaluations a chain spends, and on what."""

    chains: int
    localization: int
    annealing: int
    cycles: int
    """Draws; each re-noises the chain and anneals it again. 0 keeps the first annealing's end."""
    cycle: int

    @property
    def evaluations(self) -> int:
        """Network evaluations per chain."""
        return self.localization + self.annealing + self.cycles * self.cycle


PRESETS: dict[str, Preset] = {
    "fast": Preset(chains=4, localization=2, annealing=24, cycles=3, cycle=7),
    "standard": Preset(chains=8, localization=2, annealing=40, cycles=10, cycle=6),
    "thorough": Preset(chains=16, localization=6, annealing=44, cycles=10, cycle=20),
}


def geometric(high: float, low: float, count: int) -> tuple[float, ...]:
    """`count` + 1 noise levels from `high` to `low` in equal ratios."""
    if count == 0:
        return (high,)
    inner = (high * (low / high) ** (k / count) for k in range(1, count))
    return (high, *inner, low)


def prior_path(high: float, low: float, count: int, eta: float, step: float) -> tuple[Level, ...]:
    """Annealed Langevin with the exact likelihood: prior from `high` to `low`, one step a level.

    The last quarter of the steps, at most four, stays at `low`: early stopping at a small noise
    level, as the network is not to be trusted below it.
    """
    resting = min(4, count // 4)
    sigmas = geometric(high, low, count - resting)
    falling = tuple(Level(above, below, step, eta) for above, below in pairwise(sigmas))
    return falling + (Level(low, low, step, eta),) * resting


def measurement_path(
    sigma: float, low: float, count: int, eta: float, step: float
) -> tuple[Level, ...]:
    """Annealed Langevin through re-noised measurements: eta falls from 3 sigma, prior fixed.

    The anchor of width `sigma` is kept while the measurement sharpens; the last quarter of the
    steps releases it, so that the final target is p(x | y).
    """
    released = max(1, count // 4)
    etas = geometric(max(3 * sigma, eta), eta, count - released)[1:]
    anchored = tuple(Level(low, low, step, noise, anchor_sigma=sigma) for noise in etas)
    return anchored + (Level(low, low, step, eta),) * released


def annealing(
    path: Path, sigma: float, low: float, count: int, eta: float, step: float
) -> tuple[Level, ...]:
    """The annealed Langevin part of a chain along `path`."""
    make = prior_path if path is Path.PRIOR else measurement_path
    return make(sigma, low, count, eta, step)


def lowest_sigma(eta: float, prior_range: tuple[float, float]) -> float:
    """Lowest noise level of the prior: it follows the scan's noise, never below the training."""
    return max(eta / 2, prior_range[0], 1e-6)


def cycle_top(posterior_std: float, low: float, start: float) -> float:
    """Noise level to which a cycle returns: four times the posterior's std.

    The std is a pixel's; the widest directions are several times wider. Lower, they are forgotten
    too slowly (R-hat); higher, the levels of a cycle are too far apart and its variance is off.
    """
    return min(start, max(4 * posterior_std, 1.5 * low))


def wide_start(localization: float, highest: float) -> tuple[float, float]:
    """Noise levels where the prior path begins, and where its annealing takes over.

    Ten times the localization's own noise, up to the prior's `highest`. From the coarse image's
    error alone, directions that were not measured and are as wide as the image itself end with
    4 % of their variance (Gaussian prior, `fast`), with ten times that at 90 %, and chains keep
    the ghosts of a poor coarse image: at R = 8 with a 1-D mask their mean was 2 dB worse.
    """
    start = min(10 * localization, highest)
    return start, start * 2 / 3
