"""What a worker does with a job: prepare, one slice after the other, assemble.

Each of these is a step of a durable workflow. A step may be run again after a crash, so each is
idempotent: it looks first at what is there already. Steps return small JSON objects and do not
raise: what ends a job is an outcome, recorded like any other.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from typing import IO, Any

import numpy as np
import structlog
import torch
from numpy.typing import NDArray
from sqlalchemy.exc import OperationalError

from models.denoiser import NetworkPrior
from models.registry import ModelError, load_prior
from recon.calibration import CalibrationSettings
from recon.coarse import CoarseMethod
from recon.errors import ReconError
from recon.io.files import read_scan
from recon.pipeline import Settings, reconstruct, work
from recon.posterior import SlicePosterior
from recon.scan import Scan
from recon.schedule import Path as AnnealingPath
from service.budget import (
    Plan,
    measure_speed,
    plan_for_accuracy,
    plan_for_deadline,
)
from service.jobs import Job, Jobs, JobState
from service.problems import ProblemError, problem_of
from service.requests import ReconstructionParameters
from service.runs import DEFAULT_MODEL, write_reconstruction
from service.settings import ServiceSettings
from service.slices import parse_slices
from service.storage import RESULT_FILES, Storage
from service.summary import summary_of
from service.tracing import span
from service.watch import Stopped, Watch

log = structlog.get_logger()

Outcome = dict[str, Any]
DATABASE_LOST = 74
"""Exit status of a worker that cannot reach the database."""


def settings_of(parameters: ReconstructionParameters, plan: Plan | None = None) -> Settings:
    """The pipeline's settings for a request."""
    settings = Settings(
        preset=parameters.preset or "standard",
        samples=parameters.samples,
        seed=parameters.seed,
        coarse=CoarseMethod(parameters.coarse),
        path=AnnealingPath(parameters.path),
        fit_noise=parameters.fit_noise,
        self_check=parameters.self_check,
        calibration=CalibrationSettings(compress_above=parameters.compress_above),
    )
    return settings if plan is None else plan.applied_to(settings)


@dataclass(frozen=True)
class _Loaded:
    job_id: str
    scan: Scan
    model: str
    prior: NetworkPrior


