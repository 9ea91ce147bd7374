"""Plain Langevin contracts half-way, annealed Langevin hardly (Xun, Gupta and Price, Fig. 3).

    python -m benchmarks variance_dip

p = N(0, 1), y = x + N(0, eta^2). Averaged over y, a Langevin chain on p(x | y) that starts from p
has the marginal variance 1 at both ends and dips in between, to where no score was trained. Small
annealing stages between re-noised measurements make the dip small. All chains are run by the
sampling kernel; the curves are the closed forms. The last picture is the detector of a missing
re-noising: tempering the likelihood alone, without noise on y, draws too narrow a marginal.
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

from benchmarks.closed_form import weighted_problem, white_image
from benchmarks.record import Check, Outcome, Row, publish
from recon.noise import NoiseStreams
from recon.prior import GaussianPrior
from recon.sampler import InverseProblem, Level, State, init, renoise, step

SIDE = 160
SMOOTHING = 0.03
"""Prior level: the kernel's prior has variance 1.0009."""
GAMMAS = (1.0, 0.5, 0.1)
TEMPERED = 1.0
"""Raised noise std of the detector."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Marginal variance over Langevin time, as run and in closed form."""

    name: str
    times: Floats
    found: Floats
    exact: Floats


@dataclass(frozen=True)
class Dips:
    """Everything the experiment found."""

    plain: tuple[Curve, ...]
    annealed: tuple[Curve, ...]
    renoised: float
    """Marginal variance of exact draws of p(x | y_i), y re-noised."""
    tempered: float
    """The same with the noise level raised and y left as it is."""


def plain_variance(times: Floats, noise_variance: float) -> Floats:
    """Marginal variance of plain Langevin from p, at continuous time."""
    decay = np.exp(-times * (1 + 1 / noise_variance))
    return 1 - 2 / (1 + noise_variance) * decay * (1 - decay)


def stage_variance(times: Floats, noise_variance: float, gamma: float) -> Floats:
    """The same for one annealed stage that starts from p(x | y_i), eta_i^2 = (1 + gamma) eta^2."""
    above, below = 1 / (1 + noise_variance), 1 / (1 + (1 + gamma) * noise_variance)
    decay = np.exp(-times * (1 + 1 / noise_variance))
    return 1 - 2 * (above - below) * decay * (1 - decay)


def measured(noise_variance: float, seed: int) -> InverseProblem:
    """A measurement of one truth per pixel; SIDE^2 pixels average over y."""
    truth, error = (white_image(SIDE, SIDE, seed=2 * seed + k) for k in (0, 1))
    noise_std = math.sqrt(noise_variance)
    return weighted_problem(torch.ones(SIDE, SIDE), (truth + noise_std * error)[None], noise_std)


def follow(problem: InverseProblem, state: State, noise: NoiseStreams, until: float) -> Curve:
    """The kernel's plain steps at the true noise, up to Langevin time `until`."""
    prior = GaussianPrior(torch.zeros(SIDE, SIDE, dtype=torch.complex64), torch.ones(SIDE, SIDE))
    precision = 1 / problem.noise_std**2 + 1 / SMOOTHING**2
    # The preconditioned step h moves Langevin time on by h / precision.
    size = 0.5
    level = Level(SMOOTHING, SMOOTHING, size, problem.noise_std)
    found = [_variance(state.image)]
    for _ in range(math.ceil(until * precision / size)):
        state, _ = step(problem, prior, level, state, noise)
        found.append(_variance(state.image))
    times = np.asarray(size / precision * np.arange(len(found)), np.float64)
    return Curve("", times, np.array(found), np.zeros(len(found)))


def exact_draw(problem: InverseProblem, eta: float, shift: Tensor, noise: NoiseStreams) -> Tensor:
    """Draw from p(x | y + shift) at noise `eta`, in closed form."""
    variance = eta**2 / (1 + eta**2)
    mean = (problem.backprojection + shift) / (1 + eta**2)
    return mean + math.sqrt(variance) * noise.normal((SIDE, SIDE))


def _variance(image: Tensor) -> float:
    return float(image.abs().square().mean()) / 2


