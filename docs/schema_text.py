"""JSON schemas and an OpenAPI document as Markdown for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from service.http.problems import MEDIA_TYPE as PROBLEM


def http_page(document: dict[str, Any]) -> str:
    """Routes with parameters, bodies and answers; then the schemas."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    refusals = [set(_refusals(operation)) for _, _, operation in operations]
    common = set.intersection(*filter(None, refusals))
    lines = [
        "# HTTP API",
        "",
        f"Version {document['info']['version']}. A running service describes itself under `/docs` "
        "and `/openapi.json`; the document is also [here](openapi.json). A refusal is a "
        "[problem](#problem) (RFC 9457); what to do about each is under "
        "[troubleshooting](../troubleshooting.md).",
        "",
        "Nearly every route may answer with these, and its own:",
        "",
        *(f"* {status}: {cell(meaning)}" for status, meaning in sorted(common)),
        "",
    ]
    for method, path, operation in operations:
        lines += _operation(method, path, operation, common)
    lines += ["## Schemas", ""]
    for name, schema in sorted(document["components"]["schemas"].items()):
        lines += schema_section(name, schema)
    return "\n".join(lines)


def _refusals(operation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(status, meaning) of each problem that a route documents."""
    for status, answer in operation["responses"].items():
        if PROBLEM in answer.get("content", {}):
            for meaning in dict.fromkeys(answer["description"].split("; ")):
                yield status, meaning


def _operation(
    method: str, path: str, operation: dict[str, Any], common: set[tuple[str, str]]
) -> Iterator[str]:
    yield f"## {method} {path}"
    yield ""
    yield operation.get("description") or operation.get("summary", "")
    yield ""
    if parameters := operation.get("parameters"):
        yield from ("| parameter | in | type | meaning |", "|---|---|---|---|")
        for one in parameters:
            kind = _kind(one.get("schema", {}))
            star = " (required)" if one.get("required") else ""
            text = cell(one.get("description", ""))
            yield f"| `{one['name']}`{star} | {one['in']} | {kind} | {text} |"
        yield ""
    if content := operation.get("requestBody", {}).get("content"):
        bodies = [f"`{media}`{_of(body)}" for media, body in content.items()]
        yield f"**Body:** {', '.join(bodies)}"
        yield ""
    yield "**Answers:**"
    yield ""
    for status, answer in operation["responses"].items():
        if PROBLEM not in answer.get("content", {}):
            bodies = [f"`{m}`{_of(body)}" for m, body in answer.get("content", {}).items()]
            text = cell(answer.get("description", ""))
            yield f"* {status}: {', '.join([text, *bodies])}"
    for status, meaning in sorted(set(_refusals(operation)) - common):
        yield f"* {status}: {cell(meaning)}"
    yield ""


def _of(body: dict[str, Any]) -> str:
    name = body.get("schema", {}).get("$ref", "").rpartition("/")[2]
    return f" ([{name}](#{name.lower()}))" if name else ""


def schema_section(name: str, schema: dict[str, Any]) -> Iterator[str]:
    """A schema with its fields."""
    yield f"### {name}"
    yield ""
    yield str(schema.get("description", "")).partition("\n\n")[0]
    yield ""
    if "enum" in schema:
        yield "One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + "."
    if properties := schema.get("properties"):
        required = schema.get("required", ())
        yield from ("| field | type | default | meaning |", "|---|---|---|---|")
        for field, about in properties.items():
            default = "required" if field in required else f"`{json.dumps(about.get('default'))}`"
            text = cell(about.get("description", ""))
            yield f"| `{field}` | {_kind(about)} | {default} | {text} |"
    yield ""


def _kind(schema: dict[str, Any]) -> str:
    """A JSON schema in a few words."""
    if reference := schema.get("$ref"):
        name = reference.rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(dict.fromkeys(_kind(part) for part in schema[key]))
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        kind = f"array of {_kind(schema.get('items', {}))}"
    bounds = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "maxLength": "length ≤",
    }
    limits = [f"{sign} {schema[key]:g}" for key, sign in bounds.items() if key in schema]
    return f"{kind} ({', '.join(limits)})" if limits else kind


def cell(text: str) -> str:
    """Text that fits into a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")
