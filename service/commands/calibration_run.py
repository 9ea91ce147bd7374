"""What `calibrate` does: comparisons behind a progress bar, a table, and the file of factors."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

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
from models.loading import load_prior
from models.model_folder import FACTORS_FILE, ModelConfig
from models.registry import find_model, is_shipped, read_config
from recon.choices import PatternName, PresetName
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
from service.runs import choose_device

_console = Console(stderr=True)
_output = Console()


@dataclass(frozen=True)
class Choices:
    """What was asked for, by the names of the options."""

    data: list[Path]
    model: str
    accelerations: list[float]
    preset: PresetName
    samples: int | None
    pattern: PatternName
    center_fraction: float
    slices: int | None
    images: bool
    noise_std: float
    unit: UnitName
    confidence: float
    about: str | None
    out: Path | None
    work: Path | None
    seed: int
    device: str


def run_calibration(choices: Choices, *, quiet: bool) -> None:
    """Compare, summarise and write. Raises ScanError, ModelError."""
    model, unit, confidence = choices.model, choices.unit, choices.confidence
    target = choices.out or find_model(model) / FACTORS_FILE
    if choices.out is None and is_shipped(model):
        raise ModelError(
            "shipped",
            f"'{model}' comes with the software, and its calibration with it. Make it yours with "
            f"`mri-posterior models add {find_model(model)} --name NAME` and calibrate that, or "
            "give --out",
        )
    config = read_config(model)
    files = find_files(choices.data)
    told = choices.about or f"{len(files)} files that were not described"
    check_description(told)
    if unit == "scan":
        _require(len(files), unit, confidence)
    protocols = [
        Protocol(
            model, choices.preset, choices.samples, rate, choices.pattern,
            choices.center_fraction, choices.seed, choices.noise_std if choices.images else None,
        )
        for rate in choices.accelerations
    ]  # fmt: skip
    folder = choices.work or default_folder()
    found = _compared(files, protocols, choices, folder, quiet=quiet)
    summaries = [
        summarise(
            [one for one in found if one.protocol == protocol], choices.unit, choices.confidence
        )
        for protocol in protocols
    ]
    entries = tuple(entry_of(summary, len(files), told) for summary in summaries)
    write_factors(target, _merged(target, config, entries))
    if choices.work is None:
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
    files: list[Path], protocols: list[Protocol], choices: Choices, folder: Path, *, quiet: bool
) -> list[Compared]:
    """All comparisons, behind a progress bar."""
    target = choose_device(choices.device)
    prior = load_prior(protocols[0].model, target)
    kept = ComparisonFolder(folder)
    found: list[Compared] = []
    total = 0
    with counting_bar(_console, quiet=quiet) as bar:
        task = bar.add_task("reading", total=None)
        for place, path in enumerate(files):
            full = FullFile.of_images(path) if choices.images else FullFile.of_scan(path)
            chosen = choose_slices(len(full), choices.slices)
            total += len(chosen) * len(protocols)
            # Files that have not been read yet are taken to be like those that have.
            guess = round(total * len(files) / (place + 1))
            if choices.unit == "slice" and place == len(files) - 1:
                _require(total // len(protocols), choices.unit, choices.confidence)
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


def _merged(
    target: Path, model: ModelConfig, entries: tuple[ConformalFactor, ...]
) -> ConformalFactors:
    """The new entries, with those that the file has for other reconstructions."""
    new = ConformalFactors(weights_sha256=model.weights_sha256, power=model.power, entries=entries)
    if target.name != FACTORS_FILE:
        return new
    try:
        old = read_factors_file(target.parent, model)
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
