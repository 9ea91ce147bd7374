"""How many network evaluations a fixed error costs, against dimension and signal-to-noise ratio.

    python -m benchmarks growth

Theorem 1.1 of Xun, Gupta and Price: polynomially many in the dimension d and in the ratio
rho = |A| / (eta sqrt(alpha)). Here p = N(0, I_d), half of the directions are unmeasured and the
others have singular values from 0.05 to 1. All is linear and Gaussian, so that the law of the
result is computed exactly and no chain is simulated:

* Algorithm 1 as written (frozen drift, Euler-Maruyama, y re-noised), by recursion of moments, with
  the cheapest ladder, stage time and step of a grid for each d and rho;
* this project's path along the prior, by the response of the sampling kernel itself to one
  unit of each of its random numbers, with the cheapest length and lowest level of a grid.

The error is KL(result | p(x | y)), averaged over y; 0.05 is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.closed_form import weighted_problem
from benchmarks.record import Check, Outcome, Row, publish
from recon.noise import NoiseStreams
from recon.prior import GaussianPrior
from recon.sampler import State, init, step
from recon.schedule import STEP, prior_path

GROUPS = 16
"""Distinct singular values; each stands for d / GROUPS directions."""
TARGET = 0.05
DIMENSIONS = tuple(2**k for k in range(4, 13))
RATIOS = (1.0, 3.0, 10.0, 30.0, 100.0)
MAIN_RATIO, MAIN_DIMENSION = 10.0, 256
LENGTHS = (4, 6, 8, 11, 16, 23, 32, 45, 64, 90, 128, 181, 256, 362)
LOWEST = (0.02, 0.07, 0.2)
"""Lowest prior level of our path, in posterior stds of the best measured direction."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Cost:
    """The cheapest way to the target error; NaN where the grid holds none."""

    sampler: str
    dimension: int
    ratio: float
    evaluations: float


@dataclass(frozen=True)
class Growth:
    """Costs along both axes."""

    by_dimension: tuple[Cost, ...]
    by_ratio: tuple[Cost, ...]


def singular_values() -> Floats:
    """(GROUPS,) half of them zero."""
    half = GROUPS // 2
    return np.concatenate([np.zeros(half), np.geomspace(0.05, 1, half)])


def divergence(weights: Floats, eta: float, variance: Floats, gain: Floats) -> Floats:
    """KL per direction, averaged over y, of N(gain y, variance) from the exact posterior."""
    precision = 1 + weights**2 / eta**2
    exact_gain = weights / eta**2 / precision
    bias = (gain - exact_gain) ** 2 * (weights**2 + eta**2)
    ratio = variance * precision
    return (ratio - 1 - np.log(ratio) + bias * precision) / 2


def algorithm_1(
    eta: float, gamma: float, top: float, relax: float, sizes: Floats
) -> list[tuple[int, float]]:
    """(evaluations, mean KL per direction) of Algorithm 1, for every step size.

    Noise variances fall by 1 + gamma from `top`^2 to eta^2; a stage lasts `relax` (in 1 / alpha)
    with steps of `sizes` over the largest curvature.
    """
    weights = singular_values()
    count = math.ceil(math.log(top**2 / eta**2) / math.log(1 + gamma))
    variances = eta**2 * (1 + gamma) ** np.arange(count, -1, -1)
    extra = variances[0] - eta**2
    # Given y: x = gain y + e, n the noise on y; covariance of (e, n) by step size and direction.
    shape = (len(sizes), GROUPS)
    gain, xx, xn, nn = np.zeros(shape), np.ones(shape), np.zeros(shape), np.full(shape, extra)
    evaluations = np.zeros(len(sizes), dtype=int)
    for variance in variances[1:]:
        then = max(variance - eta**2, 0.0)
        keep = then / extra
        xn, nn = keep * xn, keep**2 * nn + then * (extra - then) / extra
        extra = max(then, 1e-12)
        precision = 1 + weights**2 / variance
        h = sizes[:, None] / precision.max()
        steps = np.ceil(relax / h).astype(int)
        evaluations += steps[:, 0]
        decay = (1 - h * precision) ** steps
        pull = (1 - decay) * weights / variance / precision
        gain = decay * gain + pull
        fresh = 2 * h * (1 - decay**2) / (1 - (1 - h * precision) ** 2)
        xx = decay**2 * xx + 2 * decay * pull * xn + pull**2 * nn + fresh
        xn = decay * xn + pull * nn
    each = divergence(weights, eta, xx, gain).mean(axis=1)
    return [(int(e), float(kl)) for e, kl in zip(evaluations, each, strict=True)]


class _Impulses(NoiseStreams):
    """One chain per draw of random numbers: chain k gets a one from draw k, else zeros."""

    def __init__(self, draws: int) -> None:
        super().__init__([], pooled=draws)
        self._next = 0

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        del device
        drawn = torch.zeros(self.chains, *shape, dtype=torch.complex128)
        drawn[self._next] = 1
        self._next += 1
        return drawn


