"""`mri-posterior demo`: the whole way on a simulated scan, for who has just installed it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from models import DEFAULT_MODEL
from service.commands.options import Device, Model, Quiet
from service.commands.outputs import require_folder

_console = Console(stderr=True)
_output = Console()
_SIZE = 192


def demo(
    folder: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="For files and pictures.")
    ] = Path("demo"),
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Simulate, undersample, reconstruct, compare with the truth, draw: a minute or two."""
    require_folder(folder)
    from recon.evaluation import evaluate  # lazy: loads torch
    from recon.figure import save_figure  # lazy: loads matplotlib
    from recon.io.files import write_scan  # lazy: slow to load
    from recon.phantom import simulate  # lazy: loads torch
    from recon.reference import Reference, reference_of  # lazy: the same
    from recon.settings import Settings  # lazy: the same
    from recon.undersampling import undersample, undersampling_mask  # lazy: the same
    from service.commands.terminal import (  # lazy: loads numpy
        print_evaluation,
        print_posteriors,
        watching,
    )
    from service.runs import (  # lazy: torch
        choose_device,
        load_scan,
        reconstruct_file,
    )

    target = choose_device(device)
    full, scan, result = (folder / f"{name}.h5" for name in ("full", "undersampled", "result"))
    simulated, image = simulate(rows=_SIZE, columns=_SIZE)
    write_scan(full, simulated, {"ground_truth": image})
    mask = undersampling_mask((_SIZE, _SIZE), "equispaced", 4, 0.08, 0)
    write_scan(scan, undersample(simulated, mask))
    settings = Settings("standard")
    with watching(1, _console, quiet=quiet) as watch:
        posteriors, _ = reconstruct_file(
            load_scan(scan), result, settings, model, target, [0], watch
        )
    # The scan itself is noisy; what it is compared with is the same head without any noise.
    noiseless, _ = simulate(rows=_SIZE, columns=_SIZE, snr=math.inf)
    truth = reference_of(replace(noiseless, noise_samples=simulated.noise_samples), mask).images
    save_figure(folder / "posterior.png", posteriors[0])
    save_figure(folder / "against-truth.png", posteriors[0], truth[0])
    if not quiet:
        print_posteriors(posteriors, _output)
        print_evaluation(evaluate(posteriors, Reference.exact(truth)), _output)
    _output.print("pictures:")
    for name in ("posterior.png", "against-truth.png"):
        _output.print(f"  {folder / name}")
