"""Processes that read untrusted files, ready before they are needed.

A new interpreter takes longer to import its libraries than to look at a file. A fork server
has done that and forks for each file; the fork is confined as any reading process, and the server
sees no file.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
from contextlib import suppress
from pathlib import Path

from recon.io.child_reader import ENVIRONMENT, command
from recon.io.read_limits import ReadLimits


class ForkServers:
    """A `Run` of `recon.io.child_reader`, one file at a time per process; safe between threads."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def __call__(self, request: str, folder: Path, limits: ReadLimits) -> int:
        """Serve a request in a folder; the exit status of the process.

        Raises TimeoutError, and ChildProcessError when the fork server has died.
        """
        process = self._take()
        try:
            status = _ask(process, request, folder, limits.wall_seconds)
        except BaseException:
            _end(process)  # and the fork, if one is at work
            raise
        with self._lock:
            self._idle.append(process)
        return status

    def close(self) -> None:
        """End the processes that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            _end(process)

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            while self._idle:
                process = self._idle.pop()
                if process.poll() is None:
                    return process
                _end(process)
        return subprocess.Popen(
            command("fork_server"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # so that it can be ended together with its fork
        )


def _ask(process: subprocess.Popen[bytes], request: str, folder: Path, seconds: float) -> int:
    assert process.stdin is not None
    assert process.stdout is not None
    order = json.dumps({"folder": str(folder), "request": json.loads(request)})
    try:
        process.stdin.write(order.encode() + b"\n")
        process.stdin.flush()
    except BrokenPipeError as error:
        raise _gone() from error
    if not select.select([process.stdout], [], [], seconds)[0]:
        raise TimeoutError
    line = process.stdout.readline()
    if not line:
        raise _gone()
    return int(line)


def _gone() -> ChildProcessError:
    return ChildProcessError("the process that starts readers has died")


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
