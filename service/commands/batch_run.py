"""What `batch` does: look, queue, follow with or without workers of its own, report."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    Progress,
    TaskID,
)
from rich.table import Table
from sqlalchemy.exc import OperationalError

from service.archives.inspection import Looked
from service.archives.report import csv_text, html_text, json_text, rows_of
from service.archives.runs import ArchiveRun, Order, ended, require_model, state_folder
from service.archives.sources import Found, find_scans, shard
from service.commands.terminal import counting_bar
from service.jobs.batches import Batch, NewItem
from service.jobs.supervisor import Crew
from service.logs import configure_logs
from service.requests import Priority, ReconstructionParameters
from service.settings import ServiceSettings, SettingsError, load_settings
from service.store.durable import write_whole
from service.store.objects import ObjectStore, is_url

_console = Console(stderr=True)
_output = Console()
_CHUNK = 500
_LINES = 8
"""Running items that are shown."""
_LISTED = 40
"""Lines of the table of what will run."""
_FOLLOW_SECONDS = 0.5
_AWAY_SECONDS = 2.0


@dataclass(frozen=True)
class _Stop:
    """Ctrl-C and SIGTERM, as something to look at between two steps."""

    event: threading.Event

    @classmethod
    def on_signals(cls) -> _Stop:
        event = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: event.set())
        return cls(event)


@dataclass(frozen=True)
class Choices:
    """What was asked for, by the names of the options."""

    source: str
    out: str
    model: str | None
    preset: str | None
    samples: int | None
    seed: int
    slices: str | None
    self_check: bool
    slice_coherence: float
    volume: bool
    calibrated: bool
    priority: Priority
    on_error: str
    limit: int | None
    part: str | None
    dry_run: bool
    workers: int | None
    device: str | None
    database: str | None
    storage: str | None
    data: Path | None
    in_place: bool


def run_batch(choices: Choices, *, quiet: bool) -> None:
    """Look, queue and follow; exits by how it ended. Raises SettingsError, ModelError."""
    parameters = _parameters(choices)
    require_model(choices.model)
    base = load_settings(data=choices.data, workers=choices.workers, device=choices.device)
    elsewhere = choices.database is not None
    order = Order(parameters, choices.on_error, upload=elsewhere and not choices.in_place)
    settings = _settings(base, order, choices.out, choices.database, choices.storage, choices.part)
    stop = _Stop.on_signals()
    scans = shard(find_scans(choices.source), choices.part)[: choices.limit]
    run = ArchiveRun(settings, order)
    try:
        looked, items = _look(run, scans, stop, bring=not choices.dry_run, quiet=quiet)
        if not quiet:
            _show(looked, items)
        refused = sum(item.error is not None for item in items)
        if choices.dry_run or (choices.on_error == "stop" and refused) or stop.event.is_set():
            raise typer.Exit(130 if stop.event.is_set() else 2 if refused else 0)
        made = run.begin({"source": choices.source, **parameters.model_dump(mode="json")})
        for start in range(0, len(items), _CHUNK):
            run.batches.add(made, items[start : start + _CHUNK], start)
        run.batches.seal(made)
        finished = _work(run, made, stop, elsewhere, quiet)
        counts = run.counts(made)
        names = _report(run, made, counts, choices.out, choices.part)
        if not quiet or not finished:
            _tell(counts, names, made, finished, elsewhere)
        if not finished:
            raise typer.Exit(130)
        raise typer.Exit(0 if counts["succeeded"] == len(items) else 1)
    finally:
        run.close()


def _parameters(choices: Choices) -> ReconstructionParameters:
    try:
        return ReconstructionParameters.model_validate(
            {
                "model": choices.model, "preset": choices.preset, "samples": choices.samples,
                "seed": choices.seed, "slices": choices.slices, "priority": choices.priority,
                "self_check": choices.self_check, "slice_coherence": choices.slice_coherence,
                "volume": choices.volume, "calibrated": choices.calibrated,
            }
        )  # fmt: skip
    except ValueError as error:
        raise SettingsError(" ".join(str(error).splitlines()[1:3])) from error


def _settings(
    base: ServiceSettings,
    order: Order,
    out: str,
    database: str | None,
    storage: str | None,
    part: str | None,
) -> ServiceSettings:
    """Those of a run: its own database and workers, or others'."""
    place = storage or out
    place = place if is_url(place) else str(Path(place).expanduser().absolute())
    chosen: dict[str, object] = {"storage": place, "workers": base.workers, "device": base.device}
    if database is not None:
        if not database.startswith("postgresql://"):
            raise SettingsError("--database is postgresql://…; without it a run keeps its own")
        return load_settings(None, data=base.data, database=database, **chosen)
    chosen["data"] = state_folder(place, base, order, part)
    if "jobs_at_once" not in base.model_fields_set:
        chosen["jobs_at_once"] = 2
    return load_settings(None, **chosen)


def _look(
    run: ArchiveRun, scans: Sequence[Found], stop: _Stop, *, bring: bool, quiet: bool
) -> tuple[list[Looked], list[NewItem]]:
    looked, items = [], []
    with counting_bar(_console, quiet=quiet) as bar:
        task = bar.add_task("looking at headers", total=len(scans))
        for one, item in run.look(scans, bring=bring):
            looked.append(one)
            items.append(item)
            bar.advance(task)
            if stop.event.is_set():
                break
    return looked, items


