"""Models, presets, limits, health and metrics: what the service is, and how it is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse, Response

from recon.choices import PresetName
from recon.presets import preset_of
from recon.volume_size import volume_cost
from service.http.authentication import READS
from service.http.context import InContext
from service.http.metrics import CONTENT_TYPE
from service.http.problems import Responses, problems
from service.offers import Model, ModelWithCard, Preset
from service.problems import PROBLEMS, ProblemError
from service.requests import MODEL_NAME

router = APIRouter(tags=["service"])

_METRICS: Responses = {
    200: {"content": {"application/openmetrics-text": {}}, "description": "Metrics"}
}


class Models(BaseModel):
    """All priors."""

    items: list[Model]
    default: str


class Presets(BaseModel):
    """All presets."""

    items: dict[str, Preset]
    default: str


class KnownProblem(BaseModel):
    """Something that can go wrong, and what to do about it."""

    type: str
    status: int
    title: str
    advice: str


class KnownProblems(BaseModel):
    """Every problem that an answer or a failed job can have."""

    items: list[KnownProblem]


class Info(BaseModel):
    """What this service is."""

    versions: dict[str, str]
    workers: int
    devices: list[str]
    scan_formats: list[str]
    not_for_diagnostic_use: bool


class Limits(BaseModel):
    """What the service allows."""

    max_upload_bytes: int
    max_volume_bytes: int = Field(description="memory that a `volume` may need of its worker")
    max_json_bytes: int
    max_queue: int
    max_active_per_key: int
    max_scan_bytes_per_key: int
    max_uploads_per_key: int
    max_requests_per_key: int
    requests_per_minute: int
    idle_seconds: float
    upload_expiry_hours: float
    keep_results_days: float
    max_wait_seconds: float


class VolumeSize(BaseModel):
    """A volume that may be asked for."""

    model_config = ConfigDict(extra="forbid")

    slices: int = Field(ge=2, le=4096)
    rows: int = Field(ge=8, le=4096)
    columns: int = Field(ge=8, le=4096)
    coils: int = Field(ge=1, le=1024)
    preset: PresetName = "standard"
    samples: int | None = Field(None, ge=2, le=256, description="[by preset]")
    compress_above: int = Field(12, ge=0, le=1024)


class VolumeLimits(BaseModel):
    """What it takes, and whether it is allowed."""

    memory_bytes: int = Field(description="on its worker's device, without the network's own")
    kept_bytes: int = Field(description="on the disk while it runs: what finished chains left")
    evaluations: int = Field(description="of the network, each on a volume's worth of planes")
    planes: int = Field(description="images that the network is asked about in all, about")
    allowed: bool


class Health(BaseModel):
    """Checks by name; all true when the service is well."""

    status: str
    checks: dict[str, bool]


@router.get("/v1/models", responses=problems(), dependencies=READS)
def list_models(context: InContext) -> Models:
    """The priors that workers offer."""
    offers = context.workers.offers()
    return Models(items=list(offers.models), default=offers.default_model)


@router.get("/v1/problems", responses=problems(), dependencies=READS)
async def list_problems() -> KnownProblems:
    """What can go wrong, by the `type` of the answer or of a failed job, and what to do then."""
    return KnownProblems(
        items=[
            KnownProblem(type=f"/problems/{name}", **kind._asdict())
            for name, kind in PROBLEMS.items()
        ]
    )


@router.get("/v1/models/{name}", responses=problems("not-found"), dependencies=READS)
def get_model(context: InContext, name: Annotated[str, Path(pattern=MODEL_NAME)]) -> ModelWithCard:
    """One prior, with its card."""
    for model in context.workers.offers().models:
        if model.id == name:
            return model
    raise ProblemError("not-found", f"there is no model '{name}'")


@router.get("/v1/presets", responses=problems(), dependencies=READS)
def list_presets(context: InContext) -> Presets:
    """What `preset` may be."""
    return Presets(items=context.workers.offers().presets, default="standard")


@router.get("/v1/info", responses=problems(), dependencies=READS)
def get_info(context: InContext) -> Info:
    """Versions and devices; no host names."""
    living = context.workers.living(context.settings.worker_lost_seconds)
    return Info(
        versions=context.workers.offers().versions,
        workers=len(living),
        devices=sorted(worker.device for worker in living),
        scan_formats=["fastmri-hdf5", "ismrmrd-hdf5"],
        not_for_diagnostic_use=True,
    )


@router.get("/v1/limits", responses=problems(), dependencies=READS)
def get_limits(context: InContext) -> Limits:
    """What is refused beyond."""
    settings = context.settings
    return Limits(
        **{name: getattr(settings, name) for name in Limits.model_fields}  # all of one name
    )


@router.get("/v1/limits/volume", responses=problems(), dependencies=READS)
def get_volume_limits(context: InContext, size: Annotated[VolumeSize, Query()]) -> VolumeLimits:
    """What a scan of this size takes as one `volume`: memory and work do not depend on its data."""
    preset = preset_of(size.preset, size.samples)
    shape = (size.slices, size.rows, size.columns)
    cost = volume_cost(shape, size.coils, preset, compress_above=size.compress_above)
    return VolumeLimits(
        memory_bytes=cost.memory_bytes,
        kept_bytes=cost.kept_bytes,
        evaluations=cost.evaluations,
        planes=cost.evaluations * sum(shape) // 3,
        allowed=cost.memory_bytes <= context.settings.max_volume_bytes,
    )


@router.get("/problems/{kind}", include_in_schema=False)
def describe_problem(kind: str) -> Response:
    """What a problem type means, and what to do about it."""
    if kind not in PROBLEMS:
        raise ProblemError("not-found", "there is no such problem type")
    return JSONResponse({"type": f"/problems/{kind}", **PROBLEMS[kind]._asdict()})


@router.get("/livez")
@router.get("/healthcheck", include_in_schema=False)
@router.get("/v2/health/live", include_in_schema=False)
async def live() -> Health:
    """The process answers."""
    return Health(status="ok", checks={"loop": True})


@router.get("/readyz", responses={503: {"model": Health, "description": "Not ready"}})
@router.get("/startupz", include_in_schema=False)
@router.get("/v2/health/ready", include_in_schema=False)
def ready(context: InContext) -> Response:
    """Work can be taken, and will be done."""
    checks = {
        "database": context.integrity.good(),
        "disk": context.storage.free_bytes() > context.settings.disk_floor_bytes,
        "worker": False,
        "running": not context.feed.stopping,
    }
    if checks["database"]:
        checks["worker"] = bool(context.workers.living(context.settings.worker_lost_seconds))
    well = all(checks.values())
    health = Health(status="ok" if well else "unavailable", checks=checks)
    return JSONResponse(health.model_dump(), 200 if well else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses=_METRICS | problems(),
    dependencies=READS,
)
def metrics(context: InContext) -> Response:
    """Counters and gauges in the OpenMetrics format."""
    return Response(context.metrics.text(), media_type=CONTENT_TYPE)
