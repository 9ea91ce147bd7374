"""`mri-posterior worker` and `workers`: taking part in a shared queue, and who does."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from service.commands.options import AsJson

if TYPE_CHECKING:
    from service.jobs.workers import Worker
    from service.settings import ServiceSettings

_output = Console()

Database = Annotated[
    str | None, typer.Option(help="postgresql://… that all hosts share [SQLite in the folder].")
]
Data = Annotated[Path | None, typer.Option(help="Folder of this host, for copies and locks.")]


def worker(
    database: Database = None,
    storage: Annotated[
        str | None, typer.Option(help="s3://BUCKET/PREFIX or a folder that all hosts see.")
    ] = None,
    data: Data = None,
    workers: Annotated[int | None, typer.Option(help="Processes [one per GPU, or one].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
    jobs_at_once: Annotated[
        int | None, typer.Option(help="Jobs of a process: one samples, others read and write [1].")
    ] = None,
    share_batches: Annotated[
        bool | None, typer.Option(help="Slices of these jobs share the network's batches (GPU).")
    ] = None,
) -> None:
    """Work for the queue of a database, until SIGTERM.

    Hosts may join and leave at any time. A step that runs at SIGTERM is finished within the grace
    time, or done again elsewhere. The work of a host that falls silent is taken over.
    """
    from service.jobs import supervisor  # lazy: loads the database's engine
    from service.logs import configure_logs  # lazy: slow to load
    from service.settings import load_settings  # lazy: the same

    chosen = load_settings(
        data=data, database=database, storage=storage, workers=workers, device=device,
        jobs_at_once=jobs_at_once, share_batches=share_batches,
    )  # fmt: skip
    configure_logs(chosen.log_level, "supervisor")
    supervisor.work(chosen)


def workers(
    database: Database = None,
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """The workers of a queue: where they are, what they do and have done."""
    from service.jobs.job_table import Jobs  # lazy: loads SQLAlchemy
    from service.jobs.workers import Workers  # lazy: the same
    from service.settings import load_settings  # lazy: slow to load
    from service.store.database import create_database, open_database  # lazy: loads SQLAlchemy

    chosen = load_settings(data=data, database=database)
    create_database(chosen.database_url)
    engine = open_database(chosen.database_url)
    known, done = Workers(engine).all(), Workers(engine).done(3600.0)
    waiting = {name: count for name, (count, _) in Jobs(engine).waiting().items()}
    engine.dispose()
    if as_json:
        listed = [_told(one, chosen) | {"done_last_hour": done.get(one.id, 0)} for one in known]
        sys.stdout.write(json.dumps({"workers": listed, "waiting": waiting}, indent=2) + "\n")
        return
    table = Table("worker", "host", "device", "state", "heard", "does", "done in 1 h", "starts")
    for one in sorted(known, key=lambda one: one.id):
        told = _told(one, chosen)
        colour = {"alive": "green", "silent": "red"}.get(told["state"], "dim")
        table.add_row(
            one.id,
            told["host"],
            one.device,
            f"[{colour}]{told['state']}[/]",
            f"{told['heard_s']:.0f} s ago",
            "\n".join(told["steps"]) or "-",
            str(done.get(one.id, 0)),
            str(one.starts),
        )
    _output.print(table)
    queue = ", ".join(f"{count} {name}" for name, count in waiting.items()) or "none"
    _output.print(f"jobs that wait: {queue}")


def _told(one: Worker, settings: ServiceSettings) -> dict[str, Any]:
    heard = one.unheard_seconds
    state = "alive" if heard < settings.worker_lost_seconds else "silent"
    load = one.load or {}
    told = asdict(one)
    for name in ("offers", "load"):
        told.pop(name)
    return told | {
        "state": "stopped" if one.pid == 0 else state,
        "heard_s": round(heard, 1),
        "host": load.get("host", ""),
        "steps": load.get("steps", []) if state == "alive" else [],
        "processor_s": load.get("processor_s"),
    }
