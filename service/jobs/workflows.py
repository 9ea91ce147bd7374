"""The durable workflow of a reconstruction, on DBOS: what it is made of and how it is started.

DBOS records the result of every step. After a crash the workflow goes on behind the last recorded
one, on the same worker when it is started again, or on another one that took it over.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, EnqueueOptions, Serializer

from service.jobs.dbos_internals import recover, set_priority
from service.requests import Priority
from service.settings import ServiceSettings

QUEUE = "reconstructions"
PARTS = "parts"
"""Of volumes that several workers share. A queue of its own: a job that waits for its parts holds a
place in the first one, and would wait for ever if they needed such a place too."""
_APPLICATION = "mri-posterior"
_WORKFLOW = "reconstruction"
_DELIVERIES = "deliveries"
_DELIVERY = "delivery"
_DELIVERIES_AT_ONCE = 4
_PART = "part"
_PARTS_POLL_SECONDS = 0.2
_PROTOCOL = "1"
"""Changes when workflows begun by an older version could no longer be continued."""

Outcome = dict[str, Any]


class JsonSerializer(Serializer):
    """JSON in place of the pickle that DBOS would use; everything recorded is plain data."""

    def serialize(self, data: Any) -> str:  # noqa: ANN401 - the interface's own type
        return json.dumps(data, default=repr)

    def deserialize(cls, serialized_data: str) -> Any:  # noqa: ANN401, N805
        return json.loads(serialized_data)

    def name(self) -> str:
        return "json"


class Steps(Protocol):
    """What a worker must be able to do; every method may be called again after a crash."""

    def prepare(self, job_id: str) -> Outcome:
        """Find out what is to be done."""
        ...

    def reconstruct_slice(
        self, job_id: str, index: int, position: int, count: int, plan: Outcome | None
    ) -> Outcome:
        """Reconstruct one slice."""
        ...

    def reconstruct_volume(self, job_id: str, slices: list[int], plan: Outcome | None) -> Outcome:
        """Reconstruct slices that are one volume, behind the last of its chains that is kept."""
        ...

    def assemble(self, job_id: str, slices: list[int], plan: Outcome | None) -> Outcome:
        """Make the products."""
        ...


class Tries(Protocol):
    """What sends a delivery; it may be called again after a crash."""

    def try_once(self, delivery_id: str) -> float | None:
        """Send. Returns seconds until the next try; None when it has ended."""
        ...


def launch(
    settings: ServiceSettings, engine: sa.Engine, worker: str, work: Steps, sender: Tries
) -> None:
    """Take part in the queue as `worker`; what it had begun before is gone on with."""
    config: DBOSConfig = {
        "name": _APPLICATION,
        "system_database_url": settings.database_url,
        "system_database_engine": engine,
        "executor_id": worker,
        "application_version": _PROTOCOL,
        "serializer": JsonSerializer(),
        "run_migrations": False,
        "log_level": "WARNING",
        "notification_listener_polling_interval_sec": 60.0,
    }
    DBOS(config=config)
    _register(work)
    _register_delivery(sender)
    DBOS.launch()
    for queue, at_once in ((QUEUE, settings.jobs_at_once), (PARTS, 1)):
        DBOS.register_queue(
            queue,
            worker_concurrency=at_once,
            polling_interval_sec=settings.queue_poll_seconds,
            on_conflict="always_update",
        )
    DBOS.register_queue(
        _DELIVERIES,
        worker_concurrency=_DELIVERIES_AT_ONCE,
        polling_interval_sec=max(1.0, settings.queue_poll_seconds),
        on_conflict="always_update",
    )


def take_over(workers: list[str]) -> None:
    """Put the unfinished jobs of dead workers back into the queue."""
    recover(workers)


class Queue:
    """The sending end of the queue; it runs nothing."""

    def __init__(self, settings: ServiceSettings, engine: sa.Engine) -> None:
        self._client = DBOSClient(
            system_database_url=settings.database_url,
            system_database_engine=engine,
            application_name=_APPLICATION,
            serializer=JsonSerializer(),
        )

    def enqueue(self, connection: sa.Connection, job_id: str, priority: Priority) -> None:
        """Add the workflow of a job within the caller's transaction; its id is the job's."""
        options: EnqueueOptions = {
            "workflow_name": _WORKFLOW,
            "queue_name": QUEUE,
            "workflow_id": job_id,
            "workflow_id_reuse_policy": "reject",
            "app_version": _PROTOCOL,
            "priority": priority.rank,
        }
        self._client.enqueue_in_transaction(connection, options, job_id)

    def enqueue_delivery(self, connection: sa.Connection, delivery_id: str) -> None:
        """Add the workflow of a delivery within the caller's transaction; its id is the same."""
        options: EnqueueOptions = {
            "workflow_name": _DELIVERY,
            "queue_name": _DELIVERIES,
            "workflow_id": delivery_id,
            "workflow_id_reuse_policy": "reject",
            "app_version": _PROTOCOL,
        }
        self._client.enqueue_in_transaction(connection, options, delivery_id)

    def reprioritise(self, connection: sa.Connection, job_id: str, priority: Priority) -> None:
        """Let a job that still waits start earlier or later, within the caller's transaction."""
        set_priority(self._client, connection, job_id, priority.rank)

    def withdraw(self, job_id: str) -> None:
        """Take a job out of the queue that no worker has begun."""
        self._client.cancel_workflow(job_id)

    def forget(self, job_id: str) -> None:
        """Delete the record of a finished workflow."""
        self._client.delete_workflow(job_id)

    def close(self) -> None:
        """Let go of the database."""
        self._client.destroy()


