"""Annealed Langevin Monte Carlo keeps the weights of modes; the Fisher divergence sees none.

    python -m benchmarks bars

Five bars in the plane, only the second coordinate measured (Parulekar et al.). The prior follows
an Ornstein-Uhlenbeck process backwards while the likelihood stays exact; kappa is the slowness.
Their loop is run as it is written, with each of its parts left out once, beside this project's
path along the prior (preconditioned steps, noise levels in equal ratios) on the same problem.
Mode weights are judged by KL(found | target) against the posterior of the prior noised to where
the loop stops. The Fisher divergence between mixtures with different weights is by quadrature.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.closed_form import weighted_problem
from benchmarks.record import Check, Outcome, Row, publish
from recon.noise import NoiseStreams
from recon.sampler import init, step
from recon.schedule import STEP, prior_path

Floats = NDArray[np.float64]
MEANS = np.array([(-4, -1.5), (-2, 1), (0, -0.5), (2, 2), (4, 0.2)])
VARIANCES = np.array([0.15, 0.8]) ** 2
MEASURED, NOISE_STD = 0.4, 0.3
START_TIME, STOP_TIME = 3.0, 0.05
SLOWNESS = (1, 5, 20, 80)
CHAINS = 2000
EVALUATIONS = (10, 20, 40, 80, 160)
"""Budgets of this project's path."""
TOP, LOW = 8.0, 0.1
"""Noise levels between which it runs."""


@dataclass(frozen=True)
class Weights:
    """Mode weights of one run."""

    name: str
    evaluations: int
    found: Floats
    target: Floats
    narrow: float
    """Variance of the first coordinate within a bar over the prior's own there."""

    @property
    def divergence(self) -> float:
        """KL(found | target)."""
        return divergence(self.found, self.target)


@dataclass(frozen=True)
class Bars:
    """Everything the experiment found."""

    alone: tuple[Weights, ...]
    """The loop as written, by slowness."""
    ablations: tuple[Weights, ...]
    ours: tuple[Weights, ...]
    blind: tuple[tuple[float, float, float], ...]
    """(separation, KL, Fisher divergence) of two mixtures that differ in their weights only."""


def divergence(found: Floats, target: Floats) -> float:
    """KL(found | target) of discrete distributions; empty bins count nothing."""
    kept = found > 0
    return float((found[kept] * np.log(found[kept] / target[kept])).sum())


def noised(time: float) -> tuple[Floats, Floats]:
    """Means (5, 2) and variances (2,) of the bars after `time` of the OU process."""
    decay = math.exp(-time)
    return decay * MEANS, decay**2 * VARIANCES + 1 - decay**2


def posterior_weights(means: Floats, variances: Floats) -> Floats:
    """Weights of the bars given the measurement."""
    total = variances[1] + NOISE_STD**2
    logs = -((MEASURED - means[:, 1]) ** 2) / (2 * total)
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def shares(points: Floats, means: Floats, variances: Floats) -> Floats:
    """(chains, 5) probability of each bar, were all alike in weight."""
    energy = ((points[:, None] - means) ** 2 / variances).sum(axis=2) / 2
    weight = np.exp(energy.min(axis=1, keepdims=True) - energy)
    return weight / weight.sum(axis=1, keepdims=True)


def posterior_score(points: Floats, time: float) -> Floats:
    """Score of p_t exp(-R) at (chains, 2) points."""
    means, variances = noised(time)
    score = (shares(points, means, variances) @ means - points) / variances
    score[:, 1] += (MEASURED - points[:, 1]) / NOISE_STD**2
    return score


def langevin_step() -> float:
    """Step size 0.3 / L, L the largest curvature at the stopping time."""
    return 0.3 / (1 / noised(STOP_TIME)[1].min() + 1 / NOISE_STD**2)


def judge(name: str, evaluations: int, points: Floats, time: float) -> Weights:
    """Assign chains to bars at OU time `time`."""
    means, variances = noised(time)
    nearest = shares(points, means, variances).argmax(axis=1)
    found = np.bincount(nearest, minlength=len(MEANS)) / len(points)
    within = float(np.mean((points[:, 0] - means[nearest, 0]) ** 2) / variances[0])
    return Weights(name, evaluations, found, posterior_weights(means, variances), within)


