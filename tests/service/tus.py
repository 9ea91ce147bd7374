"""What a client of tus 1.0 says."""

from __future__ import annotations

import base64
import hashlib

import httpx

TUS = {"Tus-Resumable": "1.0.0"}


WHOLE = {"Prefer": "return=representation"}


PART = TUS | {"Content-Type": "application/offset+octet-stream"}


def begun(client: httpx.Client, length: int, *tags: str) -> str:
    headers = TUS | {"Upload-Length": str(length)}
    answer = client.post("/v1/uploads", params={"tag": list(tags)}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def offset(client: httpx.Client, link: str) -> int:
    answer = client.head(link, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


def part(at: int, content: bytes, algorithm: str | None = None) -> dict[str, str]:
    headers = PART | {"Upload-Offset": str(at)}
    if algorithm is not None:
        digest = base64.b64encode(hashlib.new(algorithm, content).digest()).decode()
        headers["Upload-Checksum"] = f"{algorithm} {digest}"
    return headers
