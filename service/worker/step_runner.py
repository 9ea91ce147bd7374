"""Steps of jobs, each done once between two lines of a ledger, to an outcome whatever happens.

What ends a job (it is cancelled, or a step of it fails) is an outcome, recorded like any other;
steps do not raise. What is begun here is watched: a heartbeat tells others which steps run and for
how long nothing has moved in them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog
from sqlalchemy.exc import InterfaceError, OperationalError

from service.jobs.batches import stop_batches_of
from service.jobs.job import Job, JobState
from service.jobs.job_table import Jobs
from service.jobs.workflows import Outcome
from service.problems import ProblemError
from service.settings import ServiceSettings
from service.store.files import Storage
from service.store.objects import StorageError
from service.tracing import span
from service.worker.failures import problem_of_failure
from service.worker.watch import Stopped

log = structlog.get_logger()

Act = Callable[[Job], Outcome]
DATABASE_LOST = 74
"""Exit status of a worker that cannot reach the database, or the object store."""
_KEPT = "kept"
_AWAY = (OperationalError, InterfaceError, StorageError)


class StepRunner:
    """Runs the steps of one worker process, of several jobs at once, each in its thread."""

    def __init__(
        self,
        settings: ServiceSettings,
        jobs: Jobs,
        storage: Storage,
        worker: str,
        forget: Callable[[str], None],
    ) -> None:
        """`forget` lets go of what is kept in memory of a job that has ended."""
        self._settings = settings
        self._jobs = jobs
        self._storage = storage
        self._worker = worker
        self._forget = forget
        self._draining = threading.Event()
        self._running: dict[int, tuple[str, str]] = {}
        self._moved: dict[int, float] = {}
        self._lock = threading.Lock()
        self._sampling = threading.Semaphore(settings.jobs_at_once if settings.share_batches else 1)

    def run(self, job_id: str, name: str, act: Act, *, claim: bool = False) -> Outcome:
        """Do one step of a job that is still wanted; `claim` says that it is the job's first."""
        self._hold_back()
        with self._lock:
            self._running[threading.get_ident()] = (job_id, name)
        self.moved()
        try:
            job = self._jobs.claim(job_id, self._worker) if claim else self._jobs.get(job_id)
            if job is None or job.state.terminal:
                if job is not None:
                    self._leave(job)  # a crash may have come before
                return {"state": "gone"}
            return self._to_an_outcome(job, name, act)
        except _AWAY:
            # Without the database nothing can be recorded: end, be started again, go on here.
            log.exception("database or storage lost", job=job_id, step=name)
            self.note_stopped()
            os._exit(DATABASE_LOST)
        finally:
            with self._lock:
                self._running.pop(threading.get_ident(), None)
            self._moved.pop(threading.get_ident(), None)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until this thread may sample: one does while others read and write.

        Where jobs share the network's batches, all may.
        """
        self._moved.pop(threading.get_ident(), None)  # to wait for another job is no standstill
        with self._sampling:
            self._hold_back()
            self.moved()
            yield

    def moved(self) -> None:
        """Say that the step of this thread has not come to a standstill."""
        self._moved[threading.get_ident()] = time.monotonic()

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

    def note_stopped(self) -> None:
        """Say in the ledger that the running steps are given up on purpose, not lost."""
        for running in tuple(self._running.values()):
            self._stopped(running)

    def note_kept(self, job_id: str, step: str) -> None:
        """Say in the ledger that a part of a step is done for good, whatever becomes of the rest.

        What took the worker down before has then not done so for ever.
        """
        entry = {"what": _KEPT, "worker": self._worker, "at": time.time()}
        self._storage.note_step(job_id, step=step, **entry)

    def _stopped(self, running: tuple[str, str] | None) -> None:
        if running is not None:
            entry = {"what": "stopped", "worker": self._worker, "at": time.time()}
            with suppress(StorageError):
                self._storage.note_step(running[0], step=running[1], **entry)

    def _hold_back(self) -> None:
        """Begin nothing when the process is about to end; another goes on from here."""
        if self._draining.is_set():
            self._sampling.release()  # those that wait there are to come here too
            self._stopped(self._running.pop(threading.get_ident(), None))
            threading.Event().wait()

    def _to_an_outcome(self, job: Job, name: str, act: Act) -> Outcome:
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
            return self._end(job, JobState.FAILED, problem_of_failure(error, job.id, name))

    def _attempt(self, job: Job, name: str, act: Act) -> Outcome:
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

    def _require_attempts(self, job: Job, name: str) -> None:
        """Refuse a step that took its worker down too often: it would do so for ever."""
        entries = [e for e in self._storage.steps(job.id) if e.get("step") == name]
        kept = max((at for at, e in enumerate(entries) if e["what"] == _KEPT), default=-1)
        entries = entries[kept + 1 :]
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

    def _leave(self, job: Job) -> None:
        """Let go of what an ended job needs no more."""
        self._forget(job.id)
        if job.output is None:
            self._storage.remove_checkpoints(job.id)
        else:
            self._storage.remove_traces(job.id)
        self._storage.release(job.place, job.scan_sha256)
