"""A worker's slice on a pretended GPU, its network from a folder, and batches that jobs share."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from models.loading import load_prior
from recon import schedule
from recon.io.files import read_scan
from recon.posterior import SlicePosterior
from service.jobs.job import Job, JobState
from service.jobs.job_table import Jobs
from service.requests import ReconstructionParameters
from service.settings import ServiceSettings
from service.store.files import Storage
from service.worker.loading import Loaded, Loader
from service.worker.shared_prior import SharedPrior
from service.worker.steps import JobSteps
from tests.gpu.comparison import TINY, assert_alike
from tests.gpu.pretended import GPU, Ledger, pretended_gpu
from tests.service.live import tiny_model, tiny_scan


@pytest.fixture
def scan_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(schedule.PRESETS, "fast", TINY)
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tiny_model(tmp_path / "model")))
    return tiny_scan(tmp_path / "scan.h5")


def slice_on(
    device: torch.device, file: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[SlicePosterior, SharedPrior]:
    settings = ServiceSettings(data=data)
    jobs, storage = Mock(spec=Jobs), Mock(spec=Storage)
    jobs.state.return_value = JobState.RUNNING
    storage.has_slice.return_value = False
    storage.write_slice.return_value = "digest"
    steps = JobSteps(settings, jobs, storage, "worker", device)
    network = load_prior("tiny", device)
    shared = SharedPrior(network)
    loaded = Loaded(read_scan(file), "tiny", network, shared, None)
    monkeypatch.setattr(Loader, "load", lambda *_: loaded)
    job = Mock(spec=Job, id="job", output=None)
    job.parameters = ReconstructionParameters(model="tiny", preset="fast", fit_noise=False)
    outcome = steps._reconstruct(job, 0, 0, 1, None)
    assert outcome["sha256"] == "digest"
    assert storage.write_preview.called
    return storage.write_slice.call_args.args[1], shared


def test_a_slice_of_a_job(scan_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, _ = slice_on(torch.device("cpu"), scan_file, tmp_path, monkeypatch)
    with pretended_gpu():
        there, shared = slice_on(GPU, scan_file, tmp_path, monkeypatch)
    assert shared.calls > 0
    assert_alike(there, here)
    assert np.isfinite(there.mean).all()


def test_a_shared_batch_brings_nothing_from_the_host(scan_file: Path) -> None:
    def denoised(device: torch.device, ledger: Ledger) -> torch.Tensor:
        shared = SharedPrior(load_prior("tiny", device))
        noisy = torch.ones(3, 32, 32, dtype=torch.complex64, device=device)
        shared.denoise(noisy, 0.3)  # the first of its size counts what it takes
        ledger.clear()
        clean = shared.denoise(noisy, 0.3)
        assert not ledger.waits
        assert not ledger.copies
        return clean.cpu()

    with pretended_gpu() as ledger:
        there = denoised(GPU, ledger)
    assert torch.allclose(there, denoised(torch.device("cpu"), Ledger()), atol=1e-5)
