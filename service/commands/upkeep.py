"""`mri-posterior backup`, `restore` and `prune`: what a service keeps, saved, put back, let go."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

_console = Console(highlight=False)
_SECONDS = {"h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}

Data = Annotated[Path | None, typer.Option(help="Folder of the service.")]
Database = Annotated[str | None, typer.Option(help="postgresql://… [SQLite in the folder].")]
Storage = Annotated[str | None, typer.Option(help="Folder of scans and results [the folder].")]


def backup(
    target: Annotated[Path, typer.Argument(help="Folder of the backup; an older one is renewed.")],
    data: Data = None,
    database: Database = None,
    storage: Storage = None,
    files_only: Annotated[
        bool,
        typer.Option("--files-only", help="Not the tables: pg_dump saves PostgreSQL's."),
    ] = False,
) -> None:
    """Copy tables, scans and results of a service that may be running."""
    from service.settings import load_settings  # lazy: slow to load
    from service.store.backup import back_up  # lazy: loads the database's engine

    os.umask(0o077)
    made = back_up(
        load_settings(data=data, database=database, storage=storage), target, files_only=files_only
    )
    what = "tables and files" if made.tables else "files"
    _console.print(f"{what} are in {target}: {made.files} files, {made.bytes >> 20} MiB")


def restore(
    source: Annotated[Path, typer.Argument(help="Folder that `backup` has written.")],
    data: Data = None,
) -> None:
    """Put a backup into a new folder, every scan checked; `serve --data` goes on from there."""
    from service.settings import load_settings  # lazy: slow to load
    from service.store.backup import restore as put_back  # lazy: loads the database's engine

    os.umask(0o077)
    settings = load_settings(data=data)
    made = put_back(source, settings)
    when = datetime.fromtimestamp(made.created_at, UTC).isoformat(timespec="seconds")
    _console.print(f"the backup of {when} is in {settings.data}: {made.files} files")


def prune(
    older_than: Annotated[
        str, typer.Option("--older-than", help="Age: 30d, 12w or 48h.", metavar="AGE")
    ],
    data: Data = None,
    database: Database = None,
    storage: Storage = None,
    scans: Annotated[
        bool, typer.Option("--scans", help="Also scans that no unfinished job needs.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove results, and with --scans scans, that are older than an age; jobs stay listed."""
    from service.intake.intake import open_intake  # lazy: loads the database's engine
    from service.intake.pruning import prune as let_go  # lazy: the same
    from service.settings import load_settings  # lazy: the same
    from service.store.database import create_database  # lazy: the same

    form = re.fullmatch(r"(\d{1,5}(?:\.\d{1,3})?)([hdw])", older_than)
    if form is None:
        raise typer.BadParameter("an age is a number and h, d or w: 48h, 30d, 12w")
    seconds = float(form[1]) * _SECONDS[form[2]]
    settings = load_settings(data=data, database=database, storage=storage)
    create_database(settings.database_url)
    intake = open_intake(settings)
    try:
        gone = let_go(intake, seconds, scans=scans, dry_run=dry_run)
    finally:
        intake.close()
    verb = "would be" if dry_run else "are"
    _console.print(
        f"results of {gone.jobs} jobs and {gone.scans} scans {verb} gone: {gone.bytes >> 20} MiB"
    )
