"""The process that serves scanners, on the supervisor's socket or on its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket

import structlog

from service.intake.intake import open_intake
from service.jobs.processes import end_with_parent
from service.jobs.supervisor import GATEWAY_VARIABLE
from service.logs import configure_logs
from service.scanner.gateway import Gateway
from service.scanner.mrd_stream import CLOSE, StreamLimits, encode_text
from service.settings import ServiceSettings, is_loopback, load_settings

log = structlog.get_logger()

_CLIENTS = 32


def main() -> None:
    """Serve until SIGTERM, as a child of `mri-posterior serve`."""
    settings = load_settings()
    end_with_parent()
    configure_logs(settings.log_level, "gateway")
    listener = socket.socket(fileno=int(os.environ[GATEWAY_VARIABLE]))
    asyncio.run(run(settings, listener))


async def run(settings: ServiceSettings, listener: socket.socket) -> None:
    """Serve scanners on a listening socket until SIGTERM or SIGINT; the tables must be there.

    The protocol has neither passwords nor encryption: keep it on loopback or the scanner's net.
    """
    if not is_loopback(settings.gateway_host):
        log.warning("scanners need no password here", host=settings.gateway_host)
    intake = open_intake(settings)
    intake.storage.prepare()
    limits = StreamLimits(session_bytes=settings.max_upload_bytes)
    gateway = Gateway(intake, limits)
    recovery = asyncio.create_task(gateway.recover())
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = await start(gateway, listener)
    log.info("scanners are served", port=listener.getsockname()[1])
    await stop.wait()
    server.close()
    recovery.cancel()
    intake.close()


async def start(gateway: Gateway, listener: socket.socket) -> asyncio.Server:
    """Answer every client that connects; too many at once are turned away."""
    places = asyncio.Semaphore(_CLIENTS)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that left is found out when we write; its job goes on.
        with contextlib.suppress(ConnectionError):
            if places.locked():
                writer.write(encode_text("ERROR", "the server is busy; try again later") + CLOSE)
                await writer.drain()
            else:
                async with places, contextlib.aclosing(gateway.answer(reader)) as answer:
                    async for chunk in answer:
                        writer.write(chunk)
                        await writer.drain()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    return await asyncio.start_server(handle, sock=listener)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
