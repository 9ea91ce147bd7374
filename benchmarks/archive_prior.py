"""A prior learned from undersampled scans beside one learned from the same images fully sampled.

    python -m benchmarks archive_prior
    python -m benchmarks.archive_prior [--out runs/archive_prior] [--slices 240] [--steps 800]
                                       [--rounds 4] [--rounds-from-others 2]
    python -m benchmarks.archive_prior --hearts [--slices 80] [--steps 300] [--rounds 2]

The archive is simulated (`benchmarks.simulated_archive`). Whatever is done is kept in --out and not
done again.

Of heads they are T1 of four patients of train/open_ms.h5, and what it is tested on are two patients
of validation/open_ms.h5, whom no prior here has seen, the shipped one included (that one has seen
the four of the archive). Every prior but the shipped one has the same network, as many steps in all
and the same scans to learn from: those of three patients, for the fourth is held out. Then once
more with a beginning as a hospital has it, a prior of other people's images: T1 of nine other
sources, none of this archive. What rounds make of it is beside what full images make of it in as
many steps.

Of hearts they are four patients of train/more_sunnybrook_cine_256.h5, and what it is tested on is
the fifth. The shipped prior, which was taught heads above all, is compared with what rounds that
begin with it make of it. It has seen all five hearts once: that is to its advantage.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.beside_wavelets import Row, simulated
from benchmarks.record import Check, Outcome, publish
from benchmarks.simulated_archive import (
    CENTRE_LINES,
    COILS,
    NOISE,
    SIDE,
    Image,
    Source,
    coarse_images,
    full_images,
    images_of,
    images_of_others,
    make_archive,
)
from models.install import package
from models.loading import build_prior, load_prior
from models.model_weights import read_model
from models.network_configs import ResidualUNetConfig
from models.processes import Process
from models.registry import USER_FOLDER_VARIABLE
from models.train import train
from models.training_data import ImageFile
from models.validate import denoising_psnr
from recon.evaluation import evaluate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.runs import DEFAULT_MODEL
from service.training.archive_plan import ARCHIVE_TRAINING, ArchivePlan
from service.training.expectation_maximization import ArchiveLearning, Judged
from service.training.held_out_likelihood import summary
from service.training.runs import beginning_of
from service.training.undersampled_scans import ScanList

TESTED = (4.0, 6.0)
SIGMAS = (0.02, 0.05, 0.1, 0.2)
TEST_SLICES = 4
FROM_OTHERS, FULL_FROM_OTHERS = "EM, from others", "fully sampled, from others"
SEED = 6
"""Holds out the patient with the fewest slices but one, so that most are learned from."""
DEVICE = torch.device("cpu")


class Anatomy(NamedTuple):
    """Whom an archive is of, and on whom it is tested."""

    learned: Source
    tested: Source
    slices: int
    """Scans of the archive, of one slice each."""
    steps: int
    """Of a round (three times that of one from random weights), and the number of rounds."""
    rounds: int


HEADS = Anatomy(
    Source("train/open_ms.h5", "(.*?)/.*T1W"),
    Source("validation/open_ms.h5", "(.*?)/.*T1W"),
    240,
    800,
    4,
)
_CINE = "train/more_sunnybrook_cine_256.h5"
HEARTS = Anatomy(
    Source(_CINE, ".*/(SCD0000[1-4]01)/"), Source(_CINE, ".*/(SCD0000501)/"), 80, 300, 2
)


def learned_from(plan: ArchivePlan) -> list[str]:
    """Scans that the rounds of a run that was begun learn from."""
    listed = ScanList.model_validate_json((plan.out / "scans.json").read_bytes())
    return sorted(scan.name for scan in listed.training)


def plan_of(out: Path, steps: int, rounds: int) -> ArchivePlan:
    """The same network and training for every row."""
    training = ARCHIVE_TRAINING.model_copy(
        update={
            "network": ResidualUNetConfig(channels=(24, 36, 48, 64)),
            "steps": steps,
            "batch": 4,
            "patch_sizes": (SIDE, SIDE),
            "learning_rate": 2e-3,
            "warmup": 20,
            "save_every": 50,
            "seed": SEED,
        }
    )
    return ArchivePlan(
        from_undersampled=str(out / "scans"),
        out=out / "from-coarse",
        rounds=rounds,
        patience=rounds,
        hold_out=0.2,
        training=training,
    )


def from_others(plan: ArchivePlan, rounds: int) -> ArchivePlan:
    """The same, beginning with the prior of other people's images."""
    training = plan.training.model_copy(update={"learning_rate": plan.training.learning_rate / 2})
    return plan.model_copy(
        update={
            "out": plan.out.with_name("from-others"),
            "start_from": "others",
            "rounds": rounds,
            "training": training,
        }
    )


