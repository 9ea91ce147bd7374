"""`mri-posterior evaluate`: a result beside the fully sampled scan."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recon.choices import CombinationName
from service.commands.options import AsJson, Overwrite
from service.commands.outputs import about, require_writable

output = Console()


def evaluate(
    result: Annotated[Path, typer.Argument(help="Result of `reconstruct`.")],
    reference: Annotated[Path, typer.Option(help="The fully sampled scan.")],
    combination: Annotated[
        CombinationName,
        typer.Option(
            help="Of the reference's coils: rss, as fastMRI's `reconstruction_rss`, or sense, by "
            "the coil maps of the result."
        ),
    ] = "rss",
    as_json: AsJson = False,
    png: Annotated[
        Path | None, typer.Option(help="Picture of the first slice with its error.")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Compare a result with the fully sampled scan: its root of the sum of squares by default."""
    require_writable((png,), (result, reference), overwrite=overwrite)
    from recon.figure import save_figure  # lazy: loads matplotlib
    from recon.io.files import read_result  # lazy: slow to load
    from recon.reference import Combination  # lazy: loads torch
    from service.commands.terminal import print_evaluation  # lazy: loads numpy
    from service.runs import evaluate_files  # lazy: loads torch

    with about(result):
        read_result(result)
    with about(reference):
        evaluation, posteriors, full, applied = evaluate_files(
            result, reference, Combination(combination)
        )
    if png is not None:
        save_figure(png, posteriors[0], full.images[posteriors[0].index], note=applied)
    if as_json:
        told = {"calibration": applied} | evaluation.as_dict()
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        print_evaluation(evaluation, output, applied)
