"""/v1/batches: many reconstructions at once, from a list of scans."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from recon.errors import ScanError
from service.archives.report import csv_text, rows_of
from service.http.authentication import Reader, Writer, owner_of
from service.http.context import Context, InContext
from service.http.problems import problems, validation_problem
from service.http.receiving import media_type
from service.http.request_bodies import body_of
from service.http.scans import Id, find_calibration
from service.intake.submission import as_said, require_model
from service.jobs.batches import Batch, EndedItems, Item, NewItem, output_digest
from service.jobs.job import ACTIVE
from service.offers import OfferedModel
from service.problems import Problem, ProblemError
from service.requests import Priority, ReconstructionParameters, ReconstructionRequest
from service.slices import parse_slices
from service.store.keys import LOCAL, Key

router = APIRouter(prefix="/v1/batches", tags=["batches"])

_NDJSON = "application/x-ndjson"
_PAGE = 500
_LOOK_SECONDS = 0.5
_STATES = Literal["refused", "queued", "running", "cancelling", "succeeded", "failed", "cancelled"]


class ItemRequest(ReconstructionRequest):
    """One scan of a batch; what it does not say is as in the batch's `params`."""

    id: str | None = Field(None, max_length=200, description="your name for it [the scan's id]")


class BatchRequest(BaseModel):
    """Scans that were uploaded before, and how to reconstruct them."""

    model_config = ConfigDict(extra="forbid")

    items: list[dict[str, Any]] = Field(min_length=1, description="each as `ItemRequest`")
    params: ReconstructionParameters = Field(
        default_factory=lambda: ReconstructionParameters(priority=Priority.ARCHIVE),
        description="of all items that do not say otherwise",
    )
    on_error: Literal["continue", "stop"] = "continue"


class BatchOut(BaseModel):
    """A batch and how it stands."""

    id: str
    state: Literal["queued", "running", "ended"]
    on_error: str
    counts: dict[str, int] = Field(description="items in each state")
    created_at: datetime
    links: dict[str, str]

    @classmethod
    def of(cls, batch: Batch, counts: dict[str, int]) -> BatchOut:
        """From a row of the table."""
        here = f"/v1/batches/{batch.id}"
        active = sum(counts[state.value] for state in ACTIVE)
        begun = active != counts["queued"] or sum(counts.values()) != active
        names = ("items", "events", "report.csv", "cancel", "retry-failed")
        return cls(
            id=batch.id,
            state="ended" if not active else "running" if begun else "queued",
            on_error=batch.on_error,
            counts=counts,
            created_at=datetime.fromtimestamp(batch.created_at, UTC),
            links={"self": here} | {name.partition(".")[0]: f"{here}/{name}" for name in names},
        )


class ItemOut(BaseModel):
    """One item as it stands."""

    position: int
    name: str
    state: str
    scan_sha256: str | None
    reconstruction: str | None = Field(description="link to the reconstruction")
    fraction: float | None
    error: Problem | None

    @classmethod
    def of(cls, item: Item) -> ItemOut:
        """From rows of the tables."""
        job = item.job
        progress = None if job is None else job.progress
        return cls(
            position=item.position,
            name=item.name,
            state=item.state,
            scan_sha256=item.scan_sha256,
            reconstruction=None if job is None else f"/v1/reconstructions/{job.id}",
            fraction=None if progress is None else progress.fraction,
            error=item.problem,
        )


class ItemPage(BaseModel):
    """Items in the order of the manifest."""

    items: list[ItemOut]
    next_cursor: int | None


class ItemQuery(BaseModel):
    """Which items to list."""

    model_config = ConfigDict(extra="forbid")

    state: list[_STATES] = Field(default_factory=list, max_length=7)
    limit: int = Field(100, ge=1, le=1000)
    cursor: int = Field(-1, ge=-1)


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/BatchRequest"}},
            _NDJSON: {"schema": {"type": "string", "description": "an item on each line"}},
        },
    }
}


@router.post(
    "",
    status_code=202,
    response_model=BatchOut,
    responses=problems("not-found", "upload-too-large", "unsupported-media-type", "queue-full"),
    openapi_extra=_BODY,
)
async def submit_batch(request: Request, context: InContext, key: Writer) -> Response:
    """Reconstruct many scans: JSON, or NDJSON with an item a line and the rest in defaults.

    An item whose output this key has already is not computed again. Nothing is queued when an
    item cannot be: the answer names every such item.
    """
    text = await body_of(request, context.settings.max_json_bytes)
    asked = _asked(media_type(request), text)
    # Of every item it is asked whether the storage has its output.
    batch = await run_sync(_submitted, context, key, asked, limiter=context.placing)
    return await run_in_threadpool(_answer, context, batch, 202)


