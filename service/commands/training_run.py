"""What `train` does: a training run behind a progress bar."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

from models.errors import ModelError
from models.network_configs import NoiseExpertsConfig
from models.processes import Process
from models.registry import read_config
from models.train import Progress, TrainingConfig
from service.runs import choose_device
from service.training.archive_plan import ArchivePlan, read_archive_plan
from service.training.images import Prepared
from service.training.images import Progress as Preparing
from service.training.runs import NETWORKS, Ready, TrainingPlan, read_plan, run_plan

console = Console(stderr=True)


def run_training(
    plan: Path | None,
    overrides: Mapping[str, object],
    training: Mapping[str, object],
    network: Literal["small", "base"] | None,
    device: str,
    *,
    quiet: bool,
) -> None:
    """Train by a plan's file and what overrides it. Raises ModelError."""
    training = {"network": NETWORKS[network] if network else None, **training}
    chosen = _plan(plan, overrides, training)
    with Process.join(choose_device(device)) as process:
        shown = not quiet and process.first
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        with Bar(*columns, console=console, disable=not shown) as bar:
            task = bar.add_task("images", total=1.0)
            for event in run_plan(chosen, process):
                if isinstance(event, Preparing):
                    text = f"{event.detail} {event.source}"
                    bar.update(task, completed=event.share, description=text)
                elif isinstance(event, Ready):
                    if shown:
                        _print_images(event)
                    bar.reset(task, total=chosen.training.steps, description="training")
                else:
                    _show(event, bar, task)
    if shown:
        above = f" --above {chosen.start_from}" if _has_experts(chosen.start_from) else ""
        console.print(
            f"trained: {chosen.out}; make a model of it with `mri-posterior models package{above}`"
        )


def _has_experts(name: str | None) -> bool:
    return name is not None and isinstance(read_config(name).network, NoiseExpertsConfig)


def _plan(
    file: Path | None, overrides: Mapping[str, object], training: Mapping[str, object]
) -> TrainingPlan:
    """The file's plan, or the default one, with the options that were given."""
    given = {name: value for name, value in overrides.items() if value is not None}
    options = {name: value for name, value in training.items() if value is not None}
    if file is not None:
        plan = read_plan(file)
        return plan.model_copy(
            update={**given, "training": plan.training.model_copy(update=options)}
        )
    if "data" not in given or "out" not in given:
        raise ModelError("no-plan", "give a training file, or --data and --out")
    return TrainingPlan.model_validate(
        {
            **given,
            "training": TrainingConfig.model_validate({"network": NETWORKS["small"], **options}),
        }
    )


def archive_plan(
    file: Path | None,
    overrides: Mapping[str, object],
    of_images: Mapping[str, object],
    training: Mapping[str, object],
    network: Literal["small", "base"] | None,
) -> ArchivePlan | None:
    """The plan of a run on undersampled scans, where one is asked for; None for one on images.

    Raises ModelError where what belongs to the one is given for the other.
    """
    kept = None if file is None else read_archive_plan(file)
    given = {name: value for name, value in overrides.items() if value is not None}
    if kept is None and "from_undersampled" not in given:
        only = sorted(given.keys() - {"out", "start_from"})
        if only:
            raise ModelError("no-archive", f"--{only[0]} goes with --from-undersampled ARCHIVE")
        return None
    if file is not None and kept is None:
        raise ModelError("bad-plan", f"{file} trains on images; leave it or the archive out")
    if wrong := [name for name, value in of_images.items() if value is not None]:
        raise ModelError(
            "both",
            f"--{wrong[0]} is of images; with undersampled scans some are held out by itself",
        )
    options = {name: value for name, value in training.items() if value is not None}
    if network is not None:
        options["network"] = NETWORKS[network]
    base = {} if kept is None else kept.model_dump(exclude_unset=True)
    steps = base.get("training", {}) | options
    if "out" not in base | given:
        raise ModelError("no-plan", "give --out, the folder of the run")
    try:
        return ArchivePlan.model_validate(base | given | {"training": steps})
    except ValidationError as error:
        raise ModelError("bad-plan", " ".join(str(error).splitlines()[1:3])) from error


def _show(step: Progress, bar: Bar, task: object) -> None:
    text = f"loss {step.loss:.4f}, {step.patches_per_second:.0f} patches/s"
    bar.update(task, completed=step.step, description=text)  # type: ignore[arg-type]
    if step.validation:
        scores = ", ".join(f"σ {sigma:g}: {score:.2f}" for sigma, score in step.validation.items())
        bar.console.print(f"step {step.step}: denoising PSNR in dB on held-out slices: {scores}")


def _print_images(ready: Ready) -> None:
    """What is trained on, and what was refused and why."""
    table = Table("images of", "slices", "patients", "remarks")
    for each in ready.training.taken:
        table.add_row(
            str(each.source), str(each.slices), str(len(set(each.patients))), "; ".join(each.notes)
        )
    if len(ready.training.taken) <= 30:
        console.print(table)
    for prepared in {id(each): each for each in (ready.training, ready.validation)}.values():
        _print_refused(prepared)
    if ready.shared:
        console.print(
            f"[yellow]named on both sides: {', '.join(ready.shared[:5])}; the validation means "
            "nothing if these are the same people[/]"
        )
    if ready.held_out:
        console.print(f"{ready.slices} slices to train on, {ready.held_out} of others held out")
    else:
        console.print(
            f"[yellow]{ready.slices} slices of one patient: nobody is held out, so that nothing "
            "says when to stop; give --validation[/]"
        )


def _print_refused(prepared: Prepared) -> None:
    for refused in prepared.refused:
        more = f" and {len(refused.sources) - 1} more" if len(refused.sources) > 1 else ""
        console.print(f"[yellow]refused[/] {refused.sources[0]}{more}: {refused.reason}")
    for warning in prepared.warnings:
        console.print(f"[yellow]{warning}[/]")
