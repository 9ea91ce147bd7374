"""Scans and priors as a worker's steps need them, kept from one step of a job to the next."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import torch

from models import DEFAULT_MODEL
from models.denoiser import NetworkPrior
from models.loading import load_prior
from recon.alarm import TypicalScans
from recon.io.files import read_calibration, read_scan
from recon.prior import Prior
from recon.scan import Scan
from service.jobs.job import Job
from service.problems import ProblemError
from service.runs import parse_selection
from service.settings import ServiceSettings
from service.store.archive import archived_file
from service.store.files import Storage
from service.verdicts import typical_of
from service.worker.shared_prior import SharedPrior


@dataclass(frozen=True)
class Loaded:
    """What a job is made of."""

    scan: Scan
    model: str
    network: NetworkPrior
    prior: Prior
    """The network, or its share of it."""
    typical: TypicalScans | None
    """What it makes of right scans."""


class Loader:
    """Reads scans and models once; safe to share between the threads of a worker."""

    def __init__(self, settings: ServiceSettings, storage: Storage, device: torch.device) -> None:
        self._settings = settings
        self._storage = storage
        self._device = device
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()
        self._priors: dict[str, tuple[NetworkPrior, Prior, TypicalScans | None]] = {}
        self._lock = threading.Lock()

    def load(self, job: Job) -> Loaded:
        """Scan and prior of a job. Raises ProblemError, ScanError, ModelError."""
        with self._lock:
            if (found := self._loaded.get(job.id)) is not None:
                self._loaded.move_to_end(job.id)
                return found
            while len(self._loaded) >= self._settings.jobs_at_once:  # more may be too many
                self._loaded.popitem(last=False)
        model = job.parameters.model or self._settings.default_model or DEFAULT_MODEL
        network, prior, typical = self._prior(model)
        text = job.parameters.select
        select = None if text is None else parse_selection(text.split(","))
        asked, axes = job.parameters, job.parameters.named_axes
        with archived_file(self._storage, job.scan_sha256, job.source) as file:
            scan = read_scan(
                file, select=select, fftshift=asked.fftshift, layout=asked.layout, axes=axes
            )
        if scan.sha256 != job.scan_sha256:
            raise ProblemError(
                "invalid-scan",
                "the file has changed since the batch was made; run the batch again",
                reason="source-changed",
            )
        if job.calibration_sha256 is not None:
            with archived_file(self._storage, job.calibration_sha256, None) as file:
                scan = read_calibration(
                    file, scan, fftshift=asked.fftshift, layout=asked.layout, axes=axes
                )
        loaded = Loaded(scan, model, network, prior, typical)
        with self._lock:
            self._loaded[job.id] = loaded
        return loaded

    def forget(self, job_id: str) -> None:
        """Let go of an ended job's scan."""
        with self._lock:
            self._loaded.pop(job_id, None)

    def _prior(self, model: str) -> tuple[NetworkPrior, Prior, TypicalScans | None]:
        with self._lock:
            if model not in self._priors:
                network = load_prior(model, self._device)
                shared = self._settings.share_batches
                prior = SharedPrior(network) if shared else network
                self._priors = {model: (network, prior, typical_of(model))}
            return self._priors[model]