def kernel(eta: float, lowest: float, count: int) -> Floats:
    """KL per group of this project's path along the prior, `count` evaluations."""
    weights = singular_values()
    row = torch.from_numpy(weights)[None]
    zeros = torch.zeros(1, GROUPS, dtype=torch.complex128)
    prior = GaussianPrior(zeros[0, 0].expand(1, GROUPS), torch.ones(1, GROUPS, dtype=torch.float64))
    low = lowest * eta / math.sqrt(1 + eta**2)
    levels = prior_path(6.0, low, count, eta, STEP)

    def final(measurement: float, noise: NoiseStreams, chains: int) -> Tensor:
        problem = weighted_problem(row, zeros[None] + measurement, eta)
        if isinstance(noise, _Impulses):
            state = init(problem, zeros[0].expand(1, GROUPS), 6.0, noise)
        else:
            still = torch.zeros(1, 1, GROUPS, dtype=torch.complex128)
            state = State(still, still, still, still, 0.0)
        for level in levels:
            state, _ = step(problem, prior, level, state, noise)
        return state.image.reshape(chains, GROUPS).real

    draws = count + 2
    variance = final(0.0, _Impulses(draws), draws).square().sum(dim=0).numpy()
    gain = final(1.0, _Silence(), 1)[0].numpy()
    return divergence(weights, eta, variance, gain)


class _Silence(NoiseStreams):
    """No noise: what is left is the response to y."""

    def __init__(self) -> None:
        super().__init__([], pooled=1)

    def normal(self, shape: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
        del device
        return torch.zeros(1, *shape, dtype=torch.complex128)


def cheapest(sampler: str, table: list[tuple[int, float]], dimension: int, ratio: float) -> Cost:
    """From (evaluations, mean KL per direction) the fewest evaluations that meet the target."""
    fits = [cost for cost, each in table if each * dimension <= TARGET]
    return Cost(sampler, dimension, ratio, min(fits, default=math.nan))


def tables(ratio: float) -> dict[str, list[tuple[int, float]]]:
    """(evaluations, mean KL per direction) of every way in the grids."""
    eta = 1 / ratio
    written = [
        pair
        for gamma, top, relax in product(
            (0.25, 0.5, 1.0), np.geomspace(1, 300, 12), np.geomspace(0.03, 8, 14)
        )
        if top > 1.01 * eta
        for pair in algorithm_1(eta, gamma, top, relax, np.geomspace(1e-3, 0.8, 30))
    ]
    project = [
        (count, float(kernel(eta, lowest, count).mean()))
        for count, lowest in product(LENGTHS, LOWEST)
    ]
    return {
        "Algorithm 1 as written": written,
        "this project's prior path": project,
    }


def run() -> Growth:
    """Both samplers along both axes."""
    found = {ratio: tables(ratio) for ratio in RATIOS}
    return Growth(
        tuple(
            cheapest(name, table, dimension, MAIN_RATIO)
            for name, table in found[MAIN_RATIO].items()
            for dimension in DIMENSIONS
        ),
        tuple(
            cheapest(name, table, MAIN_DIMENSION, ratio)
            for ratio, each in found.items()
            for name, table in each.items()
        ),
    )


def slope(places: list[float], costs: list[float]) -> float:
    """Exponent of a power law by least squares on logarithmic axes."""
    kept = np.log([(p, c) for p, c in zip(places, costs, strict=True) if c == c])
    return float(np.polyfit(kept[:, 0], kept[:, 1], 1)[0]) if len(kept) > 1 else math.nan


def slopes(growth: Growth) -> dict[tuple[str, str], float]:
    """By (sampler, axis); the ratio's from 3 up, where the measurement decides."""
    found = {}
    for name in dict.fromkeys(cost.sampler for cost in growth.by_dimension):
        rows = [cost for cost in growth.by_dimension if cost.sampler == name]
        found[name, "dimension"] = slope(
            [cost.dimension for cost in rows], [cost.evaluations for cost in rows]
        )
        rows = [cost for cost in growth.by_ratio if cost.sampler == name and cost.ratio >= 3]
        found[name, "ratio"] = slope(
            [cost.ratio for cost in rows], [cost.evaluations for cost in rows]
        )
    return found


def outcome(growth: Growth) -> Outcome:
    """The costs and their exponents; the theorem promises a polynomial and names no exponent."""
    costs = (*growth.by_dimension, *growth.by_ratio)
    reached = sum(math.isfinite(cost.evaluations) for cost in costs)
    checks = (Check("settings for which the grid meets the error", reached, len(costs), 0),)
    rows: list[Row] = [
        {"sampler": c.sampler, "d": c.dimension, "rho": c.ratio, "evaluations": c.evaluations}
        for c in costs
    ]
    rows += [
        {"sampler": name, "axis": axis, "exponent": found}
        for (name, axis), found in slopes(growth).items()
    ]
    return Outcome(
        checks,
        tuple(rows),
        "moments are exact; a cost is within one step of its grid of the best (about 20 %)",
    )


def draw(growth: Growth) -> Figure:
    """Both axes, logarithmic."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained", sharey=True)
    found = slopes(growth)
    for panel, costs, axis, name in (
        (axes[0], growth.by_dimension, "dimension", f"dimension d (ρ = {MAIN_RATIO:g})"),
        (axes[1], growth.by_ratio, "ratio", f"ρ = ‖A‖ / (η √α) (d = {MAIN_DIMENSION})"),
    ):
        for sampler in dict.fromkeys(cost.sampler for cost in costs):
            rows = [cost for cost in costs if cost.sampler == sampler]
            panel.loglog(
                [getattr(cost, axis) for cost in rows],
                [cost.evaluations for cost in rows],
                "o-",
                label=f"{sampler}: exponent {found[sampler, axis]:.2f}",
            )
        panel.set(xlabel=name)
        panel.grid(which="both", alpha=0.25)
        panel.legend(fontsize=8)
    axes[0].set(ylabel=f"score evaluations for KL ≤ {TARGET:g}")
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("growth", run, outcome, draw)


if __name__ == "__main__":
    main()
