"""Processes that read untrusted files, ready before they are needed.

A new interpreter takes longer to import its libraries than to look at a file. A nurse has done that
and forks for each file; the fork is confined as any reading process, and the nurse sees no file.
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


class Nursery:
    """A `Run` of `recon.io.child_reader` for one file at a time and nurse; safe between threads."""

    def __init__(self) -> None:
        self._idle: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()

    def __call__(self, request: str, folder: Path, limits: ReadLimits) -> int:
        """Serve a request in a folder; the exit status of the process.

        Raises TimeoutError, and ChildProcessError when the nurse has died.
        """
        nurse = self._take()
        try:
            status = _ask(nurse, request, folder, limits.wall_seconds)
        except BaseException:
            _end(nurse)  # and the fork, if one is at work
            raise
        with self._lock:
            self._idle.append(nurse)
        return status

    def close(self) -> None:
        """End the nurses that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for nurse in idle:
            _end(nurse)

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            while self._idle:
                nurse = self._idle.pop()
                if nurse.poll() is None:
                    return nurse
                _end(nurse)
        return subprocess.Popen(
            command("nurse"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            cwd="/",
            start_new_session=True,  # so that it can be ended together with its fork
        )


def _ask(nurse: subprocess.Popen[bytes], request: str, folder: Path, seconds: float) -> int:
    assert nurse.stdin is not None
    assert nurse.stdout is not None
    order = json.dumps({"folder": str(folder), "request": json.loads(request)})
    try:
        nurse.stdin.write(order.encode() + b"\n")
        nurse.stdin.flush()
    except BrokenPipeError as error:
        raise _gone() from error
    if not select.select([nurse.stdout], [], [], seconds)[0]:
        raise TimeoutError
    line = nurse.stdout.readline()
    if not line:
        raise _gone()
    return int(line)


def _gone() -> ChildProcessError:
    return ChildProcessError("the process that starts readers has died")


def _end(nurse: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(nurse.pid, signal.SIGKILL)
    nurse.wait()
    for stream in (nurse.stdin, nurse.stdout):
        if stream is not None:
            with suppress(BrokenPipeError):
                stream.close()
