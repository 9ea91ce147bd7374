"""/v1/reconstructions/{id}/results and previews: the products, whole or in parts."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Query, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.types import Message, Receive, Scope, Send

from service.http.authentication import Reader
from service.http.context import AT_STORAGE, Context, InContext
from service.http.job_answers import find_job
from service.http.problems import Responses, problem_response, problems
from service.http.scans import Id
from service.http.schemas import ResultList, ResultOut
from service.jobs.job import Job, JobState
from service.pictures import png
from service.problems import ProblemError
from service.products import PRODUCTS
from service.report import ProductFile
from service.volumes import MAPS, colour_stops, not_computed, read_stack, window_of

router = APIRouter(prefix="/v1/reconstructions", tags=["results"])

_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
_KINDS = tuple(sorted({product.media_type for product in PRODUCTS.values()}))
_FILE: Responses = {
    200: {
        "description": "The file",
        "content": dict.fromkeys(_KINDS, _BINARY),
    },
    206: {
        "description": "A part of it",
        "content": dict.fromkeys((*_KINDS, "multipart/byteranges"), _BINARY),
    },
    304: {"description": "It is as it was"},
}
_PICTURE: Responses = {
    200: {"description": "The picture", "content": {"image/png": _BINARY}},
    304: {"description": "It is as it was"},
}


class PictureQuery(BaseModel):
    """Which picture, and how bright."""

    model_config = ConfigDict(extra="forbid")

    slice: int | None = Field(None, ge=0, le=100_000, description="[the middle one]")
    product: str = Field("mean", description=", ".join(MAPS))
    sample: int = Field(0, ge=0, le=255)
    window: str | None = Field(None, max_length=64, description="LOW,HIGH in the result's units")
    colours: Literal["grey", "own", "overlay"] = Field(
        "grey", description="own: the picture's colour map; overlay: transparent at its lower end"
    )

    @field_validator("product")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in MAPS:
            raise ValueError(f"products are {', '.join(MAPS)}")
        return value

    @field_validator("window")
    @classmethod
    def _two_numbers(cls, value: str | None) -> str | None:
        if value is not None:
            low, _, high = value.partition(",")
            if not (math.isfinite(float(low)) and float(low) < float(high) < math.inf):
                raise ValueError("a window is LOW,HIGH with LOW below HIGH")
        return value

    @property
    def ends(self) -> tuple[float, float] | None:
        """The window as numbers."""
        if self.window is None:
            return None
        low, _, high = self.window.partition(",")
        return float(low), float(high)


@router.get(
    "/{job_id}/results", responses=problems("not-found", "job-not-finished", "result-expired")
)
def list_results(context: InContext, key: Reader, job_id: Id) -> ResultList:
    """The products of a reconstruction that has succeeded."""
    job = find_job(context, key, job_id)
    here = f"/v1/reconstructions/{job.id}/results"
    return ResultList(items=[ResultOut.of(file, here) for file in results_of(job)])


@router.get(
    "/{job_id}/results/{name}",
    response_class=Response,
    dependencies=[AT_STORAGE],
    responses=_FILE
    | problems("not-found", "job-not-finished", "result-expired", "range-not-satisfiable"),
)
@router.head("/{job_id}/results/{name}", include_in_schema=False, dependencies=[AT_STORAGE])
def get_result(
    request: Request, context: InContext, key: Reader, job_id: Id, name: str
) -> Response:
    """One product, or the part of it that `Range` names."""
    job = find_job(context, key, job_id)
    files = {file.name: file for file in results_of(job)}
    if name not in files:
        absent = PRODUCTS[name].absent if name in PRODUCTS else None
        text = absent or f"results are {', '.join(files)}"
        raise ProblemError("not-found", text)
    found = files[name]
    tag = f'"{found.sha256}"'
    digest = base64.b64encode(bytes.fromhex(found.sha256)).decode()
    headers = {"ETag": tag, "Repr-Digest": f"sha-256=:{digest}:", "Accept-Ranges": "bytes"}
    if matches(request, tag):
        return Response(status_code=304, headers=headers)
    path = context.storage.product(job.place, name)
    if not path.is_file():
        raise ProblemError("file-lost", "the file of this result is gone; retry the job")
    return _ProductResponse(
        path,
        headers=headers,
        media_type=found.media_type,
        filename=f"{job.id}-{name}",
    )


@router.get(
    "/{job_id}/preview.png",
    response_class=Response,
    dependencies=[AT_STORAGE],
    responses=_PICTURE | problems("not-found", "job-not-finished", "result-expired"),
)
@router.get(
    "/{job_id}/results/preview.png",
    response_class=Response,
    dependencies=[AT_STORAGE],
    responses=_PICTURE | problems("not-found", "job-not-finished", "result-expired"),
)
def get_picture(
    request: Request,
    context: InContext,
    key: Reader,
    job_id: Id,
    query: Annotated[PictureQuery, Query()],
) -> Response:
    """A slice as a picture; while the job runs, the picture so far. `Window` says its ends."""
    job = find_job(context, key, job_id)
    ended = job.state is JobState.SUCCEEDED and results_of(job)
    image = finished_picture(context, job, query) if ended else _so_far(context, job, query)
    low, high = query.ends or window_of(query.product, image)
    grey = query.colours == "grey"
    stops = None if grey else colour_stops(MAPS[query.product].colours)
    content = png(image, (low, high), stops, see_through=query.colours == "overlay")
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"ETag": tag, "Window": f"{low:.9g},{high:.9g}"}
    if matches(request, tag):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/png", headers=headers)


class _ProductResponse(FileResponse):
    """A file whose refusals of ranges are problems like all others."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            if status not in (400, 416):
                await send(message)
            elif message["type"] == "http.response.start":
                asked = Headers(raw=message["headers"]).get("content-range")
                whole = {} if asked is None else {"Content-Range": asked}
                kind = "invalid-request" if status == 400 else "range-not-satisfiable"
                text = "Range is bytes=FIRST-LAST, within the file"
                problem = ProblemError(kind, text, headers=whole)
                await problem_response(Request(scope), problem)(scope, receive, send)

        await super().__call__(scope, receive, sending)


