"""The application: everything that answers requests, made from settings in one place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.http import (
    batches,
    deliveries,
    events,
    job_log,
    new_reconstructions,
    points,
    reconstructions,
    results,
    roi,
    scans,
    system,
    uploads,
    volumes,
)
from service.http.authentication import Doorkeeper
from service.http.batches import BatchRequest
from service.http.context import Context
from service.http.docs import add_docs
from service.http.gate import Gate
from service.http.housekeeping import keep_house
from service.http.problems import add_problem_handlers
from service.http.view import add_view
from service.requests import ReconstructionParameters, ReconstructionRequest


def create_app(context: Context) -> FastAPI:
    """Routes, errors and wiring."""

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        context.storage.prepare()
        tasks = [asyncio.create_task(context.feed.run()), asyncio.create_task(keep_house(context))]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            context.close()

    app = _routed(lifespan)
    app.state.context = context
    app.state.doorkeeper = Doorkeeper()
    app.state.at_work = set()
    add_problem_handlers(app)
    add_docs(app)
    add_view(app)
    app.add_middleware(Gate, settings=context.settings, metrics=context.metrics)
    return app


def api_document() -> dict[str, Any]:
    """The OpenAPI document that a running service answers under /openapi.json."""
    return _routed(None).openapi()


def _routed(lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] | None) -> FastAPI:
    """The routes, without anything behind them."""
    app = FastAPI(
        title="mri-posterior",
        version=version("mri-posterior"),
        summary="From undersampled MRI k-space to a posterior. For research, not for diagnosis.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    routed = (
        scans,
        uploads,
        new_reconstructions,
        reconstructions,
        batches,
        events,
        job_log,
        results,
        volumes,
        deliveries,
        roi,
        points,
        system,
    )
    for module in routed:
        app.include_router(module.router)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with the schemas that routes with hand-read bodies refer to."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, summary=app.summary, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        for model in (
            ReconstructionParameters,
            ReconstructionRequest,
            deliveries.DeliveryRequest,
            BatchRequest,
        ):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {})
            schemas[model.__name__] = schema
        for path in document["paths"].values():
            for operation in path.values():
                # FastAPI's own description of 422; ours are problems.
                answer = operation.get("responses", {}).get("422", {})
                content = answer.get("content", {})
                if "HTTPValidationError" in str(content.get("application/json", "")):
                    operation["responses"].pop("422")
        schemas.pop("HTTPValidationError", None)
        schemas.pop("ValidationError", None)
        app.openapi_schema = document
    return app.openapi_schema
