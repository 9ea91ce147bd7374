"""The process that answers requests: uvicorn on the supervisor's socket."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
from types import FrameType

import uvicorn

from service.http.app import create_app
from service.http.connections import ConnectionLimits, Door
from service.http.context import Context, create_context
from service.jobs.processes import end_with_parent
from service.jobs.supervisor import SOCKET_VARIABLE
from service.logs import configure_logs
from service.settings import load_settings
from service.tracing import start_tracing

_SWITCH_SECONDS = 0.0005
"""How long a thread may keep the others waiting for the interpreter. Requests are read and answered
by one thread, and look things up in others; when many come at once it must not wait for each of
these in turn, 5 ms as Python has it."""


class _Server(uvicorn.Server):
    """Closes event streams as soon as it is asked to end; they would keep it for ever."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context = context

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._context.feed.stop()
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve until SIGTERM."""
    settings = load_settings()
    end_with_parent()
    configure_logs(settings.log_level, "api")
    start_tracing("api")
    _allow_files()
    context = create_context(settings)
    door = Door(
        ConnectionLimits(
            connections=settings.max_connections,
            connections_per_address=settings.max_connections_per_address,
            unread_seconds=settings.idle_seconds,
        )
    )
    config = uvicorn.Config(
        create_app(context),
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=True,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=max(1, int(settings.grace_seconds)),
        http=door.connection,  # type: ignore[arg-type]  # uvicorn calls it, whatever it is
        ws="none",
    )
    sys.setswitchinterval(_SWITCH_SECONDS)
    gc.collect()
    gc.freeze()  # what is loaded now stays; looking through it again would hold up every answer
    listener = socket.socket(fileno=int(os.environ[SOCKET_VARIABLE]))
    _Server(config, context).run(sockets=[listener])


def _allow_files() -> None:
    """As many open files as the system lets this process have: each connection is one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
