"""What is answered to a question about a region, over HTTP, to Python and on the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from recon.regions import Region

PlaneName = Literal["slices", "rows", "columns"]
"""In pictures of which kind a region is drawn: slices, or one row or one column of all slices."""

_WHOLE = ConfigDict(frozen=True, json_schema_serialization_defaults_required=True)


class Interval(BaseModel):
    """A number and how sure it is, in the units of the result."""

    model_config = _WHOLE

    mean: float
    std: float
    """Posterior standard deviation."""
    low: float
    high: float
    """Ends of the 90 % interval for the true value."""
    mc_error: float
    """Monte Carlo standard error of `mean`."""
    samples: int
    method: str
    """How the interval was made: `quantiles` or `student-t`."""

    @classmethod
    def of(cls, region: Region) -> Self:
        """What the samples say of a region's mean, or of a difference of two."""
        low, high = region.interval(0.9)
        return cls(
            mean=region.mean,
            std=region.std,
            low=low,
            high=high,
            mc_error=region.mc_error,
            samples=region.values.size,
            method=region.method,
        )


class RegionAnswer(BaseModel):
    """The mean of the region; of the second; and their difference, region minus reference."""

    model_config = _WHOLE

    pixels: int = Field(description="of the region, over all of its slices")
    slices: int = Field(
        1, description="of the question; in planes across, those in which the region has voxels"
    )
    joint: bool = Field(
        True,
        description="whether samples hold together from slice to slice; where not, the intervals "
        "of regions over several slices are too narrow",
    )
    region: Interval
    reference: Interval | None
    difference: Interval | None
    level: float = Field(0.9, description="probability of the intervals")
