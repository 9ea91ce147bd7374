"""`mri-posterior doctor`: is this machine ready? Versions, devices, room, models, a self-test."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from models import DEFAULT_MODEL
from service.commands.options import AsJson, Model
from service.cores import available_cores, memory_limit

output = Console()
_PACKAGES = ("torch", "numpy", "scipy", "h5py", "sigpy", "pydicom", "fastapi", "mri-posterior")
_LEAST_MEMORY, _LEAST_DISK = 2 << 30, 2 << 30
_SIZE, _ACCELERATION = 64, 2.0
_WORST_ERROR = 0.25
"""Relative error of the self-test's image above which something is broken; it is 0.05 to 0.1."""
_MARKS = {"good": "[green]good[/]", "note": "[yellow]note[/]", "bad": "[bold red]bad [/]"}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    about: str
    state: Literal["good", "note", "bad"]
    told: str


def doctor(
    model: Model = DEFAULT_MODEL,
    self_test: Annotated[
        bool, typer.Option(help="Reconstruct a small simulated scan, some ten seconds.")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Check this machine: versions, devices, memory, models, a self-test."""
    found = []
    for finding in examine(model, self_test=self_test):
        found.append(finding)
        if not as_json:
            line = f"{_MARKS[finding.state]}  [bold]{finding.about}[/]: {escape(finding.told)}"
            output.print(line, highlight=False, soft_wrap=True)
    if as_json:
        sys.stdout.write(json.dumps([asdict(finding) for finding in found], indent=2) + "\n")
    if any(finding.state == "bad" for finding in found):
        raise typer.Exit(1)


def examine(model: str, *, self_test: bool) -> Iterator[Finding]:
    """All findings, the quick ones first."""
    yield _versions()
    yield _threads()
    yield _memory()
    yield from _disks()
    yield _devices()
    yield from _models(model)
    if self_test:
        yield _self_test(model)


def _versions() -> Finding:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Finding("versions", "bad", f"{name} is not installed; install again")
    system = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Finding("versions", "good", ", ".join([*found, system]))


def _threads() -> Finding:
    here, machine = available_cores(), os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    quota = "" if here == machine else f" of {machine} (affinity, or the container's quota)"
    told = f"{here} cores are ours{quota}; OMP_NUM_THREADS={asked or 'not set'}"
    if asked.isdecimal() and int(asked) > here:
        return Finding("threads", "note", f"{told}: more threads than cores wait for one another")
    busy = os.getloadavg()[0]
    if busy > machine:
        told += f"; the machine is busy (load {busy:.1f}): expect longer times"
        return Finding("threads", "note", told)
    return Finding("threads", "good", told)


def _memory() -> Finding:
    import psutil  # lazy: only this needs it

    free, limit = psutil.virtual_memory().available, memory_limit()
    if limit is not None:
        free = min(free, limit - psutil.Process().memory_info().rss)
    bounded = "" if limit is None else f", the container may use {limit / 1e9:.1f} GB"
    told = f"{free / 1e9:.1f} GB free{bounded}"
    if free < _LEAST_MEMORY:
        return Finding("memory", "note", f"{told}; a volume of many coils may not fit")
    return Finding("memory", "good", told)


def _disks() -> Iterator[Finding]:
    from service.settings import load_settings  # lazy: slow to load

    data = load_settings().data
    places = {"here": Path.cwd(), "temporary files": Path(tempfile.gettempdir())}
    places["the service's data"] = next(p for p in (data, *data.parents) if p.exists())
    for name, folder in places.items():
        free = shutil.disk_usage(folder).free
        told = f"{free / 1e9:.1f} GB free in {folder}"
        if not os.access(folder, os.W_OK):
            yield Finding(f"disk, {name}", "note", f"{folder} cannot be written")
        elif free < _LEAST_DISK:
            yield Finding(f"disk, {name}", "note", f"{told}; a result takes up to 1 GB")
        else:
            yield Finding(f"disk, {name}", "good", told)


def _devices() -> Finding:
    import torch  # lazy: slow to load

    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"PyTorch for CUDA {built}, no GPU" if built else "PyTorch without CUDA"
        return Finding("devices", "good", f"CPU, {torch.get_num_threads()} threads; {why}")
    told = []
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        told.append(f"cuda:{index} {name}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free")
    return Finding("devices", "good", "; ".join(told))


def _models(default: str) -> Iterator[Finding]:
    from models.errors import ModelError  # lazy: with the next
    from models.model_weights import read_model  # lazy: loads torch
    from models.registry import find_model, list_models  # lazy: the same

    for name in list_models():
        try:
            config, _ = read_model(find_model(name))
        except ModelError as error:
            state: Literal["note", "bad"] = "bad" if name == default else "note"
            yield Finding(f"model {name}", state, error.message)
        else:
            told = f"SHA-256 {config.weights_sha256[:16]}… is that of its weights"
            yield Finding(f"model {name}", "good", told)
    if default not in list_models():
        yield Finding(f"model {default}", "bad", "is not installed; see `models list`")


def _self_test(model: str) -> Finding:
    """The whole way on a small head: simulated, undersampled, reconstructed, compared."""
    import numpy as np  # lazy: with the next

    from models.loading import load_prior  # lazy: loads torch
    from recon.arrays import reconstruct_array  # lazy: the same
    from recon.errors import ReconError  # lazy: the same
    from recon.phantom import simulate  # lazy: the same
    from recon.undersampling import undersampling_mask  # lazy: the same
    from service.runs import choose_device  # lazy: the same

    started = time.monotonic()
    scan, image = simulate(1, 4, _SIZE, _SIZE)
    mask = undersampling_mask((_SIZE, _SIZE), "equispaced", _ACCELERATION, 0.25, 0)
    try:
        device = choose_device("auto")
        found = reconstruct_array(
            scan.kspace[0], mask, load_prior(model, device), noise=scan.noise_samples,
            preset="fast", samples=2, device=device,
        )  # fmt: skip
    except (ReconError, RuntimeError) as error:
        return Finding("self-test", "bad", f"failed: {error}")
    seconds = time.monotonic() - started
    mean, truth = np.abs(found.mean), np.abs(image[0])
    gain = float((mean * truth).sum() / (mean**2).sum())
    missed = float(np.linalg.norm(gain * mean - truth) / np.linalg.norm(truth))
    told = (
        f"a head of {_SIZE} × {_SIZE} in {seconds:.1f} s on {device}, relative error {missed:.3f}"
    )
    return Finding("self-test", "good" if missed < _WORST_ERROR else "bad", told)
