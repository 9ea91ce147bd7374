"""How few network evaluations reach what `thorough` finds: the frontier that the presets lie on.

    python -m benchmarks frontier

On each scan `thorough` runs once; its mean and its std are the goal. Then eight chains run through
each of a few schedules (steps of the first annealing, steps of a cycle, step size h, width of the
start) with three cycles, and the first chains and the first cycles of them are what shorter runs
would have given: a run of two chains and one cycle is part of that of eight and three. A point
reaches the goal when its mean is at most 0.1 dB below that of `thorough` against the truth, and its
std (root mean square over the object) within 5 %. Evaluations are of a whole slice, all chains,
the pilot run among them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.record import Check, Outcome, publish
from benchmarks.shared_slice import Case, undersampled
from models.loading import load_prior
from recon import convergence, diagnostics
from recon.calibration import calibrate
from recon.chains import finished, run_chains
from recon.evaluation import volume_scores
from recon.noise import NoiseKey
from recon.paths import PriorPath
from recon.preparation import PILOT, PreparedSlice, fit_noise, inverse_problem, prepare, prior_of
from recon.prior import Prior
from recon.reference import Combination, model_of, reference_of
from recon.schedule import PRESETS, STEP, Preset
from recon.settings import Settings
from service.runs import DEFAULT_MODEL

CASES = (Case("brain_t1_8ch", 4), Case("brain_t1_8ch", 8))
PHANTOM = (Case("phantom", 4, 0.13),)
CHAINS, CYCLES = 8, 3
MEAN_GAP, STD_GAP = 0.1, 0.05


@dataclass(frozen=True)
class Schedule:
    """One way to spend evaluations, after two of localization."""

    name: str
    annealing: int
    cycle: int
    step: float = STEP
    narrower: float = 1
    """By how much less noise the chains start than the presets do."""

    def preset(self, chains: int, cycles: int) -> Preset:
        """The schedule with so many chains and cycles of each."""
        return Preset(chains, 2, self.annealing, cycles, self.cycle)


SCHEDULES = (
    Schedule("16 first, cycles of 9", annealing=16, cycle=9),
    Schedule("24 first, cycles of 7", annealing=24, cycle=7),
    Schedule("24 first, cycles of 11", annealing=24, cycle=11),
    Schedule("30 first, cycles of 15 (fast)", annealing=30, cycle=15),
    Schedule("40 first, cycles of 6", annealing=40, cycle=6),
    Schedule("40 first, cycles of 20", annealing=40, cycle=20),
    Schedule("70 first, cycles of 28 (standard)", annealing=70, cycle=28),
    Schedule("30 first, cycles of 15, h = 1", annealing=30, cycle=15, step=1.0),
    Schedule("30 first, cycles of 15, h = 1.6", annealing=30, cycle=15, step=1.6),
    Schedule("30 first, cycles of 15, start / 3", annealing=30, cycle=15, narrower=3),
)


@dataclass(frozen=True)
class Point:
    """What a run of some chains and cycles of a schedule gives."""

    case: str
    schedule: str
    chains: int
    cycles: int
    evaluations: int
    """Of a slice."""
    psnr: float
    below: float
    """dB that the mean is below that of `thorough`."""
    std_ratio: float
    """Std over that of `thorough`."""

    @property
    def reaches(self) -> bool:
        """Whether it is as good as `thorough`."""
        return self.below <= MEAN_GAP and abs(self.std_ratio - 1) <= STD_GAP


@dataclass(frozen=True)
class Judge:
    """Turns draws into the PSNR of their mean and the size of their spread."""

    current: PreparedSlice
    reference: np.ndarray
    inside: np.ndarray

    def __call__(self, images: Tensor) -> tuple[float, float]:
        pictures = self.current.picture(images)
        mean = self.current.in_input_units(pictures.flatten(0, 1).mean(dim=0))
        magnitude = pictures.abs()
        worth = convergence.independent_draws(magnitude, convergence.nearby)
        std = magnitude.flatten(0, 1).std(dim=0, correction=0)
        std = (diagnostics.spread_correction(worth) * std)[torch.from_numpy(self.inside)]
        psnr = volume_scores(self.reference[None], mean[None]).psnr
        return psnr, float(std.square().mean().sqrt())


def points(case: Case, prior: Prior) -> Iterator[Point]:
    """All points of a scan; the first is `thorough` itself."""
    (full, scan), settings = undersampled(case), Settings(preset="thorough")
    calibration = calibrate(scan, 0, model_of(scan, settings.calibration))
    raw = inverse_problem(calibration, torch.device("cpu"))
    prior = prior_of(prior, raw, (settings.seed, "slice-0"))
    current = finished(fit_noise(prepare(calibration, raw, 0, prior, settings), prior, settings))
    reference = reference_of(full, scan.mask, Combination.SENSE).images[0]
    judge = Judge(current, reference, diagnostics.object_mask(np.abs(reference)))

    def drawn(preset: Preset, schedule: Schedule) -> Tensor:
        plan = replace(
            current.plan,
            preset=preset,
            step=schedule.step,
            path=PriorPath(widening=PriorPath.widening / schedule.narrower),
        )
        seed, chains = NoiseKey(0, "frontier"), range(preset.chains)
        run = run_chains(current.problem, prior, plan, current.coarse, seed, chains)
        draws = finished(run)
        return draws.images

    goal = PRESETS["thorough"]
    best, spread = judge(drawn(goal, Schedule("thorough", goal.annealing, goal.cycle)))
    pilot = PILOT.work
    evaluations = pilot + goal.work
    yield Point(case.name, "thorough", goal.chains, goal.cycles, evaluations, best, 0.0, 1.0)
    for schedule in SCHEDULES:
        images = drawn(schedule.preset(CHAINS, CYCLES), schedule)
        for chains, cycles in product((2, 4, 8), range(CYCLES + 1)):
            preset = schedule.preset(chains, cycles)
            psnr, std = judge(images[:chains, : preset.draws])
            yield Point(
                case.name,
                schedule.name,
                chains,
                cycles,
                pilot + chains * preset.evaluations,
                psnr,
                best - psnr,
                std / spread,
            )


def experiment() -> list[Point]:
    """Every scan that is there; the phantom without them."""
    torch.set_num_threads(1)
    prior = load_prior(DEFAULT_MODEL)
    found = []
    for case in [each for each in CASES if each.available] or PHANTOM:
        for point in points(case, prior):
            print(point, flush=True)
            found.append(point)
    return found


def preset_point(found: list[Point], case: str, name: str) -> Point:
    """The point of `fast` or `standard`."""
    preset = PRESETS[name]
    return next(
        point
        for point in found
        if (point.case, point.chains, point.cycles) == (case, preset.chains, preset.cycles)
        and point.schedule.endswith(f"({name})")
    )


def outcome(found: list[Point]) -> Outcome:
    """Whether `standard` reaches the goal on every scan."""
    checks = []
    for case in dict.fromkeys(point.case for point in found):
        standard = preset_point(found, case, "standard")
        checks += [
            Check(f"{case}: standard, dB below thorough", max(standard.below, 0), 0, MEAN_GAP),
            Check(f"{case}: standard, std over thorough's", standard.std_ratio, 1, STD_GAP),
        ]
    rows = tuple({**vars(point), "reaches": point.reaches} for point in found)
    return Outcome(tuple(checks), rows, "one slice, one mask and one seed per scan")


def draw(found: list[Point]) -> Figure:
    """A panel per scan: what is lost against evaluations; full marks where the std is right too."""
    cases = list(dict.fromkeys(point.case for point in found))
    figure, panels = plt.subplots(
        1, len(cases), figsize=(6.5 * len(cases), 4.8), layout="constrained", squeeze=False
    )
    for panel, case in zip(panels[0], cases, strict=True):
        for number, schedule in enumerate(SCHEDULES):
            chosen = [p for p in found if (p.case, p.schedule) == (case, schedule.name)]
            for wanted in (True, False):
                shown = [p for p in chosen if (abs(p.std_ratio - 1) <= STD_GAP) == wanted]
                panel.plot(
                    [point.evaluations for point in shown],
                    [max(point.below, 2e-3) for point in shown],
                    "o",
                    color=plt.colormaps["tab20"](number),
                    fillstyle="full" if wanted else "none",
                    label=schedule.name if wanted else None,
                    markersize=5,
                )
        for name, mark in (("fast", "^"), ("standard", "s")):
            point = preset_point(found, case, name)
            place = (point.evaluations, max(point.below, 2e-3))
            panel.plot(*place, mark, color="black", fillstyle="none", markersize=13, label=name)
        panel.axhline(MEAN_GAP, color="grey", lw=0.8, ls="--")
        panel.set(xscale="log", yscale="log", title=case, xlabel="network evaluations of a slice")
        panel.set_ylabel("mean, dB below thorough")
    panels[0, 0].legend(fontsize=8)
    return figure


def main() -> bool:
    """Measure and publish."""
    return publish("frontier", experiment, outcome, draw)


if __name__ == "__main__":
    main()
