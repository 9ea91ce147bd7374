"""The commands of the server: serve, settings, keys."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from service.database import create_database, open_database
from service.keys import Keys, Scope
from service.logs import configure_logs
from service.settings import load_settings, table
from service.supervisor import serve as serve_until_told

keys_app = typer.Typer(no_args_is_help=True, help="API keys: create, list, revoke.")
_output = Console()

Data = Annotated[Path | None, typer.Option(help="Folder of scans and results.")]
Database = Annotated[str | None, typer.Option(help="postgresql://… [SQLite in the folder].")]


def add_server_commands(app: typer.Typer) -> None:
    """Mount the commands of this file."""
    app.command()(serve)
    app.command()(settings)
    app.add_typer(keys_app, name="keys")


def serve(
    data: Data = None,
    database: Database = None,
    host: Annotated[str | None, typer.Option(help="Address to bind [127.0.0.1].")] = None,
    port: Annotated[int | None, typer.Option(help="Port to bind [8080]; 0: any.")] = None,
    workers: Annotated[int | None, typer.Option(help="Workers [one per GPU, or one].")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda.")] = None,
) -> None:
    """Run the HTTP service: the API and its workers, until SIGTERM."""
    chosen = load_settings(
        data=data, database=database, host=host, port=port, workers=workers, device=device
    )
    configure_logs(chosen.log_level, "supervisor")
    serve_until_told(chosen)


def settings() -> None:
    """All settings of the service: variable, default, meaning."""
    columns = Table("environment variable", "default", "meaning", show_lines=False)
    for _, variable, default, meaning in table():
        columns.add_row(variable, default or "-", meaning)
    _output.print(columns)
    _output.print(
        "MRI_POSTERIOR_CONFIG names a TOML file with the same settings in lower case, without the "
        "prefix. Flags of `serve` win over the environment, the environment over the file."
    )


@keys_app.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[list[Scope], typer.Option(help="read, write, admin; may be repeated.")] = [  # noqa: B006
        Scope.READ,
        Scope.WRITE,
    ],
    days: Annotated[float | None, typer.Option(min=0.001, help="Days it is valid.")] = None,
    data: Data = None,
    database: Database = None,
) -> None:
    """Make a key; its token is shown this once."""
    key, token = _keys(data, database).create(name, frozenset(scope), days)
    _output.print(f"key {key.id} ({', '.join(sorted(key.scopes))}), keep it safe:")
    _output.print(token, soft_wrap=True, highlight=False)


@keys_app.command("list")
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


@keys_app.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="Id of the key, as `list` shows it.")],
    data: Data = None,
    database: Database = None,
) -> None:
    """End a key, within seconds."""
    if not _keys(data, database).revoke(key_id):
        _output.print(f"there is no key '{key_id}' in force")
        raise typer.Exit(2)
    _output.print(f"revoked: {key_id}")


def _keys(data: Path | None, database: str | None) -> Keys:
    chosen = load_settings(data=data, database=database)
    create_database(chosen.database_url)
    return Keys(open_database(chosen.database_url))


def _day(seconds: float | None) -> str:
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).date().isoformat()
