"""`mri-posterior gateway` and `stream`: raw data from scanners and pipes, images back."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Annotated

import typer
from rich.console import Console

from models.registry import load_prior
from service.runs import DEFAULT_MODEL, choose_device, provenance
from service.scanner.gateway import Engine, Session, serve
from service.scanner.mrd_stream import FileSource, is_error

console = Console(stderr=True)

_PRESETS = {"fast": "fast", "standard": "standard", "thorough": "thorough"}

Model = Annotated[str, typer.Option(help="Prior, by name (see `models`).")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Configs = Annotated[
    list[str] | None,
    typer.Option("--config", help="Name that clients send=preset, such as openrecon=standard."),
]


def gateway(
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port; 0 takes a free one.")
    ] = 9002,
    host: Annotated[
        str, typer.Option(help="Address to listen on. The protocol has no passwords.")
    ] = "127.0.0.1",
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    config: Configs = None,
    most_seconds: Annotated[float, typer.Option(min=1, help="Per measurement.")] = 3600,
) -> None:
    """Serve scanners: raw data in over an MRD socket, mean and std back in the same session."""
    session = Session(_engine(model, device, config), most_seconds=most_seconds)

    async def run() -> None:
        server = await serve(session, host, port)
        address = server.sockets[0].getsockname()
        console.print(f"listening on {address[0]}:{address[1]}")
        async with server:
            await server.serve_forever()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run())


def stream(
    model: Model = DEFAULT_MODEL,
    device: Device = "auto",
    config: Configs = None,
) -> None:
    """Reconstruct one measurement from standard input to standard output, both MRD streams."""
    session = Session(_engine(model, device, config), echo_header=True)

    async def run() -> bool:
        refused = False
        async for chunk in session.answer(FileSource(sys.stdin.buffer), asyncio.Lock()):
            refused = refused or is_error(chunk)
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()
        return refused

    if asyncio.run(run()):
        raise typer.Exit(2)


def _engine(model: str, device: str, config: list[str] | None) -> Engine:
    chosen = choose_device(device)
    prior = load_prior(model, chosen)
    presets = dict(_PRESETS)
    for text in config or []:
        name, _, preset = text.partition("=")
        if not name or preset not in _PRESETS:
            raise typer.BadParameter(f"'{text}': write NAME=fast, standard or thorough")
        presets[name] = preset
    return Engine(
        prior=prior,
        device=chosen,
        describe=lambda scan, settings: provenance(scan, settings, model, prior, chosen),
        presets=presets,
    )
