"""The whole way on a simulated scan, for people who have just installed it."""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

from recon.figure import save_figure
from recon.io.files import write_scan
from recon.phantom import simulate
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.commands.terminal import print_evaluation, print_posteriors
from service.runs import evaluate_files, load_scan, reconstruct_file

SIZE = 192


def run(
    folder: Path,
    model: str,
    device: torch.device,
    console: Console,
    output: Console,
    *,
    quiet: bool,
) -> None:
    """Simulate, undersample 4 times, reconstruct, evaluate, draw; files land in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    full, scan, result = (folder / f"{name}.h5" for name in ("full", "undersampled", "result"))
    simulated, image = simulate(rows=SIZE, columns=SIZE)
    write_scan(full, simulated, {"ground_truth": image})
    mask = undersampling_mask((SIZE, SIZE), "equispaced", 4, 0.08, 0)
    write_scan(scan, undersample(simulated, mask))
    posteriors, _ = reconstruct_file(
        load_scan(scan),
        result,
        Settings("thorough", samples=8),
        model,
        device,
        [0],
        console,
        quiet=quiet,
    )
    evaluation, _, reference, _ = evaluate_files(result, full)
    save_figure(folder / "posterior.png", posteriors[0])
    save_figure(folder / "against-truth.png", posteriors[0], reference[0])
    if not quiet:
        print_posteriors(posteriors, output)
        print_evaluation(evaluation, output)
    output.print("pictures:")
    for name in ("posterior.png", "against-truth.png"):
        output.print(f"  {folder / name}")
