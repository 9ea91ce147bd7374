"""The noisy ring of Xun, Gupta and Price (their Fig. 1), sampled by their Algorithm 2.

    python -m benchmarks ring

Two independent truths: the Hessian in closed form beside differences of `RingPrior`'s score, and
posterior moments by quadrature on a grid beside the draws of the sampling kernel. The same levels
are run by unadjusted Langevin steps, whose variance is off by its step size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import special

from benchmarks.closed_form import weighted_problem
from benchmarks.record import Check, Outcome, publish
from recon.noise import NoiseStreams
from recon.prior import RingPrior, score
from recon.sampler import Level, State, diffuse, step
from recon.schedule import geometric

WIDTH, SIGMA, ETA = 0.1, 0.05, 0.1
START, MEASURED = complex(0.8198, 0.6542), 0.7148
CHAINS = 50_000
SMOOTHING = 0.01
"""Lowest prior level; the kernel's ring is narrower by as much, so that both agree."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Moments:
    """Mean (2,) and covariance (2, 2) of a two-dimensional distribution."""

    mean: Floats
    covariance: Floats

    @classmethod
    def of(cls, points: Floats) -> Moments:
        return cls(points.mean(axis=0), np.cov(points.T))


@dataclass(frozen=True)
class Ring:
    """Everything the ring experiment found."""

    radii: Floats
    hessian: Floats
    """(radii, 2): radial and tangential eigenvalue in closed form."""
    differences: Floats
    """(radii, 2): the same from differences of the prior's score."""
    anchored: Moments
    """p(x | x0) on the grid."""
    posterior: Moments
    """p(x | x0, y) on the grid."""
    localized: Floats
    """(chains, 2) draws after the reverse diffusion."""
    draws: Floats
    """(chains, 2) draws after annealed Langevin."""
    unadjusted: dict[float, Moments]
    """By step size in units of 1/L: the same levels with Euler-Maruyama steps."""


def hessian(radius: Floats) -> Floats:
    """(radii, 2) radial and tangential eigenvalue of the Hessian of log p."""
    variance = WIDTH**2
    argument = radius / variance
    ratio = special.i1e(argument) / special.i0e(argument)
    over = np.where(radius > 1e-9, ratio / np.maximum(radius, 1e-9), 1 / (2 * variance))
    radial = -1 / variance + (1 - over * variance - ratio**2) / variance**2
    return np.stack([radial, -1 / variance + over / variance], axis=1)


def score_differences(radius: Floats) -> Floats:
    """The same eigenvalues from central differences of the prior's own score."""
    prior = RingPrior(math.sqrt(WIDTH**2 - SMOOTHING**2))
    small = 1e-5

    def at(x: Floats, y: float) -> NDArray[np.complex128]:
        points = torch.from_numpy(x + 1j * y)[:, None, None]
        return score(prior, points, SMOOTHING).numpy()[:, 0, 0]

    radial = (at(radius + small, 0.0) - at(radius - small, 0.0)).real / (2 * small)
    tangential = (at(radius, small) - at(radius, -small)).imag / (2 * small)
    return np.stack([radial, tangential], axis=1)


def grid_moments(measured: bool) -> Moments:
    """Moments of p(x | x0), or of p(x | x0, y), by quadrature."""
    axis = np.linspace(-0.4, 0.4, 801)
    x, y = np.meshgrid(START.real + axis, START.imag + axis, indexing="ij")
    radius = np.hypot(x, y)
    argument = radius / WIDTH**2
    density = np.log(special.i0e(argument)) - (radius - 1) ** 2 / (2 * WIDTH**2)
    density -= ((x - START.real) ** 2 + (y - START.imag) ** 2) / (2 * SIGMA**2)
    if measured:
        density -= (x - MEASURED) ** 2 / (2 * ETA**2)
    weight = np.exp(density - density.max())
    weight /= weight.sum()
    points = np.stack([x.ravel(), y.ravel()])
    return Moments(points @ weight.ravel(), np.cov(points, aweights=weight.ravel(), ddof=0))


