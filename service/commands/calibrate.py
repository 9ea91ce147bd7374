"""`mri-posterior calibrate`: what intervals hold on held-out scans, and the factor they need."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from models import DEFAULT_MODEL
from recon.choices import PatternName, PresetName
from service.commands.options import Device, Model, Seed

UnitName = Literal["scan", "slice"]


def calibrate(
    data: Annotated[
        list[Path], typer.Argument(help="Fully sampled scans the prior has not seen, or folders.")
    ],
    model: Model = DEFAULT_MODEL,
    acceleration: Annotated[
        list[float] | None, typer.Option(min=1.5, help="May be repeated [4 and 8].")
    ] = None,
    preset: Annotated[PresetName, typer.Option(help="As it is going to be used.")] = "standard",
    samples: Annotated[
        int | None, typer.Option(min=2, max=256, help="As they are going to be used [by preset].")
    ] = None,
    pattern: Annotated[PatternName, typer.Option(help="Which samples are kept.")] = "equispaced",
    center_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of central lines always kept.")
    ] = 0.08,
    slices: Annotated[
        int | None, typer.Option(min=1, help="At most so many of each file, spread evenly [all].")
    ] = None,
    images: Annotated[
        bool, typer.Option("--images", help="Files of images, as for `train`, not of k-space.")
    ] = False,
    noise_std: Annotated[
        float, typer.Option(min=0.0001, max=1, help="Of simulated receivers, with --images.")
    ] = 0.02,
    unit: Annotated[
        UnitName, typer.Option(help="What is exchangeable with what is to come: scan or slice.")
    ] = "scan",
    confidence: Annotated[
        float, typer.Option(min=0.5, max=0.99, help="Share of further scans it is to be enough in.")
    ] = 0.9,
    about: Annotated[
        str | None, typer.Option(help="What the data are; will stand in every calibrated result.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="calibration.json [the model's own].")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(help="Folder for what is done, to go on from [in your data].")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> None:
    """Find how much wider intervals must be, from fully sampled scans.

    The scans are undersampled, reconstructed and compared with what they were. The factor lies
    beside the weights and is applied only where `--calibrated` asks for it. The same command goes
    on from where it was stopped.
    """
    from service.commands.calibration_run import Choices, run_calibration  # lazy: loads torch

    choices = Choices(
        data=data,
        model=model,
        accelerations=acceleration or [4.0, 8.0],
        preset=preset,
        samples=samples,
        pattern=pattern,
        center_fraction=center_fraction,
        slices=slices,
        images=images,
        noise_std=noise_std,
        unit=unit,
        confidence=confidence,
        about=about,
        out=out,
        work=work,
        seed=seed,
        device=device,
    )
    try:
        run_calibration(choices, quiet=quiet)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt("what was compared is kept; the same command goes on") from stop
