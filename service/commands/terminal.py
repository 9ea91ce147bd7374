"""What people see of a run in a terminal: progress, summaries, tables."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

if TYPE_CHECKING:  # progress alone needs no torch
    from recon.evaluation import Evaluation, Judgement
    from recon.pipeline import Event
    from recon.posterior import SlicePosterior

_LINE_SECONDS = 10.0
"""Least time between two lines of progress where there is no terminal."""

_COLOURS = {"trusted": "green", "doubtful": "bold yellow", "refused": "bold red"}
_KNOWN = 0.03
"""Share of the work from which the time left is told: the first steps load what others have."""


class ProgressLines(Progress):
    """Progress for logs and pipes: now and then a line of the first task, in place of a bar."""

    def __init__(self, console: Console) -> None:
        super().__init__(console=console, disable=True)
        self._told_at = time.monotonic()

    def update(self, task_id: TaskID, *args: Any, **fields: Any) -> None:  # noqa: ANN401
        super().update(task_id, *args, **fields)
        self._tell()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell()

    def _tell(self) -> None:
        if not self.tasks or time.monotonic() - self._told_at < _LINE_SECONDS:
            return
        self._told_at = time.monotonic()
        task = self.tasks[0]
        elapsed, share, left = task.elapsed or 0.0, "", ""
        if task.total and task.completed:
            share = f", {task.percentage:.0f} %"
            if task.completed > _KNOWN * task.total:
                left = f", {duration(elapsed * (task.total / task.completed - 1))} left"
        self.console.print(
            f"{task.description}{share}, {duration(elapsed)} so far{left}",
            highlight=False,
            soft_wrap=True,
        )


def progress(console: Console, *columns: ProgressColumn, quiet: bool) -> Progress:
    """A bar with the time left that is gone when it is done; lines where no terminal shows it."""
    if not quiet and not console.is_terminal:
        return ProgressLines(console)
    shown = (TextColumn("{task.description}"), BarColumn(), *columns, TimeElapsedColumn())
    left = (TextColumn("left"), TimeRemainingColumn())
    return Progress(*shown, *left, console=console, disable=quiet, transient=True)


@contextmanager
def watching(slices: int, console: Console, *, quiet: bool) -> Iterator[Callable[[Event], None]]:
    """What shows the events of a reconstruction: the slice, the stage and the time left."""
    from recon.pipeline import Progress as Step  # lazy: loads torch
    from recon.posterior import SlicePosterior  # lazy: with it

    with progress(console, TaskProgressColumn(), quiet=quiet) as bar:
        task = bar.add_task("starting", total=slices)
        done = 0

        def watch(event: Event) -> None:
            nonlocal done
            if isinstance(event, Step):
                where = f"slice {event.index}"
                if slices > 1:
                    where += f" ({done + 1} of {slices})"
                told = f"{where}: {event.stage}"
                bar.update(task, completed=done + event.fraction, description=told)
            elif isinstance(event, SlicePosterior):
                done += 1
                bar.update(task, completed=done)

        yield watch


def counting_bar(console: Console, *, quiet: bool) -> Progress:
    """A bar of things done out of all, with the time left; gone when it is done."""
    return progress(console, MofNCompleteColumn(), quiet=quiet)


def duration(seconds: float) -> str:
    """As people say it: 45 s, 2 min 14 s, 1 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def print_posteriors(
    posteriors: Sequence[SlicePosterior], console: Console, applied: str | None = None
) -> None:
    """One line per slice, then the warnings in plain words, then the factor that was applied."""
    table = Table("slice", "χ²", "R̂ < 1.1", "ESS", "self-check", "noise", "chains", "verdict")
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
            "agree" if posterior.converged else "[bold red]-[/]",
            _trust(posterior),
        )
    console.print(table)
    for posterior in posteriors:
        if posterior.verdict is not None and posterior.verdict.trust != "trusted":
            told = escape(posterior.verdict.sentence)
            trust = f"{_trust(posterior)}, slice {posterior.index}:"
            console.print(f"{trust} {told}", highlight=False)
    for posterior in posteriors:
        for warning in posterior.warnings:
            console.print(f"[yellow]slice {posterior.index}:[/] {warning}")
    if applied is not None:
        console.print(f"[cyan]calibrated:[/] {escape(applied)}", highlight=False)


def print_summary(
    posteriors: Sequence[SlicePosterior],
    files: Sequence[Path],
    seconds: float,
    how: str,
    console: Console,
) -> None:
    """The end of a run: how long, whether to believe it, where it is, what to look at next."""
    from recon.alarm import scan_verdict  # lazy: loads scipy

    found = scan_verdict([one.verdict for one in posteriors])
    count = f"{len(posteriors)} slices" if len(posteriors) > 1 else "1 slice"
    result = files[0]
    for name, told in (
        ("done", f"{count} in {duration(seconds)} ({how})"),
        ("verdict", "-" if found is None else f"{found.trust}: {found.sentence}"),
        ("chains", chains(posteriors)),
        ("written", ", ".join(str(file) for file in files)),
        ("next", f"mri-posterior export {result} --to nifti -o image.nii.gz"),
        ("", f"mri-posterior evaluate {result} --reference FULL.h5, if there is a full scan"),
    ):
        label = f"{name}: ".rjust(9) if name else " " * 9
        console.print(f"[bold]{label}[/]{escape(told)}", highlight=False, soft_wrap=True)


def _trust(posterior: SlicePosterior) -> str:
    """How far a slice may be trusted, in its colour."""
    if posterior.verdict is None:
        return "-"
    trust = posterior.verdict.trust
    return f"[{_COLOURS[trust]}]{trust}[/]"


def chains(posteriors: Sequence[SlicePosterior]) -> str:
    """Whether the chains have found the posterior, in a line."""
    unsure = [one.index for one in posteriors if not one.converged]
    warned = sum(len(one.warnings) for one in posteriors)
    unchecked = all(not np.isfinite(one.rhat[one.object_mask]).any() for one in posteriors)
    if not unsure:
        also = f", with {warned} warning{'s' * (warned > 1)} above" if warned else ""
        return f"chains agree and the residual is as the noise{also}"
    if unchecked:
        return "not checked: too few draws to say whether chains agree; a look, not a measurement"
    which = "it has" if len(posteriors) == 1 else f"slices {', '.join(map(str, unsure))} have"
    return f"{which} not converged; the warnings above say why and what helps"


def print_evaluation(evaluation: Evaluation, console: Console, applied: str | None = None) -> None:
    """PSNR, SSIM, NMSE, coverage and chi^2 per slice and for the volume.

    Coverage is of the reference with its noise (`Judgement.predicted_90`), and so is what the mean
    says of it, where the reference has any.
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
    images = [
        ("coarse", judgement.coarse),
        ("one sample", judgement.sample),
        ("mean", judgement.mean),
    ]
    if judgement.predicted != judgement.mean:
        images.append(("mean + noise", judgement.predicted))
    for label, scores in images:
        last = label == images[-1][0]
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