def from_shipped(out: Path, steps: int, rounds: int) -> ArchivePlan:
    """Rounds that begin with the prior that ships."""
    return ArchivePlan.model_validate(
        {
            "from_undersampled": str(out / "scans"),
            "out": out / "from-shipped",
            "start_from": DEFAULT_MODEL,
            "rounds": rounds,
            "patience": rounds,
            "hold_out": 0.2,
            "training": {
                "steps": steps,
                "batch": 4,
                "patch_sizes": (SIDE, SIDE),
                "warmup": 20,
                "save_every": 20,
            },
        }
    )


def taught(plan: ArchivePlan, name: str, images: Path, out: Path, steps: int) -> Prior:
    """A prior trained on images as such, with the network of the plan and from its beginning."""
    folder = out / "models" / name
    if not folder.exists():
        initial = None if plan.start_from is None else beginning_of(plan.start_from)
        config = plan.training.model_copy(
            update={"steps": steps, "initial": initial and initial.sha256}
        )
        run, tensors = out / "runs" / name, initial and initial.tensors
        for _ in train(config, [ImageFile(images)], run, Process(0, 1, DEVICE), (), tensors):
            pass
        package(
            run,
            out / "models",
            name,
            training="benchmarks.archive_prior",
            licence="as open_ms",
            data_attributions=("open_ms",),
            lowest_sigma=0.004,
        )
    return build_prior(read_model(folder), DEVICE)


def row_of(name: str, prior: Prior, tests: Sequence[Image]) -> Row:
    """Denoising and reconstruction of the images that nobody has seen."""
    clean = [torch.from_numpy(image) for image in tests]
    scores = denoising_psnr(prior, clean, SIGMAS)
    row: Row = {"prior": name}
    row |= {f"denoising {sigma:g}": score for sigma, score in scores.items()}
    for acceleration in TESTED:
        found = []
        for number, image in enumerate(tests):
            subject = simulated(name, image, COILS, NOISE, 1000 + number)
            scan = undersample(
                subject.full,
                undersampling_mask(
                    (SIDE, SIDE), "equispaced", acceleration, CENTRE_LINES / SIDE, 0
                ),
            )
            settings = Settings("fast", samples=4, self_check=False)
            *_, posterior = reconstruct(scan, prior, settings, [0])
            assert isinstance(posterior, SlicePosterior)
            found.append(evaluate([posterior], subject.reference(scan)).slices[0])
        row |= {
            f"R={acceleration:g} PSNR": float(np.mean([each.mean.psnr for each in found])),
            f"R={acceleration:g} CG-SENSE": float(np.mean([each.coarse.psnr for each in found])),
            f"R={acceleration:g} 90 % holds": float(np.mean([e.coverage_90 for e in found])),
        }
    return row


class Rows:
    """Finished rows, kept in a folder."""

    def __init__(self, out: Path, tests: Sequence[Image]) -> None:
        self.file, self.tests = out / "rows.json", tests
        self.rows: list[Row] = json.loads(self.file.read_text()) if self.file.exists() else []

    def has(self, name: str) -> bool:
        """Whether the row is there already."""
        return any(row["prior"] == name for row in self.rows)

    def add(self, name: str, prior: Prior, note: str = "") -> None:
        """Measure a prior and keep what was found."""
        self._keep(row_of(name, prior, self.tests) | ({"note": note} if note else {}))

    def repeat(self, name: str, as_name: str) -> None:
        """The row of a name once more, as that of another."""
        row = next(row for row in self.rows if row["prior"] == name)
        self._keep(row | {"prior": as_name, "note": f"{name}: {row['note']}"})

    def _keep(self, row: Row) -> None:
        self.rows.append(row)
        self.file.write_text(json.dumps(self.rows, indent=1))
        print(json.dumps(row), flush=True)


def add_rounds(rows: Rows, plan: ArchivePlan, chosen: str) -> None:
    """A row of every round, and once more of the one that the archive's own lines choose.

    Round 0 is what they begin with, or else a Gaussian.
    """
    if rows.has(chosen):
        return
    learning = ArchiveLearning(plan, DEVICE)
    densities: list[float] = []
    for event in learning.follow():
        if isinstance(event, Judged):
            found = summary(event.predictions)
            densities.append(found.log_density)
            note = (
                f"held-out lines {found.log_density:.4f}, gain {event.gain}, at {found.spread:.2f} "
                f"times the spread, of which 90 % holds {found.coverage_90:.0%}"
            )
            print(f"round {event.round}: {note}", flush=True)
            name = f"{chosen}, round {event.round}"
            if not rows.has(name):
                rows.add(name, learning.prior(event.round), note)
            if event.round == plan.rounds:
                break
    best = int(np.argmax(densities))
    rows.repeat(f"{chosen}, round {best}", chosen)