def run() -> Dips:
    """Plain chains for two noise levels, single annealed stages, and the detector."""
    plain, annealed = [], []
    empty = torch.zeros(SIDE, SIDE, dtype=torch.complex64)
    for number, noise_variance in enumerate((0.01, 0.1)):
        problem, noise = measured(noise_variance, number), NoiseStreams.pooled(1000 + number, 1)
        state = init(problem, empty, 1.0, noise)
        curve = follow(problem, state, noise, 5 * noise_variance / (1 + noise_variance))
        exact = plain_variance(curve.times, noise_variance)
        plain.append(Curve(f"η² = {noise_variance:g}", curve.times, curve.found, exact))
    for number, gamma in enumerate(GAMMAS):
        problem, noise = measured(0.1, 10 + number), NoiseStreams.pooled(1010 + number, 1)
        eta = problem.noise_std * math.sqrt(1 + gamma)
        state = renoise(problem, init(problem, empty, 0.0, noise), eta, noise)
        state = state._replace(image=exact_draw(problem, eta, state.renoise, noise))
        curve = follow(problem, state, noise, 0.3)
        exact = stage_variance(curve.times, 0.1, gamma)
        annealed.append(Curve(f"γ = {gamma:g}", curve.times, curve.found, exact))
    problem, noise = measured(0.1, 20), NoiseStreams.pooled(1020, 1)
    state = renoise(problem, init(problem, empty, 0.0, noise), TEMPERED, noise)
    return Dips(
        tuple(plain),
        tuple(annealed),
        _variance(exact_draw(problem, TEMPERED, state.renoise, noise)),
        _variance(exact_draw(problem, TEMPERED, empty, noise)),
    )


def outcome(dips: Dips) -> Outcome:
    """Minima of the curves and their places, and the detector's two variances."""
    checks: list[Check] = []
    rows: list[Row] = []
    reference = {
        "η² = 0.01": 0.50495,
        "η² = 0.1": 6 / 11,
        "γ = 1": 0.962,
        "γ = 0.5": 0.980,
        "γ = 0.1": 0.996,
    }
    for curve in (*dips.plain, *dips.annealed):
        at = int(np.argmin(curve.exact))
        exact, found = float(curve.exact.min()), float(curve.found[at])
        checks.append(Check(f"{curve.name}: closed form", exact, reference[curve.name], 1e-3))
        # Four standard errors, and the kernel's finite step and smoothing.
        checks.append(Check(f"{curve.name}: kernel", found, reference[curve.name], 0.02))
        rows.append(
            {
                "chain": curve.name,
                "time of minimum": float(curve.times[at]),
                "minimum, closed form": exact,
                "minimum, kernel": found,
                "largest difference": float(np.abs(curve.found - curve.exact).max()),
            }
        )
    for curve, time in zip(dips.plain, (0.006863, 0.0630), strict=True):
        reached = float(curve.times[int(np.argmin(curve.exact))])
        checks.append(Check(f"{curve.name}: time of the minimum", reached, time, 3e-4))
    checks.append(Check("marginal variance, re-noised", dips.renoised, 1.0, 0.02))
    checks.append(Check("marginal variance, tempered only", dips.tempered, 0.775, 0.02))
    return Outcome(
        tuple(checks),
        tuple(rows),
        f"{SIDE * SIDE} complex pixels: standard error 0.006 of a variance; finite step: 0.005",
    )


def draw(dips: Dips) -> Figure:
    """Dips of plain Langevin, of annealed stages, and the detector."""
    figure, (left, middle, right) = plt.subplots(
        1, 3, figsize=(12, 3.8), layout="constrained", width_ratios=(1.3, 1.3, 0.8)
    )
    for axes, curves, title in (
        (left, dips.plain, "plain Langevin from p to p(x | y)"),
        (middle, dips.annealed, "one annealed stage, η² = 0.1"),
    ):
        for curve in curves:
            scaled = curve.times / curve.times[-1] if axes is left else curve.times
            line = axes.plot(scaled, curve.exact, label=curve.name)[0]
            every = max(1, len(scaled) // 25)
            axes.plot(
                scaled[::every],
                curve.found[::every],
                "o",
                ms=3.5,
                mfc="none",
                color=line.get_color(),
            )
        axes.plot([], [], "k-", label="closed form")
        axes.plot([], [], "ko", ms=3.5, mfc="none", label="sampling kernel")
        axes.axhline(1, color="k", lw=0.6)
        axes.set(title=title, ylabel="variance, averaged over y")
        axes.legend(fontsize=8, loc="lower right")
    left.set_xlabel("Langevin time over 5 η² / (1 + η²)")
    middle.set_xlabel("Langevin time")
    right.bar(["re-noised", "tempered\nonly"], [dips.renoised, dips.tempered], width=0.5)
    right.axhline(1, color="k", lw=0.6)
    right.axhline(0.775, color="k", lw=0.8, ls=":")
    right.set(
        title="draws of p(x | yᵢ), ηᵢ² = 1", ylabel="variance, averaged over y", ylim=(0, 1.15)
    )
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("variance_dip", run, outcome, draw)


if __name__ == "__main__":
    main()
