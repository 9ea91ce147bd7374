"""Sequences of noise levels."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from statistics import NormalDist

from recon.presets import PRESETS as PRESETS
from recon.presets import Preset as Preset
from recon.sampler import Level

STEP = 1.3
"""Langevin step h: with shared noise it costs no bias for Gaussians, and it mixes fastest."""

_EARLY = 0.9
_DENSER, _WIDTH, _NORMAL = 5.0, 1.0, NormalDist()


def geometric(high: float, low: float, count: int) -> tuple[float, ...]:
    """`count` + 1 noise levels from `high` to `low` in equal ratios."""
    if count == 0:
        return (high,)
    inner = (high * (low / high) ** (k / count) for k in range(1, count))
    return (high, *inner, low)


def dense(high: float, low: float, count: int, focus: float) -> tuple[float, ...]:
    """`count` + 1 noise levels from `high` to `low`, six times as close around `focus`.

    Where the prior's noise is about as wide as the posterior, the measured directions begin to
    tell the others in which of the prior's modes they are, and chains that come too fast stay in
    the wrong one. The density of levels over log sigma is 1 + 5 exp(-log(sigma/focus)^2/2).
    On the sparse prior of the tests 100 steps in equal ratios leave a squared error of the mean
    1.07 times the posterior's and 1.10 of its variance, and 1.05 and 1.07 when spread like this;
    40 leave 1.24 and 1.16, and 1.18 and 1.10. The optimum is flat: half of `focus` or 1.5 times
    as much are as good there.
    """
    if count == 0:
        return (high,)

    def passed(log_sigma: float) -> float:
        return log_sigma + _DENSER * _WIDTH * math.sqrt(2 * math.pi) * _NORMAL.cdf(
            (log_sigma - math.log(focus)) / _WIDTH
        )

    top, bottom = passed(math.log(high)), passed(math.log(low))
    inner = []
    for k in range(1, count):
        wanted = top + (bottom - top) * k / count
        under, over = math.log(low), math.log(high)
        for _ in range(50):
            middle = (under + over) / 2
            under, over = (middle, over) if passed(middle) < wanted else (under, middle)
        inner.append(math.exp((under + over) / 2))
    return (high, *inner, low)


def prior_path(
    high: float, low: float, count: int, eta: float, step: float, focus: float | None = None
) -> tuple[Level, ...]:
    """Annealed Langevin with the exact likelihood: prior from `high` to `low`, one step a level.

    Levels are dense around `focus`, or in equal ratios without one. The last quarter of the steps,
    at most two (four without a focus), stays at `low`: early stopping at a small noise level, as
    the network is not to be trusted below it.
    """
    resting = min(4 if focus is None else 2, count // 4)
    falling = count - resting
    sigmas = geometric(high, low, falling) if focus is None else dense(high, low, falling, focus)
    steps = tuple(Level(above, below, step, eta) for above, below in pairwise(sigmas))
    return steps + (Level(low, low, step, eta),) * resting


def measurement_path(
    high: float,
    low: float,
    count: int,
    eta: float,
    step: float,
    focus: float | None = None,
    anchor_sigma: float = math.inf,
) -> tuple[Level, ...]:
    """Annealed Langevin through re-noised measurements, whose noise leads the prior's.

    Along the levels of `prior_path` eta falls from 3 `high` to its true value in the first quarter
    of the steps. The anchor of width `anchor_sigma` is kept meanwhile and then released, so that
    the final target is p(x | y). With eta any later, directions that were not measured find their
    level only as fast as the measurement sharpens, and lose their variance.
    """
    levels = prior_path(high, low, count, eta, step, focus)
    leading = max(1, count // 4)
    etas = geometric(max(3 * high, eta), eta, leading)[1:]
    led = (
        replace(level, eta=noise, anchor_sigma=anchor_sigma)
        for level, noise in zip(levels, etas, strict=False)
    )
    return (*led, *levels[leading:])


def lowest_sigma(eta: float, prior_range: tuple[float, float]) -> float:
    """Lowest noise level of the prior: nearly the scan's noise, never below the training.

    Stopping early (Parulekar et al.) costs exact priors next to nothing, as the measurement knows
    no more: on the sparse prior of the tests the variance is 1.08 times the posterior's instead of
    1.06 with half of it (`thorough`), and the error of the mean the same. A learned score is worst
    where there is hardly any noise: five scans gained 0.03 to 0.16 dB, and their intervals held 0
    to 1 point more.
    """
    return max(_EARLY * eta, prior_range[0], 1e-6)


def cycle_top(posterior_std: float, low: float, start: float) -> float:
    """Noise level to which a cycle returns: twice the posterior's std.

    The std is a pixel's; the widest directions are several times wider. Higher, a cycle has to do
    the first annealing's work in a few steps; lower, its draw is too much like the last one.
    """
    return min(start, max(2 * posterior_std, 1.5 * low))


def focus_of(posterior_std: float, low: float) -> float:
    """Where noise levels are dense: twice the posterior's std.

    The sparse prior would have 1.3 times as much, a learned prior at R = 8 three to five times.
    """
    return max(2.2 * posterior_std, low)