@router.get("/{batch_id}", response_model=BatchOut, responses=problems("not-found"))
def get_batch(context: InContext, key: Reader, batch_id: Id) -> Response:
    """How far it is."""
    return _answer(context, _find(context, key, batch_id), 200)


@router.get("/{batch_id}/items", responses=problems("not-found"))
def list_items(
    context: InContext, key: Reader, batch_id: Id, query: Annotated[ItemQuery, Query()]
) -> ItemPage:
    """Items, in the order of the manifest."""
    batch = _find(context, key, batch_id)
    found = context.batches.items(
        batch.id, states=query.state, after=query.cursor, limit=query.limit
    )
    more = found[-1].position if len(found) == query.limit else None
    return ItemPage(items=[ItemOut.of(item) for item in found], next_cursor=more)


@router.get(
    "/{batch_id}/report.csv",
    response_class=Response,
    responses=problems("not-found") | {200: {"content": {"text/csv": {}}}},
)
def get_report(context: InContext, key: Reader, batch_id: Id) -> Response:
    """A line for each item: state, error, figures, warnings; complete when the batch has ended."""
    batch = _find(context, key, batch_id)
    return StreamingResponse(
        csv_text(rows_of(_all(context, batch), context.storage)),
        media_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{batch.id}.csv"'},
    )


@router.post(
    "/{batch_id}/cancel", status_code=202, response_model=BatchOut, responses=problems("not-found")
)
def cancel_batch(context: InContext, key: Writer, batch_id: Id) -> Response:
    """Stop what has not ended, unless another batch waits for it too."""
    batch = _find(context, key, batch_id)
    for job_id in context.batches.cancel(batch.id):
        context.queue.withdraw(job_id)
    return _answer(context, batch, 202)


@router.post(
    "/{batch_id}/retry-failed",
    status_code=202,
    response_model=BatchOut,
    responses=problems("not-found", "queue-full"),
)
def retry_failed(context: InContext, key: Writer, batch_id: Id) -> Response:
    """New reconstructions for the items that failed or were cancelled."""
    batch = _find(context, key, batch_id)
    counts = context.batches.counts(batch.id)
    _require_room(context, key, counts["failed"] + counts["cancelled"])
    context.batches.retry_failed(batch)
    return _answer(context, batch, 202)


async def _followed(context: InContext, key: Reader, batch_id: Id) -> Batch:
    """The batch, looked up before the answer begins, so that refusals are plain answers."""
    context.feed.require_place(context.settings.max_streams)
    return await run_in_threadpool(_find, context, key, batch_id)


@router.get(
    "/{batch_id}/events", response_class=EventSourceResponse, responses=problems("not-found")
)
async def follow_batch(
    context: InContext,
    batch: Annotated[Batch, Depends(_followed)],
    last_event_id: Annotated[str | None, Header(pattern=r"^[0-9]{1,18}$")] = None,
) -> AsyncIterator[ServerSentEvent]:
    """Server-sent events: `item` when one has ended, `counts` as they change, `end` as the last.

    `Last-Event-ID` goes on behind an item that was seen.
    """
    after, overlap = int(last_event_id or 0), context.feed.overlap
    ended, told = EndedItems(context.batches, batch, after=after, overlap=overlap), None
    with context.feed.place():
        while not context.feed.stopping:
            counts = await run_in_threadpool(context.batches.counts, batch.id)
            over = not sum(counts[state.value] for state in ACTIVE)
            while found := await run_in_threadpool(ended.more, last_look=over):
                for event_id, item in found:
                    data = ItemOut.of(item).model_dump(mode="json")
                    yield ServerSentEvent(event="item", id=str(event_id), data=data)
            if counts != told:
                told = counts
                yield ServerSentEvent(event="counts", data={"counts": counts})
            if over:
                yield ServerSentEvent(event="end", data={"counts": counts})
                return
            await asyncio.sleep(_LOOK_SECONDS)


def _asked(kind: str, text: bytes) -> BatchRequest:
    """A checked request in either form. Raises ProblemError."""
    if kind not in ("application/json", _NDJSON, "application/jsonl", ""):
        raise ProblemError("unsupported-media-type", f"send JSON or {_NDJSON}")
    try:
        if kind in ("application/json", ""):
            return BatchRequest.model_validate_json(text)
        lines = [line for line in text.splitlines() if line.strip()]
        return BatchRequest.model_validate({"items": [json.loads(line) for line in lines]})
    except ValidationError as error:
        raise validation_problem(error.errors(include_url=False, include_input=False)) from error
    except (ValueError, RecursionError) as error:
        raise ProblemError("invalid-request", "a line is not valid JSON") from error


