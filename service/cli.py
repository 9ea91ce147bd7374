"""The command line: arguments in, exit code out (0 done, 2 bad input, 1 failure)."""

from __future__ import annotations

import json
import sys
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from models.registry import ModelError
from recon.calibration import CalibrationSettings
from recon.coarse import CoarseMethod
from recon.errors import CalibrationError, ReconError, ScanError
from recon.figure import save_figure
from recon.io.files import write_scan
from recon.paths import PATHS
from recon.phantom import simulate as simulate_scan
from recon.posterior import SlicePosterior
from recon.settings import Settings
from recon.undersampling import undersample as undersample_scan
from recon.undersampling import undersampling_mask
from service.client import ServiceError
from service.commands import demo as demonstration
from service.commands.batch import batch
from service.commands.benchmark import benchmark
from service.commands.calibrate import calibrate
from service.commands.export import (
    Identified,
    UidKey,
    Voxel,
    export,
    require_exportable,
    write_exports,
)
from service.commands.models import model_app
from service.commands.scanner import gateway, stream
from service.commands.server import add_server_commands
from service.commands.terminal import print_evaluation, print_posteriors
from service.commands.training import train
from service.commands.workers import worker, workers
from service.conformal_scaling import attributes_of, sentence_of
from service.requests import PathName
from service.runs import (
    DEFAULT_MODEL,
    choose_device,
    evaluate_files,
    load_scan,
    parse_selection,
    reconstruct_file,
)
from service.settings import SettingsError
from service.slices import parse_slices
from service.store.objects import StorageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # "[all]" in a help text is meant, and is no tag
    help="From undersampled MRI k-space to a posterior: mean, samples and uncertainty maps. "
    "For research, not for diagnosis.",
)
console = Console(stderr=True)
output = Console()


