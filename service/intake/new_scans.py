"""From a whole file on the disk to a scan in the storage: room, quota, and a look inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa
from anyio.to_thread import run_sync

from recon.io.files import examine_scan
from recon.io.read_limits import ReadLimits
from service.intake.intake import Intake
from service.problems import ProblemError
from service.requests import AS_IT_SAYS, Reading
from service.store.durable import sync
from service.store.scans import StoredScan

_LOOK_SECONDS = 60


class Received(NamedTuple):
    """A whole body on the disk, under a temporary name."""

    path: Path
    sha256: str
    bytes: int


def require_room(intake: Intake, coming: int = 0, arrived: int = 0) -> None:
    """Refuse early what is too large or would fill the disk; in bytes. Raises ProblemError."""
    if arrived + coming > intake.settings.max_upload_bytes:
        raise ProblemError(
            "upload-too-large",
            f"a scan may have {intake.settings.max_upload_bytes} bytes; split it",
        )
    free = intake.storage.free_bytes() - intake.settings.disk_floor_bytes
    if free <= coming:
        raise ProblemError(
            "storage-full", "the disk of the service is full; delete results or try again later"
        )


def require_quota(intake: Intake, owner: str, coming: int) -> None:
    """Refuse what would be more than a key may keep; in bytes. Raises ProblemError."""
    allowed = intake.settings.max_scan_bytes_per_key
    if allowed and intake.scans.bytes_of(owner) + coming > allowed:
        raise ProblemError(
            "quota-exceeded",
            f"the scans of a key may have {allowed} bytes together; delete some of them",
            headers={"Retry-After": "3600"},
        )


async def keep_scan(
    intake: Intake,
    owner: str,
    body: Received,
    also: Callable[[sa.Connection, StoredScan, bool], None] | None = None,
    tags: Mapping[str, str] | None = None,
    reading: Reading = AS_IT_SAYS,
) -> tuple[StoredScan, bool]:
    """Look at a file in a child process and make it a scan. Raises ProblemError and ReconError."""
    await run_sync(require_quota, intake, owner, body.bytes)
    limits = ReadLimits(
        file_bytes=intake.settings.max_upload_bytes, cpu_seconds=_LOOK_SECONDS, wall_seconds=120.0
    )
    async with intake.readers:
        look = partial(
            examine_scan,
            layout=reading.layout,
            axes=reading.named_axes,
            run=intake.fork_servers,
            look=True,
        )
        seen = await run_sync(look, body.path, limits)
    await run_sync(sync, body.path)
    place = partial(intake.storage.adopt_scan, body.path, body.sha256)
    add = partial(
        intake.scans.add,
        layout=reading.layout,
        axes=reading.axes,
        two_phase_encodings=seen.two_phase_encodings,
    )
    whole = partial(add, owner, body.sha256, body.bytes, seen.shape, place, also, tags)
    return await run_sync(whole, limiter=intake.placing)