class Work:
    """The steps of one worker process; one job at a time."""

    def __init__(
        self,
        settings: ServiceSettings,
        jobs: Jobs,
        storage: Storage,
        worker: str,
        device: torch.device,
    ) -> None:
        self._settings = settings
        self._jobs = jobs
        self._storage = storage
        self._worker = worker
        self._device = device
        self._loaded: _Loaded | None = None
        self._priors: dict[str, NetworkPrior] = {}
        self._draining = threading.Event()
        self._current: tuple[str, str] | None = None
        self._lock = threading.Lock()

    def drain(self) -> None:
        """Begin no further step; the one that runs goes on."""
        self._draining.set()

    @property
    def busy(self) -> bool:
        """Whether a step runs."""
        return self._current is not None

    def note_stopped(self) -> None:
        """Say in the ledger that the running step is given up on purpose, not lost."""
        current = self._current
        if current is not None:
            self._storage.note_step(
                current[0], step=current[1], what="stopped", worker=self._worker, at=time.time()
            )

    def prepare(self, job_id: str) -> Outcome:
        """Read the scan, choose slices and plan."""
        self._hold_back()
        job = self._jobs.claim(job_id, self._worker)
        if job is None:
            return {"state": "gone"}
        with self._step(job, "prepare") as outcome:
            loaded = self._load(job)
            slices = list(parse_slices(job.parameters.slices, loaded.scan.kspace.shape[0]))
            plan = self._plan(job, loaded, slices)
            if plan is not None:
                self._jobs.plan(job.id, asdict(plan))
            outcome |= {"slices": slices, "plan": None if plan is None else asdict(plan)}
        return outcome

    def reconstruct_slice(
        self, job_id: str, index: int, position: int, count: int, plan: dict[str, Any] | None
    ) -> Outcome:
        """Reconstruct one slice and checkpoint it."""
        job = self._jobs.get(job_id)
        if job is None or job.state.terminal:
            return {"state": "gone"}
        with self._step(job, f"slice {index}") as outcome:
            if self._storage.has_slice(job_id, index):
                return outcome
            loaded = self._load(job)
            settings = settings_of(job.parameters, None if plan is None else Plan(**plan))
            events = reconstruct(loaded.scan, loaded.prior, settings, [index], self._device)
            watch = Watch(self._jobs, self._storage, self._settings, job, position, count)
            for event in events:
                watch.see(event)
                if isinstance(event, SlicePosterior):
                    outcome["sha256"] = self._storage.write_slice(job_id, event)
                    outcome["converged"] = event.converged
            self._jobs.report(job_id, "slice", {"slice": index, "converged": outcome["converged"]})
        return outcome

    def assemble(self, job_id: str, slices: list[int], plan: dict[str, Any] | None) -> Outcome:
        """Write the products from the checkpoints and end the job."""
        job = self._jobs.get(job_id)
        if job is None or job.state.terminal:
            self._storage.remove_checkpoints(job_id)
            return {"state": "gone"}
        with self._step(job, "assemble") as outcome:
            loaded = self._load(job)
            posteriors = [self._storage.read_slice(job_id, index) for index in slices]
            settings = settings_of(job.parameters, None if plan is None else Plan(**plan))
            write_reconstruction(
                self._storage.product(job_id, "result.h5"),
                posteriors,
                loaded.scan,
                settings,
                loaded.prior,
                loaded.model,
                self._device,
            )
            self._write_arrays(job_id, posteriors)
            summary = summary_of(job, loaded.scan, loaded.model, settings, posteriors)
            text = json.dumps(summary, indent=2).encode() + b"\n"
            self._storage.write_product(job_id, "report.json", partial(_write, text=text))
            results = [self._storage.describe_product(job_id, name) for name in RESULT_FILES]
            if (
                not self._jobs.finish(job_id, JobState.SUCCEEDED, results=results, summary=summary)
                and self._jobs.state(job_id) is None
            ):
                self._storage.remove_job(job_id)
            outcome["state"] = "succeeded"
        if outcome["state"] == "succeeded":
            self._storage.remove_checkpoints(job_id)
        return outcome

    @contextmanager
    def _step(self, job: Job, name: str) -> Iterator[Outcome]:
        """Count attempts, keep the ledger, and turn what ends the job into an outcome."""
        outcome: Outcome = {"state": "done"}
        self._hold_back()
        entry = {"step": name, "worker": self._worker}
        with self._lock:
            self._current = (job.id, name)
        try:
            self._require_attempts(job, name)
            self._require_wanted(job)
            self._storage.note_step(job.id, what="started", at=time.time(), **entry)
            with span(name, job.traceparent, job=job.id, worker=self._worker):
                yield outcome
            self._storage.note_step(job.id, what="finished", at=time.time(), **entry)
        except Stopped:
            self._end(job, outcome, JobState.CANCELLED, None)
        except ReconError as error:
            self._end(job, outcome, JobState.FAILED, problem_of(error))
        except ModelError as error:
            self._end(job, outcome, JobState.FAILED, ProblemError("unknown-model", error.message))
        except ProblemError as error:
            self._end(job, outcome, JobState.FAILED, error)
        except torch.cuda.OutOfMemoryError:
            self._end(
                job,
                outcome,
                JobState.FAILED,
                ProblemError("gpu-out-of-memory", "the slice does not fit; ask for fewer samples"),
            )
        except OperationalError:
            # Without the database nothing can be recorded: end, be started again, go on here.
            log.exception("database lost", job=job.id, step=name)
            self.note_stopped()
            os._exit(DATABASE_LOST)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            text = "the disk of the service is full; try again when there is room"
            self._end(job, outcome, JobState.FAILED, ProblemError("storage-full", text))
        except Exception:
            log.exception("step failed", job=job.id, step=name)
            problem = ProblemError("internal", "the step failed unexpectedly; see the server's log")
            self._end(job, outcome, JobState.FAILED, problem)
        finally:
            with self._lock:
                self._current = None

    def _hold_back(self) -> None:
        """Begin nothing when the process is about to end; another goes on from here."""
        if self._draining.is_set():
            threading.Event().wait()

    def _require_attempts(self, job: Job, name: str) -> None:
        """Refuse a step that took its worker down too often: it would do so for ever."""
        entries = [e for e in self._storage.steps(job.id) if e.get("step") == name]
        started = sum(e["what"] == "started" for e in entries)
        ended = sum(e["what"] in ("stopped", "finished") for e in entries)
        if started - ended >= self._settings.max_attempts:
            raise ProblemError(
                "worker-lost",
                f"the worker died {started - ended} times in step '{name}'; the scan may be too "
                "large for its memory",
                step=name,
            )

    def _require_wanted(self, job: Job) -> None:
        if self._jobs.state(job.id) not in (JobState.RUNNING, JobState.QUEUED):
            raise Stopped

    def _end(
        self, job: Job, outcome: Outcome, state: JobState, problem: ProblemError | None
    ) -> None:
        error = None if problem is None else problem.document()
        self._jobs.finish(job.id, state, error=error)
        self._storage.remove_checkpoints(job.id)
        outcome["state"] = state.value
        log.info("job ended", job=job.id, state=state.value, problem=problem and problem.kind)

    def _load(self, job: Job) -> _Loaded:
        """Scan and prior, kept for the next step."""
        if self._loaded is None or self._loaded.job_id != job.id:
            self._loaded = None  # two scans at once may be too many
            self._jobs.report(
                job.id, "progress", {"phase": "validating", "fraction": 0.0, "slice": None}
            )
            model = job.parameters.model or self._settings.default_model or DEFAULT_MODEL
            if model not in self._priors:
                self._priors = {model: load_prior(model, self._device)}
            scan = read_scan(self._storage.scan(job.scan_sha256))
            self._loaded = _Loaded(job.id, scan, model, self._priors[model])
        return self._loaded

    def _plan(self, job: Job, loaded: _Loaded, slices: list[int]) -> Plan | None:
        parameters = job.parameters
        settings = settings_of(parameters)
        plan = None
        if parameters.target_mc_error is not None:
            plan = plan_for_accuracy(settings, parameters.target_mc_error)
        if parameters.deadline_s is not None:
            speed = measure_speed(loaded.scan, loaded.prior, settings, slices[0], self._device)
            left = parameters.deadline_s - (time.time() - job.created_at)
            timely = plan_for_deadline(settings, left, len(slices), speed)
            cheaper = plan is not None and _cost(plan, settings) <= _cost(timely, settings)
            plan = plan if cheaper else timely
        return plan

    def _write_arrays(self, job_id: str, posteriors: list[SlicePosterior]) -> None:
        """The pictures as plain arrays, slices first (samples: sample, slice)."""
        stacks: dict[str, Callable[[], NDArray[Any]]] = {
            "mean.npy": lambda: np.stack([p.mean for p in posteriors]),
            "std.npy": lambda: np.stack([p.magnitude_std for p in posteriors]),
            "coarse.npy": lambda: np.stack([p.coarse for p in posteriors]),
            "samples.npy": lambda: np.stack([p.samples for p in posteriors], axis=1),
        }
        for name, stack in stacks.items():
            self._storage.write_product(job_id, name, partial(_save, array=stack()))


def _cost(plan: Plan, settings: Settings) -> int:
    return work(plan.applied_to(settings))


def _save(file: IO[bytes], array: NDArray[Any]) -> None:
    np.save(file, array, allow_pickle=False)


def _write(file: IO[bytes], text: bytes) -> None:
    file.write(text)
