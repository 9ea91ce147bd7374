"""From a deadline or a wanted accuracy to a preset and a number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from time import perf_counter
from typing import NamedTuple

import numpy as np

from recon.pipeline import CoarseReady, Event, Progress, work
from recon.posterior import SlicePosterior
from recon.schedule import PRESETS
from recon.settings import Settings
from service.report import Plan

_MARGIN = 0.8
"""Share of the time left that is planned for: slices differ, and results must be written."""
_DRAWS_PER_CYCLE = 0.7
"""What a cycle adds to a chain's one effective draw, for planning; what was reached is measured."""
_PROBED_STEPS = 6


class Speed(NamedTuple):
    """What one slice costs on this machine."""

    fixed_seconds: float
    """Calibration and coarse image."""
    seconds_per_evaluation: float
    """Of one chain, the likelihood's share included."""


def planned(settings: Settings, plan: Plan) -> Settings:
    """The settings with the plan's choices."""
    return replace(settings, preset=plan.preset, samples=plan.samples, self_check=plan.self_check)


_BY_QUALITY = (
    ("thorough", 16, True),
    ("thorough", 8, True),
    ("standard", 8, True),
    ("standard", 4, True),
    ("fast", 4, True),
    ("fast", 4, False),
    ("fast", 2, False),
)


def measure_speed(
    events: Iterator[Event], look: Callable[[], None], wait: Callable[[], None] = lambda: None
) -> Speed:
    """Run the beginning of one slice and look at the clock; `look` may stop it by raising.

    `wait` lets a device that works behind the host's back come to an end.
    """
    start = perf_counter()
    fixed, first, seen = 0.0, 0.0, 0
    for event in events:
        look()
        now = perf_counter()
        if isinstance(event, CoarseReady):
            fixed = now - start
        elif isinstance(event, Progress) and fixed > 0:
            seen += 1
            if seen == 1:
                wait()
                first = perf_counter()  # the first evaluation also warms caches up
            if seen > _PROBED_STEPS:
                break
    wait()
    elapsed = perf_counter() - first
    return Speed(fixed, elapsed / (2 * max(seen - 1, 1)))  # the pilot runs two chains


def plan_for_deadline(settings: Settings, seconds: float, slices: int, speed: Speed) -> Plan:
    """The best choice that is expected to be ready in time, or the quickest there is."""
    for preset, samples, check in _BY_QUALITY:
        plan = Plan(preset=preset, samples=samples, self_check=check and settings.self_check)
        expected = _expected_seconds(planned(settings, plan), slices, speed)
        if expected <= _MARGIN * seconds:
            break
    return plan.model_copy(update={"expected_seconds": expected})


def plan_for_accuracy(settings: Settings, target: float) -> Plan:
    """The cheapest choice that is expected to reach a Monte Carlo error of `target` stds."""
    wanted = 1 / target**2
    plans = list(_candidates(settings, wanted))
    return min(plans, key=lambda plan: work(planned(settings, plan)))


def reached_error(posteriors: Sequence[SlicePosterior]) -> float | None:
    """Median over all objects of Monte Carlo error over standard deviation; None if unknown."""
    judged = [(p, p.object_mask & (p.magnitude_std > 0)) for p in posteriors]
    shares = [p.mean_error[inside] / p.magnitude_std[inside] for p, inside in judged]
    finite = np.concatenate(shares)
    finite = finite[np.isfinite(finite)]
    return float(np.median(finite)) if finite.size else None


def _candidates(settings: Settings, wanted: float) -> Iterator[Plan]:
    for name, preset in PRESETS.items():
        per_chain = 1 + _DRAWS_PER_CYCLE * preset.cycles
        samples = min(256, max(2, math.ceil(wanted / per_chain)))
        yield Plan(preset=name, samples=samples, self_check=settings.self_check)


def _expected_seconds(settings: Settings, slices: int, speed: Speed) -> float:
    return slices * (speed.fixed_seconds + work(settings) * speed.seconds_per_evaluation)
