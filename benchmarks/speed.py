"""What a slice costs beside its network evaluations, and how that grows.

    python -m benchmarks speed

A phantom of the stated matrix and coils is calibrated and sampled with the shipped prior. After
every step of the sampler the network alone is run on as large a batch at the same level of noise
(levels have networks of their own, of which one costs a thirteenth), so that both are measured side
by side; `ratio` is the one over the other. Each row is a process of its own, for its peak
memory. The shares of the chains' time come from a second run under the profiler. On a machine with
a GPU everything runs there.
"""

from __future__ import annotations

import cProfile
import platform
import resource
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from matplotlib.figure import Figure

from benchmarks.record import Check, Outcome, Row, publish
from models.loading import load_prior
from recon.calibration import CalibrationSettings, calibrate
from recon.chains import Advance, ChainPlan, run_chains
from recon.choices import PatternName
from recon.noise import NoiseKey
from recon.phantom import simulate
from recon.power import power_of
from recon.preparation import as_sampled, inverse_problem, prepare
from recon.prior import Prior
from recon.receivers import noise_model
from recon.sampler import InverseProblem
from recon.schedule import PRESETS, Preset
from recon.settings import Settings
from recon.symmetry import is_symmetric
from recon.undersampling import undersample, undersampling_mask
from service.runs import DEFAULT_MODEL

SHORT = Preset(chains=8, localization=2, annealing=8, cycles=0, cycle=9)
"""The standard preset without its cycles, which are made of the same steps."""
PARTS = {
    "network": ("denoiser.py", "denoise"),
    "solves": ("solve.py", "relaxed"),
    "noise": ("noise.py", "normal"),
    "residuals": ("operators.py", "forward"),
}
"""Where the chains' time goes: file and function whose cumulative time counts."""


@dataclass(frozen=True)
class Case:
    """One row."""

    matrix: int = 256
    coils: int = 8
    chains: int = 8
    mask: PatternName = "equispaced"
    axis: str = ""
    """Which growth the row belongs to; empty for the row that all axes share."""


