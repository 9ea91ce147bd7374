"""A scan goes in over HTTP, a posterior comes out: real processes, real SQLite."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from recon.io.files import read_result
from service.products import PRODUCTS
from tests.recon.scan_files import assert_same
from tests.service.live import QUICK, cli, ended, environment, events, submitted


def test_the_result_is_the_command_lines(
    client: httpx.Client, models: Path, scan: Path, tmp_path: Path
) -> None:
    made = client.post("/v1/scans", content=scan.read_bytes()).json()
    assert made["sha256"] == hashlib.sha256(scan.read_bytes()).hexdigest()
    assert (made["slices"], made["coils"], made["rows"], made["columns"]) == (2, 4, 32, 32)
    job = client.post(
        "/v1/reconstructions",
        json={**QUICK, "scan_id": made["id"], "self_check": True, "seed": 7},
    )
    assert job.status_code == 202
    done = ended(client, job.json())
    assert done["state"] == "succeeded", done["error"]
    by_service = tmp_path / "service.h5"
    by_service.write_bytes(client.get(done["links"]["results"] + "/result.h5").content)
    by_command = tmp_path / "command.h5"
    run = cli(
        environment(models),
        *("reconstruct", scan, "-o", by_command, "--model", "tiny", "--preset", "fast"),
        *("--seed", 7, "--quiet"),
    )
    assert run.returncode == 0, run.stderr
    (left, left_attributes), (right, right_attributes) = map(read_result, (by_service, by_command))
    assert len(left) == len(right) == 2
    for one, other in zip(left, right, strict=True):
        assert_same(one, other)
    for attributes in (left_attributes, right_attributes):
        attributes.pop("created")
    assert left_attributes == right_attributes


def test_events_tell_the_whole_story_and_can_be_resumed(client: httpx.Client, scan: Path) -> None:
    job = submitted(client, scan)
    story = events(client, job)
    kinds = [entry["event"] for entry in story]
    assert kinds[-1] == "end"
    assert kinds.count("slice") == 2
    assert {"coarse"} <= {e["data"]["kind"] for e in story if e["event"] == "preview"}
    ids = [int(entry["id"]) for entry in story]
    assert ids == sorted(set(ids))
    states = [entry["data"]["state"] for entry in story if entry["event"] == "state"]
    assert states == ["queued", "running", "succeeded"]
    middle = next(entry for entry in story if entry["event"] == "slice")
    rest = events(client, job, int(middle["id"]))
    assert [e["event"] for e in rest if e["event"] == "slice"] == ["slice"]
    assert all(int(e["id"]) > int(middle["id"]) for e in rest)
    assert events(client, job, ids[-1]) == []


def test_products_are_consistent(client: httpx.Client, scan: Path, tmp_path: Path) -> None:
    done = ended(client, submitted(client, scan))
    listed = {
        entry["name"]: entry for entry in client.get(done["links"]["results"]).json()["items"]
    }
    made = [product for product in PRODUCTS.values() if product.absent is None]
    assert list(listed) == [product.name for product in made]
    assert [entry["contents"] for entry in listed.values()] == [p.contents for p in made]
    arrays = {}
    for name in ("mean", "std", "coarse", "samples"):
        entry = listed[f"{name}.npy"]
        content = client.get(entry["href"]).content
        assert len(content) == entry["bytes"]
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
        arrays[name] = np.load(io.BytesIO(content), allow_pickle=False)
    assert arrays["samples"].shape == (4, 2, 32, 32)
    result = tmp_path / "result.h5"
    result.write_bytes(client.get(listed["result.h5"]["href"]).content)
    posteriors, _ = read_result(result)
    np.testing.assert_array_equal(arrays["mean"], [p.mean for p in posteriors])
    np.testing.assert_array_equal(arrays["samples"][:, 1], posteriors[1].samples)
    report = client.get(listed["report.json"]["href"]).json()
    assert report == done["summary"]
    assert [entry["slice"] for entry in report["slices"]] == [0, 1]


def test_a_range_is_a_part_of_the_file(client: httpx.Client, scan: Path) -> None:
    done = ended(client, submitted(client, scan))
    link = done["links"]["results"] + "/mean.npy"
    whole = client.get(link)
    part = client.get(link, headers={"Range": "bytes=100-199", "If-Range": whole.headers["etag"]})
    assert part.status_code == 206
    assert part.content == whole.content[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(whole.content)}"
    assert client.get(link, headers={"Range": "bytes=99999999-"}).status_code == 416
    again = client.get(link, headers={"If-None-Match": whole.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_pictures_follow_the_window(client: httpx.Client, scan: Path) -> None:
    done = ended(client, submitted(client, scan))
    mean = np.load(io.BytesIO(client.get(done["links"]["results"] + "/mean.npy").content))
    high = float(np.abs(mean[1]).max())
    answer = client.get(
        done["links"]["preview"], params={"slice": 1, "product": "mean", "window": f"0,{high}"}
    )
    grey = np.asarray(Image.open(io.BytesIO(answer.content)), float)
    np.testing.assert_allclose(grey, 255 * np.abs(mean[1]) / high, atol=0.51)
    missing = client.get(done["links"]["preview"], params={"slice": 5})
    assert missing.status_code == 404
