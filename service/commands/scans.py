"""`mri-posterior simulate` and `undersample`: scans whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from recon.choices import PatternName
from service.commands.options import Axes, FftShift, Layout, Out, Overwrite, Quiet, Seed
from service.commands.outputs import about, require_writable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

output = Console()
_console = Console(stderr=True)

_CENTRE = 0.08
"""Share of central lines that the public fastMRI data have at four times."""


def simulate(
    out: Out,
    slices: Annotated[int, typer.Option(min=1, max=512, help="Slices.")] = 1,
    coils: Annotated[int, typer.Option(min=1, max=128, help="Receiver coils.")] = 8,
    rows: Annotated[int, typer.Option(min=16, max=2048, help="Rows of the image.")] = 256,
    columns: Annotated[int, typer.Option(min=16, max=2048, help="Columns of the image.")] = 256,
    snr: Annotated[float, typer.Option(min=0.1, help="Signal over noise of the image.")] = 40,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Make a fully sampled scan of a head phantom, with its ground truth."""
    require_writable((out,), overwrite=overwrite)
    from recon.io.files import write_scan  # lazy: slow to load
    from recon.phantom import simulate as simulate_scan  # lazy: loads torch

    scan, image = simulate_scan(slices, coils, rows, columns, snr, seed)
    write_scan(out, scan, {"ground_truth": image})
    if not quiet:
        output.print(
            f"written: {out} ({slices} x {coils} x {rows} x {columns}: slices, coils, rows, "
            f"columns)\nnext: mri-posterior undersample {out} -o scan.h5",
            highlight=False, soft_wrap=True,
        )  # fmt: skip


def undersample(
    full: Annotated[Path, typer.Argument(help="Fully sampled scan.")],
    out: Out,
    acceleration: Annotated[float, typer.Option(min=1, help="Matrix size over samples.")] = 4,
    pattern: Annotated[PatternName, typer.Option(help="Which samples are kept.")] = "equispaced",
    center_fraction: Annotated[
        float | None,
        typer.Option(
            min=0, max=1,
            help=f"Share of central lines always kept [{_CENTRE:g}, or 12 lines if more].",
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    layout: Layout = None,
    axes: Axes = None,
    fftshift: FftShift = None,
) -> None:  # fmt: skip
    """Throw samples of a fully sampled scan away, to try things on."""
    require_writable((out,), (full,), overwrite=overwrite)
    from recon.central_lines import MINIMUM_CALIBRATION  # lazy: loads numpy
    from recon.io.files import write_scan  # lazy: slow to load
    from recon.undersampling import undersample as undersample_scan  # lazy: loads torch
    from recon.undersampling import undersampling_mask  # lazy: the same
    from service.runs import load_scan  # lazy: the same

    with about(full):
        scan = load_scan(full, fftshift=fftshift, layout=layout, axes=axes)
    shape = (scan.mask.shape[0], scan.mask.shape[1])
    side = min(shape) if pattern == "poisson" else shape[1]
    least = MINIMUM_CALIBRATION / side
    share = max(_CENTRE, least) if center_fraction is None else center_fraction
    mask = undersampling_mask(shape, pattern, acceleration, min(share, 1.0), seed)
    reduced = undersample_scan(scan, mask)
    write_scan(out, reduced)
    if quiet:
        return
    said = f"written: {out} (acceleration {reduced.acceleration:.2f})"
    output.print(said, highlight=False, soft_wrap=True)
    maps_are_found = reduced.coil_maps is None and scan.kspace.shape[1] > 1
    if not (maps_are_found and _warn_of_narrow_centre(reduced.mask, least)):
        said = f"next: mri-posterior reconstruct {out} -o result.h5"
        output.print(said, highlight=False, soft_wrap=True)


def _warn_of_narrow_centre(mask: NDArray[np.bool_], least: float) -> bool:
    """Say at once what `reconstruct` would refuse later; whether there was something to say."""
    from recon.central_lines import (  # lazy: loads numpy
        calibration_width,
        enough_for_maps,
        needed_for_maps,
    )

    if enough_for_maps(mask):
        return False
    _console.print(
        f"[yellow]reconstruct will refuse it:[/] {calibration_width(mask)} central lines are "
        f"sampled, and coil maps need {needed_for_maps()}. Take --center-fraction "
        f"{least + 0.0005:.3f} or more, or hand maps over: reconstruct --maps FILE with a dataset "
        "'coil_maps'.",
        highlight=False,
    )
    return True
