"""Requests and refusals against a running server."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import httpx
import numpy as np
import pytest

from tests.service.live import HDF5, QUICK, Server, ended, problem, submitted, tiny_scan, wait_for


def stored(client: httpx.Client, scan: Path) -> str:
    return client.post("/v1/scans", content=scan.read_bytes(), headers=HDF5).json()["id"]


def hdf5(path: Path, **datasets: Any) -> bytes:
    with h5py.File(path, "w") as file:
        for name, value in datasets.items():
            file[name] = value
    return path.read_bytes()


def test_scans_are_found_by_their_tags(client: httpx.Client, tmp_path: Path) -> None:
    content = tiny_scan(tmp_path / "a.h5", seed=77).read_bytes()
    url, key = "/v1/scans", {"Idempotency-Key": "tagged"}

    def send(*tags: str, **headers: str) -> httpx.Response:
        return client.post(
            url, content=content, params={"tag": list(tags)}, headers=HDF5 | key | headers
        )

    made = send("study:A12", "arm:left:upper")
    assert made.json()["tags"] == {"study": "A12", "arm": "left:upper"}
    again = send("arm:left:upper", "study:A12")
    assert (again.status_code, again.json()) == (201, made.json())
    assert again.headers["idempotency-replayed"] == "true"
    problem(send("study:A13"), 422, "idempotency-conflict")
    problem(send("study"), 422, "invalid-parameter")
    problem(client.post(url, content=content, params={"tga": "a:b"}), 422, "invalid-parameter")

    def found(*tags: str) -> list[str]:
        items = client.get(url, params={"tag": list(tags)}).json()["items"]
        return [item["id"] for item in items]

    assert found("study:A12") == found("study:A12", "arm:left:upper") == [made.json()["id"]]
    assert found("study:A12", "arm:right") == found("study:A") == []
    other = client.post(url, content=content, params={"tag": "study:B"})
    assert (other.status_code, other.json()["tags"]) == (200, {"study": "B"})
    plain = client.post(url, content=content)
    assert (plain.json()["id"], plain.json()["tags"]) == (made.json()["id"], {"study": "B"})
    assert found("study:A12") == []


def test_an_idempotency_key_makes_an_upload_happen_once(
    client: httpx.Client, tmp_path: Path
) -> None:
    content, other = (tiny_scan(tmp_path / f"{k}.h5", seed=k).read_bytes() for k in (78, 79))
    key = HDF5 | {"Idempotency-Key": "one-upload"}
    made, again = (client.post("/v1/scans", content=content, headers=key) for _ in range(2))
    assert "idempotency-replayed" not in made.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.json()) == (201, made.json())
    assert again.headers["location"] == made.headers["location"]
    refused = client.post("/v1/scans", content=other, headers=key)
    problem(refused, 422, "idempotency-conflict")
    sha256 = hashlib.sha256(other).hexdigest()
    assert client.get("/v1/scans", params={"sha256": sha256}).json()["items"] == []


def test_a_job_has_a_log_of_its_own(client: httpx.Client, scan: Path) -> None:
    secret = "Doe^Jane"
    job = ended(client, submitted(client, scan, samples=2, **{"tag.note": secret}))
    answer = client.get(job["links"]["logs"])
    assert answer.headers["content-type"].partition(";")[0] == "application/x-ndjson"
    assert secret not in answer.text
    lines = [json.loads(line) for line in answer.text.splitlines()]
    steps = ("prepare", "slice 0", "slice 1", "assemble")
    assert [(line["event"], line.get("step")) for line in lines] == [
        ("queued", None),
        *((what, step) for step in steps for what in ("started", "finished")),
        ("succeeded", None),
    ]
    assert {line["job_id"] for line in lines} == {job["id"]}
    assert {line["level"] for line in lines} == {"info"}
    times = [line["ts"] for line in lines[:-2]]
    assert times == sorted(times)
    problem(client.get("/v1/reconstructions/none/logs"), 404, "not-found")


def test_the_same_content_is_stored_once(client: httpx.Client, tmp_path: Path) -> None:
    content = tiny_scan(tmp_path / "a.h5", seed=21).read_bytes()
    first, second = (client.post("/v1/scans", content=content) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json() == second.json()
    assert first.headers["location"] == f"/v1/scans/{first.json()['id']}"
    listed = client.get("/v1/scans", params={"sha256": hashlib.sha256(content).hexdigest()})
    assert [entry["id"] for entry in listed.json()["items"]] == [first.json()["id"]]


def test_a_wrong_digest_is_refused_and_nothing_stays(server: Server, scan: Path) -> None:
    digest = base64.b64encode(bytes(32)).decode()
    with server.client() as client:
        answer = client.post(
            "/v1/scans",
            content=scan.read_bytes(),
            headers=HDF5 | {"Content-Digest": f"sha-256=:{digest}:"},
        )
    problem(answer, 400, "digest-mismatch")
    assert list((server.data / "incoming").glob("*.part")) == []


@pytest.mark.parametrize(
    ("name", "status", "kind", "reason"),
    [
        ("text", 422, "not-hdf5", "unknown-format"),
        ("empty", 422, "not-hdf5", "empty-file"),
        ("cut", 422, "invalid-scan", "unreadable"),
        ("real", 422, "invalid-scan", "kspace-shape"),
        ("nothing", 422, "invalid-scan", "no-kspace"),
        ("external", 422, "unsafe-hdf5", "external-link"),
    ],
)
def test_files_that_are_refused(
    client: httpx.Client, scan: Path, tmp_path: Path, name: str, status: int, kind: str, reason: str
) -> None:
    path = tmp_path / "made.h5"
    contents = {
        "text": lambda: b"this is not HDF5",
        "empty": lambda: b"",
        "cut": lambda: scan.read_bytes()[: scan.stat().st_size // 2],
        "real": lambda: hdf5(path, kspace=np.ones((1, 2, 4, 4))),
        "nothing": lambda: hdf5(path, other=np.ones(3)),
        "external": lambda: hdf5(path, kspace=h5py.ExternalLink("/etc/passwd", "/")),
    }
    answer = client.post("/v1/scans", content=contents[name](), headers=HDF5)
    assert problem(answer, status, kind)["reason"] == reason


def test_values_that_show_only_when_read_fail_the_job(client: httpx.Client, tmp_path: Path) -> None:
    noise = np.full((2, 100), np.nan, np.complex64)
    kspace = np.ones((1, 2, 16, 16), np.complex64)
    content = hdf5(tmp_path / "nan.h5", kspace=kspace, noise=noise)
    answer = client.post("/v1/reconstructions", params={"model": "tiny"}, content=content)
    done = ended(client, answer.json())
    assert done["state"] == "failed"
    assert (done["error"]["type"], done["error"]["reason"]) == (
        "/problems/invalid-scan",
        "not-finite",
    )
    answer = client.get(done["links"]["results"])
    problem(answer, 409, "job-without-result")


@pytest.mark.parametrize(
    ("change", "status", "kind"),
    [
        ({"presett": "fast"}, 422, "invalid-parameter"),
        ({"preset": "slow"}, 422, "invalid-parameter"),
        ({"samples": 1}, 422, "invalid-parameter"),
        ({"slices": "7"}, 422, "invalid-parameter"),
        ({"model": "../../etc"}, 422, "invalid-parameter"),
        ({"model": "no-such-model"}, 404, "unknown-model"),
        ({"scan_id": "nowhere"}, 404, "not-found"),
        ({"deadline_s": 5}, 422, "invalid-parameter"),
    ],
)
def test_requests_that_are_refused(
    client: httpx.Client, scan: Path, change: dict[str, Any], status: int, kind: str
) -> None:
    body = {**QUICK, "scan_id": stored(client, scan), **change}
    problem(client.post("/v1/reconstructions", json=body), status, kind)


def test_refusals_name_the_field(client: httpx.Client) -> None:
    answer = client.post("/v1/reconstructions", json={"scan_id": "x", "seed": -1})
    errors = problem(answer, 422, "invalid-parameter")["errors"]
    assert [entry["pointer"] for entry in errors] == ["/seed"]
    problem(
        client.post(
            "/v1/reconstructions", content=b"{", headers={"Content-Type": "application/json"}
        ),
        400,
        "invalid-request",
    )
    problem(
        client.post("/v1/scans", content=b"{}", headers={"Content-Type": "text/plain"}),
        415,
        "unsupported-media-type",
    )
    problem(client.get("/v1/reconstructions", params={"stat": "queued"}), 422, "invalid-parameter")
    problem(client.get("/nowhere"), 404, "not-found")
    problem(client.delete("/v1/info"), 405, "method-not-allowed")


def test_an_idempotency_key_makes_a_request_happen_once(client: httpx.Client, scan: Path) -> None:
    body = {**QUICK, "scan_id": stored(client, scan), "tags": {"run": "once"}}
    headers = {"Idempotency-Key": "with a space"}
    first = client.post("/v1/reconstructions", json=body, headers={"Idempotency-Key": "first"})
    again = client.post("/v1/reconstructions", json=body, headers={"Idempotency-Key": "first"})
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    other = client.post(
        "/v1/reconstructions", json=body | {"seed": 5}, headers={"Idempotency-Key": "first"}
    )
    problem(other, 422, "idempotency-conflict")
    malformed = client.post("/v1/reconstructions", json=body, headers=headers)
    problem(malformed, 400, "invalid-request")
    ended(client, first.json())


def test_an_id_of_the_clients_choice(client: httpx.Client, scan: Path) -> None:
    link, content = "/v1/reconstructions/patient-7.h5", scan.read_bytes()
    parameters = {key: str(value).lower() for key, value in QUICK.items()}
    first = client.put(link, params=parameters, content=content)
    assert first.status_code == 202
    again = client.put(link, params=parameters, content=content)
    assert again.json()["id"] == first.json()["id"]
    problem(client.put(link, params=parameters | {"seed": "1"}, content=content), 422, "id-reused")
    done = client.get(link, headers={"Prefer": "wait=60"})
    assert done.headers["preference-applied"] == "wait=60"
    assert done.json()["state"] == "succeeded"


def test_a_form_carries_parameters_and_scan(client: httpx.Client, scan: Path) -> None:
    answer = client.post(
        "/v1/reconstructions",
        data={"params": json.dumps(QUICK | {"seed": 4})},
        files={"file": ("scan.h5", scan.read_bytes(), "application/x-hdf5")},
    )
    assert answer.status_code == 202, answer.text
    assert answer.json()["params"]["seed"] == 4
    assert ended(client, answer.json())["state"] == "succeeded"
    wrong = client.post("/v1/reconstructions", files={"other": b"x"})
    problem(wrong, 400, "invalid-request")


def test_retry_and_delete(server: Server, client: httpx.Client, scan: Path) -> None:
    job = submitted(client, scan)
    again = client.post(f"/v1/reconstructions/{job['id']}/retry")
    if again.status_code == 409:
        problem(again, 409, "job-not-finished")
    done = ended(client, job)
    again = client.post(f"/v1/reconstructions/{job['id']}/retry")
    assert again.json()["predecessor"] == job["id"]
    assert again.headers["link"].endswith('rel="predecessor-version"')
    ended(client, again.json())
    assert client.delete(done["links"]["self"]).status_code == 204
    problem(client.get(done["links"]["self"]), 404, "not-found")
    assert not (server.data / "reconstructions" / job["id"]).exists()


def test_a_job_that_did_not_change_is_not_sent_again(client: httpx.Client, scan: Path) -> None:
    done = ended(client, submitted(client, scan))
    tag = client.get(done["links"]["self"]).headers["etag"]
    again = client.get(done["links"]["self"], headers={"If-None-Match": tag})
    assert (again.status_code, again.content) == (304, b"")


def test_lists_are_paged(client: httpx.Client, scan: Path) -> None:
    jobs = [ended(client, submitted(client, scan, slices="0"))["id"] for _ in range(3)]
    seen: list[str] = []
    cursor = None
    while len(seen) < 3:
        params = {"limit": 2, "state": "succeeded"} | ({"cursor": cursor} if cursor else {})
        page = client.get("/v1/reconstructions", params=params).json()
        seen += [entry["id"] for entry in page["items"]]
        cursor = page["next_cursor"]
    assert seen[:3] == jobs[::-1]


def test_a_scan_that_a_job_needs_is_kept(client: httpx.Client, tmp_path: Path) -> None:
    scan = tiny_scan(tmp_path / "kept.h5", slices=2, seed=33)
    job = submitted(client, scan, preset="thorough")
    link = job["links"]["scan"]
    problem(client.delete(link), 409, "scan-in-use")
    client.post(job["links"]["cancel"])
    ended(client, job)
    assert client.delete(link).status_code == 204
    problem(client.get(link), 404, "not-found")


def test_a_deadline_chooses_the_work_and_the_result_says_so(
    client: httpx.Client, scan: Path
) -> None:
    parameters = {"model": "tiny", "scan_id": stored(client, scan)}
    hurried = client.post("/v1/reconstructions", json=parameters | {"deadline_s": 0.05}).json()
    relaxed = client.post("/v1/reconstructions", json=parameters | {"deadline_s": 3000}).json()
    hurried, relaxed = ended(client, hurried), ended(client, relaxed)
    assert (hurried["plan"]["preset"], hurried["plan"]["samples"]) == ("fast", 2)
    assert hurried["summary"]["reached"]["deadline_met"] is False
    assert (relaxed["plan"]["preset"], relaxed["plan"]["samples"]) == ("thorough", 16)
    assert relaxed["summary"]["reached"]["deadline_met"] is True
    assert relaxed["summary"]["samples"] == 16


def test_a_wanted_accuracy_is_reached(client: httpx.Client, scan: Path) -> None:
    parameters = {"model": "tiny", "scan_id": stored(client, scan), "target_mc_error": 0.15}
    done = ended(client, client.post("/v1/reconstructions", json=parameters).json())
    assert done["summary"]["reached"]["mc_error"] <= 0.15


def test_a_picture_so_far_is_there_while_the_job_runs(client: httpx.Client, scan: Path) -> None:
    job = submitted(client, scan, preset="thorough", samples=64)
    picture = wait_for(
        lambda: found if (found := client.get(job["links"]["preview"])).status_code == 200 else None
    )
    assert picture.content.startswith(b"\x89PNG")
    problem(client.get(job["links"]["results"]), 409, "job-not-finished")
    client.post(job["links"]["cancel"])
    ended(client, job)


def test_documentation_needs_no_other_host(client: httpx.Client) -> None:
    page = client.get("/docs").text
    assert "http" not in page.replace("httpx", "")
    for asset in ("/docs/assets/swagger-ui.css", "/docs/assets/swagger-ui-bundle.js"):
        assert asset in page
        assert client.get(asset).status_code == 200


def test_metrics_count_what_happened(client: httpx.Client, scan: Path) -> None:
    before = client.get("/metrics").text
    ended(client, submitted(client, scan, slices="0"))
    after = client.get("/metrics").text

    def value(text: str) -> float:
        lines = [x for x in text.splitlines() if x.startswith("recon_jobs_total{")]
        return sum(float(x.rpartition(" ")[2]) for x in lines if 'state="succeeded"' in x)

    assert value(after) == value(before) + 1
    assert after.rstrip().endswith("# EOF")


def test_pages_of_other_sites_cannot_reach_a_server_on_this_machine(client: httpx.Client) -> None:
    foreign = client.get("/v1/info", headers={"Host": "evil.example"})
    problem(foreign, 403, "forbidden")
    crossed = client.post("/v1/scans", content=b"x", headers={"Origin": "https://evil.example"})
    problem(crossed, 403, "forbidden")