def unadjusted(start: Floats, size: float) -> Moments:
    """Algorithm 2 as it is written: frozen drift on a grid of step `size` / L, y re-noised."""
    rng = np.random.default_rng(1)
    prior = RingPrior(math.sqrt(WIDTH**2 - SMOOTHING**2))
    lipschitz = 1 / WIDTH**2 + 1 / SIGMA**2 + 1 / ETA**2
    h = size / lipschitz
    x = start[:, 0] + 1j * start[:, 1]
    etas = geometric(math.sqrt(ETA**2 * 1.5**6), ETA, 6)
    renoised = rng.standard_normal(len(x)) * math.sqrt(etas[0] ** 2 - ETA**2)
    for above, eta in pairwise(etas):
        then, now = max(eta**2 - ETA**2, 0.0), above**2 - ETA**2
        spread = math.sqrt(then * (now - then) / now)
        renoised = then / now * renoised + spread * rng.standard_normal(len(x))
        for _ in range(round(2 * SIGMA**2 / h)):
            points = torch.from_numpy(x)[:, None, None]
            drift = score(prior, points, SMOOTHING).numpy()[:, 0, 0] + (START - x) / SIGMA**2
            drift = drift + (MEASURED + renoised - x.real) / eta**2
            white = rng.standard_normal(len(x)) + 1j * rng.standard_normal(len(x))
            x = x + h * drift + math.sqrt(2 * h) * white
    return Moments.of(np.stack([x.real, x.imag], axis=1))


def run() -> Ring:
    """Localization and annealed Langevin towards p(x | x0, y)."""
    prior = RingPrior(math.sqrt(WIDTH**2 - SMOOTHING**2))
    one = torch.ones(1, 1)
    problem = weighted_problem(one, torch.full((1, 1, 1), MEASURED + 0j), ETA, 0 * one)
    noise = NoiseStreams.pooled(0, CHAINS)
    start = torch.full((CHAINS, 1, 1), START)
    white = problem.solver.white(noise, start)
    state = State(start, white, start, torch.zeros_like(start), 0.0)
    exact = RingPrior(WIDTH)
    for high, low in pairwise(geometric(SIGMA, 0.001, 60)):
        state, _ = diffuse(exact, high, low, state, noise)
    localized = torch.view_as_real(state.image[:, 0, 0]).double().numpy()
    for eta in geometric(math.sqrt(0.114), ETA, 6)[1:]:
        level = Level(SMOOTHING, SMOOTHING, 1.0, eta, anchor_sigma=SIGMA)
        for _ in range(50):
            state, _ = step(problem, prior, level, state, noise)
    draws = torch.view_as_real(state.image[:, 0, 0]).double().numpy()
    radii = np.linspace(0, 1.3, 261)
    return Ring(
        radii,
        hessian(radii),
        score_differences(radii),
        grid_moments(measured=False),
        grid_moments(measured=True),
        localized,
        draws,
        {size: unadjusted(localized, size) for size in (0.1, 0.5)},
    )


