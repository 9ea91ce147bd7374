"""/v1/reconstructions/{id}/logs: what was done for a job, when and by which worker.

Nothing is kept for it: the lines are made of the job's row and of its ledger of steps, which hold
neither names nor values of a scan.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime

from fastapi import APIRouter
from starlette.responses import Response

from service.http.authentication import Reader
from service.http.context import AT_STORAGE, Context, InContext
from service.http.job_answers import find_job
from service.http.problems import Responses, problems
from service.http.scans import Id
from service.jobs.job import Job, JobState

router = APIRouter(prefix="/v1/reconstructions", tags=["reconstructions"])

MEDIA_TYPE = "application/x-ndjson"
_LINES: Responses = {
    200: {
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}}},
        "description": "An object on each line: `ts`, `level`, `event`, and what belongs to it",
    }
}


@router.get(
    "/{job_id}/logs",
    response_class=Response,
    dependencies=[AT_STORAGE],
    responses=_LINES | problems("not-found"),
)
def get_log(context: InContext, key: Reader, job_id: Id) -> Response:
    """The job's log so far, oldest line first: queued, every step begun and done, ended.

    A step that is begun twice in a row has lost its worker. Of a batch's items, whose ledger ends
    with them, only the first and the last line are left.
    """
    lines = _lines(context, find_job(context, key, job_id))
    text = "".join(json.dumps(line) + "\n" for line in lines)
    return Response(text, media_type=MEDIA_TYPE)


def _lines(context: Context, job: Job) -> Iterator[dict[str, object]]:
    yield _line(job.created_at, "info", "queued", job, priority=job.priority)
    open_steps: set[str] = set()
    for entry in context.storage.steps(job.id):
        step, what = entry["step"], entry["what"]
        again = what == "started" and step in open_steps
        level = "warning" if again or what == "stopped" else "info"
        more = {"after_loss": True} if again else {}
        yield _line(entry["at"], level, what, job, step=step, worker=entry["worker"], **more)
        if what == "started":
            open_steps.add(step)
        elif what in ("stopped", "finished"):
            open_steps.discard(step)
    if job.finished_at is not None:
        level = "error" if job.state is JobState.FAILED else "info"
        error = {} if job.error is None else {"error": job.error["type"]}
        yield _line(job.finished_at, level, job.state.value, job, **error)


def _line(at: float, level: str, event: str, job: Job, **more: object) -> dict[str, object]:
    when = datetime.fromtimestamp(at, UTC).isoformat()
    return {"ts": when, "level": level, "event": event, "job_id": job.id, **more}
