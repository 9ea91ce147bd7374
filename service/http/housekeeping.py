"""What nobody will ask for any more is removed, now and then, beside the requests."""

from __future__ import annotations

import asyncio
from functools import partial

import structlog
from starlette.concurrency import run_in_threadpool

from service.http.context import Context
from service.http.idempotency import forget_old_answers

log = structlog.get_logger()

_ORPHAN_SECONDS = 3600.0
"""Age from which a file without a row was surely left by a crash."""


async def keep_house(context: Context) -> None:
    """Clean up until cancelled."""
    while True:
        try:
            await run_in_threadpool(clean_up, context)
        except Exception:
            log.exception("housekeeping failed")
        await asyncio.sleep(context.settings.housekeeping_seconds)


def clean_up(context: Context) -> dict[str, int]:
    """Remove expired uploads, orphans, expired results, old answers; returns how many."""
    removed = {
        "uploads": context.uploads.sweep(),
        "orphans": _remove_orphans(context),
        "results": _remove_expired(context),
        "answers": forget_old_answers(context.engine),
    }
    if any(removed.values()):
        log.info("cleaned up", **removed)
    return removed


def _remove_orphans(context: Context) -> int:
    """Files of crashes between the file and its row, or between the row and its file."""
    gone = 0
    for sha256 in context.storage.scans_older_than(_ORPHAN_SECONDS) - context.scans.digests():
        gone += context.scans.unused(sha256, partial(context.storage.remove_scan, sha256))
    for job_id in context.storage.jobs_older_than(_ORPHAN_SECONDS) - context.jobs.ids():
        context.storage.remove(job_id)
        gone += 1
    return gone


def _remove_expired(context: Context) -> int:
    days = context.settings.keep_results_days
    expired = context.jobs.expire(days * 86400) if days else []
    for job_id in expired:
        context.storage.remove(job_id)
    return len(expired)
