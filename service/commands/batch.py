"""`mri-posterior batch`: an archive's scans from the first look to the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from recon.choices import COHERENCE, PresetName
from service.commands.options import Seed, SliceCoherence, Slices, Volume


def batch(
    source: Annotated[
        str, typer.Argument(help="Folder, pattern, manifest (.csv, .ndjson) or s3://BUCKET/PREFIX.")
    ],
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder or s3://BUCKET/PREFIX for outputs, report.")
    ],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Prior, by name; see `models list`.")
    ] = None,
    preset: Annotated[PresetName | None, typer.Option(help="How much work [standard].")] = None,
    samples: Annotated[int | None, typer.Option(help="Independent samples [by preset].")] = None,
    seed: Seed = 0,
    slices: Slices = None,
    self_check: Annotated[
        bool, typer.Option(help="Predict held-out lines in a second run.")
    ] = True,
    slice_coherence: SliceCoherence = COHERENCE,
    volume: Volume = False,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Intervals and std times the model's conformal factor."),
    ] = False,
    priority: Annotated[
        Literal["scanner", "interactive", "archive"],
        typer.Option(help="A lower class starts when no higher one waits."),
    ] = "archive",
    on_error: Annotated[
        Literal["continue", "stop"], typer.Option(help="What to do at the first failure.")
    ] = "continue",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many scans.")] = None,
    part: Annotated[
        str | None,
        typer.Option("--shard", help="I/N: this part of N; the parts of four: 0/4 to 3/4."),
    ] = None,
    dry_run: Annotated[bool, typer.Option(help="Only show what would run.")] = False,
    workers: Annotated[
        int | None, typer.Option(help="Local workers [one per GPU, or one].")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
    database: Annotated[
        str | None, typer.Option(help="postgresql://… of running workers; none are started here.")
    ] = None,
    storage: Annotated[
        str | None, typer.Option(help="Where those workers read and write [the target].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Folder for what this command keeps.")] = None,
    in_place: Annotated[
        bool, typer.Option(help="Those workers see the source's folder as it is here.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No tables, no progress.")] = False,
) -> None:
    """Reconstruct an archive: what is missing, whatever is killed meanwhile.

    Outputs are named by scan, model and settings. The same command again continues, and does
    nothing twice; another choice of settings makes new outputs beside the old.
    """
    from service.commands.batch_run import Choices, run_batch  # lazy: loads SQLAlchemy
    from service.requests import Priority  # lazy: with it

    choices = Choices(
        source=source,
        out=out,
        model=model,
        preset=preset,
        samples=samples,
        seed=seed,
        slices=slices,
        self_check=self_check,
        slice_coherence=slice_coherence,
        volume=volume,
        calibrated=calibrated,
        priority=Priority(priority),
        on_error=on_error,
        limit=limit,
        part=part,
        dry_run=dry_run,
        workers=workers,
        device=device,
        database=database,
        storage=storage,
        data=data,
        in_place=in_place,
    )
    run_batch(choices, quiet=quiet)
