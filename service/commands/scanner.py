"""`mri-posterior gateway` and `stream`: raw data from scanners and pipes, images back."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from models import DEFAULT_MODEL
from service.commands.options import Device, Model

if TYPE_CHECKING:
    from service.gateway_configs import Choice
    from service.scanner.pipe import Engine

console = Console(stderr=True)

Configs = Annotated[
    list[str] | None,
    typer.Option("--config", help="Name that clients send=meaning, as openrecon=standard:trigger."),
]


def gateway(
    data: Annotated[Path | None, typer.Option(help="Folder of the service.")] = None,
    database: Annotated[
        str | None, typer.Option(help="postgresql://… [SQLite in the folder].")
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address [127.0.0.1]; the protocol has no passwords.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="TCP port [9002]; 0 takes a free one.")
    ] = None,
    mode: Annotated[
        str | None, typer.Option(help="inline or trigger, for clients that do not say [inline].")
    ] = None,
    config: Configs = None,
) -> None:
    """Serve scanners over MRD sockets, beside `serve` on the same data.

    `serve --gateway-port 9002` does so by itself.
    """
    from service.logs import configure_logs  # lazy: other commands need no logging
    from service.scanner.server import run  # lazy: loads the database's engine
    from service.settings import SettingsError, load_settings  # lazy: slow to load
    from service.store.database import create_database  # lazy: the same

    named = dict(_named(text) for text in config or ())
    chosen = load_settings(
        data=data,
        database=database,
        gateway_host=host,
        gateway_port=port,
        gateway_mode=mode,
        gateway_configs=named or None,
    )
    configure_logs(chosen.log_level, "gateway")
    chosen.data.mkdir(parents=True, exist_ok=True, mode=0o700)
    create_database(chosen.database_url)
    wanted = 9002 if chosen.gateway_port < 0 else chosen.gateway_port
    try:
        family = socket.AF_INET6 if ":" in chosen.gateway_host else socket.AF_INET
        listener = socket.create_server((chosen.gateway_host, wanted), family=family)
    except OSError as error:
        where = f"{chosen.gateway_host}:{wanted}"
        raise SettingsError(f"cannot bind {where} ({error.strerror})") from error
    console.print(f"listening on {chosen.gateway_host}:{listener.getsockname()[1]}")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(chosen, listener))


def stream(
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    config: Configs = None,
    default_config: Annotated[
        str, typer.Option(help="Config of a stream that sends none.")
    ] = "standard",
    noise: Annotated[
        Path | None,
        typer.Option(help="MRD stream of the noise: file or named pipe."),
    ] = None,
    source: Annotated[
        Path | None, typer.Option("--in", help="File or named pipe in place of standard input.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The same in place of standard output.")
    ] = None,
) -> None:
    """Reconstruct one MRD stream from standard input to standard output."""
    from service.gateway_configs import configs_of  # lazy: slow to load
    from service.scanner.mrd_stream import FileSource, is_error  # lazy: the same
    from service.scanner.pipe import Session, noise_of  # lazy: loads torch

    try:
        configs = configs_of(dict(_named(text) for text in config or ()))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if default_config not in configs:
        raise typer.BadParameter(f"there is no config '{default_config}'")
    configs[""] = configs[default_config]
    engine = _engine(model, device, configs)

    async def run() -> bool:
        refused = False
        with contextlib.ExitStack() as files:
            alone = None
            if noise is not None:
                alone = await noise_of(FileSource(files.enter_context(noise.open("rb"))))
            given = sys.stdin.buffer if source is None else files.enter_context(source.open("rb"))
            taken = sys.stdout.buffer if out is None else files.enter_context(out.open("wb"))
            session = Session(engine, echo_header=True, noise=alone)
            async for chunk in session.answer(FileSource(given)):
                refused = refused or is_error(chunk)
                taken.write(chunk)
                taken.flush()
        return refused

    if asyncio.run(run()):
        raise typer.Exit(2)


def _named(text: str) -> tuple[str, str]:
    name, _, meaning = text.partition("=")
    return name, meaning


def _engine(model: str, device: str, configs: dict[str, Choice]) -> Engine:
    from models.loading import load_prior  # lazy: loads torch
    from service.runs import choose_device, provenance  # lazy: the same
    from service.scanner.pipe import Engine  # lazy: the same
    from service.verdicts import typical_of  # lazy: the same

    chosen = choose_device(device)
    prior = load_prior(model, chosen)
    return Engine(
        prior=prior,
        device=chosen,
        describe=lambda scan, settings: provenance(scan, settings, model, prior, chosen),
        configs=configs,
        typical=typical_of(model),
    )
