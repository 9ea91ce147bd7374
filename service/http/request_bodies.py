"""What a request asks for: JSON bodies and query parameters as checked models, and their digest."""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from service.http.problems import validation_problem
from service.http.receiving import announced_digest, require_digest
from service.problems import ProblemError
from service.requests import ReconstructionParameters

Body = TypeVar("Body", bound=BaseModel)


def parameters_from_query(request: Request) -> ReconstructionParameters:
    """Parameters of a raw upload; tags are `tag.name=value`. Raises ProblemError."""
    values: dict[str, Any] = {}
    tags: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name.startswith("tag."):
            tags[name.removeprefix("tag.")] = value
        elif name in values:
            raise ProblemError("invalid-parameter", f"'{name[:100]}' is given twice")
        else:
            values[name] = value
    if tags:
        values["tags"] = tags
    return parsed(ReconstructionParameters, json.dumps(values).encode())


def parsed(model: type[Body], text: bytes) -> Body:
    """A checked model from JSON. Raises ProblemError."""
    try:
        return model.model_validate_json(text)
    except ValidationError as error:
        raise validation_problem(error.errors(include_url=False, include_input=False)) from error


def overridden(request: dict[str, Any], text: bytes) -> ReconstructionParameters:
    """The parameters of an earlier request, some replaced by a JSON object. Raises ProblemError."""
    if not text.strip():
        return ReconstructionParameters.model_validate(request)
    parsed(ReconstructionParameters, text)  # says what is wrong by the client's own names
    changes = json.loads(text)
    merged = {name: value for name, value in (request | changes).items() if value is not None}
    return parsed(ReconstructionParameters, json.dumps(merged).encode())


async def body_of(request: Request, limit: int) -> bytes:
    """A whole JSON body. Raises ProblemError."""
    text = bytearray()
    async for chunk in request.stream():
        text += chunk
        if len(text) > limit:
            raise ProblemError("upload-too-large", f"a JSON body may have {limit} bytes")
    if (announced := announced_digest(request)) is not None:
        require_digest(announced, hashlib.sha256(text).hexdigest())
    return bytes(text)


def digest_of(parameters: ReconstructionParameters, body: str) -> str:
    """What makes two requests the same: the scan and every parameter."""
    text = json.dumps(parameters.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(f"{body}\n{text}".encode()).hexdigest()
