"""Sending until all is stored, or it is clear that it never will be."""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import structlog

from service.delivery import dimse, stow
from service.delivery.delivery_table import Deliveries, Delivery, DeliveryState
from service.delivery.stow import Instance, Outcome, instance_of
from service.jobs.job_table import Jobs
from service.problems import ProblemError
from service.products import DICOM, DicomSeries
from service.settings import DeliveryTarget, DimseTarget, ServiceSettings
from service.store.files import Storage

log = structlog.get_logger()

_LONGEST_PAUSE = 3600.0


def pause_after(settings: ServiceSettings, attempts: int) -> float:
    """Seconds to wait after so many failed tries."""
    return min(settings.delivery_pause_seconds * 2.0 ** (attempts - 1), _LONGEST_PAUSE)


def send(target: DeliveryTarget, instances: Sequence[Instance]) -> Outcome:
    """Try once to store all instances, by STOW-RS or C-STORE as the target has it."""
    if isinstance(target, DimseTarget):
        return dimse.store(target, instances)
    return stow.send(target, instances)


def push(
    settings: ServiceSettings,
    target: DeliveryTarget,
    files: Iterable[Path],
    say: Callable[[str], None],
) -> Outcome:
    """Send files, trying again as often as the settings say; returns what is stored in the end."""
    waiting = [instance_of(file.read_bytes()) for file in files]
    stored: list[str] = []
    attempt = 0
    while True:
        attempt += 1
        outcome = send(target, waiting)
        stored += outcome.stored
        waiting = [instance for instance in waiting if instance.uid in outcome.again]
        if not waiting or attempt >= settings.delivery_attempts:
            outcome.stored = stored
            return outcome
        pause = pause_after(settings, attempt)
        why = outcome.problem or "some instances were not stored"
        say(f"{why}; trying {len(waiting)} instances again in {pause:g} s")
        time.sleep(pause)


class Sender:
    """The one step of a durable delivery, run again until it has an end."""

    def __init__(
        self, settings: ServiceSettings, deliveries: Deliveries, jobs: Jobs, storage: Storage
    ) -> None:
        self._settings = settings
        self._deliveries = deliveries
        self._jobs = jobs
        self._storage = storage

    def try_once(self, delivery_id: str) -> float | None:
        """Send what is not stored yet. Returns seconds until the next try; None at the end."""
        delivery = self._deliveries.get(delivery_id)
        if delivery is None or delivery.finished_at is not None:
            return None
        attempts = delivery.attempts + 1
        self._deliveries.update(delivery.id, state=DeliveryState.SENDING, attempts=attempts)
        target = self._settings.delivery_targets.get(delivery.target)
        if target is None:
            self._end(delivery, "the target is no longer configured", {})
            return None
        try:
            waiting = self._waiting(delivery)
        except (OSError, KeyError, zipfile.BadZipFile):
            self._end(delivery, "the job's DICOM files are gone", {})
            return None
        outcome = send(target, waiting)
        stored = [*delivery.stored, *outcome.stored]
        self._deliveries.update(delivery.id, stored=stored, failures=outcome.failures)
        log.info(
            "delivery tried", delivery=delivery.id, attempts=attempts, stored=len(stored),
            failed=len(outcome.failures), problem=outcome.problem,
        )  # fmt: skip
        if not outcome.failures:
            self._deliveries.update(
                delivery.id, state=DeliveryState.DELIVERED, finished_at=time.time()
            )
            return None
        if not outcome.again or attempts >= self._settings.delivery_attempts:
            why = outcome.problem or f"{len(outcome.failures)} instances were not stored"
            self._end(delivery, f"{why}; tried {attempts} times", outcome.failures)
            return None
        return pause_after(self._settings, attempts)

    def _waiting(self, delivery: Delivery) -> Sequence[Instance]:
        """Instances to send: not those stored, nor those refused for good."""
        job = self._jobs.get(delivery.job_id)
        place = delivery.job_id if job is None else job.place
        with zipfile.ZipFile(self._storage.product(place, DICOM)) as archive:
            instances = [
                instance_of(archive.read(name))
                for name in archive.namelist()
                if DicomSeries.of(name) in delivery.products
            ]
        return [instance for instance in instances if instance.uid not in delivery.stored]

    def _end(self, delivery: Delivery, why: str, failures: dict[str, str]) -> None:
        problem = ProblemError("delivery-failed", why)
        self._deliveries.update(
            delivery.id,
            state=DeliveryState.FAILED,
            error=problem.document(),
            failures=failures,
            finished_at=time.time(),
        )
