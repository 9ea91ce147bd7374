"""Scans whose files do not say how they are read, or whose calibration lines are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch

from recon.io.files import read_result, read_scan
from recon.phantom import simulate
from service.client import Client
from service.http.context import Context
from service.runs import load_scan
from service.store.uploads import Uploads
from service.worker.loading import Loader
from tests.service.in_process import OFFERS, ask
from tests.service.live import QUICK, cli, environment, problem
from tests.service.tus import TUS, WHOLE, part

AXES = "slice,row,column,coil,part"
FILE = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def context(make: Callable[..., Context]) -> Context:
    made = make()
    made.workers.enter("one", "cpu", 1, OFFERS)
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Undersampled k-space, coils and parts last, and the lines in the middle of another scan."""
    folder = tmp_path_factory.mktemp("arrays")
    kspace = simulate(1, 4, 32, 32, 40, 0)[0].kspace
    undersampled = np.zeros_like(kspace)
    undersampled[..., ::2] = kspace[..., ::2]
    for name, values in (("scan", undersampled), ("lines", kspace[..., 4:28, 4:28])):
        last = np.ascontiguousarray(np.moveaxis(values, 1, -1))
        np.save(folder / f"{name}.npy", np.stack([last.real, last.imag], axis=-1))
    return folder / "scan.npy", folder / "lines.npy"


def uploaded(context: Context, file: Path, **query: str) -> httpx.Response:
    return ask(
        context, "POST", "/v1/scans", params=query, content=file.read_bytes(), headers=FILE
    )  # fmt: skip


def test_how_a_file_is_read_is_said_once_where_it_is_uploaded(
    context: Context, files: tuple[Path, Path]
) -> None:
    without = uploaded(context, files[0])
    problem(without, 422, "invalid-scan")
    answer = uploaded(context, files[0], axes="slice, row,column,coil,part")
    assert answer.status_code == 201, answer.text
    scan = answer.json()
    assert [scan[name] for name in ("slices", "coils", "rows", "columns")] == [1, 4, 32, 32]
    assert (scan["axes"], scan["layout"]) == (AXES, None)
    job = ask(context, "POST", "/v1/reconstructions", json={"scan_id": scan["id"]}).json()
    assert job["params"]["axes"] == AXES
    # Said of the same content once more, it replaces what was said before.
    again = uploaded(context, files[0], axes="slice,column,row,coil,part")
    assert (again.status_code, again.json()["id"]) == (200, scan["id"])
    assert again.json()["axes"] == "slice,column,row,coil,part"
    named = {"scan_id": scan["id"], "axes": AXES}
    job = ask(context, "POST", "/v1/reconstructions", json=named).json()
    assert job["params"]["axes"] == AXES


def test_one_request_says_it_and_brings_the_file(
    context: Context, files: tuple[Path, Path]
) -> None:
    answer = ask(
        context, "POST", "/v1/reconstructions", params={"axes": AXES},
        content=files[0].read_bytes(), headers=FILE,
    )  # fmt: skip
    assert answer.status_code == 202, answer.text
    assert answer.json()["params"]["axes"] == AXES


def test_an_upload_in_parts_says_it_too(context: Context, files: tuple[Path, Path]) -> None:
    content = files[0].read_bytes()
    begun = ask(
        context, "POST", "/v1/uploads", params={"axes": AXES},
        headers=TUS | {"Upload-Length": str(len(content))},
    )  # fmt: skip
    link = begun.headers["location"]
    headers = part(0, content) | WHOLE
    done = ask(context, "PATCH", link, content=content, headers=headers)
    assert (done.status_code, done.json()["axes"]) == (200, AXES)


def test_uploads_of_before_are_found(tmp_path: Path) -> None:
    uploads = Uploads(tmp_path, 1)
    upload = uploads.create("key", 5)
    state = tmp_path / f"{upload.id}.json"
    text = state.read_text().replace(', "layout": null, "axes": null', "")
    assert "axes" not in text
    state.write_text(text)
    assert uploads.get(upload.id, "key") == upload


