"""Error of the refined image against that of the coarse one (Corollary 1.3).

    python -m benchmarks refinement

Xun, Gupta and Price's Algorithm 3: from any x0 with |x0 - x| <= R, noise of std sigma is added and
p(x | x0', y) is sampled by localization and annealed Langevin. If any method recovers x up to an
error r, the result is within 2 r. A Gaussian prior of 64 x 64 pixels is measured with weights from
0 to 1. The error of an exact draw of p(x | y), which stands for r, and that of every target
p(x | x0', y) are then known in closed form. sigma is four times the coarse error per component.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.closed_form import weighted_problem, white_image
from benchmarks.record import Check, Outcome, publish
from recon.noise import NoiseStreams
from recon.prior import GaussianPrior
from recon.sampler import Level, State, diffuse, init, step
from recon.schedule import geometric

SIDE, NOISE_STD = 64, 0.05
COARSE = tuple(float(r) for r in np.geomspace(0.02, 3, 9))
"""Coarse errors, root-mean-square per component; the prior's std is 1."""
WIDENING = 4.0
"""Noise of x0' in coarse errors."""
LOCALIZATION, LEVELS, STEPS = 48, 24, 4
SCORE = 0.3
"""Level at which the kernel takes the score; a step moves weakly measured directions by its square,
so that much lower levels would not mix in a hundred steps."""


@dataclass(frozen=True)
class Refined:
    """Errors of one coarse error, root-mean-square per component."""

    coarse: float
    found: float
    """Of the draw of Algorithm 3."""
    exact: float
    """Expected of an exact draw of p(x | x0', y)."""


@dataclass(frozen=True)
class Refinement:
    """Everything the experiment found."""

    rows: tuple[Refined, ...]
    draw_error: float
    """Of an exact draw of p(x | y): r."""
    mean_error: float
    """Of the posterior mean: the best possible."""


def weights() -> Tensor:
    """(SIDE, SIDE) measurement weights: half nothing, the others from 0.02 to 1."""
    ladder = torch.cat([torch.zeros(SIDE // 2), torch.logspace(math.log10(0.02), 0, SIDE // 2)])
    return ladder.expand(SIDE, SIDE).contiguous()


def refine(truth: Tensor, measurement: Tensor, coarse: Tensor, sigma: float) -> Tensor:
    """One draw of p(x | x0', y) by localization and annealed Langevin with its anchor kept."""
    problem = weighted_problem(weights(), measurement, NOISE_STD)
    empty = torch.zeros_like(truth)
    prior = GaussianPrior(empty, torch.ones(SIDE, SIDE))
    # The corollary's score is that of the unsmoothed prior: a narrower prior, smoothed by SCORE.
    unsmoothed = GaussianPrior(empty, torch.full((SIDE, SIDE), 1 - SCORE**2))
    noise = NoiseStreams.pooled(77, 1)
    state: State = init(problem, coarse, sigma, noise)
    sigmas = geometric(sigma, sigma / 50, LOCALIZATION)
    for high, next_sigma in pairwise(sigmas):
        state, _ = diffuse(prior, high, next_sigma, state, noise)
    etas = geometric(max(3 * sigma, 4 * NOISE_STD), NOISE_STD, LEVELS)[1:]
    for eta in (*etas, *(NOISE_STD,) * 4):
        level = Level(SCORE, SCORE, 1.0, eta, anchor_sigma=sigma)
        for _ in range(STEPS):
            state, _ = step(problem, unsmoothed, level, state, noise)
    return state.image[0]


def run() -> Refinement:
    """One image, coarse images at every distance."""
    truth, error, direction = (white_image(SIDE, SIDE, seed=900 + k) for k in range(3))
    measurement = (weights() * truth + NOISE_STD * error)[None]
    variance = 1 / (1 + weights().double() ** 2 / NOISE_STD**2)
    rows = []
    for coarse in COARSE:
        sigma = WIDENING * coarse
        image = refine(truth, measurement, truth + coarse * direction, sigma)
        target = 1 / (1 / variance + 1 / sigma**2)
        # E |draw - truth|^2: its own spread, and that of its mean, whose part that follows the
        # coarse error is not of size sigma but of size coarse.
        posterior = target + target**2 * (1 / variance + (1 + 1 / WIDENING**2) / sigma**2)
        found = float((image - truth).abs().square().mean() / 2) ** 0.5
        rows.append(Refined(coarse, found, float(posterior.mean()) ** 0.5))
    return Refinement(tuple(rows), float(2 * variance.mean()) ** 0.5, float(variance.mean()) ** 0.5)


def outcome(refinement: Refinement) -> Outcome:
    """At most twice r everywhere, and what an exact sampler of the target would have."""
    checks = []
    for row in refinement.rows:
        ratio = row.found / refinement.draw_error
        name = f"coarse error {row.coarse:.3g}"
        checks.append(Check(f"{name}: refined error over r, at most 2", ratio, 1, 1))
        checks.append(Check(f"{name}: refined over exact", row.found / row.exact, 1, 0.06))
    rows = [
        {
            "coarse error": row.coarse,
            "refined error": row.found,
            "exact draw of p(x | x0', y)": row.exact,
            "exact draw of p(x | y)": refinement.draw_error,
            "posterior mean": refinement.mean_error,
        }
        for row in refinement.rows
    ]
    return Outcome(
        tuple(checks),
        tuple(rows),
        f"{2 * SIDE**2} components: standard error about 1 % of an error",
    )


def draw(refinement: Refinement) -> Figure:
    """Refined against coarse error."""
    figure, axes = plt.subplots(figsize=(6, 4.4), layout="constrained")
    coarse = [row.coarse for row in refinement.rows]
    axes.loglog(
        coarse, [row.found for row in refinement.rows], "o", label="Algorithm 3, the kernel"
    )
    axes.loglog(
        coarse,
        [row.exact for row in refinement.rows],
        "-",
        color="tab:blue",
        label="its exact target",
    )
    axes.loglog(coarse, coarse, "k:", lw=0.9, label="the coarse image itself")
    axes.axhline(2 * refinement.draw_error, color="tab:red", lw=0.9, label="2 r, the guarantee")
    axes.axhline(
        refinement.draw_error, color="tab:red", ls="--", lw=0.9, label="r: exact draw of p(x | y)"
    )
    axes.axhline(
        refinement.mean_error, color="tab:green", ls="--", lw=0.9, label="best possible: its mean"
    )
    axes.set(xlabel="RMS error of the coarse image", ylabel="RMS error of the refined image")
    axes.legend(fontsize=8)
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("refinement", run, outcome, draw)


if __name__ == "__main__":
    main()