def _say_version(wanted: bool) -> None:
    if wanted:
        output.print(f"mri-posterior {version('mri-posterior')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", callback=_say_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the program itself; the commands have their own."""


class PresetName(StrEnum):
    """How much work a reconstruction may be."""

    FAST = "fast"
    STANDARD = "standard"
    THOROUGH = "thorough"


class Pattern(StrEnum):
    """Undersampling patterns."""

    EQUISPACED = "equispaced"
    RANDOM = "random"
    POISSON = "poisson"


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
FftShift = Annotated[
    bool | None,
    typer.Option(
        help="Move the zero frequency and the image's origin from the corner to the middle, where "
        "the energy of k-space shows them there [refuse such scans].",
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="File to write (HDF5).")]


@app.command()
def reconstruct(
    scan: Annotated[Path, typer.Argument(help="Undersampled k-space: fastMRI or ISMRMRD HDF5.")],
    out: Out,
    samples: Annotated[
        int | None, typer.Option(min=2, max=256, help="Independent samples [preset: 4, 8 or 16].")
    ] = None,
    preset: Annotated[
        PresetName, typer.Option(help="Network evaluations per sample: about 50, 110 or 250.")
    ] = PresetName.STANDARD,
    seed: Seed = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    model: Annotated[str, typer.Option(help="Prior, by name (see `models`).")] = DEFAULT_MODEL,
    mask: Annotated[
        Path | None, typer.Option(help="Sampling mask (.npy or .h5), instead of the scan's own.")
    ] = None,
    maps: Annotated[
        Path | None, typer.Option(help="HDF5 scan whose 'coil_maps' are used, not ESPIRiT's.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Scan of the same slices whose centre of k-space makes the coil maps."),
    ] = None,
    fftshift: FftShift = None,
    coarse: Annotated[
        CoarseMethod, typer.Option(help="The first reconstruction.")
    ] = CoarseMethod.CG_SENSE,
    path: Annotated[
        PathName, typer.Option(help="What annealed Langevin follows: prior or measurement.")
    ] = "prior",
    select: Annotated[
        list[str] | None, typer.Option(help="Images of an ISMRMRD scan, such as repetition=0.")
    ] = None,
    slices: Annotated[str | None, typer.Option(help="3, 3:5 or 0,2,4 [all].")] = None,
    calibrated: Annotated[
        bool,
        typer.Option("--calibrated", help="Intervals and std times the model's conformal factor."),
    ] = False,
    compress_above: Annotated[
        int, typer.Option(min=0, help="SVD coil compression above this many coils; 0: never.")
    ] = 12,
    self_check: Annotated[
        bool, typer.Option(help="Predict held-out lines in a second, short run.")
    ] = True,
    fit_noise: Annotated[
        bool, typer.Option(help="Fit the noise level when the residual contradicts it.")
    ] = True,
    png: Annotated[
        Path | None, typer.Option(help="Also a picture; more slices get -N before the suffix.")
    ] = None,
    dicom: Annotated[
        Path | None, typer.Option(help="Also DICOM images of mean and std into this folder.")
    ] = None,
    nifti: Annotated[
        Path | None, typer.Option(help="Also NIfTI: this file (.nii.gz) of the mean, and NAME_std.")
    ] = None,
    identified: Identified = False,
    voxel: Voxel = None,
    uid_key: UidKey = None,
    quiet: Quiet = False,
) -> None:
    """Reconstruct a scan: posterior mean, samples, uncertainty maps and diagnostics."""
    require_exportable(nifti)
    read = load_scan(
        scan, mask, maps, parse_selection(select or []), fftshift=fftshift, calibration=calibration
    )
    settings = Settings(
        preset=preset.value,
        samples=samples,
        seed=seed,
        coarse=coarse,
        path=PATHS[path],
        fit_noise=fit_noise,
        self_check=self_check,
        calibration=CalibrationSettings(compress_above=compress_above),
    )
    chosen = parse_slices(slices, read.kspace.shape[0])
    posteriors, entry = reconstruct_file(
        read, out, settings, model, choose_device(device), chosen, console,
        quiet=quiet, calibrated=calibrated,
    )  # fmt: skip
    applied = sentence_of(attributes_of(entry))
    pictures = [] if png is None else _pictures(png, posteriors, applied)
    pictures += write_exports(out, dicom, nifti, uid_key, identified=identified, voxel=voxel)
    if not quiet:
        print_posteriors(posteriors, output, applied)
        output.print(f"written: {out}" + "".join(f", {name}" for name in pictures))


def _pictures(png: Path, posteriors: list[SlicePosterior], applied: str | None) -> list[Path]:
    """Draw every slice; several get their number before the suffix."""
    written = []
    for posterior in posteriors:
        name = png if len(posteriors) == 1 else png.with_stem(f"{png.stem}-{posterior.index}")
        save_figure(name, posterior, note=applied)
        written.append(name)
    return written


@app.command()
def undersample(
    full: Annotated[Path, typer.Argument(help="Fully sampled scan, fastMRI-style HDF5.")],
    out: Out,
    acceleration: Annotated[float, typer.Option(min=1, help="Matrix size over samples.")] = 4,
    pattern: Annotated[Pattern, typer.Option(help="Which samples are kept.")] = Pattern.EQUISPACED,
    center_fraction: Annotated[
        float, typer.Option(min=0, max=1, help="Share of central lines always kept.")
    ] = 0.08,
    fftshift: FftShift = None,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Throw samples of a fully sampled scan away, to see what a reconstruction makes of it."""
    scan = load_scan(full, fftshift=fftshift)
    shape = (scan.mask.shape[0], scan.mask.shape[1])
    mask = undersampling_mask(shape, pattern.value, acceleration, center_fraction, seed)
    reduced = undersample_scan(scan, mask)
    write_scan(out, reduced)
    if not quiet:
        output.print(f"written: {out} (acceleration {reduced.acceleration:.2f})")


@app.command()
def evaluate(
    result: Annotated[Path, typer.Argument(help="Result of `reconstruct`.")],
    reference: Annotated[Path, typer.Option(help="The fully sampled scan.")],
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table.")] = False,
    png: Annotated[
        Path | None, typer.Option(help="Picture of the first slice with its error.")
    ] = None,
) -> None:
    """Compare a result with the fully sampled coil combination."""
    evaluation, posteriors, images, applied = evaluate_files(result, reference)
    if png is not None:
        save_figure(png, posteriors[0], images[posteriors[0].index], note=applied)
    if as_json:
        told = {"calibration": applied} | evaluation.as_dict()
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
    else:
        print_evaluation(evaluation, output, applied)


@app.command()
def simulate(
    out: Out,
    slices: Annotated[int, typer.Option(min=1, max=512)] = 1,
    coils: Annotated[int, typer.Option(min=1, max=128)] = 8,
    rows: Annotated[int, typer.Option(min=16, max=2048)] = 256,
    columns: Annotated[int, typer.Option(min=16, max=2048)] = 256,
    snr: Annotated[float, typer.Option(min=0.1, help="Signal over noise of the image.")] = 40,
    seed: Seed = 0,
    quiet: Quiet = False,
) -> None:
    """Make a fully sampled multi-coil scan of an analytic head phantom, ground truth inside."""
    scan, image = simulate_scan(slices, coils, rows, columns, snr, seed)
    write_scan(out, scan, {"ground_truth": image})
    if not quiet:
        output.print(f"written: {out} ({slices} x {coils} x {rows} x {columns})")


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for files and pictures.")
    ] = Path("demo"),
    model: Annotated[str, typer.Option(help="Prior, by name.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quiet: Quiet = False,
) -> None:
    """Simulate, undersample 4 times, reconstruct, evaluate and draw: under three minutes."""
    demonstration.run(folder, model, choose_device(device), console, output, quiet=quiet)


# In the order of --help: what most people want first.
app.command()(calibrate)
app.command()(export)
app.command()(batch)
add_server_commands(app)
app.command()(worker)
app.command()(workers)
app.command()(gateway)
app.command()(stream)
app.command()(train)
app.add_typer(model_app, name="models")
app.command()(benchmark)


def main() -> None:
    """Entry point: typed errors become one line and an exit code."""
    try:
        app()
    except (ScanError, CalibrationError, ModelError, SettingsError) as error:
        console.print(
            f"[bold red]refused[/] ({error.code}): {escape(error.message)}", highlight=False
        )
        sys.exit(2)
    except (ReconError, ServiceError, StorageError) as error:
        console.print(
            f"[bold red]failed[/] ({error.code}): {escape(error.message)}", highlight=False
        )
        sys.exit(1)
    except OSError as error:
        console.print(f"[bold red]refused[/]: {escape(str(error))}", highlight=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
