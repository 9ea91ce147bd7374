"""The files of a finished reconstruction: result, arrays, pictures and, last, the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.posterior import SlicePosterior
from recon.settings import Settings
from service.conformal_scaling import factor_for, widen_all
from service.jobs.job import Job
from service.runs import write_reconstruction
from service.settings import ServiceSettings
from service.store.files import Storage
from service.store.names import IMAGE_FILES, MARKER, RESULT_FILES
from service.worker.image_products import write_images
from service.worker.loading import Loaded
from service.worker.summary import summary_of

Entries = list[dict[str, Any]]


def write_products(
    settings: ServiceSettings,
    storage: Storage,
    job: Job,
    loaded: Loaded,
    chosen: Settings,
    posteriors: list[SlicePosterior],
    device: torch.device,
) -> tuple[Entries, dict[str, Any]]:
    """Write everything; returns the entries of the files and what the report says."""
    entry = None
    if job.parameters.calibrated:
        entry = factor_for(loaded.model, chosen, loaded.scan)
    with storage.producing(job.place, "result.h5") as path:
        write_reconstruction(
            path, posteriors, loaded.scan, chosen, loaded.network, loaded.model, device, entry
        )
    _write_arrays(storage, job.place, widen_all(posteriors, entry))
    made = write_images(settings, storage, job, loaded.scan)
    names = [n for n in RESULT_FILES if n != MARKER and (n in made or n not in IMAGE_FILES)]
    summary = summary_of(job, loaded.scan, loaded.model, chosen, posteriors, entry)
    summary["products"] = [storage.describe_product(job.place, name) for name in names]
    ledger = {} if job.output is None else {"steps": storage.steps(job.id)}
    text = json.dumps(summary | ledger, indent=2).encode() + b"\n"
    storage.write_product(job.place, MARKER, partial(_write, text=text))
    return _with_marker(storage, job, summary), summary


def adopt_products(storage: Storage, job: Job) -> tuple[Entries, dict[str, Any]]:
    """The same of files that another job has made of the same scan, model and settings."""
    summary = json.loads(storage.product(job.place, MARKER).read_bytes())
    return _with_marker(storage, job, summary), summary


def _with_marker(storage: Storage, job: Job, summary: dict[str, Any]) -> Entries:
    return [*summary["products"], storage.describe_product(job.place, MARKER)]


def _write_arrays(storage: Storage, place: str, posteriors: list[SlicePosterior]) -> None:
    """The pictures as plain arrays, slices first (samples: sample, slice)."""
    stacks: dict[str, Callable[[], NDArray[Any]]] = {
        "mean.npy": lambda: np.stack([p.mean for p in posteriors]),
        "std.npy": lambda: np.stack([p.magnitude_std for p in posteriors]),
        "coarse.npy": lambda: np.stack([p.coarse for p in posteriors]),
        "samples.npy": lambda: np.stack([p.samples for p in posteriors], axis=1),
    }
    for name, stack in stacks.items():
        storage.write_product(place, name, partial(_save, array=stack()))


def _save(file: IO[bytes], array: NDArray[Any]) -> None:
    np.save(file, array, allow_pickle=False)


def _write(file: IO[bytes], text: bytes) -> None:
    file.write(text)
