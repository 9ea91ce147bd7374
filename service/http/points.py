"""/v1/reconstructions/{id}/points: what every sample says at points of a slice, as along a line."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from recon.errors import ScanError
from service.http.authentication import Reader
from service.http.context import AT_STORAGE, InContext
from service.http.job_answers import find_job
from service.http.problems import problems
from service.http.results import files_of, results_of, slice_position
from service.http.scans import Id
from service.problems import ProblemError
from service.regions import point_values, statistics

router = APIRouter(prefix="/v1/reconstructions", tags=["results"])

_MOST = 512
Coordinate = Annotated[float, Field(ge=0, le=1e5, allow_inf_nan=False)]


class PointsQuestion(BaseModel):
    """Which points of which slice."""

    model_config = ConfigDict(extra="forbid")

    slice: int = Field(ge=0, le=100_000)
    points: list[tuple[Coordinate, Coordinate]] = Field(
        min_length=1,
        max_length=_MOST,
        description="(row, column); centres of pixels are at whole numbers, between them values "
        "are interpolated linearly",
    )


class PointsAnswer(BaseModel):
    """One number per point in each list, in the units of the result."""

    samples: int
    values: list[list[float]] = Field(description="a list per sample")
    mean: list[float]
    std: list[float]
    low: list[float] = Field(description="lower end of the interval for the true value")
    high: list[float]
    level: float = Field(0.9, description="probability of each interval")
    method: str


@router.post(
    "/{job_id}/points",
    dependencies=[AT_STORAGE],
    responses=problems("not-found", "job-not-finished"),
)
def ask_about_points(
    context: InContext, key: Reader, job_id: Id, question: PointsQuestion
) -> PointsAnswer:
    """Magnitudes of all samples at points of a slice, and the 90 % interval at each.

    The intervals are those of the regions: they come from the samples, point by point.
    """
    job = find_job(context, key, job_id)
    results_of(job)
    position = slice_position(job, question.slice)
    try:
        values = point_values(
            files_of(context, job)("samples.npy"), position, np.array(question.points)
        )
    except ScanError as error:
        raise ProblemError("invalid-parameter", str(error)) from error
    each = [statistics(column) for column in values.T]
    return PointsAnswer(
        samples=len(values),
        values=values.tolist(),
        mean=[one.mean for one in each],
        std=[one.std for one in each],
        low=[one.low for one in each],
        high=[one.high for one in each],
        method=each[0].method,
    )
