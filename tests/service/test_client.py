"""The Python client and `mri-posterior submit`, against a running server."""

from __future__ import annotations

from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from recon.io.files import read_result
from service.cli import app
from service.client import Client, Reconstruction, ServiceError
from service.report import Progress, Report
from service.settings import SettingsError
from tests.service.live import QUICK, Server, cli, environment

pytestmark = pytest.mark.slow  # whole servers started and killed: `make proofs`


def test_submit_wait_download(server: Server, scan: Path, tmp_path: Path) -> None:
    seen: list[Progress] = []
    with Client(server.url) as client:
        job = client.submit(scan, **QUICK, priority="scanner")
        done = client.wait(job.id, seen.append)
        target = client.download(done, tmp_path / "result.h5")
        posteriors, attributes = read_result(target)
        assert [p.index for p in posteriors] == [0, 1]
        same = client.posterior(done)
        np.testing.assert_array_equal(same.mean[1], posteriors[1].mean)
        assert same.attributes["model_id"] == "tiny"
        assert attributes["model_id"] == "tiny"
        assert all(0 <= progress.fraction <= 1 for progress in seen)
        client.delete(done.id)
        with pytest.raises(ServiceError) as caught:
            client.get(done.id)
    assert caught.value.code == "not-found"
    assert [file.name for file in tmp_path.iterdir()] == ["result.h5"]


def test_a_product_that_there_is_not_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["submit", "x.h5", "--product", "mean.png", "-o", "x"])
    assert isinstance(run.exception, SettingsError)
    assert "mean.nii.gz" in str(run.exception)
    run = CliRunner().invoke(app, ["submit", "x.h5", "--product", "mean.npy"])
    assert isinstance(run.exception, SettingsError)


def test_what_fails_says_why(server: Server, scan: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.h5"
    text.write_text("this is not HDF5")
    with Client(server.url) as client:
        with pytest.raises(ServiceError) as caught:
            client.submit(text)
        assert caught.value.code == "not-hdf5"
        job = client.submit(scan, model="tiny", preset="thorough", samples=64)
        client.cancel(job.id)
        with pytest.raises(ServiceError) as caught:
            client.wait(job.id)
        assert caught.value.code == "cancelled"


def test_a_download_that_arrives_damaged_is_not_kept(tmp_path: Path) -> None:
    def damaged(_request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=b"wrong", headers={"ETag": '"right"'})

    def described(links: dict[str, str]) -> dict[str, object]:
        empty = dict.fromkeys(("progress", "queue_position", "summary", "error"))
        when = "2026-01-01T00:00:00Z"
        ends = {"created_at": when, "finished_at": when}
        return {"id": "1", "state": "succeeded", "attempt": 1, "links": links, **empty, **ends}

    job = Reconstruction.model_validate(described({"results": "/r"}))
    with (
        Client("http://none", transport=httpx.MockTransport(damaged)) as client,
        pytest.raises(ServiceError) as caught,
    ):
        client.download(job, tmp_path / "result.h5")
    assert caught.value.code == "digest-mismatch"
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_submits(server: Server, models: Path, scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "result.h5"
    options = ("--server", server.url, "--model", "tiny", "--preset", "fast", "--slices", "0")
    done = cli(environment(models), "submit", scan, *options, "-o", out)
    assert done.returncode == 0, done.stderr
    assert len(read_result(out)[0]) == 1
    report = tmp_path / "report.json"
    done = cli(
        environment(models), "submit", scan, *options, "--product", "report.json", "-o", report
    )
    assert done.returncode == 0, done.stderr
    assert Report.model_validate_json(report.read_bytes()).slices[0].slice == 0
    refused = cli(environment(models), "submit", scan, *options, "--preset", "slow")
    assert refused.returncode == 1
    assert "invalid-parameter" in refused.stderr
    away = ("--server", "http://127.0.0.1:9")
    absent = cli(environment(models), "submit", scan, *away)
    assert absent.returncode == 1
    assert "does not answer" in absent.stderr.replace("\n", " ")
