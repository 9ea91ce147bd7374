"""/v1/scans: upload, look up, delete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

import sqlalchemy as sa
from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from service.http.authentication import Reader, Writer, owner_of
from service.http.context import AT_STORAGE, Context, InContext
from service.http.idempotency import attempt, once, replay
from service.http.problems import Responses, problems
from service.http.receiving import (
    MEDIA_TYPES,
    announced_digest,
    content_length,
    keep_body,
    media_type,
    received,
)
from service.http.schemas import ScanOut, ScanPage
from service.intake.new_scans import require_quota, require_room
from service.intake.sample_scan import sample_scan
from service.problems import ProblemError
from service.requests import Reading, ReconstructionParameters, TagPair
from service.store.keys import Key
from service.store.scans import StoredScan

router = APIRouter(prefix="/v1/scans", tags=["scans"])

Id = Annotated[str, Path(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._-]+$")]
_BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY: dict[str, Any] = {"content": dict.fromkeys(MEDIA_TYPES, _BINARY)}
_ALREADY: Responses = {200: {"model": ScanOut, "description": "The same scan was there already"}}
_REFUSALS = (
    "digest-mismatch",
    "upload-too-large",
    "unsupported-media-type",
    "not-hdf5",
    "storage-full",
    "quota-exceeded",
    "idempotency-in-flight",
)


class ScanQuery(BaseModel):
    """Which scans to list."""

    model_config = ConfigDict(extra="forbid")

    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    tag: list[TagPair] = Field(
        default_factory=list, max_length=16, description="NAME:VALUE; all of them"
    )
    limit: int = Field(50, ge=1, le=500)
    cursor: str | None = Field(None, max_length=64)


class NewScan(Reading):
    """What is said of a scan beside its content."""

    tag: list[TagPair] = Field(
        default_factory=list, max_length=16, description="NAME:VALUE, to find it by"
    )


@router.post(
    "",
    status_code=201,
    response_model=ScanOut,
    responses=_ALREADY | problems(*_REFUSALS),
    openapi_extra={"requestBody": {"required": True, **BODY}},
)
async def upload_scan(
    request: Request, context: InContext, key: Writer, query: Annotated[NewScan, Query()]
) -> Response:
    """Upload a scan as the raw body; the same content twice is stored once.

    Tags of a later upload of the same content replace the earlier ones.
    """
    tags = tags_of(query.tag)
    require_hdf5(request)
    announced = announced_digest(request)
    require_room(context, content_length(request))
    await run_in_threadpool(require_quota, context, key.id, content_length(request))
    with attempt(request, key, request.app.state.at_work) as made:
        early = announced and _digest(announced, tags, query)
        if early is not None and (again := await replay(context, made, early)):
            return again
        async with received(context, request.stream(), announced) as body:
            digest = _digest(body.sha256, tags, query)

            def remember(connection: sa.Connection, scan: StoredScan, new: bool) -> None:
                if made is not None:
                    document = ScanOut.of(scan).model_dump(mode="json")
                    status = 201 if new else 200
                    made.remember(connection, digest, status, _location(scan), document)

            keep = partial(keep_body, context, key.id, body, remember, tags, query)
            kept = await once(context, made, digest, keep)
    if isinstance(kept, Response):
        return kept
    scan, new = kept
    return _answer(scan, 201 if new else 200)


@router.post(
    "/phantom",
    status_code=201,
    response_model=ScanOut,
    responses=_ALREADY | problems("storage-full", "quota-exceeded"),
)
async def make_sample_scan(context: InContext, key: Writer) -> Response:
    """A small undersampled scan of the head phantom, to try the service with; always the same."""
    require_room(context)

    async def content() -> AsyncIterator[bytes]:
        yield await run_in_threadpool(sample_scan)

    async with received(context, content(), None) as body:
        scan, new = await keep_body(context, key.id, body, tags={"label": "sample scan"})
    return _answer(scan, 201 if new else 200)


@router.get("", responses=problems())
def list_scans(
    request: Request,
    response: Response,
    context: InContext,
    key: Reader,
    query: Annotated[ScanQuery, Query()],
) -> ScanPage:
    """Scans, newest first."""
    found = context.scans.page(
        owner_of(key),
        sha256=query.sha256,
        tags=tags_of(query.tag),
        before=query.cursor,
        limit=query.limit,
    )
    more = found[-1].id if len(found) == query.limit else None
    link_to_next(request, response, more)
    return ScanPage(items=[ScanOut.of(scan) for scan in found], next_cursor=more)


@router.get("/{scan_id}", responses=problems("not-found"), response_model=ScanOut)
def get_scan(context: InContext, key: Reader, scan_id: Id) -> Response:
    """What is known about a scan."""
    return _answer(find_scan(context, key, scan_id), 200)


@router.delete(
    "/{scan_id}",
    status_code=204,
    dependencies=[AT_STORAGE],
    responses=problems("not-found", "scan-in-use"),
)
def delete_scan(context: InContext, key: Writer, scan_id: Id) -> None:
    """Delete a scan; results made of it stay."""
    scan = find_scan(context, key, scan_id)
    if not context.scans.remove(scan):
        raise ProblemError("scan-in-use", "an unfinished job needs this scan; cancel it first")
    context.scans.unused(scan.sha256, partial(context.storage.remove_scan, scan.sha256))


def find_scan(context: Context, key: Key, scan_id: str) -> StoredScan:
    """A scan that the key may see. Raises ProblemError."""
    scan = context.scans.get(scan_id, owner_of(key))
    if scan is None:
        raise ProblemError("not-found", "there is no such scan; upload it to /v1/scans")
    return scan


def find_calibration(
    context: Context, key: Key, asked: ReconstructionParameters
) -> StoredScan | None:
    """The scan whose lines are to make the coil maps. Raises ProblemError."""
    name = asked.calibration_scan_id
    return None if name is None else find_scan(context, key, name)


def require_hdf5(request: Request) -> None:
    """Refuse bodies that say they are something else. Raises ProblemError."""
    kind = media_type(request)
    if kind and kind not in MEDIA_TYPES:
        raise ProblemError(
            "unsupported-media-type",
            f"send a scan as {MEDIA_TYPES[0]}, not {kind[:100]}",
            headers={"Accept": ", ".join(MEDIA_TYPES)},
        )


def link_to_next(request: Request, response: Response, cursor: str | None) -> None:
    """Name the next page of a list, if there is one, in the header `Link`."""
    if cursor is not None:
        url = request.url.include_query_params(cursor=cursor)
        response.headers["Link"] = f'<{url.path}?{url.query}>; rel="next"'


def tags_of(pairs: list[str]) -> dict[str, str]:
    """Tags by name from NAME:VALUE."""
    return dict(pair.split(":", 1) for pair in pairs)


def _digest(sha256: str, tags: dict[str, str], reading: Reading) -> str:
    """What makes two uploads the same request: content, tags, and how it is read."""
    if not (tags or reading.layout or reading.axes):
        return sha256
    said = json.dumps([tags, reading.layout, reading.axes], sort_keys=True)
    return hashlib.sha256(f"{sha256}\n{said}".encode()).hexdigest()


def _location(scan: StoredScan) -> str:
    return f"/v1/scans/{scan.id}"


def _answer(scan: StoredScan, status: int) -> Response:
    return JSONResponse(
        ScanOut.of(scan).model_dump(mode="json"),
        status,
        headers={"Location": _location(scan), "ETag": f'"{scan.sha256}"'},
    )
