"""The `train` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from service.commands.options import Device

NetworkSize = Literal["small", "base"]


def train(
    plan: Annotated[
        Path | None, typer.Argument(help="Training file (TOML); the options below override it.")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="Image HDF5, fastMRI volumes, NIfTI, DICOM; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; resumed if begun.")
    ] = None,
    validation: Annotated[
        list[Path] | None, typer.Option(help="Images of other patients [a tenth of --data's].")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option("--from", help="Model whose weights the run begins with.")
    ] = None,
    network: Annotated[
        NetworkSize | None, typer.Option(help="small runs on a CPU; base wants a GPU.")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimizer steps [6000].")] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Patches of 96 x 96 per step [8].")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random [0].")] = None,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a prior on images of your own; stop and resume at any time.

    Several GPUs: torchrun --nproc-per-node 4 --module service.cli train PLAN.toml
    """
    from service.commands.training_run import run_training  # lazy: loads torch

    overrides = {
        "data": tuple(data) if data else None,
        "out": out,
        "validation": tuple(validation) if validation else None,
        "start_from": start_from,
    }
    training = {"steps": steps, "batch": batch, "seed": seed}
    try:
        run_training(plan, overrides, training, network, device, quiet=quiet)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on from the last checkpoint") from stop
