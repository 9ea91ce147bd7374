"""What people see of a run in a terminal: progress, summaries, tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from recon.evaluation import Evaluation, Judgement
from recon.pipeline import CoarseReady, Event
from recon.pipeline import Progress as Step
from recon.posterior import SlicePosterior


def follow(
    events: Iterable[Event], slices: int, console: Console, *, quiet: bool
) -> Iterator[SlicePosterior]:
    """Pass posteriors on while a progress bar shows the slice, the stage and the time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=quiet, transient=True) as bar:
        task = bar.add_task("starting", total=slices)
        done = 0
        for event in events:
            if isinstance(event, Step):
                bar.update(
                    task,
                    completed=done + event.fraction,
                    description=f"slice {event.index}: {event.stage}",
                )
            elif isinstance(event, SlicePosterior):
                done += 1
                bar.update(task, completed=done)
                yield event
            else:
                assert isinstance(event, CoarseReady)


def counting_bar(console: Console, *, quiet: bool) -> Progress:
    """A bar of things done out of all, with the time left; gone when it is done."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        disable=quiet,
        transient=True,
    )


def print_posteriors(
    posteriors: Sequence[SlicePosterior], console: Console, applied: str | None = None
) -> None:
    """One line per slice, then the warnings in plain words, then the factor that was applied."""
    table = Table("slice", "χ²", "R̂ < 1.1", "ESS", "self-check", "noise/signal", "converged")
    for posterior in posteriors:
        inside = posterior.object_mask
        rhat, effective = posterior.rhat[inside], posterior.effective_samples[inside]
        check = posterior.self_check
        table.add_row(
            str(posterior.index),
            f"{posterior.chi2_per_coil.mean():.2f}",
            f"{(rhat < 1.1).mean():.0%}" if np.isfinite(rhat).any() else "-",
            f"{effective.mean():.0f}" if effective.size else "-",
            f"{check.residual_std:.2f}, 90 % holds {check.coverage_90:.0%}" if check else "-",
            f"{posterior.noise_std / posterior.scale:.4f}",
            "yes" if posterior.converged else "[bold red]no[/]",
        )
    console.print(table)
    for posterior in posteriors:
        for warning in posterior.warnings:
            console.print(f"[yellow]slice {posterior.index}:[/] {warning}")
    if applied is not None:
        console.print(f"[cyan]calibrated:[/] {escape(applied)}", highlight=False)


def print_evaluation(evaluation: Evaluation, console: Console, applied: str | None = None) -> None:
    """PSNR, SSIM, NMSE, coverage and chi^2 per slice and for the volume.

    Coverage is of the reference with its noise (`Judgement.predicted_90`).
    """
    measures = ("PSNR dB", "SSIM", "NMSE", "50 % holds", "90 % holds", "χ²", "R̂ < 1.1")
    names = (Column("", no_wrap=True), Column("image", no_wrap=True))
    table = Table(*names, *measures, box=SIMPLE_HEAD, pad_edge=False)  # 80 columns are enough
    rows = [
        (f"slice {index}", judgement)
        for index, judgement in zip(evaluation.indices, evaluation.slices, strict=True)
    ]
    if len(rows) > 1:
        rows.append(("volume", evaluation.volume))
    for name, judgement in rows:
        _add(table, name, judgement)
    console.print(table)
    if applied is not None:
        console.print(f"[cyan]calibrated:[/] {escape(applied)}", highlight=False)


def _add(table: Table, name: str, judgement: Judgement) -> None:
    for label, scores in (
        ("coarse", judgement.coarse),
        ("one sample", judgement.sample),
        ("mean", judgement.mean),
    ):
        last = label == "mean"
        table.add_row(
            name if label == "coarse" else "",
            label,
            f"{scores.psnr:.2f}",
            f"{scores.ssim:.3f}",
            f"{scores.nmse:.4f}",
            _percent(judgement.predicted_50) if last else "",
            _percent(judgement.predicted_90) if last else "",
            f"{judgement.chi2:.2f}" if last else "",
            _percent(judgement.rhat_share) if last else "",
            end_section=last,
        )


def _percent(share: float) -> str:
    return f"{share:.0%}" if math.isfinite(share) else "-"