def finished_picture(context: Context, job: Job, query: PictureQuery) -> NDArray[np.float32]:
    """The slice that is asked for, of a job that has results; raises ProblemError."""
    position = slice_position(job, query.slice)
    require_computed(job, query.product)
    try:
        return read_stack(files_of(context, job), query.product, query.sample, position)[0]
    except (IndexError, FileNotFoundError) as error:
        raise ProblemError("not-found", "there is no such slice or sample") from error


def _so_far(context: Context, job: Job, query: PictureQuery) -> NDArray[np.float32]:
    if query.product not in ("mean", "coarse"):
        raise ProblemError("job-not-finished", "this picture is there when the job has finished")
    index = query.slice
    if index is None:
        index = (job.progress and job.progress.slice) or 0
    picture = context.storage.read_preview(job.id, index)
    if picture is None:
        raise ProblemError("job-not-finished", "there is no picture of this slice yet")
    return picture


def require_computed(job: Job, picture: str) -> None:
    """Refuse a picture that the job has not made. Raises ProblemError."""
    reason = not_computed(picture, job.summary)
    if reason is not None:
        raise ProblemError("not-found", reason)


def files_of(context: Context, job: Job) -> Callable[[str], Path]:
    """Where each result file of a job lies."""
    return partial(context.storage.product, job.place)


def slice_position(job: Job, index: int | None) -> int:
    """Where a slice of the scan lies in the results. Raises ProblemError."""
    indices = [] if job.summary is None else [entry.slice for entry in job.summary.slices]
    if index is None:
        return len(indices) // 2
    if index not in indices:
        raise ProblemError("not-found", f"slice {index} was not reconstructed")
    return indices.index(index)


def results_of(job: Job) -> tuple[ProductFile, ...]:
    """Entries of the products of a job that has succeeded. Raises ProblemError."""
    if not job.state.terminal:
        raise ProblemError("job-not-finished", f"the job is {job.state.value}; wait for it")
    if job.state is JobState.SUCCEEDED and job.results is None:
        raise ProblemError("result-expired", "the results were removed; retry the job")
    if job.state is not JobState.SUCCEEDED or job.results is None:
        raise ProblemError("job-without-result", f"the job has {job.state.value}; see its error")
    return job.results


def matches(request: Request, tag: str) -> bool:
    """Whether the client has this version already."""
    given = request.headers.get("if-none-match", "")
    return tag in [item.strip().removeprefix("W/") for item in given.split(",")]
