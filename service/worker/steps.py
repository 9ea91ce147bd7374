"""What a worker does with a job: prepare, one slice after the other, assemble.

Each of these is a step of a durable workflow. A step may be run again after a crash, so each is
idempotent: it looks first at what is there already. Steps return small JSON objects and do not
raise: what ends a job is an outcome, recorded like any other.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import Any

import structlog
import torch
from sqlalchemy.exc import InterfaceError, OperationalError

from models.registry import ModelError
from recon.calibration import CalibrationSettings
from recon.coarse import CoarseMethod
from recon.errors import ReconError
from recon.paths import PATHS
from recon.pipeline import reconstruct, work
from recon.posterior import SlicePosterior
from recon.settings import Settings
from service.conformal_scaling import REFUSALS, factor_for
from service.jobs.batches import stop_batches_of
from service.jobs.job import Job, JobState
from service.jobs.job_table import Jobs
from service.problems import ProblemError, problem_of
from service.requests import ReconstructionParameters
from service.settings import ServiceSettings
from service.slices import parse_slices
from service.store.files import Storage
from service.store.objects import StorageError
from service.tracing import span
from service.worker.budget import (
    Plan,
    measure_speed,
    plan_for_accuracy,
    plan_for_deadline,
)
from service.worker.loading import Loaded, Loader
from service.worker.products import adopt_products, write_products
from service.worker.watch import Stopped, Watch

log = structlog.get_logger()

Outcome = dict[str, Any]
DATABASE_LOST = 74
"""Exit status of a worker that cannot reach the database, or the object store."""
_AWAY = (OperationalError, InterfaceError, StorageError)


def settings_of(parameters: ReconstructionParameters, plan: Plan | None = None) -> Settings:
    """The pipeline's settings for a request."""
    settings = Settings(
        preset=parameters.preset or "standard",
        samples=parameters.samples,
        seed=parameters.seed,
        coarse=CoarseMethod(parameters.coarse),
        path=PATHS[parameters.path],
        fit_noise=parameters.fit_noise,
        self_check=parameters.self_check,
        calibration=CalibrationSettings(compress_above=parameters.compress_above),
    )
    return settings if plan is None else plan.applied_to(settings)


