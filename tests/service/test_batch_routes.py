"""/v1/batches against a running server."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.service.live import QUICK, events, tiny_scan


@pytest.fixture
def scan_ids(client: httpx.Client, tmp_path: Path) -> list[str]:
    """Two scans of one slice, different at every call."""
    seeds = [time.time_ns() % 100_000 + k for k in range(2)]
    files = [tiny_scan(tmp_path / f"{seed}.h5", seed=seed) for seed in seeds]
    return [client.post("/v1/scans", content=file.read_bytes()).json()["id"] for file in files]


def until_ended(client: httpx.Client, batch: dict[str, Any]) -> dict[str, Any]:
    for _ in range(1200):
        now: dict[str, Any] = client.get(batch["links"]["self"]).json()
        if now["state"] == "ended":
            return now
        time.sleep(0.1)
    raise AssertionError(now)


def test_a_batch_from_manifest_to_report(client: httpx.Client, scan_ids: list[str]) -> None:
    asked = {"params": QUICK, "items": [{"scan_id": one, "id": f"my {one}"} for one in scan_ids]}
    answer = client.post("/v1/batches", json=asked)
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    assert answer.headers["location"] == batch["links"]["self"]
    story = events(client, batch)
    assert [e["event"] for e in story].count("item") == 2
    assert story[-1]["event"] == "end"
    assert story[-1]["data"]["counts"]["succeeded"] == 2
    seen = next(e for e in story if e["event"] == "item")
    rest = events(client, batch, int(seen["id"]))
    assert [e["event"] for e in rest].count("item") == 1
    items = client.get(batch["links"]["items"], params={"state": "succeeded"}).json()["items"]
    assert [item["name"] for item in items] == [f"my {one}" for one in scan_ids]
    assert client.get(items[0]["reconstruction"]).json()["priority"] == "archive"
    names = client.get(items[0]["reconstruction"] + "/results").json()["items"]
    content = client.get(names[0]["href"]).content
    assert len(content) == names[0]["bytes"]
    rows = list(csv.DictReader(io.StringIO(client.get(batch["links"]["report"]).text)))
    assert [row["state"] for row in rows] == ["succeeded"] * 2
    again = client.post("/v1/batches", json=asked).json()
    assert again["state"] == "ended"  # nothing is computed twice
    assert again["counts"]["succeeded"] == 2


def test_a_batch_is_cancelled_and_tried_again(client: httpx.Client, scan_ids: list[str]) -> None:
    long = QUICK | {"preset": "thorough", "samples": 64, "priority": "archive"}
    lines = "\n".join(json.dumps(long | {"scan_id": one}) for one in scan_ids)
    answer = client.post(
        "/v1/batches", content=lines, headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.status_code == 202, answer.text
    batch = answer.json()
    client.post(batch["links"]["cancel"])
    assert until_ended(client, batch)["counts"]["cancelled"] == 2
    retried = client.post(batch["links"]["retry-failed"]).json()
    assert retried["state"] != "ended"
    client.post(batch["links"]["cancel"])
    assert until_ended(client, batch)["counts"]["cancelled"] == 2


def test_nothing_is_queued_when_an_item_cannot_be(
    client: httpx.Client, scan_ids: list[str]
) -> None:
    items = [
        {"scan_id": scan_ids[0]},
        {"scan_id": "absent"},
        {"scan_id": scan_ids[0], "slices": "7"},
        {"scan_id": scan_ids[0], "sed": 1},
        {"scan_id": scan_ids[0], "model": "absent"},
    ]
    answer = client.post("/v1/batches", json={"items": items})
    assert answer.status_code == 422
    pointers = [error["pointer"] for error in answer.json()["errors"]]
    assert pointers == ["/items/1", "/items/2", "/items/3/sed", "/items/4"]
    assert client.post("/v1/batches", json={"items": []}).status_code == 422
    assert client.get("/v1/batches/absent").status_code == 404
    assert (
        client.post("/v1/batches", content=b"x", headers={"Content-Type": "a/b"}).status_code == 415
    )