def _submitted(context: Context, key: Key, asked: BatchRequest) -> Batch:
    """Queue a batch, or nothing at all. Raises ProblemError."""
    _require_room(context, key, len(asked.items))
    models = _models(context)
    items, wrong = [], []
    for position, raw in enumerate(asked.items):
        try:
            items.append(_item(context, key, asked, raw, models))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = "/".join(str(part) for part in first["loc"])
            wrong.append({"pointer": f"/items/{position}/{where}", "detail": first["msg"]})
        except (ProblemError, ScanError) as error:
            detail = error.detail if isinstance(error, ProblemError) else error.message
            wrong.append({"pointer": f"/items/{position}", "detail": detail})
    if wrong:
        raise ProblemError(
            "invalid-parameter",
            f"{len(wrong)} of {len(asked.items)} items cannot be queued, so none was; "
            f"{wrong[0]['pointer']}: {wrong[0]['detail']}",
            errors=wrong[:1000],
        )
    request = asked.params.model_dump(mode="json")
    batch = context.batches.create(key.id, asked.on_error, request)
    context.batches.add(batch, items)
    context.batches.seal(batch)
    return batch


def _item(
    context: Context,
    key: Key,
    asked: BatchRequest,
    raw: dict[str, Any],
    models: dict[str, OfferedModel],
) -> NewItem:
    common = asked.params.model_dump(mode="json", exclude_unset=True)
    if "priority" not in common:
        common["priority"] = Priority.ARCHIVE.value
    one = ItemRequest.model_validate_json(json.dumps(common | raw))
    require_model(context, one)
    scan = context.scans.get(one.scan_id, owner_of(key))
    if scan is None:
        raise ProblemError("not-found", f"there is no scan '{one.scan_id}'; upload it to /v1/scans")
    parse_slices(one.slices, scan.slices)
    parameters = as_said(
        ReconstructionParameters.model_validate(
            one.model_dump(mode="json", exclude={"scan_id", "id"})
        ),
        scan,
    )
    lines = find_calibration(context, key, parameters)
    lines_sha256 = None if lines is None else lines.sha256
    model = models.get(parameters.model or "")
    if model is None:  # the default is a setting, and may name what is not installed
        raise ProblemError("unknown-model", "no worker offers the default model; name another")
    owner = "" if key.id == LOCAL.id else key.id
    output = output_digest(
        scan.sha256, model.sha256, parameters, owner, model.calibration_sha256, lines_sha256
    )
    return NewItem(
        one.id or scan.id,
        scan.id,
        scan.sha256,
        None,
        output,
        parameters,
        there=context.storage.is_complete(output),
        calibration_sha256=lines_sha256,
    )


def _models(context: Context) -> dict[str, OfferedModel]:
    """Each model that workers offer; "" is the default. Raises ProblemError."""
    offers = context.workers.offers()
    found = {model.id: model for model in offers.models}
    default = found.get(offers.default_model)
    return found if default is None else found | {"": default}


def _require_room(context: Context, key: Key, wanted: int) -> None:
    counts = context.jobs.counts(key.id, batched=True)
    active = sum(counts[state.value] for state in ACTIVE)
    if active + wanted > context.settings.max_batched_per_key:
        raise ProblemError(
            "queue-full",
            f"{active} items of this key wait and {wanted} would come; "
            f"{context.settings.max_batched_per_key} may",
            headers={"Retry-After": str(max(1, round(context.jobs.mean_seconds())))},
        )


def _find(context: Context, key: Key, batch_id: str) -> Batch:
    batch = context.batches.get(batch_id, owner_of(key))
    if batch is None:
        raise ProblemError("not-found", "there is no such batch")
    return batch


def _all(context: Context, batch: Batch) -> Iterator[Item]:
    last = -1
    while page := context.batches.items(batch.id, after=last, limit=_PAGE):
        yield from page
        last = page[-1].position


def _answer(context: Context, batch: Batch, status: int) -> Response:
    counts = context.batches.counts(batch.id)
    shown = BatchOut.of(batch, counts)
    headers = {"Location": shown.links["self"]}
    if shown.state != "ended":
        headers["Retry-After"] = "5"
    return JSONResponse(shown.model_dump(mode="json"), status, headers=headers)
