"""How many true values intervals hold on held-out slices, before and after the conformal factor.

    python -m benchmarks coverage

Slices of two patients that the shipped prior was not trained on (open_ms, patients 19 and 20) and
of `complex_t2`, which has its own phase and noise, received by eight simulated coils at R = 4 and 8
and reconstructed with the preset `fast`. To be done within a quarter of an hour on two cores, only
64 rows through the middle of each head are taken. Each patient's factor is computed on the slices
of the *other* patient, that of complex_t2 on both patients'. The unit that is counted is the slice;
two patients are two, so that what holds from one to the other is measured here and not promised.
Without the folder of data, slices of three analytic phantoms take the patients' places.

    python -m benchmarks.coverage CALIBRATION.json

writes the factors from both patients' slices together: the calibration that the shipped prior has.

Comparisons are kept in runs/coverage: a run that was stopped goes on from there.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.record import Check, Outcome, publish
from models.conformal_factors import ConformalFactors, write_factors
from models.loading import load_prior
from models.registry import read_config
from recon.choices import PresetName
from recon.conformal import Comparison, conformal_factor
from recon.phantom import simulate
from service.conformal_measurement import (
    Compared,
    ComparisonFolder,
    FullFile,
    Protocol,
    choose_slices,
    compare_held_out,
    entry_of,
    summarise,
)
from service.runs import DEFAULT_MODEL

ROOT = Path(__file__).resolve().parents[1]
VALIDATION = ROOT.parent / "shared" / "data" / "validation"
KEPT = ROOT / "runs" / "coverage"
ACCELERATIONS = (4.0, 8.0)
PRESET: PresetName = "fast"
CONFIDENCE = 0.9
PATIENT_SLICES, OTHER_SLICES = 9, 3
ROWS, LEAST_COLUMNS, AIR = 64, 160, 8
"""Size of the images, and columns of air beside a head. Coil maps need 12 central lines, 8 %."""
OWN_NOISE = 0.005
"""Simulated noise of images that bring noise of their own."""
DATA = (
    "open_ms (Lesjak et al. 2016, CC-BY), patients 19 and 20, T1 and FLAIR, axial, 64 rows through "
    "the middle of the head, magnitude with simulated phases, eight simulated coils, noise "
    "0.02"
)
GROUPS = ("patient 19", "patient 20", "complex_t2")


@dataclass(frozen=True)
class Group:
    """Slices that belong together, at one acceleration."""

    name: str
    acceleration: float
    factor: float
    """Computed on others."""
    computed_on: str
    slices: tuple[Comparison, ...]

    def coverage(self, level: float, *, after: bool, noisy: bool = True) -> NDArray[np.float64]:
        """(slices,) share of true values held."""
        factor = self.factor if after else 1.0
        return np.array([s.coverage(level, factor, noisy=noisy) for s in self.slices])

    def errors(self, *, after: bool) -> NDArray[np.float64]:
        """(slices,) standardized errors."""
        return np.array([s.standardized_error(self.factor if after else 1.0) for s in self.slices])


def cropped(image: NDArray[np.generic]) -> NDArray[np.generic]:
    """`ROWS` rows through the middle of the head, and the columns of the head and a little air.

    Rows are the readout: coils mix no rows, so that fewer of them make the same problem smaller.
    """
    magnitude = np.abs(image).astype(np.float64)
    seen = magnitude > 0.08 * np.percentile(magnitude, 99)
    rows, columns = (np.flatnonzero(seen.sum(axis=1 - axis) > 2) for axis in (0, 1))
    top = int(rows[0] + rows[-1] - ROWS) // 2
    wanted = math.ceil((columns[-1] - columns[0] + 2 * AIR) / 8) * 8
    width = min(max(LEAST_COLUMNS, wanted), image.shape[1])
    left = min(max(int(columns[0] + columns[-1] - width) // 2, 0), image.shape[1] - width)
    return image[max(top, 0) : max(top, 0) + ROWS, left : left + width]


def group_slices() -> dict[str, tuple[list[FullFile], float]]:
    """Images of every group, each as a file of its own, and the noise of their receivers."""
    if not VALIDATION.is_dir():
        found = {}
        for seed, name in enumerate(GROUPS):
            _, images = simulate(
                PATIENT_SLICES, rows=LEAST_COLUMNS, columns=LEAST_COLUMNS, seed=seed
            )
            found[name] = ([_file(f"phantom {seed}", image) for image in images], 0.02)
        return found
    with h5py.File(VALIDATION / "open_ms.h5") as file:
        images = file["images"][()]
        labels = [label.decode() for label in file["label"][()]]
    groups: dict[str, tuple[list[FullFile], float]] = {}
    for name in GROUPS[:2]:
        own = [k for k, label in enumerate(labels) if label.startswith(name.replace(" ", ""))]
        chosen = [own[k] for k in choose_slices(len(own), PATIENT_SLICES)]
        groups[name] = ([_file(labels[k], images[k]) for k in chosen], 0.02)
    with h5py.File(VALIDATION / "complex_t2.h5") as file:
        images = file["images"][()]
    chosen = choose_slices(len(images), OTHER_SLICES)
    groups[GROUPS[2]] = ([_file(f"complex_t2/{k}", images[k]) for k in chosen], OWN_NOISE)
    return groups


def _file(name: str, image: NDArray[np.generic]) -> FullFile:
    image = cropped(image)
    digest = hashlib.sha256(name.encode() + image.tobytes()).hexdigest()
    return FullFile(name, digest, images=image[None])


def compared_groups() -> dict[str, list[Compared]]:
    """Every slice of every group at every acceleration."""
    # On a machine that others use, threads that wait for each other cost ten times the work.
    torch.set_num_threads(1)
    prior, kept = load_prior(DEFAULT_MODEL), ComparisonFolder(KEPT)
    made: dict[str, list[Compared]] = {}
    for name, (files, noise) in group_slices().items():
        protocols = [
            Protocol(DEFAULT_MODEL, PRESET, None, acceleration, noise_std=noise)
            for acceleration in ACCELERATIONS
        ]
        for full in files:
            for event in compare_held_out(full, [0], protocols, prior, kept, torch.device("cpu")):
                if isinstance(event, Compared):
                    found = event.comparison
                    made.setdefault(name, []).append(event)
                    print(
                        f"{full.name} R={event.protocol.acceleration:g}: 90 % holds "
                        f"{found.coverage(0.9):.3f}, factor {found.score:.2f}",
                        flush=True,
                    )
    return made


def run() -> list[Group]:
    """All groups at all accelerations, each with the factor of the others."""
    made = {
        (name, r): [one.comparison for one in compared if one.protocol.acceleration == r]
        for name, compared in compared_groups().items()
        for r in ACCELERATIONS
    }
    return [_group(name, r, made) for name in GROUPS for r in ACCELERATIONS]


def ship(file: Path) -> None:
    """Write the factors from the slices of both patients, counted one by one."""
    groups = compared_groups()
    found = [one for name in GROUPS[:2] for one in groups[name]]
    entries = []
    for acceleration in ACCELERATIONS:
        own = [one for one in found if one.protocol.acceleration == acceleration]
        summary = summarise(own, "slice", CONFIDENCE)
        volumes = {one.file.rpartition("/")[0] for one in own}
        entries.append(entry_of(summary, len(volumes), DATA))
        print(summary.factor, summary.before, summary.after)
    model = read_config(DEFAULT_MODEL)
    write_factors(
        file,
        ConformalFactors(
            weights_sha256=model.weights_sha256, power=model.power, entries=tuple(entries)
        ),
    )


def _group(name: str, r: float, made: dict[tuple[str, float], list[Comparison]]) -> Group:
    first, second, third = GROUPS
    others = {first: (second,), second: (first,), third: (first, second)}[name]
    scores = [each.score for other in others for each in made[other, r]]
    factor = conformal_factor(scores, CONFIDENCE)
    return Group(name, r, factor, " and ".join(others), tuple(made[name, r]))


def outcome(groups: Sequence[Group]) -> Outcome:
    """Coverage from patient to patient beside what was promised, and all figures."""
    checks, rows = [], []
    for group in groups:
        after = group.coverage(0.9, after=True)
        if group.name != GROUPS[2]:
            name = f"90 % holds, {group.name} by the other's factor, R = {group.acceleration:g}"
            # Coverage above the level is the price of the promise for 9 of 10 slices.
            checks.append(Check(name, float(after.mean()), 0.925, 0.035))
        row: dict[str, float | int | str | bool | None] = {
            "slices of": group.name,
            "R": group.acceleration,
            "slices": len(group.slices),
            "factor": group.factor,
            "computed on": group.computed_on,
        }
        for level in (0.5, 0.9):
            percent = f"{level:.0%}".replace("%", " %")
            for label, values in (
                ("as read off", group.coverage(level, after=False, noisy=False)),
                ("before", group.coverage(level, after=False)),
                ("after", group.coverage(level, after=True)),
            ):
                row[f"{percent} {label}"] = float(values.mean())
                row[f"{percent} {label} error"] = standard_error(values)
        held = group.coverage(0.9, after=False) >= 0.9, after >= 0.9
        row["slices that hold 90 % before"] = int(held[0].sum())
        row["slices that hold 90 % after"] = int(held[1].sum())
        for label, values in (
            ("before", group.errors(after=False)),
            ("after", group.errors(after=True)),
        ):
            row[f"standardized error {label}"] = float(values.mean())
            row[f"standardized error {label} error"] = standard_error(values)
        rows.append(row)
    return Outcome(
        tuple(checks),
        tuple(rows),
        "columns named error: standard error of the mean over slices as if these were independent, "
        "which slices of one patient are not; pixels are never counted as if they were",
    )


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean over slices."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def draw(groups: Sequence[Group]) -> Figure:
    """Coverage of every slice before and after, and how wide intervals would have had to be."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.6), layout="constrained")
    names = [f"{group.name}\nR = {group.acceleration:g}" for group in groups]
    for panel, level in zip(axes, (0.5, 0.9), strict=False):
        panel.axhline(level, color="k", lw=0.9, ls="--")
        for k, group in enumerate(groups):
            for shift, after, colour in ((-0.15, False, "tab:red"), (0.15, True, "tab:blue")):
                values = group.coverage(level, after=after)
                label = ("after", "before")[not after] if k == 0 else None
                panel.plot(np.full(len(values), k + shift), values, ".", color=colour, alpha=0.5)
                panel.errorbar(
                    k + shift, values.mean(), standard_error(values), fmt="o", color=colour,
                    capsize=3, label=label,
                )  # fmt: skip
        panel.set_title(f"true values inside the {level:.0%} intervals".replace("%", " %"))
        panel.legend(fontsize=8)
    for k, group in enumerate(groups):
        scores = [each.score for each in group.slices]
        axes[2].plot(np.full(len(scores), k), scores, ".", color="tab:gray")
        axes[2].plot(
            [k - 0.3, k + 0.3], 2 * [group.factor], color="tab:blue",
            label="factor, from others' slices" if k == 0 else None,
        )  # fmt: skip
    axes[2].axhline(1, color="k", lw=0.9, ls="--")
    axes[2].set_title("factor that a slice would have needed")
    axes[2].legend(fontsize=8)
    for panel in axes:
        panel.set_xticks(range(len(groups)), names, fontsize=7, rotation=30)
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("coverage", run, outcome, draw)


if __name__ == "__main__":
    ship(Path(sys.argv[1])) if len(sys.argv) == 2 else main()
