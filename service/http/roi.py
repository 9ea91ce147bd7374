"""/v1/reconstructions/{id}/roi: how bright a region is, how sure that is, and against another.

A region lies in one slice, or reaches through several.
"""

from __future__ import annotations

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
from service.region_answers import RegionAnswer
from service.regions import packed_mask, polygon_mask, region_values, statistics

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
        description="corners (row, column); centres of pixels are at whole numbers",
    )
    mask: Annotated[str, StringConstraints(max_length=4 << 20)] | None = Field(
        None,
        description="Base64 of numpy.packbits of the boolean mask (rows, columns); for a question "
        "about several slices also (slices, rows, columns)",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.polygon is None) == (self.mask is None):
            raise ValueError("a region is a polygon or a mask")
        return self


class RegionQuestion(BaseModel):
    """Which region of which slice or slices, and which other one to compare it with."""

    model_config = ConfigDict(extra="forbid")

    slice: int = Field(ge=0, le=100_000, description="the slice, or the first of several")
    through: int | None = Field(
        None,
        ge=0,
        le=100_000,
        description="the last slice of a region that reaches through several, with all between: a "
        "polygon or a mask of one slice is taken in each [the region lies in one slice]",
    )
    region: Region
    reference: Region | None = Field(None, description="a second region, for the difference")
    unit: Literal["voxel", "mm"] = Field(
        "voxel", description="of polygons; mm count from the centre of the first pixel"
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
    positions = _positions(job, question)
    image = job.summary.image
    if image is None:
        raise ProblemError("result-expired", "the result is too old for regions; retry the job")
    shape = (len(positions), *image.shape)
    spacing = image.pixel_mm if question.unit == "mm" else (1.0, 1.0)
    if spacing is None:
        raise ProblemError("invalid-parameter", "the scan's header says no pixel size; use voxels")
    samples = context.storage.product(job.place, "samples.npy")
    mask = _mask(question.region, shape, spacing)
    values = region_values(samples, positions, mask)
    reference = difference = None
    if question.reference is not None:
        others = region_values(samples, positions, _mask(question.reference, shape, spacing))
        reference, difference = statistics(others), statistics(values - others)
    return RegionAnswer(
        pixels=int(np.broadcast_to(mask, shape).sum()),
        slices=len(positions),
        joint=len(positions) == 1 or job.summary.joint,
        region=statistics(values),
        reference=reference,
        difference=difference,
    )


def _positions(job: Job, question: RegionQuestion) -> list[int]:
    last = question.slice if question.through is None else question.through
    if not question.slice <= last < question.slice + _MOST_SLICES:
        raise ProblemError(
            "invalid-parameter",
            f"`through` lies at or behind `slice`, with at most {_MOST_SLICES} slices in all",
        )
    return [slice_position(job, index) for index in range(question.slice, last + 1)]


def _mask(
    region: Region, shape: tuple[int, int, int], spacing: tuple[float, float]
) -> NDArray[np.bool_]:
    """(rows, columns), or all of `shape`."""
    if region.polygon is not None:
        return polygon_mask(np.array(region.polygon) / np.array(spacing), shape[1:])
    assert region.mask is not None
    try:
        return packed_mask(region.mask, shape)
    except ValueError as error:
        raise ProblemError("invalid-parameter", f"the mask is not readable: {error}") from error
