"""A score error hidden on a thin shell (Xun, Gupta and Price, Lemma F.2).

    python -m benchmarks thin_shell

p = N(0, I) in 400 dimensions, y = x + N(0, 0.1 I). The score is right but on the shell
| |x|^2 / (sigma^2 d) - 1 | <= 0.15, sigma^2 = 6/11: there it is off by M along one coordinate.
The shell is so thin for p that M is large at a small L4 error (M = error * m^(-1/4), m = P(shell)
= 5e-10). Plain Langevin contracts into the shell on its way; annealed Langevin stays outside.
The steps are Algorithm 1's own (frozen drift, y re-noised), at several sizes of the error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import stats

from benchmarks.record import Check, Outcome, publish

DIMENSION, NOISE_VARIANCE, HALF_WIDTH, MOMENT = 400, 0.1, 0.15, 4
SHELL = 6 / 11
"""Variance per coordinate at which plain Langevin is narrowest."""
ERRORS = (0.0125, 0.025, 0.05, 0.1)
"""L4 errors of the score."""
MAIN = 0.05
GAMMAS = (1.0, 0.5, 0.25)
CHAINS = 300
STEP = 0.02
"""Step size in units of the inverse of the target's precision."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Walk:
    """What happened to the chains of one run."""

    times: Floats
    size: Floats
    """Mean of |x|^2 / d at each time."""
    inside: Floats
    """Share of the chains on the shell at each time."""
    bias: Floats
    """What the error has moved the first coordinate by, in posterior stds.

    The drift is linear beside the error, so that the difference from a chain with the right score
    and the same random numbers is followed exactly.
    """


@dataclass(frozen=True)
class Shell:
    """Everything the experiment found."""

    mass: float
    plain: dict[float, Walk]
    annealed: dict[float, Walk]
    """At gamma = 1, by the size of the error."""
    ladders: dict[float, Walk]
    """At the main error, by gamma."""


def shell_mass() -> float:
    """Probability of the shell under p."""
    low, high = ((1 + sign * HALF_WIDTH) * SHELL * DIMENSION for sign in (-1, 1))
    return float(stats.chi2.cdf(high, DIMENSION) - stats.chi2.cdf(low, DIMENSION))


def error_size(error: float) -> float:
    """M: how far the score is off on the shell."""
    return error * shell_mass() ** (-1 / MOMENT)


def walk(error: float, stages: list[tuple[float, float]], seed: int) -> Walk:
    """Chains from p through (noise variance, Langevin time) stages; y is re-noised for each."""
    rng = np.random.default_rng(seed)
    shape = (CHAINS, DIMENSION)
    truth = rng.standard_normal(shape, dtype=np.float32)
    y = truth + math.sqrt(NOISE_VARIANCE) * rng.standard_normal(shape, dtype=np.float32)
    # y_1 <- y_2 <- ... <- y: the noise of a path is the same path, walked down as a bridge.
    extra = stages[0][0] - NOISE_VARIANCE
    renoised = math.sqrt(extra) * rng.standard_normal(shape, dtype=np.float32)
    x = rng.standard_normal(shape, dtype=np.float32)
    moved = np.zeros(CHAINS)
    std = math.sqrt(NOISE_VARIANCE / (1 + NOISE_VARIANCE))
    kick = np.float32(error_size(error))
    record: list[tuple[float, float, float, float]] = []
    time = 0.0
    for variance, duration in stages:
        then = variance - NOISE_VARIANCE
        if then < extra:
            spread = math.sqrt(max(then * (extra - then) / extra, 0.0))
            renoised = then / extra * renoised + spread * rng.standard_normal(shape, np.float32)
            extra = then
        precision = 1 + 1 / variance
        steps = max(1, round(duration * precision / STEP))
        h = np.float32(duration / steps)
        data = (y + renoised) / np.float32(variance)
        for _ in range(steps):
            energy = np.einsum("ij,ij->i", x, x) / (SHELL * DIMENSION)
            inside = np.abs(energy - 1) <= HALF_WIDTH
            bias = float(moved.mean()) / std
            record.append((time, float(energy.mean()) * SHELL, float(inside.mean()), bias))
            drift = data - np.float32(precision) * x
            drift[inside, 0] += kick
            moved = (1 - h * precision) * moved + h * kick * inside
            x = x + h * drift
            x += np.float32(math.sqrt(2 * h)) * rng.standard_normal(shape, dtype=np.float32)
            time += float(h)
    columns = np.array(record).T
    return Walk(columns[0], columns[1], columns[2], columns[3])


