"""A real server for tests: processes, SQLite, sockets; a tiny model and tiny scans."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import torch
from safetensors.torch import save_file

from models.install import package
from models.network import UNet
from models.network_configs import UNetConfig
from models.train import TrainingConfig
from recon.io.files import write_scan
from recon.phantom import simulate
from recon.undersampling import undersample, undersampling_mask
from service.jobs.supervisor import SOCKET_VARIABLE
from service.jobs.workers import Workers
from service.settings import load_settings
from service.store.database import create_database, open_database
from tests.service.in_process import OFFERS

ROOT = Path(__file__).parents[2]
HDF5 = {"Content-Type": "application/x-hdf5"}
QUICK = {"model": "tiny", "preset": "fast", "self_check": False}


def tiny_model(folder: Path) -> Path:
    """A network of zeros, the exact denoiser of white Gaussian images, in a folder of models."""
    run, models = folder / "run", folder / "models"
    run.mkdir(parents=True)
    network = UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4)
    zeros = {name: torch.zeros_like(value) for name, value in UNet(network).state_dict().items()}
    save_file(zeros, run / "weights.safetensors")
    config = TrainingConfig(network=network, sigma_range=(0.01, 5.0))
    (run / "training.json").write_text(config.model_dump_json())
    about = {"training": "none", "licence": "CC0-1.0", "data_attributions": ()}
    package(run, models, "tiny", **about)
    return models


def tiny_scan(path: Path, slices: int = 1, seed: int = 0, size: int = 32) -> Path:
    full, _ = simulate(slices, 4, size, size, 40, seed)
    mask = undersampling_mask((size, size), "equispaced", 1.6, 0.5, 0)
    write_scan(path, undersample(full, mask))
    return path


def environment(models: Path, **settings: object) -> dict[str, str]:
    """Of a process that finds this code and the tiny model, and nothing of the user's."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MRI_POSTERIOR_")}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    own = {f"MRI_POSTERIOR_{name.upper()}": str(value) for name, value in settings.items()}
    paths = {"PYTHONPATH": str(ROOT), "MRI_POSTERIOR_MODELS": str(models)}
    return kept | threads | {"MRI_POSTERIOR_WORKER_THREADS": "1"} | paths | own


