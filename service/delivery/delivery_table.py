"""Deliveries: which products of a job go to which target, and how far that is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import sqlalchemy as sa

from service.problems import Problem
from service.store.database import deliveries
from service.store.identifiers import new_id


class DeliveryState(StrEnum):
    """Where a delivery is."""

    QUEUED = "queued"
    SENDING = "sending"
    DELIVERED = "delivered"
    FAILED = "failed"


@dataclass(frozen=True)
class Delivery:
    """One row of the table; times are seconds since the epoch."""

    id: str
    job_id: str
    target: str
    products: list[str]
    state: DeliveryState
    attempts: int
    stored: list[str]
    """UIDs of the instances that the target has taken."""
    failures: dict[str, str]
    """Reason for each instance that it has not, after the last try."""
    error: Problem | None
    created_at: float
    finished_at: float | None


class Deliveries:
    """Reads and writes of the table; every method is one transaction."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(
        self,
        job_id: str,
        target: str,
        products: list[str],
        enqueue: Callable[[sa.Connection, str], None],
    ) -> Delivery:
        """Insert a queued delivery; `enqueue` writes in the same transaction."""
        delivery = Delivery(
            new_id(), job_id, target, products, DeliveryState.QUEUED, 0, [], {}, None,
            time.time(), None,
        )  # fmt: skip
        with self._engine.begin() as connection:
            connection.execute(sa.insert(deliveries).values(**vars(delivery)))
            enqueue(connection, delivery.id)
        return delivery

    def get(self, delivery_id: str) -> Delivery | None:
        """By id."""
        return next(iter(self._where(deliveries.c.id == delivery_id)), None)

    def of_job(self, job_id: str) -> list[Delivery]:
        """All of a job, the oldest first."""
        return self._where(deliveries.c.job_id == job_id)

    def update(self, delivery_id: str, **values: object) -> None:
        """Set columns of one row."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(deliveries).where(deliveries.c.id == delivery_id).values(**values)
            )

    def forget(self, job_id: str) -> None:
        """Delete those of a job that is deleted."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(deliveries).where(deliveries.c.job_id == job_id))

    def _where(self, condition: sa.ColumnElement[bool]) -> list[Delivery]:
        query = sa.select(deliveries).where(condition).order_by(deliveries.c.id)
        with self._engine.connect() as connection:
            rows = [dict(row._mapping) for row in connection.execute(query)]
        return [Delivery(**row | {"state": DeliveryState(row["state"])}) for row in rows]