def experiment(chosen: argparse.Namespace, anatomy: Anatomy) -> list[Row]:
    """All rows, those that are there already first."""
    out: Path = chosen.out
    out.mkdir(parents=True, exist_ok=True)
    make_archive(out, anatomy.learned, chosen.slices)
    tests = [image for _, image in images_of(anatomy.tested, TEST_SLICES)]
    rows = Rows(out, tests)
    if anatomy is HEARTS:
        name = "EM, shipped start"
        add_rounds(rows, from_shipped(out, chosen.steps, chosen.rounds), name)
        if not rows.has("shipped"):
            rows.repeat(f"{name}, round 0", "shipped")
        return rows.rows
    plan = plan_of(out, chosen.steps, chosen.rounds)
    steps = sum(plan.steps_of(number) for number in range(1, chosen.rounds + 1))
    add_rounds(rows, plan, "EM")
    if not rows.has("fully sampled"):
        images = full_images(out, learned_from(plan))
        rows.add("fully sampled", taught(plan, "full", images, out, steps))
    if not rows.has("coarse images"):
        images = coarse_images(out, learned_from(plan))
        rows.add("coarse images", taught(plan, "coarse", images, out, steps))
    if not rows.has("shipped"):
        rows.add("shipped", load_prior(DEFAULT_MODEL))
    os.environ[USER_FOLDER_VARIABLE] = str(out / "models")
    others = taught(plan, "others", images_of_others(out), out, steps)
    if not rows.has("others"):
        rows.add("others", others)
    plan = from_others(plan, chosen.rounds_from_others)
    add_rounds(rows, plan, FROM_OTHERS)
    if not rows.has(FULL_FROM_OTHERS):
        images, steps = full_images(out, learned_from(plan)), plan.rounds * plan.training.steps
        rows.add(FULL_FROM_OTHERS, taught(plan, "full-from-others", images, out, steps))
    return rows.rows


def checks(rows: Sequence[Row]) -> tuple[Check, ...]:
    """What learning from undersampled scans may cost."""
    named: Mapping[object, Row] = {row["prior"]: row for row in rows}
    if "EM, shipped start" in named:
        own, shipped = named["EM, shipped start"], named["shipped"]
        gains = [
            float(own[f"R={r:g} PSNR"] or 0) - float(shipped[f"R={r:g} PSNR"] or 0) for r in TESTED
        ]
        return tuple(
            Check(f"R={r:g}: better than the shipped prior", float(gain > 0), 1, 0)
            for r, gain in zip(TESTED, gains, strict=True)
        )
    return (
        *_compared(named["EM"], named["fully sampled"], "from wavelets"),
        *_compared(named[FROM_OTHERS], named[FULL_FROM_OTHERS], "from others"),
    )


def _compared(ours: Row, full: Row, begun: str) -> Iterator[Check]:
    """A prior from undersampled scans with one from full images of the same beginning."""

    def below(key: str) -> float:
        return float(full[key] or 0) - float(ours[key] or 0)

    denoising = float(np.mean([below(f"denoising {sigma:g}") for sigma in SIGMAS]))
    yield Check(f"{begun}: dB of denoising below fully sampled, at most 0.5", denoising, 0, 0.5)
    for acceleration in TESTED:
        key = f"R={acceleration:g}"
        loss = below(f"{key} PSNR")
        yield Check(f"{begun}, {key}: dB below fully sampled, at most 0.3", loss, 0, 0.3)
        holds = float(ours[f"{key} 90 % holds"] or 0)
        yield Check(f"{begun}, {key}: 90 % holds", holds, 0.9, 0.03)


def draw(rows: Sequence[Row]) -> Figure:
    """PSNR of the reconstructions under every prior."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for acceleration in TESTED:
        values = [float(row[f"R={acceleration:g} PSNR"] or 0) for row in rows]
        axes.plot([str(row["prior"]) for row in rows], values, "o", label=f"R = {acceleration:g}")
    axes.set(ylabel="PSNR of the mean, dB")
    axes.tick_params(axis="x", rotation=25)
    axes.legend()
    return figure


def main(arguments: Sequence[str] = ()) -> bool:
    """Whether a prior from undersampled scans is nearly as good as one from full ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--hearts", action="store_true", help="in place of heads")
    parser.add_argument("--slices", type=int)
    parser.add_argument("--steps", type=int, help="of a round")
    parser.add_argument("--rounds", type=int)
    parser.add_argument(
        "--rounds-from-others", type=int, default=2, help="of heads; %(default)s by default"
    )
    chosen = parser.parse_args(list(arguments))
    torch.set_num_threads(1)
    anatomy = HEARTS if chosen.hearts else HEADS
    name = "archive_prior_hearts" if chosen.hearts else "archive_prior"
    chosen.out = chosen.out or Path("runs") / name
    chosen.slices = chosen.slices or anatomy.slices
    chosen.steps, chosen.rounds = chosen.steps or anatomy.steps, chosen.rounds or anatomy.rounds
    note = (
        f"{chosen.slices} slices, {chosen.rounds} rounds of {chosen.steps} steps, {TEST_SLICES} "
        "test slices, one run each: a few tenths of a decibel mean nothing"
    )
    return publish(
        name,
        lambda: experiment(chosen, anatomy),
        lambda rows: Outcome(checks(rows), tuple(rows), note),
        draw,
    )


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