def cli(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@dataclass
class Server:
    """A running `mri-posterior serve`."""

    data: Path
    url: str = ""
    """Once it has said where it listens."""
    process: subprocess.Popen[str] = field(init=False)
    """Once it has been started."""
    log: list[dict[str, Any]] = field(default_factory=list)
    text: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    machine: str = ""
    """Name of the machine that it takes itself to be on; by default this one. It takes root."""
    readers: list[threading.Thread] = field(default_factory=list)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=120, **options)

    @property
    def children(self) -> set[str]:
        """`api` and the names of the workers that were ever started."""
        return {line["child"] for line in self.log if line.get("event") == "started"}

    def pid(self, child: str) -> int:
        """The process that runs now as `api` or `worker-N`."""
        return next(
            line["pid"]
            for line in reversed(self.log)
            if line.get("event") == "started" and line.get("child") == child
        )

    def kill(self, child: str) -> None:
        """SIGKILL, and wait until it was started again."""
        old = self.pid(child)
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: self.pid(child) != old, 300)

    def freeze(self, child: str) -> int:
        """SIGSTOP; returns the process."""
        pid = self.pid(child)
        os.kill(pid, signal.SIGSTOP)
        return pid

    def start(self) -> None:
        """The command itself, on the port that it had."""
        port = self.url.rpartition(":")[2] or "0"
        seen = len(self.log)
        place = elsewhere(self.machine) if self.machine else []
        command = [sys.executable, "-m", "service.cli", "serve", "--port", port]
        self.process = subprocess.Popen(
            [*place, *command, "--data", str(self.data)],
            env=self.environment,
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        reader = threading.Thread(target=_read, args=(self, self.process), daemon=True)
        reader.start()
        self.readers.append(reader)
        wait_for(
            lambda: (
                self.process.poll() is not None
                or any(line.get("event") == "listening" for line in self.log[seen:])
            ),
            120,
        )
        if self.process.poll() is not None:
            reader.join(60)  # what it said last
            raise AssertionError("".join(self.text))
        self.url = next(x["url"] for x in self.log[seen:] if x.get("event") == "listening")

    def kill_supervisor(self) -> None:
        """SIGKILL, and start the command again; its children may still be ending."""
        self.process.kill()
        self.process.wait()
        for patience in (5, 5, 10, 30, 0):
            try:
                self.start()
            except AssertionError:  # the port is not free yet
                if not patience:
                    raise
                time.sleep(patience)
            else:
                return

    def close(self) -> None:
        """Read the last of the processes, which have ended."""
        for reader in self.readers:
            reader.join(60)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def elsewhere(machine: str) -> list[str]:
    """What starts a command on this machine under another name of the machine."""
    named = 'echo "$0" > /proc/sys/kernel/hostname && exec "$@"'
    return ["unshare", "--uts", "sh", "-c", named, machine]


def wait_for(condition: Any, seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def answers(server: Server, path: str) -> bool:
    try:
        return httpx.get(server.url + path, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


@contextmanager
def serving(
    data: Path,
    models: Path,
    *,
    machine: str = "",
    variables: Mapping[str, str] | None = None,
    **settings: object,
) -> Iterator[Server]:
    """Start a server on a free port, wait until a worker is ready, and stop it.

    `machine` is the name of the machine that it takes itself to be on, `variables` are of its
    environment beside those of the settings.
    """
    own = environment(models, **settings) | dict(variables or {})
    server = Server(data, environment=own, machine=machine)
    try:
        server.start()
        wait_for(lambda: answers(server, "/readyz"), 180)
        yield server
    finally:
        if server.process.poll() is None:
            server.process.terminate()
            try:
                server.process.wait(60)
            except subprocess.TimeoutExpired:
                server.process.kill()
        server.close()


def _read(server: Server, process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    with process.stderr as lines:
        for line in lines:
            server.text.append(line)
            if line.startswith("{"):
                server.log.append(json.loads(line))


@contextmanager
def api_alone(data: Path, **settings: object) -> Iterator[Server]:
    """The process that answers requests, without a supervisor and workers; one is said to live."""
    data.mkdir(parents=True, exist_ok=True)
    chosen = load_settings(data=data, **settings)
    create_database(chosen.database_url)
    engine = open_database(chosen.database_url)
    Workers(engine).enter("nobody", "cpu", os.getpid(), OFFERS)
    engine.dispose()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    own = environment(data, data=data, worker_lost_seconds=1e6, **settings)
    with (data / "api.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.http.server"],
            env=own | {SOCKET_VARIABLE: str(listener.fileno())},
            cwd=ROOT,
            pass_fds=(listener.fileno(),),
            stderr=log,
            text=True,
        )
    server = Server(data, f"http://127.0.0.1:{listener.getsockname()[1]}")
    server.process = process
    listener.close()
    try:
        wait_for(lambda: answers(server, "/livez"), 120)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def note(text: str) -> None:
    """A measured number, shown with `pytest -s`, and kept where the environment says."""
    sys.stdout.write(f"\n{text}\n")
    if path := os.environ.get("MRI_POSTERIOR_PROOF"):
        with Path(path).open("a") as file:
            file.write(f"{time.strftime('%H:%M:%S')} {text}\n")


def submitted(client: httpx.Client, scan: Path, wait: int = 0, **parameters: Any) -> dict[str, Any]:
    """A job of a scan sent as the raw body."""
    answer = client.post(
        "/v1/reconstructions",
        params={k: str(v).lower() for k, v in (QUICK | parameters).items()},
        content=scan.read_bytes(),
        headers=HDF5 | {"Prefer": f"wait={wait}"},
    )
    assert answer.status_code in (200, 202), answer.text
    return answer.json()


def ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    """The job once it has ended."""
    for _ in range(20):
        job = client.get(f"/v1/reconstructions/{job['id']}", headers={"Prefer": "wait=30"}).json()
        if job["finished_at"] is not None:
            return job
    raise AssertionError(job)


def events(client: httpx.Client, job: dict[str, Any], last: int = 0) -> list[dict[str, Any]]:
    """All events until the stream ends."""
    headers = {"Last-Event-ID": str(last)} if last else {}
    found: list[dict[str, Any]] = []
    entry: dict[str, Any] = {}
    with client.stream("GET", job["links"]["events"], headers=headers) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            name, _, value = line.partition(": ")
            if name in ("id", "event"):
                entry[name] = value
            elif name == "data":
                entry["data"] = json.loads(value)
            elif not line and entry:
                found.append(entry)
                entry = {}
    return found


def problem(answer: httpx.Response, status: int, kind: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert found["type"] == f"/problems/{kind}"
    assert found["status"] == status
    assert found["request_id"] == answer.headers["x-request-id"]
    return found


def at_once(count: int, act: Callable[[int], httpx.Response]) -> list[httpx.Response]:
    start = threading.Barrier(count)

    def run(number: int) -> httpx.Response:
        start.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))
