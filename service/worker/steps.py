"""What a worker does with a job: prepare, one slice after the other, assemble.

Each of these is a step of a durable workflow. A step may be run again after a crash, so each is
idempotent: it looks first at what is there already. Steps return small JSON objects.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from recon.calibration import CalibrationSettings
from recon.coarse import CoarseMethod
from recon.paths import PATHS
from recon.pipeline import reconstruct, work
from recon.posterior import SlicePosterior
from recon.settings import Settings
from service.conformal_scaling import factor_for
from service.jobs.job import Job, JobState
from service.jobs.job_table import Jobs
from service.jobs.workflows import Outcome
from service.report import Plan
from service.requests import ReconstructionParameters
from service.settings import ServiceSettings
from service.slices import parse_slices
from service.store.files import Storage
from service.worker.budget import (
    measure_speed,
    plan_for_accuracy,
    plan_for_deadline,
    planned,
)
from service.worker.loading import Loaded, Loader
from service.worker.products import adopt_products, write_products
from service.worker.step_runner import StepRunner
from service.worker.watch import Watch, Watches


def settings_of(parameters: ReconstructionParameters, plan: Outcome | None = None) -> Settings:
    """The pipeline's settings for a request, and for the plan that was made of it."""
    settings = Settings(
        preset=parameters.preset or "standard",
        samples=parameters.samples,
        seed=parameters.seed,
        coarse=CoarseMethod(parameters.coarse),
        path=PATHS[parameters.path],
        fit_noise=parameters.fit_noise,
        self_check=parameters.self_check,
        slice_coherence=parameters.slice_coherence,
        calibration=CalibrationSettings(compress_above=parameters.compress_above),
    )
    return settings if plan is None else planned(settings, Plan.model_validate(plan))


class JobSteps:
    """The three steps of jobs, as the workflow of `service.jobs.workflows` calls them."""

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
        self._device = device
        self._idle = idle
        self._loader = Loader(settings, storage, device)
        self._watches = Watches(jobs, storage, settings)
        self.runner = StepRunner(settings, jobs, storage, worker, self._forget)

    def prepare(self, job_id: str) -> Outcome:
        """Read the scan, choose slices and plan."""
        return self.runner.run(job_id, "prepare", self._prepare, claim=True)

    def reconstruct_slice(
        self, job_id: str, index: int, position: int, count: int, plan: Outcome | None
    ) -> Outcome:
        """Reconstruct one slice and checkpoint it."""
        act = partial(self._reconstruct, index=index, position=position, count=count, plan=plan)
        return self.runner.run(job_id, f"slice {index}", act)

    def assemble(self, job_id: str, slices: list[int], plan: Outcome | None) -> Outcome:
        """Write the products from the checkpoints and end the job."""
        act = partial(self._assemble, slices=slices, plan=plan)
        return self.runner.run(job_id, "assemble", act)

    def _prepare(self, job: Job) -> Outcome:
        if job.output is not None and self._storage.is_complete(job.output):
            return self._adopt(job)
        watch = self._watches.of(job)
        watch.note("validating")
        loaded = self._loader.load(job)
        slices = list(parse_slices(job.parameters.slices, loaded.scan.kspace.shape[0]))
        if job.parameters.calibrated:  # refused before the work where there is no factor for it
            factor_for(loaded.model, settings_of(job.parameters), loaded.scan)
        plan = self._plan(job, loaded, slices, watch)
        if plan is not None:
            self._jobs.plan(job.id, plan)
        return {
            "slices": slices,
            "plan": None if plan is None else plan.model_dump(),
            "part": self._settings.slices_per_part,
            "share": self._shares(len(slices)),
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
        watch = self._watches.of(job)
        watch.begin_slice(position, count)
        loaded = self._loader.load(job)
        settings = settings_of(job.parameters, plan)
        made = None
        with self.runner.turn():
            for event in reconstruct(
                loaded.scan, loaded.prior, settings, [index], self._device, loaded.typical
            ):
                self.runner.moved()
                watch.see(event)
                if isinstance(event, SlicePosterior):
                    made = event
        assert made is not None
        digest = self._storage.write_slice(job.id, made)
        watch.end_slice()
        told: dict[str, object] = {"slice": index, "converged": made.converged}
        if made.verdict is not None:
            told["verdict"] = made.verdict.trust.value
        self._jobs.report(job.id, "slice", told)
        share = self._shares(count - position - 1)
        return {"sha256": digest, "converged": made.converged, "share": share}

    def _assemble(self, job: Job, slices: list[int], plan: Outcome | None) -> Outcome:
        self._watches.of(job).note("assembling")
        loaded = self._loader.load(job)
        posteriors = [self._storage.read_slice(job.id, index) for index in slices]
        settings = settings_of(job.parameters, plan)
        results, summary = write_products(
            self._settings, self._storage, job, loaded, settings, posteriors, self._device
        )
        self._jobs.finish(job.id, JobState.SUCCEEDED, results=results, summary=summary)
        return {"state": "succeeded"}

    def _plan(self, job: Job, loaded: Loaded, slices: list[int], watch: Watch) -> Plan | None:
        parameters = job.parameters
        settings = settings_of(parameters)
        plan = None
        if parameters.target_mc_error is not None:
            plan = plan_for_accuracy(settings, parameters.target_mc_error)
        if parameters.deadline_s is not None:

            def look() -> None:
                self.runner.moved()
                watch.look()

            events = reconstruct(loaded.scan, loaded.prior, settings, slices[:1], self._device)
            speed = measure_speed(events, look, self._finish)
            left = parameters.deadline_s - job.age_seconds
            timely = plan_for_deadline(settings, left, len(slices), speed)
            cheaper = plan is not None and _cost(plan, settings) <= _cost(timely, settings)
            plan = plan if cheaper else timely
        return plan

    def _finish(self) -> None:
        """Wait for the device, which may have been asked for more than it has done."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def _shares(self, slices: int) -> bool:
        """Whether so many slices are worth handing to other workers, which have nothing to do."""
        return slices > self._settings.slices_per_part and self._idle()

    def _forget(self, job_id: str) -> None:
        self._loader.forget(job_id)
        self._watches.forget(job_id)


def _cost(plan: Plan, settings: Settings) -> int:
    return work(planned(settings, plan))
