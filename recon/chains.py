"""The chains of one slice: localization, annealed Langevin, and cycles that give more draws."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from recon.errors import ConvergenceError
from recon.noise import NoiseKey, NoiseStreams
from recon.paths import AnnealingPath, Descent
from recon.prior import Prior
from recon.sampler import InverseProblem, State, diffuse, init, step
from recon.schedule import STEP, Preset, cycle_top, focus_of, geometric

_Result = TypeVar("_Result")
_GROWTH = 4.0
"""A draw's chi^2 may not exceed the last one's by more than this, once it is far above one."""
_FAR = 25.0


@dataclass(frozen=True)
class ChainPlan:
    """Everything that shapes a chain except its random numbers."""

    preset: Preset
    path: AnnealingPath
    localization_sigma: float
    """How far the coarse image may be off, per real component."""
    lowest_sigma: float
    """Noise levels of the prior: where chains end,"""
    highest_sigma: float
    """and beyond which they may not begin."""
    posterior_std: float | None = None
    """Of a pixel's real component, about: steps are dense around it, cycles return to twice as
    much. None while nothing is known: equal ratios, and no cycles."""
    step: float = STEP


class Advance(NamedTuple):
    """One step done, for progress bars and previews."""

    stage: str
    evaluations: int
    """Done so far, per chain."""
    denoised: Tensor


class Draws(NamedTuple):
    """What the chains retained."""

    images: Tensor
    """(chains, draws, rows, columns): states at the lowest noise level, after each annealing."""
    step: float
    """The Langevin step that was used in the end."""


class _DivergedError(Exception):
    """A non-finite value or a growing residual."""


def run_chains(
    problem: InverseProblem,
    prior: Prior,
    plan: ChainPlan,
    coarse: Tensor,
    key: NoiseKey,
    chains: range,
) -> Generator[Advance, None, Draws]:
    """Run the chains numbered `chains`, yielding after each network evaluation.

    A non-finite value or a growing residual
    starts the chains again with half the step.

    Raises:
        ConvergenceError: when that happens a second time.
    """
    for attempt in (plan, replace(plan, step=plan.step / 2)):
        noise = NoiseStreams.of(key, chains)
        try:
            return (yield from _run(problem, prior, attempt, coarse, noise))
        except _DivergedError:
            continue
    raise ConvergenceError(
        "diverged",
        "the chains left the region of finite, data-consistent images twice, the second time "
        "with half the step; the noise level or the coil maps of this slice are probably wrong",
    )


def finished(run: Generator[object, None, _Result]) -> _Result:
    """What a run returns at its end, for whoever does not watch it."""
    while True:
        try:
            next(run)
        except StopIteration as stop:
            result: _Result = stop.value
            return result


def _run(
    problem: InverseProblem, prior: Prior, plan: ChainPlan, coarse: Tensor, noise: NoiseStreams
) -> Generator[Advance, None, Draws]:
    preset, path = plan.preset, plan.path
    widths = path.widths(plan.localization_sigma, plan.lowest_sigma, plan.highest_sigma)
    top, focus = widths.end, None
    if plan.posterior_std is not None:
        focus = focus_of(plan.posterior_std, plan.lowest_sigma)
        top = cycle_top(plan.posterior_std, plan.lowest_sigma, plan.localization_sigma)
    down = Descent(preset.annealing, plan.lowest_sigma, problem.noise_std, plan.step, focus)
    first = path.first(widths, down)
    again = path.again(top, down._replace(steps=preset.cycle))
    state = init(problem, coarse, widths.start, noise)
    done, images, misfit = 0, [], math.inf
    sigmas = geometric(widths.start, widths.end, preset.localization)
    for sigma, next_sigma in pairwise(sigmas):
        state, denoised = diffuse(prior, sigma, next_sigma, state, noise)
        done += 1
        yield Advance("localization", done, denoised)
    for draw in range(preset.cycles + 1):
        if draw > 0:
            state = path.reopen(problem, state, plan.lowest_sigma, top, noise)
        stage = "annealing" if draw == 0 else f"draw {draw} of {preset.cycles}"
        for level in first if draw == 0 else again:
            state, denoised = step(problem, prior, level, state, noise)
            done += 1
            yield Advance(stage, done, denoised)
        misfit = _checked_misfit(problem, state, misfit)
        images.append(state.image)
    return Draws(torch.stack(images, dim=1), plan.step)


def _checked_misfit(problem: InverseProblem, state: State, last: float) -> float:
    # Once a stage: on a GPU every look at a number waits for all that was asked of it before. A
    # chain that is not finite stays so, and so does its residual.
    misfit = float(problem.chi2(state.image).max())
    if not math.isfinite(misfit) or (misfit > _FAR and misfit > _GROWTH * last):
        raise _DivergedError
    return misfit