class Work:
    """The steps of one worker process, of several jobs at once.

    One samples, unless they share its batches, while the others read and write.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        jobs: Jobs,
        storage: Storage,
        worker: str,
        device: torch.device,
        idle: Callable[[], bool] = lambda: False,
    ) -> None:
        """`idle` says whether other workers have nothing to do."""
        self._settings = settings
        self._jobs = jobs
        self._storage = storage
        self._worker = worker
        self.device = device
        self._idle = idle
        self._loader = Loader(settings, storage, device)
        self._watches: dict[str, Watch] = {}
        self._draining = threading.Event()
        self._running: dict[int, tuple[str, str]] = {}
        self._moved: dict[int, float] = {}
        self._lock = threading.Lock()
        self._sampling = threading.Semaphore(settings.jobs_at_once if settings.share_batches else 1)

    def drain(self) -> None:
        """Begin no further step; the one that runs goes on."""
        self._draining.set()

    @property
    def busy(self) -> bool:
        """Whether a step runs."""
        return bool(self._running)

    @property
    def load(self) -> list[str]:
        """The steps that run, as a person would say it."""
        return [f"{job} {step}" for job, step in tuple(self._running.values())]

    @property
    def still_seconds(self) -> float:
        """For how long nothing has moved in the step in which that is longest; 0 without any."""
        return max((time.monotonic() - at for at in tuple(self._moved.values())), default=0.0)

    def _move(self) -> None:
        self._moved[threading.get_ident()] = time.monotonic()

    def note_stopped(self) -> None:
        """Say in the ledger that the running step is given up on purpose, not lost."""
        for running in tuple(self._running.values()):
            self._stopped(running)

    def _stopped(self, running: tuple[str, str] | None) -> None:
        if running is not None:
            entry = {"what": "stopped", "worker": self._worker, "at": time.time()}
            with suppress(StorageError):
                self._storage.note_step(running[0], step=running[1], **entry)

    def prepare(self, job_id: str) -> Outcome:
        """Read the scan, choose slices and plan."""
        return self._step(job_id, "prepare", self._prepare)

    def reconstruct_slice(
        self, job_id: str, index: int, position: int, count: int, plan: Outcome | None
    ) -> Outcome:
        """Reconstruct one slice and checkpoint it."""
        act = partial(self._reconstruct, index=index, position=position, count=count, plan=plan)
        return self._step(job_id, f"slice {index}", act)

    def assemble(self, job_id: str, slices: list[int], plan: Outcome | None) -> Outcome:
        """Write the products from the checkpoints and end the job."""
        return self._step(job_id, "assemble", partial(self._assemble, slices=slices, plan=plan))

    def _prepare(self, job: Job) -> Outcome:
        if job.output is not None and self._storage.is_complete(job.output):
            return self._adopt(job)
        watch = self._watch(job)
        watch.note("validating")
        loaded = self._loader.load(job)
        slices = list(parse_slices(job.parameters.slices, loaded.scan.kspace.shape[0]))
        if job.parameters.calibrated:  # refused before the work where there is no factor for it
            factor_for(loaded.model, settings_of(job.parameters), loaded.scan)
        plan = self._plan(job, loaded, slices, watch)
        if plan is not None:
            self._jobs.plan(job.id, asdict(plan))
        part = self._settings.slices_per_part
        return {
            "slices": slices,
            "plan": None if plan is None else asdict(plan),
            "part": part,
            "share": len(slices) > part and self._idle(),
        }

    def _adopt(self, job: Job) -> Outcome:
        """Another job has made these very products."""
        results, summary = adopt_products(self._storage, job)
        self._jobs.finish(job.id, JobState.SUCCEEDED, results=results, summary=summary)
        return {"state": "succeeded"}

    def _reconstruct(
        self, job: Job, index: int, position: int, count: int, plan: Outcome | None
    ) -> Outcome:
        if self._storage.has_slice(job.id, index):
            return {}
        watch = self._watch(job)
        watch.begin_slice(position, count)
        loaded = self._loader.load(job)
        settings = settings_of(job.parameters, None if plan is None else Plan(**plan))
        made = None
        self._moved.pop(threading.get_ident(), None)  # to wait for another job is no standstill
        with self._sampling:
            self._hold_back()
            self._move()
            for event in reconstruct(loaded.scan, loaded.prior, settings, [index], self.device):
                self._move()
                watch.see(event)
                if isinstance(event, SlicePosterior):
                    made = event
        assert made is not None
        digest = self._storage.write_slice(job.id, made)
        watch.end_slice()
        self._jobs.report(job.id, "slice", {"slice": index, "converged": made.converged})
        left = count - position - 1
        share = left > self._settings.slices_per_part and self._idle()
        return {"sha256": digest, "converged": made.converged, "share": share}

    def _assemble(self, job: Job, slices: list[int], plan: Outcome | None) -> Outcome:
        self._watch(job).note("assembling")
        loaded = self._loader.load(job)
        posteriors = [self._storage.read_slice(job.id, index) for index in slices]
        settings = settings_of(job.parameters, None if plan is None else Plan(**plan))
        results, summary = write_products(
            self._settings, self._storage, job, loaded, settings, posteriors, self.device
        )
        self._jobs.finish(job.id, JobState.SUCCEEDED, results=results, summary=summary)
        return {"state": "succeeded"}

    def _leave(self, job: Job) -> None:
        """Let go of what an ended job needs no more."""
        self._loader.forget(job.id)
        with self._lock:
            self._watches.pop(job.id, None)
        if job.output is None:
            self._storage.remove_checkpoints(job.id)
        else:
            self._storage.remove_traces(job.id)
        self._storage.release(job.place, job.scan_sha256)

    def _step(self, job_id: str, name: str, act: Callable[[Job], Outcome]) -> Outcome:
        """Do one step of a job that is still wanted; what ends the job is an outcome too."""
        self._hold_back()
        with self._lock:
            self._running[threading.get_ident()] = (job_id, name)
        self._move()
        try:
            if name == "prepare":
                job = self._jobs.claim(job_id, self._worker)
            else:
                job = self._jobs.get(job_id)
            if job is None or job.state.terminal:
                if job is not None:
                    self._leave(job)  # a crash may have come before
                return {"state": "gone"}
            try:
                outcome = {"state": "done"} | self._attempt(job, name, act)
                if outcome["state"] == JobState.SUCCEEDED:
                    self._leave(job)
                return outcome
            except Stopped:
                return self._end(job, JobState.CANCELLED, None)
            except Exception as error:
                if isinstance(error, _AWAY):
                    raise
                return self._end(job, JobState.FAILED, _problem(error, job.id, name))
        except _AWAY:
            # Without the database nothing can be recorded: end, be started again, go on here.
            log.exception("database or storage lost", job=job_id, step=name)
            self.note_stopped()
            os._exit(DATABASE_LOST)
        finally:
            with self._lock:
                self._running.pop(threading.get_ident(), None)
            self._moved.pop(threading.get_ident(), None)

    def _attempt(self, job: Job, name: str, act: Callable[[Job], Outcome]) -> Outcome:
        """Act between two lines of the ledger, unless that has failed too often."""
        entry = {"step": name, "worker": self._worker}
        self._require_attempts(job, name)
        if self._jobs.state(job.id) is not JobState.RUNNING:
            raise Stopped
        self._storage.note_step(job.id, what="started", at=time.time(), **entry)
        with span(name, job.traceparent, job=job.id, worker=self._worker):
            outcome = act(job)
        self._storage.note_step(job.id, what="finished", at=time.time(), **entry)
        return outcome

    def _hold_back(self) -> None:
        """Begin nothing when the process is about to end; another goes on from here."""
        if self._draining.is_set():
            self._sampling.release()  # those that wait there are to come here too
            self._stopped(self._running.pop(threading.get_ident(), None))
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

    def _end(self, job: Job, state: JobState, problem: ProblemError | None) -> Outcome:
        error = None if problem is None else problem.document()
        if self._jobs.finish(job.id, state, error=error) and state is JobState.FAILED:
            stop_batches_of(self._jobs.engine, job.id)
        self._leave(job)
        log.info("job ended", job=job.id, state=state.value, problem=problem and problem.kind)
        return {"state": state.value}

    def _look(self, watch: Watch) -> None:
        self._move()
        watch.look()

    def _watch(self, job: Job) -> Watch:
        with self._lock:
            if job.id not in self._watches:
                self._watches[job.id] = Watch(self._jobs, self._storage, self._settings, job)
            return self._watches[job.id]

    def _plan(self, job: Job, loaded: Loaded, slices: list[int], watch: Watch) -> Plan | None:
        parameters = job.parameters
        settings = settings_of(parameters)
        plan = None
        if parameters.target_mc_error is not None:
            plan = plan_for_accuracy(settings, parameters.target_mc_error)
        if parameters.deadline_s is not None:
            events = reconstruct(loaded.scan, loaded.prior, settings, slices[:1], self.device)
            speed = measure_speed(events, partial(self._look, watch))
            left = parameters.deadline_s - (time.time() - job.created_at)
            timely = plan_for_deadline(settings, left, len(slices), speed)
            cheaper = plan is not None and _cost(plan, settings) <= _cost(timely, settings)
            plan = plan if cheaper else timely
        return plan


def _problem(error: Exception, job_id: str, step: str) -> ProblemError:
    """What a client may know of a failure; the unforeseen is logged."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, ReconError):
        return problem_of(error)
    if isinstance(error, ModelError) and error.code in REFUSALS:
        return ProblemError("no-calibration", error.message, reason=error.code)
    if isinstance(error, ModelError):
        return ProblemError("unknown-model", error.message)
    if isinstance(error, torch.cuda.OutOfMemoryError):
        text = "the slice does not fit; ask for fewer samples"
        return ProblemError("gpu-out-of-memory", text)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        text = "the disk of the service is full; try again when there is room"
        return ProblemError("storage-full", text)
    log.error("step failed", job=job_id, step=step, exc_info=error)
    return ProblemError("internal", "the step failed unexpectedly; the service's log says more")


def _cost(plan: Plan, settings: Settings) -> int:
    return work(plan.applied_to(settings))
