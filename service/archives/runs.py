"""One run over an archive: look at the scans, queue what is missing, follow it to the end."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from models import DEFAULT_MODEL
from models.registry import read_config, read_factors
from service.archives.inspection import Looked, look
from service.archives.sources import PARAMETERS, Found
from service.jobs.batches import Batch, Batches, Item, NewItem, output_digest
from service.jobs.job import JobState
from service.jobs.workers import Workers
from service.jobs.workflows import Queue
from service.problems import ProblemError
from service.requests import ReconstructionParameters
from service.settings import ServiceSettings
from service.store.database import create_database, open_database
from service.store.durable import sync
from service.store.files import Storage, open_storage, scan_key
from service.store.keys import LOCAL
from service.store.objects import is_url

_PAGE = 1000


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    parameters: ReconstructionParameters
    on_error: str
    upload: bool
    """Whether the workers cannot read the scans where they are."""


class ArchiveRun:
    """The database and storage of a run, and the batch it follows."""

    def __init__(self, settings: ServiceSettings, order: Order) -> None:
        create_database(settings.database_url)
        self.settings = settings
        self.order = order
        self.engine: sa.Engine = open_database(settings.database_url)
        self.storage: Storage = open_storage(settings)
        self.storage.prepare()
        self.queue = Queue(settings, self.engine)
        self.batches = Batches(self.engine, self.queue.enqueue)
        self.workers = Workers(self.engine)
        self._models: dict[str, str] = {}
        self._calibrations: dict[str, str | None] = {}
        self._there = self.storage.outputs()

    def close(self) -> None:
        """Let go of the database."""
        self.queue.close()
        self.engine.dispose()

    def look(self, scans: Sequence[Found], *, bring: bool) -> Iterator[tuple[Looked, NewItem]]:
        """Look at scans; with `bring`, upload those that workers cannot read where they are."""

        def keep(looked: Looked, path: Path) -> None:
            if bring and self.order.upload and not is_url(looked.found.place):
                item = self._item(looked)
                if item.error is None and not item.there:
                    self._upload(looked.sha256, path)

        for looked in look(scans, self.storage.incoming, keep):
            yield looked, self._item(looked)

    def begin(self, request: dict[str, Any]) -> Batch:
        """An empty batch."""
        return self.batches.create(LOCAL.id, self.order.on_error, request)

    def offered(self, seconds: float) -> list[str]:
        """What is wrong with the workers that live, in words; nothing when they can do the work."""
        living = self.workers.living(seconds)
        if not living:
            return ["no worker is running on this database; start `mri-posterior worker` somewhere"]
        here = hashlib.sha256(self.storage.address.encode()).hexdigest()
        wrong = []
        if all(worker.offers.storage != here for worker in living):
            wrong.append("no worker uses this storage; give `worker` the same --storage")
        known = {model.sha256 for worker in living for model in worker.offers.models}
        wrong += [
            f"no worker offers model '{name}' with these weights"
            for name, digest in self._models.items()
            if digest not in known
        ]
        return wrong

    def counts(self, batch: Batch) -> dict[str, int]:
        """Number of items in each state."""
        return self.batches.counts(batch.id)

    def running(self, batch: Batch, limit: int) -> list[Item]:
        """Items that workers are at."""
        states = (JobState.RUNNING.value, JobState.CANCELLING.value)
        return self.batches.items(batch.id, states=states, limit=limit)

    def items(self, batch: Batch) -> Iterator[Item]:
        """All items, page by page."""
        last = -1
        while page := self.batches.items(batch.id, after=last, limit=_PAGE):
            yield from page
            last = page[-1].position

    def cancel(self, batch: Batch) -> None:
        """Cancel what has not ended."""
        for job_id in self.batches.cancel(batch.id):
            self.queue.withdraw(job_id)

    def _item(self, looked: Looked) -> NewItem:
        found = looked.found
        if looked.error is not None:
            return NewItem(found.name, error=looked.error)
        try:
            parameters = self._parameters(found)
            model = self._model(parameters.model or self.settings.default_model or DEFAULT_MODEL)
        except ProblemError as problem:
            return NewItem(found.name, error=problem.document())
        calibration = self._calibration(parameters)
        output = output_digest(looked.sha256, model, parameters, calibration_sha256=calibration)
        stored = self.order.upload and not is_url(found.place)
        return NewItem(
            found.name,
            "",
            looked.sha256,
            None if stored else found.place,
            output,
            parameters,
            there=output in self._there,
        )

    def _parameters(self, found: Found) -> ReconstructionParameters:
        if not found.chosen:
            return self.order.parameters
        chosen = {name: found.chosen[name] for name in PARAMETERS if name in found.chosen}
        try:
            asked = self.order.parameters.model_dump(mode="json") | chosen
            return ReconstructionParameters.model_validate_json(json.dumps(_numbers(asked)))
        except ValueError as error:
            text = str(error).splitlines()
            raise ProblemError("invalid-parameter", f"manifest: {' '.join(text[1:3])}") from error

    def _model(self, name: str) -> str:
        if name not in self._models:
            self._models[name] = read_config(name).weights_sha256
        return self._models[name]

    def _calibration(self, parameters: ReconstructionParameters) -> str | None:
        if not parameters.calibrated:
            return None
        name = parameters.model or self.settings.default_model or DEFAULT_MODEL
        if name not in self._calibrations:
            found = read_factors(name)
            self._calibrations[name] = None if found is None else found.sha256
        return self._calibrations[name]

    def _upload(self, sha256: str, path: Path) -> None:
        if self.storage.has_scan(sha256):
            return
        if self.storage.objects is not None:
            self.storage.objects.put(scan_key(sha256), path)
            return
        part = self.storage.incoming / f"{sha256}.{time.time_ns()}.part"
        try:
            shutil.copyfile(path, part)
            sync(part)
            self.storage.adopt_scan(part, sha256)
        finally:
            part.unlink(missing_ok=True)


_LATER = {
    "accept_refused",
    "axes",
    "bids_name",
    "calibrated",
    "calibration_scan_id",
    "fallback",
    "layout",
}


def _numbers(asked: dict[str, Any]) -> dict[str, Any]:
    """CSV has texts only."""
    return asked | {
        name: int(asked[name])
        for name in ("samples", "seed")
        if isinstance(asked[name], str) and asked[name].isdecimal()
    }


def state_folder(target: str, settings: ServiceSettings, order: Order, part: str | None) -> Path:
    """Where a run without a database of others keeps its own: beside the outputs, by its settings.

    The same command finds it again, whatever ended it; another choice of settings has its own.
    """
    asked = order.parameters.model_dump(mode="json", exclude={"priority", "tags"})
    # Runs from before there were such choices are found again.
    asked = {name: value for name, value in asked.items() if value or name not in _LATER}
    text = json.dumps([asked, part, target], sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    if is_url(target):
        return settings.data / "batches" / name
    return Path(target).expanduser().absolute() / ".state" / name


def ended(counts: dict[str, int]) -> int:
    """How many items will change no more."""
    active = (JobState.QUEUED, JobState.RUNNING, JobState.CANCELLING)
    return sum(counts.values()) - sum(counts[state.value] for state in active)


def require_model(name: str | None) -> None:
    """Refuse early a model that is not here. Raises ModelError."""
    read_config(name or DEFAULT_MODEL)