@pytest.mark.parametrize(
    "wrong", [{"axes": "slice,row,wave"}, {"layout": "dicom"}, {"calibration_scan_id": ""}]
)
def test_other_words_are_refused(context: Context, wrong: dict[str, Any]) -> None:
    answer = ask(context, "POST", "/v1/reconstructions", json={"scan_id": "x"} | wrong)
    problem(answer, 422, "invalid-parameter")


def test_lines_of_another_scan_make_the_coil_maps_as_on_the_command_line(
    context: Context, files: tuple[Path, Path]
) -> None:
    scan, lines = (uploaded(context, file, axes=AXES).json() for file in files)
    body = {"scan_id": scan["id"], "calibration_scan_id": lines["id"]}
    made = ask(context, "POST", "/v1/reconstructions", json=body).json()
    assert made["params"]["calibration_scan_id"] == lines["id"]
    job = context.jobs.get(made["id"])
    assert job is not None
    loaded = Loader(context.settings, context.storage, torch.device("cpu")).load(job).scan
    ours = load_scan(files[0], axes=AXES, calibration=files[1])
    assert loaded.calibration is not None
    np.testing.assert_array_equal(loaded.calibration, ours.calibration)
    np.testing.assert_array_equal(loaded.kspace, ours.kspace)
    # As long as the job has not ended, nobody takes them away.
    kept = ask(context, "DELETE", f"/v1/scans/{lines['id']}")
    problem(kept, 409, "scan-in-use")
    assert lines["sha256"] in context.scans.digests()
    assert lines["id"] not in [each.id for each in context.scans.older_than(2e9)]
    ask(context, "POST", f"/v1/reconstructions/{made['id']}/cancel")
    again = ask(context, "POST", f"/v1/reconstructions/{made['id']}/retry").json()
    assert context.jobs.get(again["id"]).calibration_sha256 == lines["sha256"]
    ask(context, "POST", f"/v1/reconstructions/{again['id']}/cancel")
    assert ask(context, "DELETE", f"/v1/scans/{lines['id']}").status_code == 204
    gone = ask(context, "POST", "/v1/reconstructions", json=body)
    problem(gone, 404, "not-found")


def test_lines_of_others_cannot_be_named(
    make: Callable[..., Context], files: tuple[Path, Path]
) -> None:
    context = make()
    context.workers.enter("one", "cpu", 1, OFFERS)
    tokens = [context.keys.create(name, frozenset({"read", "write"}), None)[1] for name in "ab"]
    mine, theirs = ({"Authorization": f"Bearer {token}"} for token in tokens)
    content = files[0].read_bytes()
    post = {"params": {"axes": AXES}, "content": content}
    scan = ask(context, "POST", "/v1/scans", headers=FILE | mine, **post).json()
    other = ask(context, "POST", "/v1/scans", headers=FILE | theirs, **post).json()
    body = {"scan_id": scan["id"], "calibration_scan_id": other["id"]}
    problem(ask(context, "POST", "/v1/reconstructions", json=body, headers=mine), 404, "not-found")


@pytest.mark.slow
def test_client_and_command_send_both_files(
    client: httpx.Client, server: Any, files: tuple[Path, Path], models: Path, tmp_path: Path
) -> None:
    with Client(str(client.base_url)) as ours:
        job = ours.submit(files[0], calibration=files[1], axes=AXES, **QUICK)
        first = ours.wait(job.id)
        ours.download(first, tmp_path / "first.h5")
    done = cli(
        environment(models), "submit", files[0], "--server", client.base_url, "--axes", AXES,
        "--calibration", files[1], "--model", "tiny", "--preset", "fast",
        "-o", tmp_path / "second.h5", "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    one, two = (read_result(tmp_path / f"{name}.h5")[0] for name in ("first", "second"))
    np.testing.assert_array_equal(one[0].mean, two[0].mean)
    assert one[0].mean.shape == read_scan(files[0], axes=AXES.split(",")).image_shape
