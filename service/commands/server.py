"""The commands of the service: serve, settings, keys, submit."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import TaskProgressColumn
from rich.table import Table

from recon.errors import ScanError
from service.commands.help import EXPERT, Help, HelpGroup
from service.commands.options import Axes, FftShift, Layout, Overwrite, Slices, Volume
from service.commands.outputs import require_writable
from service.products import PRODUCTS, RESULT

if TYPE_CHECKING:
    from service.report import Progress
    from service.store.keys import Keys

KEY_VARIABLE = "MRI_POSTERIOR_KEY"

keys_app = typer.Typer(cls=HelpGroup, no_args_is_help=True, help="API keys: create, list, revoke.")


class ScopeName(StrEnum):
    """What a key may be made for."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


_output = Console()
_console = Console(stderr=True)

Data = Annotated[Path | None, typer.Option(help="Folder of scans and results.")]
Config = Annotated[Path | None, typer.Option(help="TOML file of settings [MRI_POSTERIOR_CONFIG].")]
Database = Annotated[str | None, typer.Option(help="postgresql://… [SQLite in the folder].")]


def serve(
    config: Config = None,
    data: Data = None,
    database: Database = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind [8080]; 0: any.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers [one per GPU, or one].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
    gateway_port: Annotated[
        int | None, typer.Option(help="Also serve scanners on this port (MRD, often 9002).")
    ] = None,
) -> None:
    """Run the HTTP service: viewer, API and workers, until SIGTERM."""
    from service.jobs import supervisor  # lazy: loads the database's engine
    from service.logs import configure_logs  # lazy: other commands need no logging
    from service.settings import load_settings  # lazy: slow to load

    chosen = load_settings(
        config,
        data=data,
        database=database,
        host=host,
        port=port,
        workers=workers,
        device=device,
        gateway_port=gateway_port,
    )
    configure_logs(chosen.log_level, "supervisor")
    supervisor.serve(chosen)


def settings(
    config: Config = None,
    markdown: Annotated[bool, typer.Option(help="As the table of the documentation.")] = False,
) -> None:
    """All settings of the service: default, value in force, meaning."""
    from service.settings import in_force, load_settings, table  # lazy: slow to load

    if markdown:
        _output.print("| variable | default | meaning |\n|---|---|---|", highlight=False)
        for row in table():
            line = f"| `{row.variable}` | {row.default or '-'} | {row.meaning} |"
            _output.print(line, soft_wrap=True, highlight=False, markup=False)
        return
    chosen = load_settings(config)
    columns = Table("environment variable", "default", "in force", "meaning")
    for row in table():
        value = in_force(chosen, row.name)
        changed = "" if value == row.default else value
        columns.add_row(row.variable, row.default or "-", changed, row.meaning)
    _output.print(columns)
    _output.print(
        "MRI_POSTERIOR_CONFIG or --config names a TOML file with the same settings in lower case, "
        "without the prefix. Flags of `serve` win over the environment, that over the file."
    )


def openapi() -> None:
    """The OpenAPI document of the HTTP API, as JSON: what generators of clients read."""
    from service.http.app import api_document  # lazy: FastAPI, which the other commands need not

    print(json.dumps(api_document(), indent=1))  # noqa: T201  # not a line for people