def _show(looked: Sequence[Looked], items: Sequence[NewItem]) -> None:
    """What will run, what is there, and what is refused and why."""
    table = Table("scan", "slices", "coils", "matrix", "MB", "will", title=None)
    order = sorted(range(len(items)), key=lambda k: items[k].error is None)  # refusals first
    for k in order[:_LISTED]:
        one, item = looked[k], items[k]
        shape = one.shape
        if item.error is not None:
            told = str(item.error["detail"])
            will = f"[red]be refused[/] ({escape(_reason(item))}): {escape(told)}"
        else:
            will = "[dim]be skipped: its output is there[/]" if item.there else "run"
        table.add_row(
            escape(item.name),
            str(shape[0]) if shape else "-",
            str(shape[1]) if shape else "-",
            f"{shape[2]} × {shape[3]}" if shape else "-",
            f"{one.bytes / 1e6:.1f}" if one.bytes else "-",
            will,
        )
    _console.print(table)
    if len(items) > _LISTED:
        _console.print(f"… and {len(items) - _LISTED} more")
    kinds = Counter(_reason(item) for item in items if item.error is not None)
    there = sum(item.there for item in items)
    refused = sum(kinds.values())
    told = "".join(f"; {count} × {escape(kind)}" for kind, count in kinds.most_common())
    _console.print(
        f"{len(items)} scans: {len(items) - refused - there} to run, {there} there already, "
        f"{refused} refused{told}"
    )


def _reason(item: NewItem) -> str:
    if item.error is None:
        return ""
    return item.error.get("reason") or item.error["type"].removeprefix("/problems/")


def _work(run: ArchiveRun, made: Batch, stop: _Stop, elsewhere: bool, quiet: bool) -> bool:
    """Follow to the end, with workers of our own unless others do it; whether it was reached."""
    crew: AbstractContextManager[Crew | None] = nullcontext()
    log = None
    if elsewhere:
        for text in run.offered(run.settings.worker_lost_seconds):
            _console.print(f"[yellow]{escape(text)}[/]")
    elif ended(run.counts(made)) < sum(run.counts(made).values()):
        configure_logs("error", "batch")
        log = run.settings.data / "workers.log"
        crew = Crew(run.settings, log)
        if not quiet:
            _console.print(f"workers log to {log}", highlight=False)
    with crew as own, counting_bar(_console, quiet=quiet) as bar:
        total = sum(run.counts(made).values())
        overall = bar.add_task("all scans", total=total)
        lines: dict[str, TaskID] = {}
        looked = 0.0
        while True:
            if own is not None:
                own.look()
            if time.monotonic() - looked >= _FOLLOW_SECONDS:
                looked = time.monotonic()
                try:
                    counts = run.counts(made)
                except OperationalError:  # it may be on its way back
                    bar.update(overall, description="[red]the database does not answer[/]")
                    stop.event.wait(_AWAY_SECONDS)
                    continue
                failed = counts["failed"] + counts["refused"]
                told = f"all scans ([red]{failed} failed[/])" if failed else "all scans"
                bar.update(overall, completed=ended(counts), description=told)
                if ended(counts) == total:
                    return True
                if not quiet:
                    _update(run, made, bar, lines)
            if stop.event.wait(0.05):
                return False


def _update(run: ArchiveRun, made: Batch, bar: Progress, lines: dict[str, TaskID]) -> None:
    """One line for each running item."""
    running = {item.name: item for item in run.running(made, _LINES)}
    for name in [name for name in lines if name not in running]:
        bar.remove_task(lines.pop(name))
    for name, item in running.items():
        if name not in lines:
            lines[name] = bar.add_task("", total=1.0)
        progress = None if item.job is None else item.job.progress
        where = "" if progress is None or progress.slice is None else f" slice {progress.slice}"
        bar.update(
            lines[name],
            completed=0.0 if progress is None else progress.fraction,
            description=f"  {escape(name[-40:])}{where}",
        )


def _report(
    run: ArchiveRun, made: Batch, counts: dict[str, int], out: str, part: str | None
) -> list[str]:
    """Write CSV, JSON and HTML to the target; their names tell the choice of settings."""
    asked = {name: value for name, value in made.request.items() if name != "source"}
    text = json.dumps([asked, part], sort_keys=True)
    stem = f"report-{sha256(text.encode()).hexdigest()[:8]}"
    rows = list(rows_of(run.items(made), run.storage))
    about = {"batch": made.id, "shard": part, "storage": run.storage.address, **made.request}
    files = {
        f"{stem}.csv": "".join(csv_text(rows)),
        f"{stem}.json": json_text(rows, about, counts),
        f"{stem}.html": html_text(rows, about, counts, run.storage),
    }
    for name, content in files.items():
        if is_url(out):
            ObjectStore(out.rstrip("/")).write(name, content.encode())
        else:
            write_whole(Path(out).expanduser() / name, content.encode())
    return [f"{out.rstrip('/')}/{name}" for name in files]


def _tell(
    counts: dict[str, int], names: list[str], made: Batch, finished: bool, elsewhere: bool
) -> None:
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    _output.print(f"{told or 'nothing to do'}\nreport: {', '.join(names)}", highlight=False)
    if not finished and elsewhere:
        _console.print(
            "the workers go on; the same command follows again, and "
            f"POST /v1/batches/{made.id}/cancel stops them"
        )
    elif not finished:
        _console.print("stopped; the same command goes on from here")
