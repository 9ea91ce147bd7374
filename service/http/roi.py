"""/v1/reconstructions/{id}/roi: how bright a region is, how sure that is, and against another.

A region lies in one slice, or reaches through several; or it lies in a plane across the slices, the
picture of one row or one column of all of them, and reaches through rows or columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.http.authentication import Reader
from service.http.context import AT_STORAGE, InContext
from service.http.job_answers import find_job
from service.http.problems import problems
from service.http.results import slice_position
from service.http.scans import Id
from service.jobs.job import Job, JobState
from service.problems import ProblemError
from service.region_answers import PlaneName, RegionAnswer
from service.regions import Block, packed_mask, polygon_mask, region_values, stacked, statistics

router = APIRouter(prefix="/v1/reconstructions", tags=["results"])

_MOST_SLICES = 1024
Coordinate = Annotated[float, Field(ge=-1e5, le=1e5, allow_inf_nan=False)]


class Region(BaseModel):
    """A polygon, or a mask; exactly one of them."""

    model_config = ConfigDict(extra="forbid")

    polygon: list[tuple[Coordinate, Coordinate]] | None = Field(
        None,
        min_length=3,
        max_length=2000,
        description="corners (row, column), or as `plane` says; centres of pixels are at whole "
        "numbers",
    )
    mask: Annotated[str, StringConstraints(max_length=4 << 20)] | None = Field(
        None,
        description="Base64 of numpy.packbits of the boolean mask (rows, columns), or as `plane` "
        "says; for a question about several slices also (slices, rows, columns)",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.polygon is None) == (self.mask is None):
            raise ValueError("a region is a polygon or a mask")
        return self


class RegionQuestion(BaseModel):
    """Which region of which slice or slices, and which other one to compare it with."""

    model_config = ConfigDict(extra="forbid")

    plane: PlaneName = Field(
        "slices",
        description="in which pictures the region lies. `slices`: as they were acquired. `rows`: "
        "the picture of one row over all slices; corners are (slice, column), a mask is (slices of "
        "the result, columns), and `slice` and `through` number rows. `columns`: that of one "
        "column; corners are (slice, row), a mask is (slices of the result, rows), and `slice` and "
        "`through` number columns. Corners count slices as the scan does",
    )
    slice: int = Field(
        ge=0, le=100_000, description="the slice (row, column), or the first of several"
    )
    through: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="the last slice of a region that reaches through several, with all between: a "
        "polygon or a mask of one slice is taken in each [the region lies in one slice]; rows or "
        "columns where these are what `plane` says",
    )
    region: Region
    reference: Region | None = Field(None, description="a second region, for the difference")
    unit: Literal["voxel", "mm"] = Field(
        "voxel",
        description="of polygons; mm count from the centre of the first pixel, and across slices "
        "from the centre of slice 0",
    )


@router.post(
    "/{job_id}/roi",
    dependencies=[AT_STORAGE],
    responses=problems("not-found", "job-not-finished", "result-expired", "upload-too-large"),
)
def ask_about_region(
    context: InContext, key: Reader, job_id: Id, question: RegionQuestion
) -> RegionAnswer:
    """Mean magnitude of a region: posterior mean, standard deviation, 90 % interval."""
    job = find_job(context, key, job_id)
    if job.state is not JobState.SUCCEEDED or job.summary is None:
        raise ProblemError("job-not-finished", f"the job is {job.state.value}; there is no result")
    if job.results is None:
        raise ProblemError("result-expired", "the results were removed; retry the job")
    pictures = _pictures(job, question)
    samples = context.storage.product(job.place, "samples.npy")
    mask = _mask(question.region, pictures)
    values = region_values(samples, pictures.block, mask)
    reached = held = mask.any(axis=(1, 2))
    reference = difference = None
    if question.reference is not None:
        other = _mask(question.reference, pictures)
        others = region_values(samples, pictures.block, other)
        reached = held | other.any(axis=(1, 2))
        reference, difference = statistics(others), statistics(values - others)
    if question.plane == "slices":  # all that are asked about count
        held = reached = np.ones(len(mask), np.bool_)
    return RegionAnswer(
        pixels=int(mask.sum()),
        slices=int(held.sum()),
        joint=int(reached.sum()) == 1 or job.summary.joint,
        region=statistics(values),
        reference=reference,
        difference=difference,
    )


@dataclass(frozen=True)
class _Pictures:
    """The pictures that a question is about, one behind the other."""

    plane: PlaneName
    block: Block
    shape: tuple[int, int, int]
    """How many, and lines and columns of each."""
    lines: tuple[int, ...]
    """Numbers of the lines: of the rows, or in the scan of the slices."""
    spacing: tuple[float, float]
    """Of lines and columns, in the unit of the question."""


def _pictures(job: Job, question: RegionQuestion) -> _Pictures:
    """Raises ProblemError."""
    summary = job.summary
    if summary is None or summary.image is None:
        raise ProblemError("result-expired", "the result is too old for regions; retry the job")
    rows, columns = summary.image.shape
    first = question.slice
    last = first if question.through is None else question.through
    if not first <= last < first + _MOST_SLICES:
        raise ProblemError(
            "invalid-parameter",
            f"`through` lies at or behind `slice`, with at most {_MOST_SLICES} {question.plane} "
            "in all",
        )
    high, wide = (1.0, 1.0) if question.unit == "voxel" else _pixel_mm(job)
    if question.plane == "slices":
        block = Block([slice_position(job, index) for index in range(first, last + 1)])
        shape = (last - first + 1, rows, columns)
        return _Pictures(question.plane, block, shape, tuple(range(rows)), (high, wide))
    count, width, beside = (
        (rows, columns, wide) if question.plane == "rows" else (columns, rows, high)
    )
    if last >= count:
        raise ProblemError(
            "not-found", f"{question.plane} go from 0 to {count - 1}, and {last} is asked for"
        )
    between = 1.0 if question.unit == "voxel" else _slice_mm(job)
    numbers = tuple(entry.slice for entry in summary.slices)
    taken = slice(first, last + 1)
    part = {"rows": taken} if question.plane == "rows" else {"columns": taken}
    return _Pictures(
        question.plane,
        Block(range(len(numbers)), **part),
        (last - first + 1, len(numbers), width),
        numbers,
        (between, beside),
    )


def _pixel_mm(job: Job) -> tuple[float, float]:
    image = None if job.summary is None else job.summary.image
    if image is None or image.pixel_mm is None:
        raise ProblemError("invalid-parameter", "the scan's header says no pixel size; use voxels")
    return image.pixel_mm


def _slice_mm(job: Job) -> float:
    """From slice to slice. A header alone knows how thick the slab is, not how slices lie in it."""
    summary = job.summary
    assert summary is not None
    known = summary.volume or job.parameters.voxel_mm or summary.slices[0].edges
    if summary.image is None or summary.image.slice_mm is None or not known:
        raise ProblemError(
            "invalid-parameter",
            "the scan does not say how far apart its slices lie; use voxels, or retry the job with "
            "voxel_mm",
        )
    return summary.image.slice_mm


def _mask(region: Region, pictures: _Pictures) -> NDArray[np.bool_]:
    """(slices, rows, columns) of the block. Raises ProblemError."""
    if region.polygon is not None:
        mask = _drawn(np.array(region.polygon) / np.array(pictures.spacing), pictures)
    else:
        assert region.mask is not None
        try:
            mask = packed_mask(region.mask, pictures.shape)
        except ValueError as error:
            raise ProblemError("invalid-parameter", f"the mask is not readable: {error}") from error
    return stacked(np.broadcast_to(mask, pictures.shape), pictures.plane)


def _drawn(corners: NDArray[np.float64], pictures: _Pictures) -> NDArray[np.bool_]:
    """(lines, columns) inside a polygon of (line, column). Raises ProblemError."""
    first = pictures.lines[0]
    taken = np.array(pictures.lines) - first
    mask = polygon_mask(corners - [first, 0], (int(taken[-1]) + 1, pictures.shape[2]))
    lost = np.setdiff1d(np.flatnonzero(mask.any(axis=1)), taken)
    if lost.size:
        raise ProblemError("not-found", f"slice {first + lost[0]} was not reconstructed")
    return mask[taken]