def ladder(gamma: float) -> list[tuple[float, float]]:
    """Stages from noise variance 40 or more down; each lasts two relaxation times."""
    count = math.ceil(math.log(40 / NOISE_VARIANCE) / math.log(1 + gamma))
    variances = [NOISE_VARIANCE * (1 + gamma) ** k for k in range(count, -1, -1)]
    return [(variance, 2 / (1 + 1 / variance)) for variance in variances]


def run() -> Shell:
    """Plain and annealed Langevin at every size of the error; three ladders at the main one."""
    return Shell(
        shell_mass(),
        {error: walk(error, [(NOISE_VARIANCE, 0.25)], 1) for error in ERRORS},
        {error: walk(error, ladder(1.0), 2) for error in ERRORS},
        {gamma: walk(MAIN, ladder(gamma), 3) for gamma in GAMMAS},
    )


def outcome(shell: Shell) -> Outcome:
    """The reference's numbers at the main error, and the table over errors."""
    plain = shell.plain[MAIN]
    early = plain.times <= 0.12
    at = int(np.argmin(np.abs(plain.times - 0.12)))
    checks = [
        Check("mass of the shell", shell.mass / 5.4e-10, 1, 0.02),
        Check("M at L4 error 0.05", error_size(MAIN), 10.35, 0.05),
        Check("plain: smallest |x|²/d", float(plain.size.min()), 0.547, 0.005),
        Check(
            "plain: share of steps on the shell, t ≤ 0.12", plain.inside[early].mean(), 0.62, 0.03
        ),
        Check("plain: bias of coordinate 1 at t = 0.12", plain.bias[at], 1.55, 0.05),
        Check("plain: bias of coordinate 1 at t = 0.25", plain.bias[-1], 0.40, 0.05),
    ]
    rows = []
    for gamma, each in shell.ladders.items():
        checks += [
            Check(f"annealed, γ = {gamma:g}: share on the shell", each.inside.mean(), 0, 1e-5),
            Check(f"annealed, γ = {gamma:g}: final bias", each.bias[-1], 0, 0.02),
        ]
        rows.append(_row(f"annealed, gamma = {gamma:g}", MAIN, each))
    for error in ERRORS:
        rows.append(_row("plain", error, shell.plain[error]))
        rows.append(_row("annealed, gamma = 1", error, shell.annealed[error]))
    return Outcome(
        tuple(checks),
        tuple(rows),
        f"{CHAINS} chains: standard error 0.02 posterior stds of a bias; steps of {STEP:g} over "
        f"the precision widen a variance by {STEP / 2:.0%}",
    )


def _row(name: str, error: float, each: Walk) -> dict[str, float | str]:
    return {
        "chain": name,
        "L4 error": error,
        "M": error_size(error),
        "smallest |x|^2/d": float(each.size.min()),
        "share of steps on the shell": float(each.inside.mean()),
        "largest bias": float(np.abs(each.bias).max()),
        "final bias": float(each.bias[-1]),
    }


def draw(shell: Shell) -> Figure:
    """Size of the chains against the shell, and the bias against the size of the error."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    for name, each, color in (
        ("plain", shell.plain[MAIN], "tab:red"),
        *(
            (f"annealed, γ = {gamma:g}", each, color)
            for (gamma, each), color in zip(
                shell.ladders.items(), ("tab:blue", "tab:cyan", "tab:green"), strict=True
            )
        ),
    ):
        progress = np.linspace(0, 1, len(each.times))
        left.plot(progress, each.size, color=color, label=name)
        if name in {"plain", "annealed, γ = 1"}:
            middle.plot(progress, each.bias, color=color, label=name)
    low, high = SHELL * (1 - HALF_WIDTH), SHELL * (1 + HALF_WIDTH)
    left.axhspan(low, high, color="grey", alpha=0.3, label="shell, where the score is wrong")
    left.set(title="size of the chains", xlabel="share of the steps", ylabel="mean |x|² / d")
    left.set_ylim(0.1, 1.05)
    left.legend(fontsize=7, loc="lower right", framealpha=1)
    middle.axhline(0, color="k", lw=0.6)
    middle.set(
        title=f"first coordinate, L4 error {MAIN:g}",
        xlabel="share of the steps",
        ylabel="bias, posterior stds",
    )
    middle.legend(fontsize=8)
    for name, walks, color in (
        ("plain", shell.plain, "tab:red"),
        ("annealed, γ = 1", shell.annealed, "tab:blue"),
    ):
        largest = [float(np.abs(each.bias).max()) for each in walks.values()]
        right.plot(list(walks), largest, "o-", color=color, label=name)
    right.set(
        title="largest bias on the way", xlabel="L4 error of the score", ylabel="posterior stds"
    )
    right.legend(fontsize=8)
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("thin_shell", run, outcome, draw)


if __name__ == "__main__":
    main()