CASES = (
    Case(),
    Case(mask="poisson", axis="mask"),
    *(Case(chains=n, axis="chains") for n in (1, 4, 16)),
    *(Case(coils=n, axis="coils") for n in (4, 16, 32)),
    *(Case(matrix=n, axis="matrix") for n in (192, 320, 384)),
)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    """Seconds on a clock that waits for the device."""
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def measure(case: Case) -> dict[str, float | int | str]:
    """Run one case; the row without its axis."""
    prior = load_prior(DEFAULT_MODEL, device=device())
    full, _ = simulate(1, case.coils, case.matrix, case.matrix, snr=40, seed=0)
    shape = (case.matrix, case.matrix)
    scan = undersample(full, undersampling_mask(shape, case.mask, 4, 0.08, 0))
    settings = CalibrationSettings(compress_above=0)
    began = now()
    model, _ = noise_model(scan)
    calibration = calibrate(scan, 0, model, settings)
    calibrated = now()
    raw = inverse_problem(calibration, device())
    ready = now()
    current = prepare(calibration, raw, 0, prior, Settings(samples=case.chains))
    started = now()
    preset = replace(SHORT, chains=case.chains)
    problem, plan = current.problem, replace(current.plan, preset=preset)
    chains, bare = side_by_side(problem, prior, plan, current.coarse)
    per_evaluation = chains / preset.evaluations
    standard = PRESETS["standard"].evaluations * per_evaluation
    row: dict[str, float | int | str] = {
        "matrix": case.matrix,
        "coils": case.coils,
        "chains": case.chains,
        "mask": "1-D" if case.mask == "equispaced" else "2-D",
        "ratio": chains / bare,
        "network ms per image": 1000 * bare / preset.evaluations / case.chains,
        "calibration s": calibrated - began,
        "decomposition s": ready - calibrated,
        "coarse s": started - ready,
        "standard s": standard + started - began,
        "calibration share of standard": (calibrated - began) / (standard + started - began),
    }
    row |= _shares(problem, prior, plan, current.coarse)
    row["peak MiB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if device().type == "cuda":
        row["peak GPU MiB"] = torch.cuda.max_memory_allocated() / 2**20
    return row


class _Asked:
    """A prior that keeps the level it was asked about last."""

    def __init__(self, prior: Prior) -> None:
        self._prior, self.sigma = prior, prior.sigma_range[1]
        self.symmetric, self.power = is_symmetric(prior), power_of(prior)

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self._prior.sigma_range

    def denoise(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        """As the prior does."""
        self.sigma = sigma
        return self._prior.denoise(noisy, sigma)


def side_by_side(
    problem: InverseProblem, prior: Prior, plan: ChainPlan, coarse: torch.Tensor
) -> tuple[float, float]:
    """Seconds of all steps of the chains, and of the network alone between them.

    The chains ask the prior as those of a reconstruction do.
    """
    asked = _Asked(prior)
    run = _chains(problem, asked, plan, coarse)
    steps = alone = 0.0
    warm = next(run).denoised
    prior.denoise(warm, asked.sigma)
    finished = False
    while not finished:
        began = now()
        finished = next(run, None) is None
        half = now()
        if not finished:
            prior.denoise(warm, asked.sigma)
            alone += now() - half
        steps += half - began
    # The first step warmed up and is not counted; the others stand for it.
    counted = plan.preset.evaluations / (plan.preset.evaluations - 1)
    return steps * counted, alone * counted


def _chains(
    problem: InverseProblem, prior: Prior, plan: ChainPlan, coarse: torch.Tensor
) -> Iterator[Advance]:
    """The steps of all chains."""
    sampled, chains = as_sampled(prior, (0, "speed")), range(plan.preset.chains)
    return run_chains(problem, sampled, plan, coarse, NoiseKey(0, "speed"), chains)


def _shares(
    problem: InverseProblem, prior: Prior, plan: ChainPlan, coarse: torch.Tensor
) -> dict[str, float]:
    """Shares of the chains' time."""
    profile = cProfile.Profile()
    run = _chains(problem, prior, plan, coarse)
    profile.enable()
    for _ in run:
        pass
    profile.disable()
    entries = profile.getstats()
    total = sum(entry.inlinetime for entry in entries)
    found = dict.fromkeys(PARTS, 0.0)
    for entry in entries:
        if isinstance(entry.code, str):  # a function of C
            continue
        for part, (name, called) in PARTS.items():
            if Path(entry.code.co_filename).name == name and entry.code.co_name == called:
                found[part] = max(found[part], entry.totaltime / total)
    return {f"{part} share": share for part, share in found.items()}


def experiment() -> list[dict[str, float | int | str]]:
    """All rows, each measured in a process of its own."""
    rows = []
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as processes:
        for case in CASES:
            row = {"axis": case.axis} | processes.submit(measure, case).result()
            print(asdict(case), f"ratio {row['ratio']:.3f}", flush=True)
            rows.append(row)
    return rows


def outcome(rows: list[dict[str, float | int | str]]) -> Outcome:
    """The bounds that the sampler is to keep, and the table."""
    gpu = device().type == "cuda"
    base, scattered = rows[0], rows[1]
    many = next(row for row in rows if row["coils"] == 32)
    few, most = (next(r for r in rows if r["chains"] == n) for n in (1, 16))
    # Chains only: what is done once a slice does not grow with them.
    growth = _chain_seconds(many) / _chain_seconds(base)
    linear = _chain_seconds(most) / _chain_seconds(few) / 16
    bounds = (0.15, 0.3) if gpu else (0.25, 0.5)
    calibrated = float(base["calibration share of standard"])
    checks = (
        Check("total over bare network, 1-D mask", float(base["ratio"]), 1, bounds[0]),
        Check("total over bare network, 2-D mask", float(scattered["ratio"]), 1, bounds[1]),
        Check("chains with 32 coils over 8, by bare network", growth, 1, 0.15),
        Check("16 chains over 16 times one chain", linear, 1, 0.3),
        Check("calibration share of a standard slice", calibrated, 0, 0.1),
    )
    name = torch.cuda.get_device_name() if gpu else _processor()
    machine = f"{name}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}"
    return Outcome(
        checks, tuple(rows), f"measured on {machine}; ratios are side by side, seconds are not"
    )


def _chain_seconds(row: Row) -> float:
    """Chains' time in units of the network's time for one image."""
    return float(row["ratio"] or 0) * float(row["chains"] or 0)


def _processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()


def draw(rows: list[dict[str, float | int | str]]) -> Figure:
    """One panel per axis of growth: the ratio, and seconds of a standard slice."""
    axes = ("chains", "coils", "matrix")
    figure, panels = plt.subplots(1, len(axes), figsize=(12, 3.6), layout="constrained")
    for axis, panel in zip(axes, panels, strict=True):
        chosen = sorted(
            (row for row in rows if row["axis"] in ("", axis)), key=lambda row: row[axis]
        )
        place = [row[axis] for row in chosen]
        panel.plot(place, [row["ratio"] for row in chosen], "o-", label="total / bare network")
        panel.set(xlabel=axis, ylim=(0.9, None), xscale="log")
        panel.set_xticks(place, [str(each) for each in place])
        panel.minorticks_off()
        seconds = panel.twinx()
        seconds.plot(place, [row["standard s"] for row in chosen], "s--", color="C1")
        seconds.set(ylim=(0, None), ylabel="standard slice, s (dashed)")
        panel.set_ylabel("total / bare network")
        panel.axhline(1, color="grey", lw=0.8)
    return figure


def main() -> bool:
    """Measure and publish."""
    return publish("speed", experiment, outcome, draw)
