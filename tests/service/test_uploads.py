"""Uploads in parts, as tus 1.0 has them."""

from __future__ import annotations

import hashlib
import socket
import time
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from service.store.uploads import Uploads
from tests.service.live import Server, problem, tiny_scan, wait_for
from tests.service.tus import TUS, WHOLE, begun, offset, part


def test_parts_make_the_same_scan(client: httpx.Client, tmp_path: Path) -> None:
    content = tiny_scan(tmp_path / "scan.h5", seed=77).read_bytes()
    link = begun(client, len(content))
    cuts = [0, 1000, len(content) // 2, len(content)]
    for start, end in pairwise(cuts):
        assert offset(client, link) == start
        piece = content[start:end]
        answer = client.patch(link, content=piece, headers=part(start, piece, "sha256"))
        assert answer.headers["upload-offset"] == str(end)
    assert (answer.status_code, answer.content) == (204, b"")  # tus knows no other success
    scan = client.get(answer.headers["content-location"]).json()
    assert scan["sha256"] == hashlib.sha256(content).hexdigest()
    assert client.post("/v1/scans", content=content).json() == scan
    # A client whose line broke before it heard of it asks again, and finds the scan.
    found = client.head(link, headers=TUS).headers
    assert found["upload-offset"] == found["upload-length"] == str(len(content))
    assert found["content-location"] == answer.headers["content-location"]
    again = client.patch(link, content=b"", headers=part(len(content), b"") | WHOLE)
    assert (again.status_code, again.json()) == (200, scan)
    beyond = client.patch(link, content=b"x", headers=part(len(content), b"x"))
    problem(beyond, 413, "upload-too-large")
    problem(client.patch(link, content=b"x", headers=part(0, b"x")), 409, "offset-mismatch")
    assert client.delete(link, headers=TUS).status_code == 204
    assert client.get(f"/v1/scans/{scan['id']}").status_code == 200


def test_tags_of_an_upload_are_those_of_its_scan(client: httpx.Client, tmp_path: Path) -> None:
    content = tiny_scan(tmp_path / "scan.h5", seed=78).read_bytes()
    link = begun(client, len(content), "study:A12", "arm:left:upper")
    answer = client.patch(link, content=content, headers=part(0, content) | WHOLE)
    assert answer.json()["tags"] == {"study": "A12", "arm": "left:upper"}
    found = client.get("/v1/scans", params={"tag": "study:A12"}).json()["items"]
    assert answer.json()["id"] in [each["id"] for each in found]
    headers = TUS | {"Upload-Length": "5"}
    nameless = client.post("/v1/uploads", params={"tag": "no-colon"}, headers=headers)
    problem(nameless, 422, "invalid-parameter")


def test_a_damaged_part_does_not_count(client: httpx.Client, scan: Path) -> None:
    content = scan.read_bytes()
    link = begun(client, len(content))
    wrong = part(0, b"something else", "sha1")
    problem(client.patch(link, content=content[:500], headers=wrong), 460, "checksum-mismatch")
    assert offset(client, link) == 0
    answer = client.patch(link, content=content, headers=part(0, content, "md5") | WHOLE)
    assert answer.json()["sha256"] == hashlib.sha256(content).hexdigest()


def test_a_part_must_begin_where_the_upload_ends(client: httpx.Client) -> None:
    link = begun(client, 100)
    client.patch(link, content=b"a" * 10, headers=part(0, b""))
    for at in (0, 5, 11):
        found = problem(client.patch(link, content=b"b", headers=part(at, b"")), 409,
                        "offset-mismatch")  # fmt: skip
        assert found["offset"] == 10
    beyond = client.patch(link, content=b"c" * 91, headers=part(10, b""))
    problem(beyond, 413, "upload-too-large")
    assert client.delete(link, headers=TUS).status_code == 204
    assert client.head(link, headers=TUS).status_code == 404


def test_what_arrived_before_the_line_broke_is_kept(server: Server, client: httpx.Client) -> None:
    link = begun(client, 1_000_000)
    host, _, port = server.url.removeprefix("http://").partition(":")
    head = (
        f"PATCH {link} HTTP/1.1\r\nHost: {host}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
        "Content-Type: application/offset+octet-stream\r\nContent-Length: 1000000\r\n\r\n"
    )
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(head.encode() + b"x" * 300_000)
        time.sleep(0.5)
    assert wait_for(lambda: offset(client, link)) == 300_000
    assert client.delete(link, headers=TUS).status_code == 204


def test_a_file_that_is_refused_leaves_nothing(server: Server, client: httpx.Client) -> None:
    link = begun(client, 9)
    problem(client.patch(link, content=b"not HDF5!", headers=part(0, b"")), 422, "not-hdf5")
    assert list((server.data / "incoming").glob("*.tus")) == []


def test_other_versions_and_nonsense_are_refused(client: httpx.Client) -> None:
    answer = client.post("/v1/uploads", headers={"Tus-Resumable": "0.2", "Upload-Length": "9"})
    problem(answer, 412, "tus-version")
    assert answer.headers["tus-version"] == "1.0.0"
    for length in ("-1", "many", "", "0"):
        answer = client.post("/v1/uploads", headers=TUS | {"Upload-Length": length})
        problem(answer, 400, "invalid-request")
    too_long = client.post("/v1/uploads", headers=TUS | {"Upload-Length": str(1 << 40)})
    assert too_long.status_code in (413, 507)
    said = client.options("/v1/uploads").headers
    assert said["tus-extension"] == "creation,termination,checksum,expiration"


@pytest.mark.parametrize("hours", [1e-9, 1.0])
def test_expired_uploads_are_swept_away(tmp_path: Path, hours: float) -> None:
    uploads = Uploads(tmp_path, hours)
    upload = uploads.create("me", 10)
    time.sleep(0.01)
    assert uploads.sweep() == (hours < 1)
    assert (uploads.get(upload.id, "me") is None) == (hours < 1)
    assert uploads.get(upload.id, "another") is None


def test_what_killed_processes_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "recon-read-abc").mkdir()
    (tmp_path / "recon-read-abc" / "0.npy").write_bytes(b"k-space")
    (tmp_path / "x.part").write_bytes(b"half a scan")
    assert Uploads(tmp_path, 1).sweep() == 0
    time.sleep(0.01)
    assert Uploads(tmp_path, 1e-9).sweep() == 2
    assert list(tmp_path.iterdir()) == []


def test_bytes_behind_the_offset_of_a_crash_are_not_believed(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 1)
    upload = uploads.create("me", 10)
    uploads.content(upload.id).write_bytes(b"12345")
    accepted = uploads.accept(upload, 3)
    assert (accepted.offset, uploads.get(upload.id, "me")) == (3, accepted)
