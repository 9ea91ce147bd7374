"""Which job belongs to which measurement of which scanner, for sessions that come back later.

Names from the header are kept as keyed digests only: they can be compared, and tell nothing.
"""

from __future__ import annotations

import hashlib
import hmac
import time
from dataclasses import dataclass

import sqlalchemy as sa
from ismrmrd.xsd import ismrmrdHeader

from service.store.database import jobs, measurements


@dataclass(frozen=True)
class Marks:
    """What a measurement is found by; None where the header is silent."""

    number: str | None
    """Of `measurementID`."""
    place: str | None
    """Of device, protocol and frame of reference. Without the last, which belongs to one patient
    in one session, images of another patient could be found: then there is none."""


class Measurements:
    """The table of measurements."""

    def __init__(self, engine: sa.Engine, secret: bytes) -> None:
        self._engine = engine
        self._secret = secret

    def marks(self, header: ismrmrdHeader, number: str | None = None) -> Marks:
        """Of a header; `number` stands in for its `measurementID`."""
        measured = header.measurementInformation
        system = header.acquisitionSystemInformation
        number = number or getattr(measured, "measurementID", None)
        frame = getattr(measured, "frameOfReferenceUID", None)
        device = getattr(system, "deviceID", None)
        protocol = getattr(measured, "protocolName", None)
        return Marks(
            self._digest("number", number) if number else None,
            self._digest("place", device, protocol, frame) if frame else None,
        )

    def remember(
        self, connection: sa.Connection, job_id: str, marks: Marks, received_at: float
    ) -> None:
        """Within the caller's transaction, which makes the job; the time is the measurement's."""
        connection.execute(
            sa.insert(measurements).values(
                job_id=job_id, number=marks.number, place=marks.place, received_at=received_at
            )
        )

    def find(self, marks: Marks, hours: float) -> list[str]:
        """The jobs of the last such measurement: by number, else by place within some hours."""
        since = time.time() - hours * 3600
        ways = []
        if marks.number is not None:
            ways.append(measurements.c.number == marks.number)
        if marks.place is not None:
            recent = measurements.c.received_at >= since
            ways.append((measurements.c.place == marks.place) & recent)
        joined = measurements.join(jobs, jobs.c.id == measurements.c.job_id)
        for way in ways:
            query = sa.select(measurements.c.job_id).select_from(joined).where(way)
            latest = sa.select(sa.func.max(measurements.c.received_at)).select_from(joined)
            with self._engine.connect() as connection:
                at = connection.execute(latest.where(way)).scalar()
                rows = connection.execute(
                    query.where(measurements.c.received_at == at).order_by(measurements.c.job_id)
                )
                found = [str(row.job_id) for row in rows]
            if found:
                return found
        return []

    def _digest(self, *parts: object) -> str:
        message = "\x1f".join(map(str, parts)).encode()
        return hmac.new(self._secret, message, hashlib.sha256).hexdigest()