def warm_start(rng: np.random.Generator, size: float) -> tuple[Floats, int]:
    """Langevin on N(0, I) exp(-R) for a time of 3: where the slow part begins."""
    points = rng.standard_normal((CHAINS, 2))
    count = math.ceil(3 / size)
    for _ in range(count):
        drift = -points
        drift[:, 1] += (MEASURED - points[:, 1]) / NOISE_STD**2
        points = points + size * drift + math.sqrt(2 * size) * rng.standard_normal(points.shape)
    return points, count


def anneal(
    name: str, slowness: float, stop: float, seed: int, *, warm: bool = True, moving: bool = True
) -> Weights:
    """The loop of the paper; `moving` False stays at the stopping time all along."""
    rng = np.random.default_rng(seed)
    size = langevin_step()
    points, _ = warm_start(rng, size) if warm else (rng.standard_normal((CHAINS, 2)) * 0 + 4.0, 0)
    count = math.ceil(slowness * (START_TIME - STOP_TIME) / size)
    for time in np.linspace(START_TIME, stop, count):
        drift = posterior_score(points, float(time) if moving else stop)
        points = points + size * drift + math.sqrt(2 * size) * rng.standard_normal(points.shape)
    return judge(name, count, points, stop)


@dataclass(frozen=True)
class BarsPrior:
    """The bars as a prior of complex pixels, real and imaginary part the two coordinates."""

    sigma_range: tuple[float, float] = (0.0, math.inf)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        points = torch.view_as_real(noisy).reshape(-1, 2).double().numpy()
        total = VARIANCES + sigma**2
        share = shares(points, MEANS, total)
        gain = VARIANCES / total
        clean = gain * points + (1 - gain) * (share @ MEANS)
        return torch.view_as_complex(torch.from_numpy(clean).reshape(*noisy.shape, 2)).to(noisy)


def ours(count: int) -> Weights:
    """The same measurement by this project's path along the prior."""
    zero = torch.zeros(1, 1)
    measurement = torch.full((1, 1, 1), 1j * MEASURED)
    problem = weighted_problem(zero, measurement, NOISE_STD, zero + 1)
    noise = NoiseStreams.pooled(count, CHAINS)
    state = init(problem, torch.zeros(1, 1, dtype=torch.complex64), TOP, noise)
    for level in prior_path(TOP, LOW, count, NOISE_STD, STEP):
        state, _ = step(problem, BarsPrior(), level, state, noise)
    points = torch.view_as_real(state.image[:, 0, 0]).double().numpy()
    # Steps target the prior smoothed by LOW, with weights to match.
    variances = VARIANCES + LOW**2
    nearest = shares(points, MEANS, variances).argmax(axis=1)
    found = np.bincount(nearest, minlength=len(MEANS)) / len(points)
    within = float(np.mean((points[:, 0] - MEANS[nearest, 0]) ** 2) / variances[0])
    target = posterior_weights(MEANS, variances)
    return Weights(f"this project, {count} steps", count, found, target, within)


def blind_spot(separation: float) -> tuple[float, float, float]:
    """KL and Fisher divergence of .9/.1 from .5/.5, unit normals at +-separation."""
    grid = np.linspace(-separation - 9, separation + 9, 20_001)
    normals = [
        np.exp(-((grid - m) ** 2) / 2) / math.sqrt(2 * math.pi) for m in (-separation, separation)
    ]
    first, second = (w * normals[0] + (1 - w) * normals[1] for w in (0.9, 0.5))
    # Scores -x + m (share of the right - share of the left).
    shift = [
        separation * ((1 - w) * normals[1] - w * normals[0]) / mixture
        for w, mixture in ((0.9, first), (0.5, second))
    ]
    kl = np.trapezoid(first * np.log(first / second), grid)
    fisher = np.trapezoid(first * (shift[0] - shift[1]) ** 2, grid)
    return separation, float(kl), float(fisher)


def run() -> Bars:
    """All runs; the slowest takes 15,551 steps."""
    return Bars(
        tuple(anneal(f"kappa = {k}", k, STOP_TIME, k) for k in SLOWNESS),
        (
            anneal("no warm start", 20, STOP_TIME, 100, warm=False),
            anneal("no slow path", 20, STOP_TIME, 101, moving=False),
            anneal("no slow path, no early stop", 20, 0.0, 102, moving=False),
            anneal("no early stop", 20, 0.0, 103),
        ),
        tuple(ours(count) for count in EVALUATIONS),
        tuple(blind_spot(m) for m in (1.0, 2.0, 3.0, 4.0, 6.0)),
    )


