"""A worker process: takes jobs from the queue, and sends deliveries, until it is told to stop.

Run by the supervisor as `python -m service.worker.process SLOT`. Its name is made of host, data
folder and slot, so that a process that is started again goes on with what it had begun. It says
every few seconds that it lives; one that has been silent too long is struck out by the others,
which take its jobs over, and ends itself when it notices.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import signal
import sys
import threading
import time
from importlib.metadata import version
from pathlib import Path
from typing import IO

import structlog
import torch

from models import DEFAULT_MODEL
from models.conformal_factors import FoundFactors
from models.registry import ModelError, list_models, read_card, read_config, read_factors
from recon.schedule import PRESETS
from service.cores import available_cores
from service.delivery.delivery_table import Deliveries
from service.delivery.sending import Sender
from service.jobs.job_table import Jobs
from service.jobs.processes import (
    end_with_parent,
    note_moved,
    steady_seconds,
    worker_lock,
    worker_name,
)
from service.jobs.workers import Silence, Workers
from service.jobs.workflows import launch, take_over
from service.logs import configure_logs
from service.offers import OfferedModel, Offers, Preset
from service.runs import choose_device
from service.settings import ServiceSettings, load_settings
from service.store.database import open_database
from service.store.files import open_storage
from service.tracing import start_tracing
from service.worker.step_runner import StepRunner
from service.worker.steps import JobSteps

log = structlog.get_logger()

_LOST = 75
"""Exit status of a worker whose jobs another has taken over."""


def main() -> None:
    """Serve one slot until SIGTERM."""
    slot = int(sys.argv[1])
    settings = load_settings()
    end_with_parent()
    name = worker_name(settings.data, slot)
    configure_logs(settings.log_level, f"worker-{slot}")
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    lock = _sole_owner(worker_lock(settings.data, slot))
    device = _device(settings, slot)
    threads = threads_of(settings, device, available_cores())
    if threads:
        torch.set_num_threads(threads)
    start_tracing(f"worker-{slot}")
    engine = open_database(settings.database_url)
    workers = Workers(engine)
    jobs, storage = Jobs(engine), open_storage(settings)
    storage.prepare()

    def idle() -> bool:
        living = workers.living(settings.worker_lost_seconds)
        return jobs.running() < len(living) and not jobs.waiting()

    steps = JobSteps(settings, jobs, storage, name, device, idle)
    workers.enter(name, str(device), os.getpid(), _offers(settings))
    sender = Sender(settings, Deliveries(engine), jobs, storage)
    # Started: from its first step on it may not stand still, be it before the first beat.
    note_moved(worker_lock(settings.data, slot), time.monotonic())
    launch(settings, engine, name, steps, sender)
    log.info("worker ready", worker=name, device=str(device))
    _live(settings, workers, name, steps.runner, device, stop, slot)
    _drain(settings, steps.runner)
    workers.leave(name)
    log.info("worker stopped", worker=name)
    lock.close()
    sys.stderr.flush()
    os._exit(0)  # a step that is held back would keep its thread, and with it the process


def _sole_owner(path: Path) -> IO[str]:
    """Wait until no other process of this name is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    fcntl.flock(file, fcntl.LOCK_EX)
    note_moved(path, 0.0)  # not yet: it starts
    return file


def _device(settings: ServiceSettings, slot: int) -> torch.device:
    device = choose_device(settings.device)
    if device.type == "cuda" and ":" not in settings.device:
        return torch.device("cuda", slot % torch.cuda.device_count())
    return device


def _offers(settings: ServiceSettings) -> Offers:
    """What the process that answers requests must know without loading torch."""
    models = []
    for name in list_models():
        try:
            config, card = read_config(name), read_card(name)
            found = _calibration(name)
        except ModelError as error:
            log.warning("model not usable", model=name, code=error.code)
            continue
        models.append(
            OfferedModel(
                id=name,
                sha256=config.weights_sha256,
                licence=config.licence,
                training=config.training,
                data_attributions=config.data_attributions,
                card=card,
                calibration_sha256=None if found is None else found.sha256,
                calibrated_for=()
                if found is None
                else tuple(entry.purpose for entry in found.factors.entries),
            )
        )
    return Offers(
        models=tuple(models),
        default_model=settings.default_model or DEFAULT_MODEL,
        storage=hashlib.sha256(open_storage(settings).address.encode()).hexdigest(),
        presets={
            name: Preset(samples=preset.chains, evaluations_per_sample=preset.evaluations)
            for name, preset in PRESETS.items()
        },
        versions={
            "mri-posterior": version("mri-posterior"),
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )


def _calibration(name: str) -> FoundFactors | None:
    """That of a model; a damaged one is no reason not to offer the model without."""
    try:
        return read_factors(name)
    except ModelError as error:
        log.warning("calibration not usable", model=name, code=error.code)
        return None


def threads_of(settings: ServiceSettings, device: torch.device, cores: int) -> int:
    """CPU threads of one worker; 0 leaves them to torch, which takes all cores for itself.

    Workers share the cores out, those with a GPU too, which decompose and calibrate on the CPU:
    threads that wait for one another cost many times the work.
    """
    workers = settings.workers or (torch.cuda.device_count() if device.type == "cuda" else 1)
    if settings.worker_threads or workers < 2:
        return settings.worker_threads
    return max(1, cores // workers)


def _live(
    settings: ServiceSettings,
    workers: Workers,
    name: str,
    runner: StepRunner,
    device: torch.device,
    stop: threading.Event,
    slot: int,
) -> None:
    """Beat, and look after silent workers, until told to stop."""
    last = steady_seconds()
    host = platform.node()
    silence = Silence()
    while not stop.wait(settings.heartbeat_seconds):
        now = steady_seconds()
        note_moved(worker_lock(settings.data, slot), time.monotonic() - runner.still_seconds)
        try:
            if now - last > settings.worker_lost_seconds or not workers.beat(
                name,
                {
                    "host": host,
                    "steps": runner.load,
                    "processor_s": round(time.process_time(), 1),
                    **_gpu_memory(device),
                },
            ):
                log.error("jobs were taken over", worker=name, silent_seconds=round(now - last, 1))
                os._exit(_LOST)
            last = now
            # Twice the time after which a worker gives itself up: it has surely stopped by then.
            silent = silence.longer_than(2 * settings.worker_lost_seconds, workers.beats(but=name))
            if silent:
                log.warning("taking over", workers=list(silent))
                take_over(list(silent))
                for worker, beat in silent.items():
                    workers.remove(worker, beat)
        except Exception:
            log.exception("heartbeat failed")


def _gpu_memory(device: torch.device) -> dict[str, int]:
    """What torch holds of the GPU's memory, in bytes."""
    return {"gpu_bytes": torch.cuda.memory_reserved(device)} if device.type == "cuda" else {}


def _drain(settings: ServiceSettings, runner: StepRunner) -> None:
    """Let the running step finish within the grace time, and begin no other."""
    runner.drain()
    end = time.monotonic() + settings.grace_seconds
    while runner.busy and time.monotonic() < end:
        time.sleep(0.02)
    runner.note_stopped()
    time.sleep(0.1)  # what has just finished is being recorded


if __name__ == "__main__":
    main()
