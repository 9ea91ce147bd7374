"""`mri-posterior serve`: one API process and the workers, kept running until SIGTERM.

The listening socket belongs to the supervisor. Connections therefore wait, and are not refused,
while the API process is started again.
"""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Self

import structlog

import service
from service.jobs.processes import moved_at, worker_lock
from service.settings import ServiceSettings, SettingsError, to_environment
from service.store.database import create_database, open_database
from service.store.files import Storage, open_storage
from service.store.keys import Keys

log = structlog.get_logger()

SOCKET_VARIABLE = "MRI_POSTERIOR_SOCKET_FD"
GATEWAY_VARIABLE = "MRI_POSTERIOR_GATEWAY_FD"
_BOOT = """
import runpy, sys
place, module = sys.argv[1:3]
sys.path.insert(0, place)
import models, recon, service
del sys.path[0], sys.argv[1:3]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
_PLACE = str(Path(__file__).resolve().parents[__name__.count(".")])


def _module(name: str) -> list[str]:
    """Starts a module of this very service, whatever lies in the folder where it runs."""
    return [sys.executable, "-P", "-c", _BOOT, _PLACE, f"{service.__name__}.{name}"]


_WORKER = _module("worker.process")
_SLOTS = 64
"""Workers of one command at most; each command of a host has numbers of its own."""
_PORT_SECONDS = 3.0
"""How long the API of a supervisor that was killed may take to let the port go."""
_SHORTEST_PAUSE = 0.2
_LONGEST_PAUSE = 30.0
_SETTLED_SECONDS = 5.0
"""A process that ran this long before it ended is started again at once; restarts of one that
takes so long to fail load no machine."""


@dataclass
class _Child:
    name: str
    command: list[str]
    sockets: tuple[int, ...] = ()
    lock: Path | None = None
    """Of a worker: the file whose time says when it last moved."""
    output: Path | None = None
    """Where its log goes instead of to this process's own."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = _SHORTEST_PAUSE
    not_before: float = 0.0
    restarts: int = field(default=-1)

    def start(self, environment: dict[str, str]) -> None:
        with ExitStack() as stack:
            log_file = None if self.output is None else stack.enter_context(self.output.open("ab"))
            self.process = subprocess.Popen(
                self.command,
                env=environment,
                pass_fds=self.sockets,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
            )
        self.started = time.monotonic()
        self.restarts += 1
        log.info("started", child=self.name, pid=self.process.pid, restarts=self.restarts)

    def look(
        self, environment: dict[str, str], stuck_seconds: float, start_seconds: float = 0
    ) -> None:
        """Start it again when it has ended, ever later when it keeps ending; kill it when it hangs.

        A worker's own threads cannot do that: what hangs may keep them all from running. Until it
        has moved for the first time it starts, for which it has `start_seconds`; 0: any time.
        """
        if self.process is None:
            if time.monotonic() >= self.not_before:
                self.start(environment)
        elif self.process.poll() is not None:
            ran = time.monotonic() - self.started
            settled = ran > _SETTLED_SECONDS
            self.pause = _SHORTEST_PAUSE if settled else min(2 * self.pause, _LONGEST_PAUSE)
            self.not_before = time.monotonic() + self.pause
            log.warning("ended", child=self.name, status=self.process.returncode, ran=round(ran, 1))
            self.process = None
        elif self.lock is not None:
            moved, now = moved_at(self.lock), time.monotonic()
            starts = not self.started < moved <= now
            still = now - (self.started if starts else moved)
            allowed = start_seconds if starts else stuck_seconds
            if allowed and still > allowed:
                what = "did not start" if starts else "stuck"
                log.error(what, child=self.name, still_seconds=round(still, 1))
                self.process.kill()
                self.process.wait()


def serve(settings: ServiceSettings) -> None:
    """Run until SIGTERM or SIGINT. Raises SettingsError where the settings are not safe."""
    os.umask(0o077)  # what is written here is for nobody else on this machine
    settings.data.mkdir(parents=True, exist_ok=True)
    sole = _sole_server(settings.data)
    storage = open_storage(settings)
    storage.prepare()
    create_database(settings.database_url)
    _require_safety(settings)
    listener = _listen(settings.host, settings.port)
    scanners = None
    if settings.gateway_port >= 0:
        scanners = _listen(settings.gateway_host, settings.gateway_port)
    block, lock = _free_slots(settings.data)
    children = _children(settings, listener, scanners, block * _SLOTS)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    log.info("listening", url=f"http://{shown}:{port}", data=str(settings.data))
    environment = _environment(settings, storage) | {SOCKET_VARIABLE: str(listener.fileno())}
    if scanners is not None:
        environment[GATEWAY_VARIABLE] = str(scanners.fileno())
        log.info("listening for scanners", port=scanners.getsockname()[1])
    while not stop.wait(0.1):
        for child in children:
            child.look(environment, settings.stuck_seconds, settings.start_seconds)
    _end(children, settings.grace_seconds + 10)
    lock.close()
    sole.close()
    listener.close()
    if scanners is not None:
        scanners.close()
    log.info("stopped")


