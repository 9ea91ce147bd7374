"""`mri-posterior reconstruct`: from a scan to a result file, a picture and a verdict."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from models import DEFAULT_MODEL
from recon.choices import COHERENCE, CoarseName, PathName, PresetName
from recon.errors import ScanError
from recon.presets import PRESETS
from service.commands.export import AcceptRefused, Fallback, Identified, UidKey, Voxel
from service.commands.help import EXPERT
from service.commands.options import (
    Axes,
    Device,
    FftShift,
    Layout,
    Model,
    Out,
    Overwrite,
    Quiet,
    Seed,
    SliceCoherence,
    Slices,
    Volume,
)
from service.commands.outputs import about, require_folder, require_writable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from recon.posterior import SlicePosterior
    from recon.scan import Scan
    from recon.settings import Settings

console = Console(stderr=True)
output = Console()

EXAMPLE = "mri-posterior reconstruct scan.h5 -o result.h5 --preset fast --png result.png"
_EVALUATIONS = ", ".join(f"{name} {one.evaluations}" for name, one in PRESETS.items())
_CHAINS = ", ".join(f"{name} {one.chains}" for name, one in PRESETS.items())
_MORE = "Images for other programs"


def reconstruct(
    scan: Annotated[Path, typer.Argument(help="Undersampled k-space; `info FILE` tells.")],
    out: Out,
    preset: Annotated[
        PresetName, typer.Option(help=f"Network evaluations a sample: {_EVALUATIONS}.")
    ] = "standard",
    samples: Annotated[
        int | None, typer.Option(min=2, max=256, help=f"Independent samples [{_CHAINS}].")
    ] = None,
    slices: Slices = None,
    png: Annotated[
        Path | None, typer.Option(help="Also a picture; of more slices NAME-N.png.")
    ] = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    seed: Seed = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the slices of an interrupted run.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    dicom: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="DICOM of mean and std.", rich_help_panel=_MORE),
    ] = None,
    nifti: Annotated[
        Path | None,
        typer.Option(help="NIfTI (.nii.gz) of the mean, and NAME_std.", rich_help_panel=_MORE),
    ] = None,
    identified: Identified = False,
    voxel: Voxel = None,
    uid_key: UidKey = None,
    fallback: Fallback = False,
    accept_refused: AcceptRefused = False,
    mask: Annotated[
        Path | None,
        typer.Option(help="Sampling mask (.npy, .h5), not the scan's.", rich_help_panel=EXPERT),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Scan with the 'coil_maps' to use.", rich_help_panel=EXPERT),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Scan whose centre makes the coil maps.", rich_help_panel=EXPERT),
    ] = None,
    average: Annotated[
        list[Path] | None,
        typer.Option(help="More files of the same images (M4Raw).", rich_help_panel=EXPERT),
    ] = None,
    layout: Layout = None,
    axes: Axes = None,
    fftshift: FftShift = None,
    select: Annotated[
        list[str] | None,
        typer.Option(help="Images of raw data, as repetition=0; again for more.",
                     rich_help_panel=EXPERT),
    ] = None,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Intervals, std times the conformal factor.",
                     rich_help_panel=EXPERT),
    ] = False,
    coarse: Annotated[
        CoarseName,
        typer.Option(metavar="NAME", help="First image: cg-sense, zero-filled, l1-wavelet.",
                     show_default=False, rich_help_panel=EXPERT),
    ] = "cg-sense",
    path: Annotated[
        PathName,
        typer.Option(metavar="NAME", help="Annealing path: prior or measurement.",
                     rich_help_panel=EXPERT),
    ] = "prior",
    compress_above: Annotated[
        int,
        typer.Option(min=0, help="Compress coils above this number; 0: never.",
                     rich_help_panel=EXPERT),
    ] = 12,
    self_check: Annotated[
        bool,
        typer.Option(help="Predict held-out lines in a second run.", rich_help_panel=EXPERT),
    ] = True,
    fit_noise: Annotated[
        bool,
        typer.Option(help="Fit the noise where the residual asks for it.", rich_help_panel=EXPERT),
    ] = True,
    slice_coherence: SliceCoherence = COHERENCE,
    volume: Volume = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Tell what --volume takes; do nothing.",
                     rich_help_panel=EXPERT),
    ] = False,
) -> None:  # fmt: skip
    """Reconstruct a scan: mean, samples, uncertainty maps, diagnostics."""
    inputs = (scan, mask, maps, calibration, *(average or ()))
    _require_outputs(inputs, out, png, dicom, nifti, resume=resume, overwrite=overwrite)

    from recon.calibration import CalibrationSettings  # lazy: loads torch
    from recon.coarse import CoarseMethod  # lazy: the same
    from recon.paths import PATHS  # lazy: the same
    from recon.posterior import Delivery  # lazy: loads numpy
    from recon.settings import Settings  # lazy: the same
    from service.commands.export import require_exportable, write_exports  # lazy: the same
    from service.commands.terminal import print_posteriors, print_summary, watching  # lazy: same
    from service.conformal_scaling import attributes_of, sentence_of  # lazy: the same
    from service.finished_slices import finished, folder_of  # lazy: the same
    from service.runs import (  # lazy: same
        choose_device,
        load_scan,
        parse_selection,
        reconstruct_file,
    )
    from service.slices import parse_slices  # lazy: the same

    require_exportable(nifti)
    target = choose_device(device)
    started = time.monotonic()
    with about(scan):
        read = load_scan(
            scan,
            mask,
            maps,
            parse_selection(select or []),
            fftshift=fftshift,
            layout=layout,
            axes=axes,
            calibration=calibration,
            repetitions=average or (),
        )
    settings = Settings(
        preset=preset,
        samples=samples,
        seed=seed,
        coarse=CoarseMethod(coarse),
        path=PATHS[path],
        fit_noise=fit_noise,
        self_check=self_check,
        slice_coherence=slice_coherence,
        volume=volume,
        calibration=CalibrationSettings(compress_above=compress_above),
    )
    chosen = parse_slices(slices, read.kspace.shape[0])
    delivery = Delivery(fallback, accept_refused)
    if volume or dry_run:
        with about(scan):
            _tell_volume(read, settings, chosen, quiet=quiet and not dry_run)
        if dry_run:
            return
    try:
        with watching(len(chosen), console, quiet=quiet) as watch, about(scan):
            posteriors, entry = reconstruct_file(
                read, out, settings, model, target, chosen, watch,
                calibrated=calibrated, resume=resume, delivery=delivery,
            )  # fmt: skip
    except KeyboardInterrupt as stop:
        done = len(finished(out))
        told = "no slice was done, and nothing was written"
        if done:
            told = (
                f"{done} of {len(chosen)} slices are done and kept in {folder_of(out)}; the same "
                "command with --resume goes on from there"
            )
        raise KeyboardInterrupt(told) from stop
    applied = sentence_of(attributes_of(entry))
    pictures = [] if png is None else _pictures(png, posteriors, applied)
    pictures += write_exports(out, dicom, nifti, uid_key, identified=identified, voxel=voxel)
    if not quiet:
        print_posteriors(posteriors, output, applied)
        how = f"{model}, {preset}, {settings.resolved.chains} samples, on {target}"
        print_summary(posteriors, [out, *pictures], time.monotonic() - started, how, output)


def _tell_volume(scan: Scan, settings: Settings, chosen: Sequence[int], *, quiet: bool) -> None:
    """What a volume will take, before it is begun. Raises ScanError where it is none."""
    from recon.volume_posterior import volume_plan  # lazy: loads torch

    plan = volume_plan(scan, settings, chosen)
    if quiet:
        return
    slices, rows, columns = plan.shape
    console.print(
        f"A volume of {slices} x {rows} x {columns}, {settings.resolved.chains} chains one after "
        f"the other: about {plan.cost.memory_bytes / 2**30:.1f} GiB of memory beside the network's "
        f"own, {plan.cost.kept_bytes / 2**30:.1f} GiB on the disk, "
        f"{plan.cost.evaluations} network evaluations of {slices} planes.",
        highlight=False,
    )
    if plan.left_out is not None:
        console.print(plan.left_out, highlight=False)


def _require_outputs(
    inputs: tuple[Path | None, ...],
    out: Path,
    png: Path | None,
    dicom: Path | None,
    nifti: Path | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Everything that can be refused before the work."""
    from service.finished_slices import finished, folder_of  # lazy: loads HDF5

    for path in inputs:
        if path is not None and not path.exists():
            raise ScanError("no-such-file", f"{path}: there is no such file; check the path")
    require_writable((out, png, nifti), inputs, overwrite=overwrite or resume)
    if dicom is not None:
        require_folder(dicom)
    left = len(finished(out))
    if left and not resume:
        if not overwrite:
            raise ScanError(
                "unfinished",
                f"an interrupted run has left {left} finished slices in {folder_of(out)}; go on "
                "from them with --resume, or begin anew with --overwrite",
            )
        from service.finished_slices import FinishedSlices  # lazy: loads HDF5

        FinishedSlices(out, {}).remove()


def _pictures(png: Path, posteriors: list[SlicePosterior], applied: str | None) -> list[Path]:
    """Draw every slice; several get their number before the suffix."""
    from recon.figure import save_figure  # lazy: loads matplotlib

    written = []
    for posterior in posteriors:
        name = png if len(posteriors) == 1 else png.with_stem(f"{png.stem}-{posterior.index}")
        save_figure(name, posterior, note=applied)
        written.append(name)
    return written
