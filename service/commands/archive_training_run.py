"""What `train --from-undersampled` does: the rounds behind a progress bar, and the report."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.markup import escape
from rich.progress import TaskProgressColumn

from models.train import Progress as Trained
from service.commands.terminal import progress
from service.runs import choose_device
from service.training.archive_plan import ArchivePlan
from service.training.archive_report import recommendation, write_report
from service.training.expectation_maximization import ArchiveLearning, Event, Judged, Learned
from service.training.held_out_likelihood import summary
from service.training.memorised import MemorySearch
from service.training.slice_work import Step
from service.training.undersampled_scans import Looking, ScanList

_console = Console(stderr=True)
_output = Console()

_TOLD = {
    "spectrum": "fitting a Gaussian to the scans",
    "coarse": "making coarse images of every slice",
    "drawing": "drawing from the posterior of every slice",
    "predicting": "predicting held-out lines",
    "comparing": "predicting them with an installed prior",
    "searching": "looking for images that it remembers",
}


def run_archive_training(plan: ArchivePlan, device: str, *, quiet: bool) -> None:
    """Learn, look for memories, report. Raises ModelError, ScanError."""
    learning = ArchiveLearning(plan, choose_device(device))
    learned: Learned | None = None
    memory: MemorySearch | None = None
    with progress(_console, TaskProgressColumn(), quiet=quiet) as bar:
        task = bar.add_task("looking at scans", total=1.0)

        def show(event: Event) -> None:
            share, text = _described(event, plan)
            if text:
                bar.update(task, completed=share, description=escape(text))

        for event in learning.follow():
            show(event)
            if isinstance(event, ScanList) and not quiet:
                _print_list(event)
            elif isinstance(event, Judged) and not quiet:
                _print_round(event)
            elif isinstance(event, Learned):
                learned = event
        assert learned is not None
        if learned.chosen > 0:
            search = learning.search(learned.chosen, learned.scans)
            while memory is None:
                try:
                    show(next(search))
                except StopIteration as stop:
                    memory = stop.value
    page, _ = write_report(plan.out, plan, learned, memory)
    if quiet:
        return
    _output.print(recommendation(learned, memory), highlight=False, soft_wrap=True)
    _output.print(f"report: {page}", highlight=False, soft_wrap=True)
    if learned.chosen > 0:
        folder = plan.out / "models" / learning.name(learned.chosen)
        _output.print(
            f"to use it: mri-posterior models add {folder}", highlight=False, soft_wrap=True
        )


def _described(event: Event, plan: ArchivePlan) -> tuple[float, str]:
    """Share of the stage and what to say of it; nothing to say of its results."""
    if isinstance(event, Looking):
        return event.done / max(event.of, 1), f"looking at {event.name}"
    if isinstance(event, Trained):
        text = f"training: loss {event.loss:.4f}, {event.patches_per_second:.0f} patches/s"
        return event.step / plan.training.steps, text
    if isinstance(event, Step):
        where = f"round {event.round}: " if event.stage in ("drawing", "predicting") else ""
        detail = f" ({event.detail})" if event.detail else ""
        return event.done / max(event.of, 1), f"{where}{_TOLD[event.stage]}{detail}"
    return 0.0, ""


def _print_list(found: ScanList) -> None:
    for name, scans in (("to learn from", found.training), ("held out", found.held_out)):
        slices = sum(len(scan.slices) for scan in scans)
        subjects = len({scan.subject for scan in scans})
        _console.print(
            f"{name}: {slices} slices of {len(scans)} scans of {subjects} subjects", highlight=False
        )
    for each in found.left_out[:20]:
        _console.print(
            f"[yellow]left out[/] {escape(each.name)} ({each.code}): {escape(each.reason)}",
            highlight=False,
        )
    if len(found.left_out) > 20:
        kinds = Counter(each.code for each in found.left_out)
        told = ", ".join(f"{count} × {code}" for code, count in kinds.items())
        _console.print(f"[yellow]left out in all:[/] {told}", highlight=False)


def _print_round(judged: Judged) -> None:
    found = summary(judged.predictions)
    better = "" if judged.gain is None else f"; gain over the best before: {judged.gain}"
    _console.print(
        f"round {judged.round}, {judged.model}: log density of held-out lines "
        f"{found.log_density:.4f} at {found.spread:.2f} times the spread of its draws, whose 90 % "
        f"intervals hold {found.coverage_90:.0%}{better}",
        highlight=False,
        soft_wrap=True,
    )
