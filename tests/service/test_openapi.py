"""Requests made from the OpenAPI document: no server error, every answer as documented."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from service.http.uploads import PART_TYPE
from tests.service.live import Server, ended, note, submitted

pytestmark = pytest.mark.slow  # whole servers started and killed: `make proofs`

EXAMPLES = int(os.environ.get("MRI_POSTERIOR_EXAMPLES", "6"))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
_known: dict[str, str] = {}


@schemathesis.serializer(PART_TYPE)
def as_bytes(_context: Any, value: Any) -> Any:
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def map_path_parameters(_context: Any, path_parameters: dict[str, Any] | None) -> Any:
    """Half of the time the id of something that is there, else nothing deep would be reached."""
    for name, value in (path_parameters or {}).items():
        if name in _known and sum(map(ord, str(value))) % 2:
            path_parameters[name] = _known[name]  # type: ignore[index]
    return path_parameters


@pytest.fixture
def schema(server: Server, scan: Path) -> Any:
    with server.client() as client:
        job = ended(client, submitted(client, scan))
        _known["job_id"], _known["scan_id"] = job["id"], job["scan"]["id"]
    return schemathesis.openapi.from_url(server.url + "/openapi.json")


def test_answers_are_as_documented(schema: Any) -> None:
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 25
    asked = Counter()
    for operation in operations:

        @given(case=operation.as_strategy())
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        def ask(case: Any) -> None:
            asked[case.operation.label] += 1
            case.call_and_validate(checks=CHECKS, timeout=60)

        ask()
    assert len(asked) == len(operations)
    note(f"{asked.total()} requests to {len(asked)} operations are answered as documented")


def test_the_document_refers_to_nothing_that_is_missing(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()

    def references(node: Any) -> Any:
        if isinstance(node, dict):
            for key, value in node.items():
                if key == "$ref":
                    yield value
                else:
                    yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    found = set(references(document))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        target = document
        for part in reference.removeprefix("#/").split("/"):
            target = target[part]


def test_every_operation_says_how_it_refuses(client: httpx.Client) -> None:
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for operation in operations.values():
            problems = [
                answer
                for answer in operation["responses"].values()
                if "application/problem+json" in answer.get("content", {})
            ]
            assert len(problems) >= 5, path