def submit(
    scan: Annotated[Path, typer.Argument(help="Undersampled k-space, of any format that is read.")],
    server: Annotated[str, typer.Option(help="URL of the service.")] = "http://127.0.0.1:8080",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Wait, and write the result here.")
    ] = None,
    product: Annotated[
        str, typer.Option(metavar="NAME", help=f"What to write: {', '.join(PRODUCTS)}.")
    ] = RESULT,
    preset: Annotated[str | None, typer.Option(help="fast, standard or thorough.")] = None,
    samples: Annotated[int | None, typer.Option(help="Independent samples.")] = None,
    model: Annotated[str | None, typer.Option(help="Prior, by name.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    slices: Slices = None,
    priority: Annotated[str | None, typer.Option(help="scanner, interactive, archive.")] = None,
    deadline: Annotated[
        float | None, typer.Option(help="Seconds from now; chooses preset and samples.")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            "--target-mc-error",
            help="Monte Carlo error over posterior std to reach; chooses preset and samples.",
        ),
    ] = None,
    volume: Volume = False,
    calibration: Annotated[
        Path | None,
        typer.Option(help="Scan whose centre makes the coil maps.", rich_help_panel=EXPERT),
    ] = None,
    layout: Layout = None,
    axes: Axes = None,
    fftshift: FftShift = None,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
) -> None:
    """Send a scan to a service; with --out, wait for the result.

    The API key, if one is needed, is read from MRI_POSTERIOR_KEY.
    """
    if product not in PRODUCTS or (product != RESULT and out is None):
        from service.settings import SettingsError  # lazy: slow to load, and needed only now

        names = f"--product is one of {', '.join(PRODUCTS)}"
        raise SettingsError(
            names if product not in PRODUCTS else "--product says what --out is to hold; give both"
        )
    for file in (scan, calibration):
        if file is not None and not file.is_file():
            raise ScanError("no-such-file", f"{file}: there is no such file; check the path")
    require_writable((out,), (scan, calibration), overwrite=overwrite)
    from service.client import Client  # lazy: loads httpx
    from service.commands.terminal import progress as shown  # lazy: loads numpy

    with Client(server, os.environ.get(KEY_VARIABLE)) as client:
        job = client.submit(
            scan,
            calibration=calibration,
            layout=layout,
            axes=axes,
            fftshift=fftshift,
            preset=preset,
            samples=samples,
            model=model,
            seed=seed,
            slices=slices,
            volume=volume or None,
            priority=priority,
            deadline_s=deadline,
            target_mc_error=target,
        )
        if out is None:
            _output.print(job.id)
            return
        with shown(_console, TaskProgressColumn(), quiet=quiet) as bar:
            task = bar.add_task("waiting", total=1.0)

            def show(progress: Progress) -> None:
                where = progress.phase if progress.slice is None else f"slice {progress.slice}"
                bar.update(task, completed=progress.fraction, description=where)

            done = client.wait(job.id, show)
        client.download(done, out, product)
        if not quiet:
            _output.print(f"written: {out}")


@keys_app.command("create", cls=Help)
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[ScopeName] | None, typer.Option(help="May be repeated [read, write].")
    ] = None,
    days: Annotated[float | None, typer.Option(min=0.001, help="Days it is valid.")] = None,
    data: Data = None,
    database: Database = None,
) -> None:
    """Make a key; its token is shown this once."""
    from service.store.keys import Scope  # lazy: loads SQLAlchemy

    scopes = frozenset(Scope(name) for name in scope or ("read", "write"))
    key, token = _keys(data, database).create(name, scopes, days)
    _console.print(f"key {key.id} ({', '.join(sorted(key.scopes))}), keep it safe:")
    _output.print(token, soft_wrap=True, highlight=False)


@keys_app.command("list", cls=Help)
def list_keys(data: Data = None, database: Database = None) -> None:
    """All keys, without their tokens."""
    columns = Table("id", "name", "scopes", "created", "expires", "revoked")
    for key in _keys(data, database).all():
        columns.add_row(
            key.id,
            key.name,
            ", ".join(sorted(key.scopes)),
            _day(key.created_at),
            _day(key.expires_at),
            _day(key.revoked_at),
        )
    _output.print(columns)


@keys_app.command("revoke", cls=Help)
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `list` shows it.")],
    data: Data = None,
    database: Database = None,
) -> None:
    """End a key, within seconds."""
    if not _keys(data, database).revoke(key_id):
        _console.print(f"there is no key '{key_id}' in force")
        raise typer.Exit(2)
    _output.print(f"revoked: {key_id}")


def _keys(data: Path | None, database: str | None) -> Keys:
    from service.settings import load_settings  # lazy: slow to load
    from service.store.database import create_database, open_database  # lazy: loads SQLAlchemy
    from service.store.keys import Keys  # lazy: the same

    os.umask(0o077)  # the database is for nobody else on this machine
    chosen = load_settings(data=data, database=database)
    create_database(chosen.database_url)
    return Keys(open_database(chosen.database_url))


def _day(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).date().isoformat()
