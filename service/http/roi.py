"""/v1/reconstructions/{id}/roi: how bright a region is, how sure that is, and against another."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Literal, Self

import numpy as np
from fastapi import APIRouter
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from service.http.authentication import Reader
from service.http.context import InContext
from service.http.job_answers import find_job
from service.http.problems import problems
from service.http.results import slice_position
from service.http.scans import Id
from service.http.schemas import WHOLE
from service.jobs.job import JobState
from service.problems import ProblemError
from service.regions import packed_mask, polygon_mask, region_values, statistics

router = APIRouter(prefix="/v1/reconstructions", tags=["results"])

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
        None, description="Base64 of numpy.packbits of the boolean mask (rows, columns)"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.polygon is None) == (self.mask is None):
            raise ValueError("a region is a polygon or a mask")
        return self


class RegionQuestion(BaseModel):
    """Which region of which slice, and which other one to compare it with."""

    model_config = ConfigDict(extra="forbid")

    slice: int = Field(ge=0, le=100_000)
    region: Region
    reference: Region | None = Field(None, description="a second region, for the difference")
    unit: Literal["voxel", "mm"] = Field(
        "voxel", description="of polygons; mm count from the centre of the first pixel"
    )


class Interval(BaseModel):
    """A number and how sure it is, in the units of the result."""

    mean: float
    std: float
    low: float
    high: float
    mc_error: float
    samples: int
    method: str


class RegionAnswer(BaseModel):
    """The mean of the region; of the second; and their difference, region minus reference."""

    model_config = WHOLE

    pixels: int
    region: Interval
    reference: Interval | None
    difference: Interval | None
    level: float = Field(0.9, description="probability of the intervals")


@router.post(
    "/{job_id}/roi",
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
    position = slice_position(job, question.slice)
    image = job.summary.image
    if image is None:
        raise ProblemError("result-expired", "the result is too old for regions; retry the job")
    shape = image.shape
    spacing = image.pixel_mm if question.unit == "mm" else (1.0, 1.0)
    if spacing is None:
        raise ProblemError("invalid-parameter", "the scan's header says no pixel size; use voxels")
    samples = context.storage.product(job.place, "samples.npy")
    mask = _mask(question.region, shape, spacing)
    values = region_values(samples, position, mask)
    answer = RegionAnswer(
        pixels=int(mask.sum()), region=_interval(values), reference=None, difference=None
    )
    if question.reference is not None:
        others = region_values(samples, position, _mask(question.reference, shape, spacing))
        answer.reference, answer.difference = _interval(others), _interval(values - others)
    return answer


def _mask(
    region: Region, shape: tuple[int, int], spacing: tuple[float, float]
) -> NDArray[np.bool_]:
    if region.polygon is not None:
        return polygon_mask(np.array(region.polygon) / np.array(spacing), shape)
    assert region.mask is not None
    try:
        return packed_mask(region.mask, shape)
    except ValueError as error:
        raise ProblemError("invalid-parameter", f"the mask is not readable: {error}") from error


def _interval(values: NDArray[np.float64]) -> Interval:
    return Interval(**asdict(statistics(values)))
