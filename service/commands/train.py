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
    from_undersampled: Annotated[
        str | None,
        typer.Option(
            metavar="ARCHIVE",
            help="In place of --data: folder, pattern, manifest or address of undersampled scans.",
        ),
    ] = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            "--from",
            help="Model whose weights the run begins with; brain-small is the better start for "
            "undersampled scans.",
        ),
    ] = None,
    network: Annotated[
        NetworkSize | None, typer.Option(help="small runs on a CPU; base wants a GPU.")
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Optimizer steps [6000; with undersampled scans 1500 a round]."),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Patches of 96 x 96 per step [8].")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything random [0].")] = None,
    rounds: Annotated[
        int | None,
        typer.Option(min=1, max=99, help="Of undersampled scans: at most so many [8]."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Of undersampled scans: name of the models [archive].")
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Of undersampled scans: licence in the models' cards.")
    ] = None,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Train a prior on images of your own, or on scans that were never fully sampled.

    Stop and resume at any time. With --from-undersampled every round draws images from the
    posterior of each scan and trains on them, until lines of held-out people's scans are predicted
    no better; every round's model and a report lie in --out.

    Several GPUs: torchrun --nproc-per-node 4 --module service.cli train PLAN.toml
    """
    training = {"steps": steps, "batch": batch, "seed": seed}
    overrides: dict[str, object] = {"out": out, "start_from": start_from}
    of_archive: dict[str, object] = {
        "from_undersampled": from_undersampled, "rounds": rounds, "name": name, "licence": licence
    }  # fmt: skip
    of_images: dict[str, object] = {
        "data": tuple(data) if data else None,
        "validation": tuple(validation) if validation else None,
    }
    from service.commands.training_run import archive_plan, run_training  # lazy: loads torch

    try:
        archive = archive_plan(plan, overrides | of_archive, of_images, training, network)
        if archive is None:
            run_training(plan, overrides | of_images, training, network, device, quiet=quiet)
        else:
            from service.commands.archive_training_run import (  # lazy: the same
                run_archive_training,
            )

            run_archive_training(archive, device, quiet=quiet)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("the same command goes on from the last checkpoint") from stop
