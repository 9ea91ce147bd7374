"""Sending DICOM by STOW-RS (PS3.18, 10.5) to a server that the operator has configured.

What the server says of every single instance is read: an answer of success may hold failures.
"""

from __future__ import annotations

import json
import secrets
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import httpx
import pydicom

from service.settings import StowTarget

_BATCH_BYTES = 64 << 20
_BATCH_INSTANCES = 200
_ANSWER_BYTES = 16 << 20
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_REFERENCED, _FAILED = "00081199", "00081198"
_UID, _REASON = "00081155", "00081197"


@dataclass(frozen=True)
class Instance:
    """One DICOM file."""

    uid: str
    content: bytes


@dataclass
class Outcome:
    """What became of the instances of one try."""

    stored: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Instance: reason, in words."""
    again: set[str] = field(default_factory=set)
    """Those of the failures that another try may help."""
    problem: str | None = None
    """What was wrong with the whole try, if anything."""


def instance_of(content: bytes) -> Instance:
    """A DICOM file, known by its UID."""
    header = pydicom.dcmread(BytesIO(content), specific_tags=["SOPInstanceUID"])
    return Instance(str(header.SOPInstanceUID), content)


def send(target: StowTarget, instances: Sequence[Instance]) -> Outcome:
    """Try once to store all instances. Nothing is raised for what the server or network does."""
    outcome = Outcome()
    context = ssl.create_default_context(cafile=target.certificates)
    headers = {"Accept": "application/dicom+json"}
    if target.token:
        headers["Authorization"] = f"Bearer {target.token}"
    auth = (target.user, target.password or "") if target.user else None
    # Redirects are not followed: the address is the operator's choice alone.
    with httpx.Client(headers=headers, auth=auth, timeout=target.seconds, verify=context) as client:
        for batch in _batches(instances):
            _send_batch(client, target.url.rstrip("/") + "/studies", batch, outcome)
    return outcome


def _send_batch(
    client: httpx.Client, url: str, batch: Sequence[Instance], outcome: Outcome
) -> None:
    boundary = secrets.token_hex(16)
    kind = f'multipart/related; type="application/dicom"; boundary={boundary}'
    try:
        with client.stream(
            "POST", url, content=_body(batch, boundary), headers={"Content-Type": kind}
        ) as answer:
            status, text = answer.status_code, _read(answer)
    except httpx.HTTPError as error:
        fail(outcome, batch, f"no answer ({type(error).__name__})", again=True)
        return
    document = _document(text)
    if status in (200, 202, 409) and document is not None:
        _judge(document, batch, outcome)
    elif status == 200:
        outcome.stored += [instance.uid for instance in batch]
    else:
        fail(outcome, batch, f"the server answered {status}", again=status in _TRANSIENT)


def _judge(document: dict[str, Any], batch: Sequence[Instance], outcome: Outcome) -> None:
    """What the answer says of each instance; one that it passes over was not stored."""
    stored = {_value(item, _UID) for item in _items(document, _REFERENCED)}
    refused = {_value(item, _UID): _value(item, _REASON) for item in _items(document, _FAILED)}
    for instance in batch:
        if instance.uid in refused or instance.uid not in stored:
            reason = refused.get(instance.uid)
            code = int(reason) if isinstance(reason, int | float) else None
            outcome.failures[instance.uid] = meaning_of(code)
            # Out of resources, or a failure without a reason: it may pass.
            if code is None or code == 0x0110 or code >> 8 == 0xA7:
                outcome.again.add(instance.uid)
        else:
            outcome.stored.append(instance.uid)


def fail(outcome: Outcome, batch: Sequence[Instance], problem: str, *, again: bool) -> None:
    """Enter a whole try that stored nothing; `again` where another may help."""
    outcome.problem = problem
    for instance in batch:
        outcome.failures[instance.uid] = problem
        if again:
            outcome.again.add(instance.uid)


def meaning_of(code: int | None) -> str:
    """A DICOM status of storage in words."""
    known = {
        0x0110: "processing failure",
        0x0111: "already there with other content",
        0x0117: "invalid object",
        0x0122: "its kind is not taken",
        0x0124: "not authorised",
    }
    if code is None:
        return "not stored, without a reason"
    families = {0xA7: "out of resources", 0xA9: "does not match its kind"}
    family = "cannot be understood" if code >> 12 == 0xC else "failed"
    return f"{known.get(code) or families.get(code >> 8, family)} (0x{code:04X})"


def _batches(instances: Sequence[Instance]) -> Iterator[list[Instance]]:
    batch: list[Instance] = []
    size = 0
    for instance in instances:
        full = size + len(instance.content) > _BATCH_BYTES or len(batch) >= _BATCH_INSTANCES
        if batch and full:
            yield batch
            batch, size = [], 0
        batch.append(instance)
        size += len(instance.content)
    if batch:
        yield batch


def _body(batch: Sequence[Instance], boundary: str) -> bytes:
    parts = [
        b"--%b\r\nContent-Type: application/dicom\r\n\r\n%b\r\n"
        % (boundary.encode(), instance.content)
        for instance in batch
    ]
    return b"".join([*parts, b"--%b--\r\n" % boundary.encode()])


def _read(answer: httpx.Response) -> bytes:
    text = bytearray()
    for chunk in answer.iter_bytes():
        text += chunk
        if len(text) > _ANSWER_BYTES:
            break
    return bytes(text)


def _document(text: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(value, list) and len(value) == 1:  # some servers send a list of one
        value = value[0]
    return value if isinstance(value, dict) and (_REFERENCED in value or _FAILED in value) else None


def _items(document: dict[str, Any], tag: str) -> list[dict[str, Any]]:
    element = document.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return [v for v in values if isinstance(v, dict)] if isinstance(values, list) else []


def _value(item: dict[str, Any], tag: str) -> Any:  # noqa: ANN401  # parsed JSON
    element = item.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values else None
