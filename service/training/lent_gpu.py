"""Priors trained on a GPU that is lent for minutes, on a machine without a network.

    python -m service.training.lent_gpu pack PACKS FILE.h5 ...          here, before
    python -m service.training.lent_gpu train --packs PACKS --out RUNS  there, in 25 minutes
    python -m service.training.lent_gpu join PIECES NAME RUN            here, after

`train` takes the recipes one after the other, each for its share of the time; that of loading and
compiling counts. Every two minutes the averaged weights lie in RUNS/pieces, in pieces of less than
16 MiB that hold until the next ones are whole: fetch them before the machine goes. `--rehearsal` is
the same at a hundredth of the size and time, on the CPU. `mri-posterior models package` makes a
model of what `join` leaves.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from models.errors import ModelError
from models.network_configs import ResidualUNetConfig
from models.pieces import join_pieces
from models.processes import Process
from models.synthetic_heads import SyntheticHeads
from models.timed_training import DeviceBatches, draw_pool, train_by_the_clock
from models.train import TrainingConfig, TrainingRun
from models.training_data import ImageFile, SliceSet, slices_in
from recon.errors import ScanError
from service.training.labels import read_label_volumes
from service.training.packed import pack, unpack
from service.training.runs import TrainingPlan, read_plan

RECIPES = Path(__file__).resolve().parents[2] / "models" / "recipes"
DEFAULT_RECIPES = (RECIPES / "brain-base.toml", RECIPES / "brain-small.toml")
MINUTES, SHARES = 25.0, (0.7, 0.3)
POOL = 4000
"""Synthetic heads, drawn once."""
SMALLER = 100
"""How many times smaller a rehearsal is."""

console = Console(highlight=False)


def rehearsed(config: TrainingConfig) -> TrainingConfig:
    """The same run for a network, patches and batches that a CPU takes a step of in a moment."""
    network = config.network
    if isinstance(network, ResidualUNetConfig):
        channels = tuple(max(4, width // 12) for width in network.channels)
        network = network.model_copy(update={"channels": channels, "blocks": 1})
    changes = {"network": network, "patch_sizes": (32, 48), "batch": 4, "compiled": False}
    return config.model_copy(update=changes)


def images_of(plan: TrainingPlan, folder: Path, every: int) -> SliceSet:
    """Every so many-th slice of a plan's files, which lie in `folder`.

    A plan that names folders takes all files that are there. Raises ModelError.
    """
    names = sorted(path.name for path in folder.glob("*.h5"))
    if all(path.suffix == ".h5" for path in plan.data):
        names = [path.name for path in plan.data if path.name in names]
    files = []
    for name in names:
        slices = tuple(range(0, slices_in(folder / name), every))
        files.append(ImageFile(folder / name, slices, plan.weights.get(name)))
    if not files:
        raise ModelError("no-data", f"none of the recipe's files is in {folder}")
    return SliceSet(files)


def heads_of(labels: Path | None, *, rehearsal: bool) -> SyntheticHeads | None:
    """The segmented heads of a folder, or one of them. Raises ScanError."""
    if labels is None:
        return None
    sources = sorted(labels.iterdir())[:1] if rehearsal else [labels]
    return SyntheticHeads(read_label_volumes(sources))


def train(chosen: argparse.Namespace, started: float) -> None:
    """All recipes, one after the other. Raises ModelError, ScanError."""
    smaller = SMALLER if chosen.rehearsal else 1
    device = torch.device("cpu" if chosen.rehearsal else "cuda")
    if not chosen.rehearsal and not torch.cuda.is_available():
        raise ModelError("no-such-device", "no CUDA device is available; try it with --rehearsal")
    torch.backends.cudnn.benchmark = True
    data = chosen.data
    if chosen.packs is not None:
        data = chosen.out / "images"
        unpack(chosen.packs, data)
    heads = heads_of(chosen.labels, rehearsal=chosen.rehearsal)
    loaded = time.monotonic()
    console.print(f"images unpacked and labels read after {loaded - started:.0f} s")
    budget = 60 * chosen.minutes / smaller
    ends = started + budget
    left = sum(chosen.shares[: len(chosen.recipes)])
    for recipe, share in zip(chosen.recipes, chosen.shares, strict=False):
        plan = read_plan(recipe)
        config = rehearsed(plan.training) if chosen.rehearsal else plan.training
        slices = images_of(plan, data, smaller)
        pool = None
        if heads is not None and config.synthetic:
            workers = 0 if chosen.rehearsal else config.workers
            pool = draw_pool(heads, POOL // smaller, slices.side, config.seed, workers)
        run = TrainingRun(config, chosen.out / recipe.stem, Process(0, 1, device))
        batches = DeviceBatches(slices, config, device, pool)
        now = time.monotonic()
        console.print(f"{recipe.stem}: {len(slices)} slices after {now - started:.0f} s")
        # Loading is not a hundredth of itself in a rehearsal: there it comes on top.
        seconds = (budget if chosen.rehearsal else ends - now) * share / left
        left -= 0 if chosen.rehearsal else share
        if seconds <= 0:
            raise ModelError("no-time", "all of the time went into loading; give more --minutes")
        pieces, every = chosen.out / "pieces", 120 / smaller
        for mark in train_by_the_clock(recipe.stem, run, batches, seconds, pieces, every):
            console.print(
                f"{mark.name}: {mark.seconds:.0f} s, step {mark.step}, loss {mark.loss:.5f}, "
                f"{mark.patches_per_second:.0f} patches a second in batches of {mark.batch}"
            )
        del run, batches
    console.print(f"done after {time.monotonic() - started:.0f} s; {chosen.out / 'pieces'}")


def main(arguments: Sequence[str], started: float) -> int:
    """0 when all went well, 1 with a sentence otherwise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="training images into small files")
    packing.add_argument("packs", type=Path)
    packing.add_argument("files", type=Path, nargs="+")
    packing.add_argument("--quality", type=int, default=100, help="of WebP; 100: lossless")
    training = commands.add_parser("train", help="train by the clock")
    source = training.add_mutually_exclusive_group(required=True)
    source.add_argument("--packs", type=Path, help="folder of packed images")
    source.add_argument("--data", type=Path, help="folder of image files")
    training.add_argument("--labels", type=Path, help="segmented heads")
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--minutes", type=float, default=MINUTES, help="from the start, in all")
    training.add_argument("--recipes", type=Path, nargs="+", default=DEFAULT_RECIPES)
    training.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the time")
    training.add_argument("--rehearsal", action="store_true", help="a hundredth, on the CPU")
    joining = commands.add_parser("join", help="pieces into a run")
    joining.add_argument("pieces", type=Path)
    joining.add_argument("name")
    joining.add_argument("run", type=Path)
    chosen = parser.parse_args(arguments)
    if chosen.command == "train" and len(chosen.shares) < len(chosen.recipes):
        parser.error("every recipe needs its share of the time in --shares")
    try:
        if chosen.command == "pack":
            console.print(f"{pack(chosen.files, chosen.packs, chosen.quality)} packs")
        elif chosen.command == "join":
            join_pieces(chosen.pieces, chosen.name, chosen.run)
        else:
            train(chosen, started)
    except (ModelError, ScanError, OSError) as error:
        console.print(f"[red]{error}[/red]")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], time.monotonic()))
