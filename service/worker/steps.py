"""What a worker does with a job: prepare, one slice after the other, assemble.

Each of these is a step of a durable workflow. A step may be run again after a crash, so each is
idempotent: it looks first at what is there already. Steps return small JSON objects.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from recon.calibration import CalibrationSettings
from recon.coarse import CoarseMethod
from recon.paths import PATHS
from recon.pipeline import reconstruct, work
from recon.posterior import SlicePosterior
from recon.settings import Settings
from recon.volume_posterior import volume_plan
from service.conformal_scaling import factor_for
from service.jobs.job import Job, JobState
from service.jobs.job_table import Jobs
from service.jobs.workflows import Outcome
from service.report import Plan
from service.requests import ReconstructionParameters
from service.settings import ServiceSettings
from service.slices import parse_slices
from service.store.files import Storage
from service.volume_limits import require_room_for_volume
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

_VOLUME = "volume"


def settings_of(parameters: ReconstructionParameters, plan: Outcome | None = None) -> Settings:
    """The pipeline's settings for a request, and for the plan that was made of it."""
    settings = Settings(
        preset=parameters.preset or "standard",
        samples=parameters.samples,
        seed=parameters.seed,
        coarse=CoarseMethod(parameters.coarse),
        path=PATHS[parameters.path],
        fit_noise=parameters.fit_noise,
        self_check=parameters.self_check and not parameters.volume,
        slice_coherence=parameters.slice_coherence,
        volume=parameters.volume,
        calibration=CalibrationSettings(compress_above=parameters.compress_above),
    )
    return settings if plan is None else planned(settings, Plan.model_validate(plan))


@dataclass(frozen=True)
class _JobChains:
    """The finished chains of a job's volume, as `recon.pipeline.reconstruct` asks for them."""

    storage: Storage
    job_id: str
    told: Callable[[], None]
    """Called when there is one more."""

    def read(self, chain: int) -> NDArray[np.complex64] | None:
        """(draws, slices, rows, columns), or None: it is still to be run."""
        return self.storage.read_chain(self.job_id, chain)

    def write(self, chain: int, draws: NDArray[np.complex64]) -> None:
        """Keep them, whole or not at all."""
        self.storage.write_chain(self.job_id, chain, draws)
        self.told()


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

    def reconstruct_volume(self, job_id: str, slices: list[int], plan: Outcome | None) -> Outcome:
        """Reconstruct a volume, checkpointing each of its chains."""
        act = partial(self._reconstruct_volume, slices=slices, plan=plan)
        return self.runner.run(job_id, _VOLUME, act)

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
        if job.parameters.volume:  # nor what is no volume, or too large a one
            intended = volume_plan(loaded.scan, settings_of(job.parameters), slices)
            require_room_for_volume(intended.cost, self._settings.max_volume_bytes)
        plan = self._plan(job, loaded, slices, watch)
        if plan is not None:
            self._jobs.plan(job.id, plan)
        return {
            "slices": slices,
            "plan": None if plan is None else plan.model_dump(),
            "part": self._settings.slices_per_part,
            "share": self._shares(len(slices)),
            "volume": job.parameters.volume,
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
        digest = self._keep(job, made)
        watch.end_slice()
        share = self._shares(count - position - 1)
        return {"sha256": digest, "converged": made.converged, "share": share}

    def _reconstruct_volume(self, job: Job, slices: list[int], plan: Outcome | None) -> Outcome:
        there = {index for index in slices if self._storage.has_slice(job.id, index)}
        if len(there) == len(slices):
            return {}
        loaded = self._loader.load(job)
        settings = settings_of(job.parameters, plan)
        kept = _JobChains(self._storage, job.id, partial(self.runner.note_kept, job.id, _VOLUME))
        watch = self._watches.of(job)
        watch.begin_volume(self._storage.finished_chains(job.id) / settings.resolved.chains)
        with self.runner.turn():
            for event in reconstruct(
                loaded.scan, loaded.prior, settings, slices, self._device, loaded.typical, kept
            ):
                self.runner.moved()
                watch.see(event)
                if isinstance(event, SlicePosterior) and event.index not in there:
                    self._keep(job, event)
        return {}

    def _keep(self, job: Job, made: SlicePosterior) -> str:
        """Checkpoint a slice and tell of it; the digest of its file."""
        digest = self._storage.write_slice(job.id, made)
        told: dict[str, object] = {"slice": made.index, "converged": made.converged}
        if made.verdict is not None:
            told["verdict"] = made.verdict.trust.value
        self._jobs.report(job.id, "slice", told)
        return digest

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

            # A slice of a volume costs what it costs alone; those at its ends may be empty.
            probed = slices[len(slices) // 2 :][:1] if settings.volume else slices[:1]
            alone = replace(settings, volume=False)
            events = reconstruct(loaded.scan, loaded.prior, alone, probed, self._device)
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
