"""What has been counted since the database was made: for the metrics, which must never fall.

Rows of jobs can be deleted, so their number is no counter. Each of these is added to in the
transaction that makes it true.
"""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa

from service.store.database import add_to_total, totals

SECONDS = (1, 5, 15, 60, 300, 900, 1800, 3600, 7200)
"""Upper ends of the buckets of durations."""


@dataclass(frozen=True)
class EndedJob:
    """What is counted of a job; times in seconds."""

    preset: str
    waited: float
    ran: float
    samples: int


def count_end(connection: sa.Connection, state: str, job: EndedJob) -> None:
    """Count a job that the transaction has ended."""
    add_to_total(connection, "jobs", f"{state} {job.preset}")
    add_to_total(connection, "samples", "", job.samples)
    for phase, seconds in (("waiting", job.waited), ("running", job.ran)):
        label = f"{job.preset} {phase}"
        bucket = next((str(end) for end in SECONDS if seconds <= end), "+Inf")
        add_to_total(connection, "seconds", label, seconds)
        add_to_total(connection, "bucket", f"{label} {bucket}")


def read_totals(engine: sa.Engine) -> dict[str, dict[tuple[str, ...], float]]:
    """Totals by name and by the words of their label."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    with engine.connect() as connection:
        for name, label, value in connection.execute(sa.select(totals)):
            found.setdefault(name, {})[tuple(label.split())] = value
    return found
