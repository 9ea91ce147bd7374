"""Sequences of noise levels."""

from __future__ import annotations

from itertools import pairwise

from recon.presets import PRESETS as PRESETS
from recon.presets import Preset as Preset
from recon.sampler import Level

STEP = 1.3
"""Langevin step h: with shared noise it costs no bias for Gaussians, and it mixes fastest."""


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


def lowest_sigma(eta: float, prior_range: tuple[float, float]) -> float:
    """Lowest noise level of the prior: it follows the scan's noise, never below the training."""
    return max(eta / 2, prior_range[0], 1e-6)


def cycle_top(posterior_std: float, low: float, start: float) -> float:
    """Noise level to which a cycle returns: four times the posterior's std.

    The std is a pixel's; the widest directions are several times wider. Lower, they are forgotten
    too slowly (R-hat); higher, the levels of a cycle are too far apart and its variance is off.
    """
    return min(start, max(4 * posterior_std, 1.5 * low))
