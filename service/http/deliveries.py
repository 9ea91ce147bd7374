"""/v1/reconstructions/{id}/deliveries: send DICOM to a target that the operator has configured."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from service.delivery.delivery_table import Deliveries, Delivery, DeliveryState
from service.http.authentication import Reader, Writer
from service.http.context import InContext
from service.http.job_answers import find_job
from service.http.problems import problems
from service.http.request_bodies import body_of, parsed
from service.http.results import results_of
from service.http.scans import Id
from service.problems import Problem, ProblemError
from service.products import DICOM, DicomSeries

router = APIRouter(prefix="/v1/reconstructions", tags=["deliveries"])


class DeliveryRequest(BaseModel):
    """What to send where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    target: str = Field(min_length=1, max_length=64, description="name of a configured target")
    products: tuple[DicomSeries, ...] = Field(
        (DicomSeries.MEAN, DicomSeries.STD),
        min_length=1,
        max_length=len(DicomSeries),
        description="map: std as Parametric Map",
    )


class DeliveryOut(BaseModel):
    """A delivery."""

    id: str
    job_id: str
    target: str
    products: list[str]
    state: DeliveryState
    attempts: int
    stored: int = Field(description="instances that the target has taken")
    failures: dict[str, str] = Field(description="reason for each instance that it has not")
    error: Problem | None
    created_at: datetime
    finished_at: datetime | None
    links: dict[str, str]

    @classmethod
    def of(cls, delivery: Delivery) -> DeliveryOut:
        """From a row of the table."""
        ended = delivery.finished_at
        here = f"/v1/reconstructions/{delivery.job_id}"
        return cls(
            id=delivery.id,
            job_id=delivery.job_id,
            target=delivery.target,
            products=delivery.products,
            state=delivery.state,
            attempts=delivery.attempts,
            stored=len(delivery.stored),
            failures=delivery.failures,
            error=delivery.error,
            created_at=datetime.fromtimestamp(delivery.created_at, UTC),
            finished_at=None if ended is None else datetime.fromtimestamp(ended, UTC),
            links={"self": f"{here}/deliveries/{delivery.id}", "job": here},
        )


class DeliveryList(BaseModel):
    """The deliveries of a job, the oldest first."""

    items: list[DeliveryOut]


_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/DeliveryRequest"}}
        },
    }
}


@router.post(
    "/{job_id}/deliveries",
    status_code=202,
    response_model=DeliveryOut,
    responses=problems("not-found", "unknown-target", "job-not-finished", "job-without-result"),
    openapi_extra=_BODY,
)
async def deliver(request: Request, context: InContext, key: Writer, job_id: Id) -> Response:
    """Send the images to a DICOMweb server (STOW-RS), trying again while that may help."""
    text = await body_of(request, context.settings.max_json_bytes)
    asked = parsed(DeliveryRequest, text)

    def create() -> Delivery:
        job = find_job(context, key, job_id)
        if asked.target not in context.settings.delivery_targets:
            known = ", ".join(context.settings.delivery_targets) or "none"
            raise ProblemError("unknown-target", f"the operator has configured: {known}")
        if DICOM not in {file.name for file in results_of(job)}:
            raise ProblemError(
                "job-without-result", "the job has no DICOM images; reconstruct with voxel_mm"
            )
        products = [product.value for product in sorted(set(asked.products))]
        table = Deliveries(context.engine)
        return table.create(job.id, asked.target, products, context.queue.enqueue_delivery)

    document = DeliveryOut.of(await run_in_threadpool(create)).model_dump(mode="json")
    return JSONResponse(document, 202, headers={"Location": document["links"]["self"]})


@router.get("/{job_id}/deliveries", responses=problems("not-found"))
def list_deliveries(context: InContext, key: Reader, job_id: Id) -> DeliveryList:
    """The deliveries of a reconstruction."""
    job = find_job(context, key, job_id)
    found = Deliveries(context.engine).of_job(job.id)
    return DeliveryList(items=[DeliveryOut.of(delivery) for delivery in found])


@router.get("/{job_id}/deliveries/{delivery_id}", responses=problems("not-found"))
def get_delivery(context: InContext, key: Reader, job_id: Id, delivery_id: Id) -> DeliveryOut:
    """How far a delivery is."""
    job = find_job(context, key, job_id)
    delivery = Deliveries(context.engine).get(delivery_id)
    if delivery is None or delivery.job_id != job.id:
        raise ProblemError("not-found", "there is no such delivery")
    return DeliveryOut.of(delivery)
