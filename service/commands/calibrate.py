"""`mri-posterior calibrate`: what intervals hold on held-out scans, and the factor they need."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.conformal_factors import (
    ConformalFactor,
    ConformalFactors,
    check_description,
    read_factors_file,
    write_factors,
)
from models.errors import ModelError
from models.model_folder import FACTORS_FILE
from models.registry import find_model, is_shipped, load_prior, read_config
from recon.choices import PresetName
from recon.conformal import fewest_scans
from recon.errors import ScanError
from service.commands.terminal import counting_bar
from service.conformal_measurement import (
    Compared,
    ComparisonFolder,
    FullFile,
    Protocol,
    Summary,
    UnitName,
    choose_slices,
    compare_held_out,
    default_folder,
    entry_of,
    find_files,
    summarise,
)
from service.runs import DEFAULT_MODEL, choose_device

_console = Console(stderr=True)
_output = Console()

PatternName = Literal["equispaced", "random", "poisson"]


def calibrate(
    data: Annotated[
        list[Path], typer.Argument(help="Fully sampled scans the prior has not seen, or folders.")
    ],
    model: Annotated[str, typer.Option(help="Prior, by name (see `models`).")] = DEFAULT_MODEL,
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
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> None:
    """Find by what factor intervals must be wider, from fully sampled scans.

    The scans are undersampled, reconstructed and compared with what they were. The factor lies
    beside the weights and is applied only where `--calibrated` asks for it. The same command goes
    on from where it was stopped.
    """
    target = out or find_model(model) / FACTORS_FILE
    if out is None and is_shipped(model):
        raise ModelError(
            "shipped",
            f"'{model}' comes with the software, and its calibration with it. Make it yours with "
            f"`mri-posterior models add {find_model(model)} --name NAME` and calibrate that, or "
            "give --out",
        )
    weights = read_config(model).weights_sha256
    files = find_files(data)
    told = about or f"{len(files)} files that were not described"
    check_description(told)
    if unit == "scan":
        _require(len(files), unit, confidence)
    protocols = [
        Protocol(
            model, preset, samples, rate, pattern, center_fraction, seed,
            noise_std if images else None,
        )
        for rate in acceleration or [4.0, 8.0]
    ]  # fmt: skip
    folder = work or default_folder()
    found = _compared(files, protocols, slices, images, folder, unit, confidence, device, quiet)
    summaries = [
        summarise([one for one in found if one.protocol == protocol], unit, confidence)
        for protocol in protocols
    ]
    entries = tuple(entry_of(summary, len(files), told) for summary in summaries)
    write_factors(target, _merged(target, weights, entries))
    if work is None:
        shutil.rmtree(folder, ignore_errors=True)
    if not quiet:
        _print(summaries)
        if unit == "slice":
            _console.print(
                "[yellow]slices were counted one by one:[/] those of one scan resemble each other, "
                f"so this promises something of further slices of these {len(files)} files, and of "
                "other scans only as far as these stand for them"
            )
        _output.print(f"written: {target}", soft_wrap=True, highlight=False, markup=False)


def _require(count: int, unit: str, confidence: float) -> None:
    """Refuse before the work what could not promise anything after it. Raises ScanError."""
    fewest = fewest_scans(confidence) + 1
    if count < fewest:
        other = "" if unit == "slice" else ", count --unit slice (which promises less)"
        raise ScanError(
            "too-few-scans",
            f"a factor that is enough in {confidence:.0%} of further {unit}s needs {fewest} "
            f"{unit}s or more, one of them to be left out in turn, not {count}: give more{other}, "
            "or lower --confidence",
        )


def _compared(
    files: list[Path],
    protocols: list[Protocol],
    slices: int | None,
    images: bool,
    folder: Path,
    unit: str,
    confidence: float,
    device: str,
    quiet: bool,
) -> list[Compared]:
    """All comparisons, behind a progress bar."""
    target = choose_device(device)
    prior = load_prior(protocols[0].model, target)
    kept = ComparisonFolder(folder)
    found: list[Compared] = []
    total = 0
    with counting_bar(_console, quiet=quiet) as bar:
        task = bar.add_task("reading", total=None)
        for place, path in enumerate(files):
            full = FullFile.of_images(path) if images else FullFile.of_scan(path)
            chosen = choose_slices(len(full), slices)
            total += len(chosen) * len(protocols)
            # Files that have not been read yet are taken to be like those that have.
            guess = round(total * len(files) / (place + 1))
            if unit == "slice" and place == len(files) - 1:
                _require(total // len(protocols), unit, confidence)
            for event in compare_held_out(full, chosen, protocols, prior, kept, target):
                if isinstance(event, Compared):
                    found.append(event)
                    bar.update(task, completed=len(found), total=guess)
                else:
                    where = f"{escape(event.file[-30:])} slice {event.slice}"
                    rate = f"{event.protocol.acceleration:g} times"
                    bar.update(
                        task,
                        description=f"{where}, {rate}",
                        completed=len(found) + event.fraction,
                        total=guess,
                    )
    return found


def _merged(target: Path, weights: str, entries: tuple[ConformalFactor, ...]) -> ConformalFactors:
    """The new entries, with those that the file has for other reconstructions."""
    new = ConformalFactors(weights_sha256=weights, entries=entries)
    if target.name != FACTORS_FILE:
        return new
    try:
        old = read_factors_file(target.parent, weights)
    except ModelError as error:
        _console.print(f"[yellow]replaced:[/] {escape(error.message)}", highlight=False)
        return new
    return new if old is None else old.factors.with_entries(entries)


def _print(summaries: Sequence[Summary]) -> None:
    """One line per acceleration; ± is the standard error over units."""
    unit, confidence = summaries[0].unit, summaries[0].confidence
    table = Table(
        "R", f"{unit}s", "50 % read off", "90 % read off", "50 %", "90 %", "error / predicted",
        "factor", "50 % after", "90 % after",
        caption=f"mean ± standard error over {unit}s; but for 'read off' with the noise of the "
        f"true values; after: the factor by all other {unit}s, enough in {confidence:.0%}",
    )  # fmt: skip
    for one in summaries:
        table.add_row(
            f"{one.acceleration:.3g}",
            str(one.units),
            *(str(one.as_read_off[level]) for level in (0.5, 0.9)),
            *(str(one.before[level]) for level in (0.5, 0.9)),
            f"{one.standardized_error.mean:.2f} ± {one.standardized_error.error:.2f}",
            f"{one.factor:.2f}",
            *(str(one.after[level]) for level in (0.5, 0.9)),
        )
    _output.print(table)