def work(settings: ServiceSettings) -> None:
    """Run workers alone until SIGTERM or SIGINT, beside those of other hosts."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    create_database(settings.database_url)
    with Crew(settings) as crew:
        while not stop.wait(0.05):
            crew.look()
    log.info("stopped")


class Crew:
    """The workers of this machine, kept running while the block runs."""

    def __init__(self, settings: ServiceSettings, output: Path | None = None) -> None:
        self._settings = settings
        self._output = output

    def __enter__(self) -> Self:
        settings = self._settings
        settings.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        storage = open_storage(settings)
        storage.prepare()
        self._slots = _free_slots(settings.data)
        first = self._slots[0] * _SLOTS
        self._children = _workers(settings, first, self._output)
        self._environment = _environment(settings, storage)
        return self

    def __exit__(self, *_: object) -> None:
        _end(self._children, self._settings.grace_seconds + 10)
        self._slots[1].close()

    @property
    def pids(self) -> list[int]:
        """The processes that run now."""
        return [child.process.pid for child in self._children if child.process is not None]

    def look(self) -> None:
        """Start what has ended again; to be called several times a second."""
        for child in self._children:
            child.look(
                self._environment, self._settings.stuck_seconds, self._settings.start_seconds
            )


def _sole_server(data: Path) -> IO[str]:
    """The lock of the one server of this host that a folder may have. Raises SettingsError."""
    lock = (data / f"serve-{platform.node()}.lock").open("a+")
    patience = time.monotonic() + _PORT_SECONDS  # of the children of one that was killed
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if time.monotonic() > patience:
                lock.close()
                raise SettingsError(
                    f"another `serve` of this machine works on {data}; stop it, or give another "
                    "--data (more workers are `serve --workers` or `worker`)"
                ) from error
            time.sleep(0.1)
        else:
            return lock


def _free_slots(data: Path) -> tuple[int, IO[str]]:
    """A block of worker numbers that no other command on this folder has, and the lock on it."""
    folder = data / "workers"
    folder.mkdir(parents=True, exist_ok=True)
    for block in range(_SLOTS):
        lock = (folder / f"{platform.node()}-{block}.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
        else:
            return block, lock
    raise SettingsError(f"{_SLOTS} worker commands run on {data} already; give another --data")


def _environment(settings: ServiceSettings, storage: Storage) -> dict[str, str]:
    """What the children need to load these very settings, and to put large files aside."""
    return os.environ | to_environment(settings) | {"TMPDIR": str(storage.incoming)}


def _require_safety(settings: ServiceSettings) -> None:
    if settings.loopback:
        return
    engine = open_database(settings.database_url)
    try:
        if not Keys(engine).required():
            raise SettingsError(
                f"{settings.host} can be reached from other machines, and there is no API key; "
                "make one with `mri-posterior keys create`, or bind 127.0.0.1"
            )
    finally:
        engine.dispose()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    patience = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            listener = socket.create_server((host, port), family=family, backlog=1024)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or time.monotonic() > patience:
                raise SettingsError(f"cannot bind {host}:{port} ({error.strerror})") from error
            time.sleep(0.1)
        else:
            listener.set_inheritable(True)
            return listener


def _children(
    settings: ServiceSettings,
    listener: socket.socket,
    scanners: socket.socket | None,
    first: int,
) -> list[_Child]:
    api, gateway = _module("http.server"), _module("scanner.server")
    return [
        _Child("api", api, sockets=(listener.fileno(),)),
        *([] if scanners is None else [_Child("gateway", gateway, sockets=(scanners.fileno(),))]),
        *_workers(settings, first),
    ]


def _workers(settings: ServiceSettings, first: int, output: Path | None = None) -> list[_Child]:
    return [
        _Child(
            f"worker-{slot}",
            [*_WORKER, str(slot)],
            lock=worker_lock(settings.data, slot),
            output=output,
        )
        for slot in range(first, first + _count(settings))
    ]


def _count(settings: ServiceSettings) -> int:
    """One worker per GPU, one in all without; torch is asked in a process that ends again."""
    if settings.workers:
        return settings.workers
    if settings.device not in ("auto", "cuda") or not Path("/dev/nvidiactl").exists():
        return 1
    script = "import torch; print(torch.cuda.device_count())"
    asked = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    return max(1, int(asked.stdout.strip() or 0)) if asked.returncode == 0 else 1


def _end(children: list[_Child], seconds: float) -> None:
    """Ask all to end, wait, and kill what does not."""
    running = [child.process for child in children if child.process is not None]
    for process in running:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    end = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            log.error("killed", pid=process.pid)
            process.kill()
            process.wait()
