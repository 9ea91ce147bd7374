"""/v1/reconstructions/{id}/volumes: every picture as a NIfTI volume of real numbers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import Response

from service.http.authentication import Reader
from service.http.context import AT_STORAGE, InContext
from service.http.job_answers import find_job
from service.http.problems import Responses, problems
from service.http.results import files_of, matches, require_computed, results_of
from service.http.scans import Id
from service.jobs.job import Job
from service.problems import ProblemError
from service.products import RESULT
from service.volumes import (
    MAPS,
    colour_stops,
    nifti,
    not_computed,
    read_stack,
    window_of,
)

router = APIRouter(prefix="/v1/reconstructions", tags=["results"])

MEDIA_TYPE = "application/x-nifti"
_VOLUME: Responses = {
    200: {
        "description": "float32, real; `cal_min` and `cal_max` say how to show it",
        "content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}},
    },
    304: {"description": "It is as it was"},
}
Name = Annotated[str, Path(pattern=r"^[a-z-]{1,32}\.nii$", description="NAME.nii")]
Sample = Annotated[int, Query(ge=0, le=255, description="which one, of `sample.nii`")]


class PictureOut(BaseModel):
    """One kind of picture, for pictures and volumes alike."""

    name: str
    label: str
    meaning: str
    unit: str = Field(description="empty: in the units of the scan")
    overlay: bool = Field(description="of use on top of the mean")
    diagnostic: bool = Field(description="it tells of the reconstruction, not of the patient")
    colours: list[tuple[int, int, int]] = Field(
        description="red, green, blue from the lowest to the highest value, evenly spaced"
    )
    missing: str | None = Field(description="why it was not computed; null: it was")
    href: str


class PictureList(BaseModel):
    """All pictures of a finished reconstruction."""

    items: list[PictureOut]


@router.get("/{job_id}/volumes", responses=problems("not-found", "job-not-finished"))
def list_volumes(context: InContext, key: Reader, job_id: Id) -> PictureList:
    """Which pictures there are, what they mean and in which colours they are shown."""
    job = find_job(context, key, job_id)
    results_of(job)
    here = f"/v1/reconstructions/{job.id}/volumes"
    return PictureList(
        items=[
            PictureOut(
                name=name,
                label=picture.label,
                meaning=picture.meaning,
                unit=picture.unit,
                overlay=picture.overlay,
                diagnostic=picture.diagnostic,
                colours=list(colour_stops(picture.colours)),
                missing=not_computed(name, job.summary),
                href=f"{here}/{name}.nii",
            )
            for name, picture in MAPS.items()
        ]
    )


@router.get(
    "/{job_id}/volumes/{name}",
    response_class=Response,
    dependencies=[AT_STORAGE],
    responses=_VOLUME | problems("not-found", "job-not-finished"),
)
def get_volume(
    request: Request, context: InContext, key: Reader, job_id: Id, name: Name, sample: Sample = 0
) -> Response:
    """One picture of all slices: magnitudes, never complex, as it is seen on a screen."""
    job = find_job(context, key, job_id)
    files = results_of(job)
    kind = name.removesuffix(".nii")
    if kind not in MAPS:
        raise ProblemError("not-found", f"volumes are {', '.join(MAPS)}")
    require_computed(job, kind)
    digest = next(file.sha256 for file in files if file.name == RESULT)
    tag = f'"{digest[:32]}-{kind}-{sample}"'
    if matches(request, tag):
        return Response(status_code=304, headers={"ETag": tag})
    try:
        stack = read_stack(files_of(context, job), kind, sample)
    except (IndexError, FileNotFoundError) as error:
        raise ProblemError("not-found", "there is no such sample") from error
    content = nifti(
        stack,
        voxel_of(job),
        window_of(kind, stack),
        f"{kind}, NOT FOR DIAGNOSTIC USE, mri-posterior",
    )
    name = f"{job.id}-{kind}-{sample}.nii" if kind == "sample" else f"{job.id}-{kind}.nii"
    headers = {"ETag": tag, "Content-Disposition": f'attachment; filename="{name}"'}
    return Response(content, media_type=MEDIA_TYPE, headers=headers)


def voxel_of(job: Job) -> tuple[float, float, float] | None:
    """Height, width and thickness in mm, where the scan says them; None without a pixel size."""
    image = None if job.summary is None else job.summary.image
    if image is None or image.pixel_mm is None:
        return None
    return *image.pixel_mm, image.slice_mm or max(image.pixel_mm)