def outcome(ring: Ring) -> Outcome:
    """The reference's figures beside what was found."""
    at = [int(np.argmin(np.abs(ring.radii - radius))) for radius in (0, 0.5, 1)]
    largest = ring.differences.max(axis=1)[at]
    # The largest eigenvalue lies along the tangent, beyond the centre.
    checks = [
        Check(
            f"largest eigenvalue of the Hessian at r = {r}", found, expected, 0.003 * abs(expected)
        )
        for r, found, expected in zip((0, 0.5, 1), largest, (4900, 97.99, -0.501), strict=True)
    ]
    localized, final = Moments.of(ring.localized), Moments.of(ring.draws)
    for name, found, grid, means, variances in (
        ("x0", localized, ring.anchored, (0.8113, 0.6474), (0.00219, 0.00229)),
        ("x0, y", final, ring.posterior, (0.7940, 0.6492), (0.00180, 0.00229)),
    ):
        for axis in (0, 1):
            target = f"p(x | {name}), coordinate {axis + 1}"
            variance = grid.covariance[axis, axis]
            checks += [
                Check(f"grid mean of {target}", grid.mean[axis], means[axis], 1e-4),
                Check(f"mean of {target}", found.mean[axis], grid.mean[axis], 1e-3),
                Check(f"grid variance of {target}", variance, variances[axis], 1e-5),
                Check(
                    f"variance ratio of {target}",
                    found.covariance[axis, axis] / variance,
                    1,
                    0.03,
                ),
            ]
    for size, expected in ((0.1, (1.05, 1.04)), (0.5, (1.30, 1.22))):
        ratio = ring.unadjusted[size].covariance.diagonal() / ring.posterior.covariance.diagonal()
        checks += [
            Check(f"unadjusted step {size}/L, variance ratio {axis + 1}", ratio[axis], each, 0.03)
            for axis, each in enumerate(expected)
        ]
    rows = [
        {
            "distribution": name,
            **{f"mean {k + 1}": m.mean[k] for k in (0, 1)},
            "variance 1": m.covariance[0, 0],
            "covariance": m.covariance[0, 1],
            "variance 2": m.covariance[1, 1],
        }
        for name, m in (
            ("p(x | x0), grid", ring.anchored),
            ("p(x | x0), reverse diffusion", localized),
            ("p(x | x0, y), grid", ring.posterior),
            ("p(x | x0, y), Algorithm 2 by the kernel", final),
            *((f"p(x | x0, y), unadjusted, h = {k}/L", v) for k, v in ring.unadjusted.items()),
        )
    ]
    return Outcome(
        tuple(checks),
        tuple(rows),
        f"{CHAINS} chains: standard error 2e-4 of a mean, 0.6 % of a variance",
    )


def draw(ring: Ring) -> Figure:
    """The ring with its draws; the Hessian; the marginal that the measurement moves."""
    figure, (plane, curve, marginal) = plt.subplots(
        1, 3, figsize=(12, 4), layout="constrained", width_ratios=(1, 1.1, 1.1)
    )
    axis = np.linspace(-1.5, 1.5, 400)
    radius = np.hypot(*np.meshgrid(axis, axis))
    density = special.i0e(radius / WIDTH**2) * np.exp(-((radius - 1) ** 2) / (2 * WIDTH**2))
    plane.imshow(density, extent=(-1.5, 1.5, -1.5, 1.5), origin="lower", cmap="Greys")
    plane.plot(*ring.localized[:400].T, ".", ms=1.5, color="tab:blue", label="p(x | x₀)")
    plane.plot(*ring.draws[:400].T, ".", ms=1.5, color="tab:red", label="p(x | x₀, y)")
    plane.axvline(MEASURED, color="k", lw=0.8, ls=":", label="y (first coordinate)")
    plane.set(title="prior (grey) and draws", xlabel="$x_1$", ylabel="$x_2$")
    plane.legend(loc=(0.3, 0.4), markerscale=5, fontsize=7, framealpha=1)
    for column, name in enumerate(("radial", "tangential")):
        line = curve.plot(ring.radii, ring.hessian[:, column], label=f"{name}, closed form")[0]
        points = ring.differences[::10, column]
        curve.plot(ring.radii[::10], points, "o", ms=4, mfc="none", color=line.get_color())
    curve.plot([], [], "o", ms=4, mfc="none", color="k", label="differences of the score")
    curve.set_yscale("symlog", linthresh=10)
    curve.axhline(0, color="k", lw=0.6)
    curve.set(title="eigenvalues of ∇² log p", xlabel="radius")
    curve.legend(fontsize=8)
    span = np.linspace(0.6, 1.0, 61)
    for moments, points, color, name in (
        (ring.anchored, ring.localized, "tab:blue", "p(x | x₀)"),
        (ring.posterior, ring.draws, "tab:red", "p(x | x₀, y)"),
    ):
        marginal.hist(points[:, 0], span, density=True, color=color, alpha=0.35, label=name)
        variance = moments.covariance[0, 0]
        normal = np.exp(-((span - moments.mean[0]) ** 2) / (2 * variance))
        marginal.plot(span, normal / math.sqrt(2 * math.pi * variance), color=color)
    marginal.set(title="draws, and the grid's moments", xlabel="$x_1$")
    marginal.set_yticks([])
    marginal.legend(fontsize=8)
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("ring", run, outcome, draw)


if __name__ == "__main__":
    main()
