"""Every error as `application/problem+json`, whoever raised it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import OperationalError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response

from recon.errors import ReconError
from service.problems import PROBLEMS, ProblemError, is_full, problem_of

log = structlog.get_logger()

Responses = dict[int | str, dict[str, Any]]
"""What a route may answer, by status, as OpenAPI describes it."""

MEDIA_TYPE = "application/problem+json"
_FULL = "the disk of the service is full; try again when there is room"
_ALWAYS = ("invalid-request", "unauthorized", "forbidden", "invalid-parameter", "rate-limited")
_FAILURES = ("internal", "not-ready", "storage-full")
_BY_STATUS = {
    400: "invalid-request",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "upload-too-large",
    416: "range-not-satisfiable",
}


def problems(*kinds: str) -> Responses:
    """The `responses` of a route that may answer these problems, beside those of every route."""
    by_status: dict[int | str, list[str]] = {}
    for kind in (*_ALWAYS, *kinds, *_FAILURES):
        by_status.setdefault(PROBLEMS[kind].status, []).append(kind)
    return {
        status: {
            "description": "; ".join(PROBLEMS[kind].title for kind in kinds),
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, kinds in by_status.items()
    }


def problem_response(request: Request, problem: ProblemError) -> Response:
    """The answer that carries a problem."""
    document = problem.document() | {
        "instance": request.url.path,
        "request_id": request.scope.get("request_id"),
    }
    return JSONResponse(
        document, problem.status, headers=dict(problem.headers), media_type=MEDIA_TYPE
    )


def validation_problem(errors: Sequence[Mapping[str, Any]]) -> ProblemError:
    """What pydantic found wrong; unreadable JSON is a bad request, not a bad value."""
    if any(error["type"] == "json_invalid" for error in errors):
        return ProblemError("invalid-request", "the body is not valid JSON")
    found = [
        {
            "pointer": "/" + "/".join(str(part) for part in error["loc"]),
            "detail": str(error["msg"]),
        }
        for error in errors
    ]
    first = found[0]
    return ProblemError("invalid-parameter", f"{first['pointer']}: {first['detail']}", errors=found)


def add_problem_handlers(app: FastAPI) -> None:
    """Turn exceptions into problems; what nobody foresaw is the gate's."""

    def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return problem_response(request, error)

    def unusable(request: Request, error: Exception) -> Response:
        assert isinstance(error, ReconError)
        return problem_response(request, problem_of(error))

    def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem_response(request, validation_problem(error.errors()))

    def from_framework(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = _BY_STATUS.get(error.status_code, "invalid-request")
        problem = ProblemError(kind, str(error.detail), headers=dict(error.headers or {}))
        return problem_response(request, problem)

    def database_away(request: Request, error: Exception) -> Response:
        log.error("database", error=str(error)[:300])
        if "disk is full" in str(error) or "No space left" in str(error):
            return problem_response(request, ProblemError("storage-full", _FULL))
        detail = "the database does not answer; try again"
        problem = ProblemError("not-ready", detail, headers={"Retry-After": "5"})
        return problem_response(request, problem)

    def went_away(request: Request, error: Exception) -> Response:
        assert isinstance(error, ClientDisconnect)
        return problem_response(request, ProblemError("upload-incomplete", "the body ended early"))

    def system(request: Request, error: Exception) -> Response:
        assert isinstance(error, OSError)
        if is_full(error):
            return problem_response(request, ProblemError("storage-full", _FULL))
        raise error

    app.add_exception_handler(ProblemError, refused)
    app.add_exception_handler(ReconError, unusable)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, from_framework)
    app.add_exception_handler(OperationalError, database_away)
    app.add_exception_handler(OSError, system)
    app.add_exception_handler(ClientDisconnect, went_away)