def outcome(bars: Bars) -> Outcome:
    """The reference's weights, divergences and blind spots beside what was found."""
    target = bars.alone[0].target
    checks = [
        Check(f"target weight {k + 1}", target[k], expected, 6e-4)
        for k, expected in enumerate((0.041, 0.299, 0.221, 0.083, 0.355))
    ]
    reference = ((0.355, 195), (0.092, 972), (0.016, 3888), (0.0035, 15551))
    for each, (expected, steps) in zip(bars.alone, reference, strict=True):
        checks.append(Check(f"{each.name}: steps", each.evaluations, steps, 1))
        # Multinomial noise: KL scatters by about sqrt(2 KL / chains), and by 4 / (2 chains).
        scatter = 4 * math.sqrt(2 * expected / CHAINS) + 2e-3
        checks.append(Check(f"{each.name}: KL of the weights", each.divergence, expected, scatter))
    stuck = next(each for each in bars.ablations if each.name == "no slow path, no early stop")
    for k, expected in enumerate((0.001, 0.152, 0.697, 0.148, 0.002)):
        checks.append(
            Check(f"direct Langevin on mu_0: weight {k + 1}", stuck.found[k], expected, 0.03)
        )
    blind = {1: (0.195, 0.238), 2: (0.341, 0.126), 3: (0.366, 0.0161), 4: (0.368, 6.6e-4)}
    for separation, kl, fisher in bars.blind:
        divergence, information = blind.get(round(separation), (0.368, 4.5e-8))
        name = f"two modes at ±{separation:g}"
        checks.append(Check(f"{name}: KL", kl, divergence, 6e-4))
        checks.append(Check(f"{name}: Fisher divergence, ratio", fisher / information, 1, 0.015))
    rows: list[Row] = [
        {
            "run": each.name,
            "evaluations": each.evaluations,
            "KL of weights": each.divergence,
            "variance within a bar, ratio": each.narrow,
            **{f"weight {k + 1}": float(w) for k, w in enumerate(each.found)},
        }
        for each in (*bars.alone, *bars.ablations, *bars.ours)
    ]
    return Outcome(
        tuple(checks), tuple(rows), f"{CHAINS} chains: KL of exact draws is 0.001; weights ±0.011"
    )


def draw(bars: Bars) -> Figure:
    """KL against evaluations, weights of the ablations, the blind spot."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12.5, 3.9), layout="constrained", width_ratios=(1, 1.5, 1)
    )
    left.loglog(
        [each.evaluations for each in bars.alone],
        [each.divergence for each in bars.alone],
        "o-",
        label="ALMC as written, κ = 1, 5, 20, 80",
    )
    left.loglog(
        [each.evaluations for each in bars.ours],
        [each.divergence for each in bars.ours],
        "s-",
        label="this project's prior path",
    )
    left.axhline(4 / (2 * CHAINS), color="k", lw=0.8, ls=":", label="as many exact draws")
    left.set(title="mode weights", xlabel="score evaluations", ylabel="KL(found | target)")
    left.legend(fontsize=8)
    shown = (bars.alone[2], *bars.ablations)
    names = ("complete, κ = 20", *(each.name for each in bars.ablations))
    width = 0.8 / (len(shown) + 1)
    places = np.arange(len(MEANS))
    middle.bar(places - 0.4 + width / 2, shown[0].target, width, color="k", label="target")
    for k, (each, name) in enumerate(zip(shown, names, strict=True), start=1):
        middle.bar(places - 0.4 + (k + 0.5) * width, each.found, width, label=name)
    middle.set(title="weights when a part is left out (κ = 20)", xlabel="bar", ylabel="weight")
    middle.set_xticks(places, [str(k + 1) for k in places])
    middle.legend(fontsize=7)
    table = np.array(bars.blind)
    right.semilogy(table[:, 0], table[:, 1], "o-", label="KL")
    right.semilogy(table[:, 0], table[:, 2], "s-", label="Fisher divergence")
    right.set(title="weights .9/.1 against .5/.5", xlabel="half the distance of two modes (stds)")
    right.legend(fontsize=8)
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("bars", run, outcome, draw)


if __name__ == "__main__":
    main()
