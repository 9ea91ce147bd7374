"""A small cluster on this machine: PostgreSQL, an S3-compatible server, worker hosts, scans."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import boto3
import h5py
import numpy as np
import psutil
import torch
from safetensors.torch import save_file

from models.install import package
from models.network import UNet
from models.network_configs import UNetConfig
from models.train import TrainingConfig
from recon.io.files import write_scan
from recon.phantom import simulate
from recon.undersampling import undersample, undersampling_mask

ROOT = Path(__file__).parents[1]
BUCKET = "archive"
PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


class PostgreSQL:
    """A database of our own, on a socket in a folder; it refuses to run as root."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        self.url = f"postgresql://postgres@/service?host={self.folder}"
        self._root = os.geteuid() == 0
        if self._root:
            shutil.chown(self.folder, "postgres")
        self._data = str(self.folder / "data")
        self._run("initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "-E", "UTF8")
        self.start()
        self._run("createdb", "-h", str(self.folder), "-U", "postgres", "service")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = f"-k {self.folder} -c listen_addresses= -c max_connections=300"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", self._data, "-w", "-t", "300", "-l", log, "-o", options, "start")

    def kill(self) -> None:
        """End all of its processes at once, as a power cut would."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "stop")

    def processor_seconds(self) -> float:
        """What its processes have used so far; those that have ended do not count."""
        first = int((self.folder / "data" / "postmaster.pid").read_text().splitlines()[0])
        main = psutil.Process(first)
        times = [process.cpu_times() for process in (main, *main.children())]
        return float(sum(each.user + each.system for each in times))

    def close(self) -> None:
        """End it and remove its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: str) -> None:
        prefix = ["runuser", "-u", "postgres", "--"] if self._root else []
        subprocess.run(
            [*prefix, str(PROGRAMS[-1].parent / program), *arguments],
            cwd=self.folder,
            check=True,
            timeout=400,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


@contextmanager
def postgresql() -> Iterator[PostgreSQL]:
    """A database while the block runs."""
    database = PostgreSQL()
    try:
        yield database
    finally:
        database.close()


@contextmanager
def object_store() -> Iterator[dict[str, str]]:
    """An S3-compatible server with one bucket; yields the environment of its clients."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    environment = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    try:
        until(lambda: _connects(port), 300)
        s3_client(environment).create_bucket(Bucket=BUCKET)
        yield environment
    finally:
        process.terminate()
        process.wait(60)


def s3_client(environment: dict[str, str]) -> boto3.client:
    """Another client of the store than the one that is tested."""
    return boto3.client(
        "s3",
        endpoint_url=environment["AWS_ENDPOINT_URL"],
        aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
        region_name=environment["AWS_REGION"],
    )


def _connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def until(condition: Callable[[], object], seconds: float) -> object:
    """What a condition becomes, once it is true. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.1)
    raise TimeoutError("it did not happen in time")


