"""The files of a finished reconstruction: result, arrays, pictures and, last, the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray

from recon.posterior import Delivery, SlicePosterior
from recon.settings import Settings
from service.conformal_scaling import factor_for, widen_all
from service.jobs.job import Job
from service.products import MARKER, PRODUCTS, RESULT
from service.report import ProductFile, Report
from service.runs import write_reconstruction
from service.settings import ServiceSettings
from service.store.files import Storage
from service.worker.image_products import write_images
from service.worker.loading import Loaded
from service.worker.report import report_of

Made = tuple[tuple[ProductFile, ...], Report]


def write_products(
    settings: ServiceSettings,
    storage: Storage,
    job: Job,
    loaded: Loaded,
    chosen: Settings,
    posteriors: list[SlicePosterior],
    device: torch.device,
) -> Made:
    """Write everything; returns the entries of the files, and the report."""
    entry = None
    if job.parameters.calibrated:
        entry = factor_for(loaded.model, chosen, loaded.scan)
    with storage.producing(job.place, RESULT) as path:
        write_reconstruction(
            path,
            posteriors,
            loaded.scan,
            chosen,
            loaded.network,
            loaded.model,
            device,
            entry,
            Delivery(job.parameters.fallback, job.parameters.accept_refused),
        )
    made = {RESULT, *_write_arrays(storage, job.place, widen_all(posteriors, entry))}
    made |= set(write_images(settings, storage, job, loaded.scan))
    files = [storage.describe_product(job.place, name) for name in PRODUCTS if name in made]
    report = report_of(job, loaded.scan, loaded.model, chosen, posteriors, entry, files)
    ledger = {} if job.output is None else {"steps": storage.steps(job.id)}
    text = json.dumps(report.model_dump(mode="json") | ledger, indent=2).encode() + b"\n"
    storage.write_product(job.place, MARKER, partial(_write, text=text))
    return _with_marker(storage, job, report)


def adopt_products(storage: Storage, job: Job) -> Made:
    """The same of files that another job has made of the same scan, model and settings."""
    text = storage.product(job.place, MARKER).read_bytes()
    return _with_marker(storage, job, Report.model_validate_json(text))


def _with_marker(storage: Storage, job: Job, report: Report) -> Made:
    return (*report.products, storage.describe_product(job.place, MARKER)), report


def _write_arrays(storage: Storage, place: str, posteriors: Sequence[SlicePosterior]) -> list[str]:
    """Fields of the posteriors as plain arrays, slices first (samples: sample, slice).

    What no slice has is not written; where some slices have it, those that do not are zero.
    """
    written = []
    for name, kind in PRODUCTS.items():
        if kind.array is None:
            continue
        found = [getattr(posterior, kind.array) for posterior in posteriors]
        like = next((each for each in found if each is not None), None)
        if like is None:
            continue
        stack = np.stack([np.zeros_like(like) if each is None else each for each in found], axis=-3)
        storage.write_product(place, name, partial(_save, array=stack))
        written.append(name)
    return written


def _save(file: IO[bytes], array: NDArray[Any]) -> None:
    np.save(file, array, allow_pickle=False)


def _write(file: IO[bytes], text: bytes) -> None:
    file.write(text)
