"""/v1/uploads: scans in parts over lines that break, after tus 1.0.0.

Core protocol with the extensions creation, termination, checksum and expiration.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from functools import partial
from hashlib import file_digest
from pathlib import Path as FilePath
from typing import Annotated, Any

from anyio.to_thread import run_sync
from fastapi import APIRouter, Path, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from service.http.authentication import Reader, Writer, owner_of
from service.http.body_file import writing
from service.http.context import Context, InContext
from service.http.problems import Responses, problems
from service.http.receiving import (
    content_length,
    keep_body,
    media_type,
)
from service.http.scans import NewScan, find_scan, tags_of
from service.http.schemas import ScanOut
from service.intake.new_scans import Received, require_quota, require_room
from service.problems import PROBLEMS, ProblemError
from service.store.keys import Key
from service.store.uploads import Upload

router = APIRouter(prefix="/v1/uploads", tags=["uploads"])

VERSION = "1.0.0"
PART_TYPE = "application/offset+octet-stream"
_ALGORITHMS = ("sha256", "sha1", "md5")
_BEYOND = "the part goes beyond Upload-Length"
UploadId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
_BODY = {
    "requestBody": {
        "required": True,
        "content": {PART_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    }
}


def _header(name: str, *, required: bool = True, form: str = "") -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    if form:
        schema["pattern"] = form
    return {"name": name, "in": "header", "required": required, "schema": schema}


_TUS = _header("Tus-Resumable", form=r"^1\.0\.0$")
_DONE: Responses = {
    200: {
        "model": ScanOut,
        "description": "The upload has become a scan; for `Prefer: return=representation`",
    },
    204: {
        "description": "The part has been added; `Content-Location` names the scan that a "
        "complete upload has become"
    },
}
_WHOLE = re.compile(r"(?:^|[,;\s])return=representation(?:$|[,;\s])")


@router.options("", status_code=204, response_class=Response, responses=problems())
@router.options("/{upload_id}", status_code=204, response_class=Response, include_in_schema=False)
async def describe_tus(context: InContext) -> Response:
    """What of tus is spoken here."""
    headers = {
        "Tus-Resumable": VERSION,
        "Tus-Version": VERSION,
        "Tus-Extension": "creation,termination,checksum,expiration",
        "Tus-Checksum-Algorithm": ",".join(_ALGORITHMS),
        "Tus-Max-Size": str(context.settings.max_upload_bytes),
    }
    return Response(status_code=204, headers=headers)


@router.post(
    "",
    status_code=201,
    response_class=Response,
    responses=problems("tus-version", "upload-too-large", "quota-exceeded"),
    openapi_extra={"parameters": [_TUS, _header("Upload-Length", form="^[0-9]{1,18}$")]},
)
async def create_upload(
    request: Request, context: InContext, key: Writer, query: Annotated[NewScan, Query()]
) -> Response:
    """Begin an upload of `Upload-Length` bytes; `Upload-Metadata` is not kept.

    Tags are those of the scan that it will become, as of one that is sent in one piece.
    """
    _require_version(request)
    length = _number(request, "upload-length")
    if length == 0:
        raise ProblemError("invalid-request", "an empty file is no scan")
    require_room(context, length)
    await run_in_threadpool(require_quota, context, key.id, length)
    if await run_in_threadpool(context.uploads.count, key.id) >= (
        most := context.settings.max_uploads_per_key
    ):
        raise ProblemError(
            "quota-exceeded",
            f"this key has {most} unfinished uploads; finish or delete one of them",
            headers={"Retry-After": "60"},
        )
    tags = tags_of(query.tag)
    upload = await run_in_threadpool(context.uploads.create, key.id, length, tags, query)
    return _answer(upload, 201, Location=f"/v1/uploads/{upload.id}")


@router.head(
    "/{upload_id}",
    response_class=Response,
    responses=problems("not-found", "tus-version", "upload-expired"),
    openapi_extra={"parameters": [_TUS]},
)
async def look_at_upload(
    request: Request, context: InContext, key: Reader, upload_id: UploadId
) -> Response:
    """How much has arrived: `Upload-Offset`."""
    _require_version(request)
    upload = await run_in_threadpool(_find, context, key, upload_id)
    return _answer(upload, 200, **{"Cache-Control": "no-store"})


@router.patch(
    "/{upload_id}",
    status_code=204,
    responses=_DONE
    | problems(
        "not-found",
        "tus-version",
        "offset-mismatch",
        "upload-locked",
        "upload-expired",
        "upload-too-large",
        "checksum-mismatch",
        "unsupported-media-type",
        "not-hdf5",
    ),
    openapi_extra={
        **_BODY,
        "parameters": [
            _TUS,
            _header("Upload-Offset", form="^[0-9]{1,18}$"),
            _header("Upload-Checksum", required=False),
        ],
    },
)
async def add_part(
    request: Request, context: InContext, key: Writer, upload_id: UploadId
) -> Response:
    """Add a part at `Upload-Offset`; the last one makes the upload a scan.

    The scan is named by `Content-Location`, here and in the answer to HEAD. An empty part at the
    end of a complete upload asks again for what could not be done, as when the database was away.
    """
    _require_version(request)
    if media_type(request) != PART_TYPE:
        raise ProblemError("unsupported-media-type", f"send parts as {PART_TYPE}")
    checksum = _checksum(request)
    with _sole_writer(context, upload_id):
        upload = await run_in_threadpool(_find, context, key, upload_id)
        if _number(request, "upload-offset") != upload.offset:
            raise ProblemError(
                "offset-mismatch",
                f"the upload ends at {upload.offset}; go on from there",
                offset=upload.offset,
            )
        if not upload.complete:
            require_room(context, upload.length - upload.offset, upload.offset)
            upload = await _append(request, context, upload, checksum)
        elif content_length(request):
            raise ProblemError("upload-too-large", _BEYOND)
        if upload.complete and upload.scan is None:
            upload = await _finish(context, upload)
    if upload.scan is not None and _WHOLE.search(request.headers.get("prefer", "")):
        scan = await run_in_threadpool(find_scan, context, key, upload.scan)
        document = ScanOut.of(scan).model_dump(mode="json")
        return JSONResponse(document, 200, headers=_headers(upload))
    return _answer(upload, 204)


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    responses=problems("not-found", "tus-version", "upload-expired", "upload-locked"),
    openapi_extra={"parameters": [_TUS]},
)
async def end_upload(
    request: Request, context: InContext, key: Writer, upload_id: UploadId
) -> Response:
    """Give an upload up and remove its bytes."""
    _require_version(request)
    with _sole_writer(context, upload_id):
        upload = await run_in_threadpool(_find, context, key, upload_id)
        await run_in_threadpool(context.uploads.remove, upload.id)
    return Response(status_code=204, headers={"Tus-Resumable": VERSION})


async def _append(
    request: Request, context: Context, upload: Upload, checksum: tuple[str, bytes] | None
) -> Upload:
    """Write the body behind the offset. Without a checksum, what arrives counts at once."""
    digest = hashlib.new(checksum[0]) if checksum else None
    cut = False
    with context.uploads.content(upload.id).open("r+b") as file:
        file.seek(upload.offset)
        async with writing(file, digest) as body:
            try:
                async for chunk in request.stream():
                    if upload.offset + body.bytes + len(chunk) > upload.length:
                        raise ProblemError("upload-too-large", _BEYOND)
                    await body.take(chunk)
            except ClientDisconnect:
                cut = True
            await body.finish()
        file.truncate()
    if cut and digest is not None:
        raise ProblemError("upload-incomplete", "the part ended early")
    if checksum is not None and digest is not None and digest.digest() != checksum[1]:
        raise ProblemError("checksum-mismatch", "the part arrived damaged; send it again")
    context.metrics.uploaded.inc(body.bytes)
    end = upload.offset + body.bytes
    upload = await run_in_threadpool(context.uploads.accept, upload, end)
    if cut:
        raise ProblemError("upload-incomplete", "the part ended early")
    return upload


async def _finish(context: Context, upload: Upload) -> Upload:
    """Make a scan of the complete upload.

    One that is refused is removed; one that cannot be kept just now stays, to be asked for again.
    """
    path = context.uploads.content(upload.id)
    if upload.sha256 is None:
        digest = await run_in_threadpool(_digest_of, path)
        upload = await run_in_threadpool(context.uploads.become, upload, sha256=digest)
    assert upload.sha256 is not None
    if not path.exists():  # it was given its place before a crash
        path = await run_sync(context.storage.scan, upload.sha256, limiter=context.placing)
    try:
        body = Received(path, upload.sha256, upload.length)
        scan, _ = await keep_body(
            context, upload.owner, body, tags=upload.tags, reading=upload.reading
        )
    except ProblemError as problem:
        if problem.status == PROBLEMS["invalid-scan"].status:
            await run_in_threadpool(context.uploads.remove, upload.id)
        raise
    kept = partial(context.uploads.become, upload, sha256=upload.sha256, scan=scan.id)
    return await run_in_threadpool(kept)


@contextmanager
def _sole_writer(context: Context, upload_id: str) -> Iterator[None]:
    with context.uploads.held(upload_id) as mine:
        if not mine:
            text = "another request is writing this upload; wait for it"
            raise ProblemError("upload-locked", text)
        yield


def _find(context: Context, key: Key, upload_id: str) -> Upload:
    upload = context.uploads.get(upload_id, owner_of(key))
    if upload is None:
        raise ProblemError("not-found", "there is no such upload; it may have ended")
    if upload.expires_at < time.time():
        context.uploads.remove(upload.id)
        raise ProblemError("upload-expired", "the upload has expired; begin again")
    return upload


def _require_version(request: Request) -> None:
    if request.headers.get("tus-resumable") != VERSION:
        raise ProblemError(
            "tus-version",
            f"send Tus-Resumable: {VERSION}",
            headers={"Tus-Version": VERSION, "Tus-Resumable": VERSION},
        )


def _number(request: Request, name: str) -> int:
    value = request.headers.get(name, "")
    if not (value.isascii() and value.isdigit() and len(value) <= 18):
        raise ProblemError("invalid-request", f"{name} must be a number of bytes")
    return int(value)


def _checksum(request: Request) -> tuple[str, bytes] | None:
    value = request.headers.get("upload-checksum")
    if value is None:
        return None
    name, _, text = value.partition(" ")
    try:
        expected = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        expected = b""
    if name not in _ALGORITHMS or not expected:
        raise ProblemError(
            "invalid-request", f"Upload-Checksum is one of {', '.join(_ALGORITHMS)} and Base64"
        )
    return name, expected


def _digest_of(path: FilePath) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _answer(upload: Upload, status: int, **headers: str) -> Response:
    return Response(status_code=status, headers=_headers(upload) | headers)


def _headers(upload: Upload) -> dict[str, str]:
    own = {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(upload.offset),
        "Upload-Length": str(upload.length),
        "Upload-Expires": formatdate(upload.expires_at, usegmt=True),
    }
    if upload.scan is not None:
        own["Content-Location"] = f"/v1/scans/{upload.scan}"
    return own