def environment(models: Path, **more: str) -> dict[str, str]:
    """Of a process that finds this code and these models, and one thread."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MRI_POSTERIOR_")}
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    own = {"PYTHONPATH": str(ROOT), "MRI_POSTERIOR_MODELS": str(models)}
    return kept | threads | {"MRI_POSTERIOR_WORKER_THREADS": "1"} | own | more


def command(*arguments: object) -> list[str]:
    """A command line of the product."""
    return [sys.executable, "-m", "service.cli", *map(str, arguments)]


@dataclass
class Host:
    """One `mri-posterior worker`, as a host would run it."""

    process: subprocess.Popen[bytes]
    cores: set[int] = field(default_factory=set)

    @classmethod
    def start(
        cls, env: dict[str, str], data: Path, *options: object, core: int | None = None
    ) -> Host:
        """Start it, on one core of this machine if one is given."""
        data.mkdir(parents=True, exist_ok=True)
        prefix = [] if core is None else ["taskset", "-c", str(core)]
        with (data / "log").open("ab") as log:
            process = subprocess.Popen(
                [*prefix, *command("worker", "--data", data, "--workers", 1, *options)],
                env=env,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return cls(process)

    def kill_worker(self) -> bool:
        """SIGKILL its worker process, which is started again; False when none runs."""
        children = psutil.Process(self.process.pid).children()
        for child in children:
            child.send_signal(signal.SIGKILL)
        return bool(children)

    def kill_for_good(self) -> None:
        """SIGKILL everything of it."""
        children = psutil.Process(self.process.pid).children()
        self.process.kill()
        for child in children:
            child.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(120)


def tiny_model(folder: Path) -> Path:
    """A network of zeros, the exact denoiser of white Gaussian images, in a folder of models."""
    run, models = folder / "run", folder / "models"
    run.mkdir(parents=True)
    network = UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4)
    zeros = {name: torch.zeros_like(value) for name, value in UNet(network).state_dict().items()}
    save_file(zeros, run / "weights.safetensors")
    config = TrainingConfig(network=network, sigma_range=(0.01, 5.0))
    (run / "training.json").write_text(config.model_dump_json())
    package(run, models, "tiny", training="none", licence="CC0-1.0", data_attributions=())
    return models


def write_scans(folder: Path, count: int, size: int = 32, slices: int = 1) -> None:
    """Small scans that all differ."""
    folder.mkdir(parents=True, exist_ok=True)
    mask = undersampling_mask((size, size), "equispaced", 1.6, 0.5, 0)
    full, _ = simulate(slices, 4, size, size, 40, 0)
    scan = undersample(full, mask)
    rng = np.random.default_rng(0)
    level = 0.01 * np.abs(scan.kspace[scan.kspace != 0]).mean()
    for number in range(count):
        noise = rng.normal(size=(2, *scan.kspace.shape)) * level
        kspace = np.where(scan.kspace != 0, scan.kspace + noise[0] + 1j * noise[1], 0)
        one = replace(scan, kspace=kspace.astype(np.complex64))
        write_scan(folder / f"scan-{number:05d}.h5", one)


def _cut(good: Path, path: Path) -> None:
    content = good.read_bytes()
    path.write_bytes(content[: len(content) // 3])


def _edited(change: Callable[[h5py.File], None]) -> Callable[[Path, Path], None]:
    def make(good: Path, path: Path) -> None:
        shutil.copyfile(good, path)
        with h5py.File(path, "r+") as file:
            change(file)

    return make


def _replaced(make: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path, Path], None]:
    def change(file: h5py.File) -> None:
        kspace = file["kspace"][:]
        del file["kspace"]
        file["kspace"] = make(kspace)

    return _edited(change)


def _bomb(file: h5py.File) -> None:
    file.create_dataset("more", shape=(1 << 16, 1 << 16), dtype="f8", chunks=(1 << 10, 1 << 10))


def _external(file: h5py.File) -> None:
    del file["kspace"]
    file["kspace"] = h5py.ExternalLink("/etc/hostname", "kspace")


def _lose_kspace(file: h5py.File) -> None:
    del file["kspace"]


def _nan(kspace: np.ndarray) -> np.ndarray:
    kspace[..., 0, 0] = np.nan
    return kspace


BROKEN: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "empty": (lambda _, path: path.write_bytes(b""), "not-hdf5/empty-file"),
    "text": (lambda _, path: path.write_text("no scan"), "not-hdf5"),
    "cut": (_cut, "invalid-scan/unreadable"),
    "external": (_edited(_external), "unsafe-hdf5/external-link"),
    "bomb": (_edited(_bomb), "unsafe-hdf5/too-large"),
    "missing": (_edited(_lose_kspace), "invalid-scan/no-kspace"),
    "real": (_replaced(lambda k: k.real), "invalid-scan/dataset-type"),
    "flat": (_replaced(lambda k: k[0, 0]), "invalid-scan/kspace-shape"),
    "nan": (_replaced(_nan), "invalid-scan/not-finite"),
    "silent": (_replaced(np.zeros_like), "invalid-scan/empty-kspace"),
}
"""Kinds of broken scans: how one is made of a good one, and what it must be reported as."""


def write_broken(folder: Path, good: Path, count: int) -> dict[str, str]:
    """So many broken scans of all kinds in turn; returns the error that each must end with."""
    kinds = list(BROKEN)
    expected = {}
    for number in range(count):
        make, error = BROKEN[kinds[number % len(kinds)]]
        name = f"broken-{number:03d}-{kinds[number % len(kinds)]}.h5"
        make(good, folder / name)
        expected[name] = error
    return expected