def _register(work: Steps) -> None:
    """Tell DBOS the workflow and its steps. A job's own cap on attempts is in `work`."""

    @DBOS.step(name="prepare")
    def prepare(job_id: str) -> Outcome:
        return work.prepare(job_id)

    @DBOS.step(name="slice")
    def reconstruct_slice(
        job_id: str, index: int, position: int, count: int, plan: Outcome | None
    ) -> Outcome:
        return work.reconstruct_slice(job_id, index, position, count, plan)

    @DBOS.step(name="volume")
    def reconstruct_volume(job_id: str, slices: list[int], plan: Outcome | None) -> Outcome:
        return work.reconstruct_volume(job_id, slices, plan)

    @DBOS.step(name="assemble")
    def assemble(job_id: str, slices: list[int], plan: Outcome | None) -> Outcome:
        return work.assemble(job_id, slices, plan)

    @DBOS.workflow(name=_WORKFLOW, max_recovery_attempts=None)
    def reconstruction(job_id: str) -> str:
        prepared = prepare(job_id)
        if prepared["state"] != "done":
            return str(prepared["state"])
        slices, plan, last = prepared["slices"], prepared["plan"], prepared
        if prepared.get("volume"):
            state = str(reconstruct_volume(job_id, slices, plan)["state"])
            return state if state != "done" else str(assemble(job_id, slices, plan)["state"])
        for position, index in enumerate(slices):
            if last.get("share"):  # others have nothing to do: the rest is theirs too
                state = shared(job_id, slices, position, prepared["part"], plan)
                if state != "done":
                    return state
                break
            last = reconstruct_slice(job_id, index, position, len(slices), plan)
            if last["state"] != "done":
                return str(last["state"])
        return str(assemble(job_id, slices, plan)["state"])

    def shared(job_id: str, slices: list[int], first: int, part: int, plan: Outcome | None) -> str:
        """Put the slices from `first` on into the queue of parts, and wait for all of them."""
        handles = []
        for start in range(first, len(slices), part):
            options: EnqueueOptions = {
                "workflow_name": _PART,
                "queue_name": PARTS,
                "app_version": _PROTOCOL,
            }
            chosen = slices[start : start + part]
            handles.append(
                DBOS.enqueue_workflow_with_options(
                    options, job_id, chosen, start, len(slices), plan
                )
            )
        states = [
            str(handle.get_result(polling_interval_sec=_PARTS_POLL_SECONDS)) for handle in handles
        ]
        return next((state for state in states if state != "done"), "done")

    @DBOS.workflow(name=_PART, max_recovery_attempts=None)
    def part(job_id: str, slices: list[int], first: int, count: int, plan: Outcome | None) -> str:
        for offset, index in enumerate(slices):
            done = reconstruct_slice(job_id, index, first + offset, count, plan)
            if done["state"] != "done":
                return str(done["state"])
        return "done"


def _register_delivery(sender: Tries) -> None:
    """Tell DBOS how images are sent: again and again, with pauses that outlive the process."""

    @DBOS.step(name="send")
    def try_once(delivery_id: str) -> float | None:
        return sender.try_once(delivery_id)

    @DBOS.workflow(name=_DELIVERY, max_recovery_attempts=None)
    def delivery(delivery_id: str) -> str:
        while (pause := try_once(delivery_id)) is not None:
            DBOS.sleep(pause)
        return "ended"
