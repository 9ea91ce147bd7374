"""DICOM and NIfTI of a job over HTTP and of the command line, and their way to a PACS."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import ismrmrd
import nibabel
import numpy as np
import pydicom
import pytest

from recon.io.files import read_result
from recon.planes import turned, upright
from service.exports.images import load_images
from service.products import PRODUCTS, DicomSeries
from tests.mrd_files import header, write
from tests.service.live import cli, ended, environment, serving, submitted, tiny_scan, wait_for
from tests.service.marked_results import IDENTIFYING, IDENTITY
from tests.service.mrd_sessions import ACQUISITIONS, SIZE
from tests.service.orthanc import orthanc, retrieved

SIEMENS = Path(__file__).parents[3] / "shared" / "data" / "scans" / "siemens_ismrmrd_r3.h5"


def errors_of(file: Path) -> list[str]:
    """What Debian's validator finds wrong; nothing where it is not installed."""
    if shutil.which("dciodvfy") is None:
        return []
    run = subprocess.run(
        ["dciodvfy", str(file)], capture_output=True, text=True, timeout=60, check=False
    )
    return [line for line in run.stderr.splitlines() if line.startswith("Error")]


def raw_file(folder: Path) -> Path:
    xml = header((SIZE, SIZE, 1), extra=IDENTITY)
    return write(folder / "raw.h5", xml, ACQUISITIONS)


def test_a_file_says_which_series_it_belongs_to() -> None:
    names = [series.file(12) for series in DicomSeries]
    assert names == ["mean_0012.dcm", "std_0012.dcm", "std_map_0012.dcm", "overview_0012.dcm"]
    assert [DicomSeries.of(name) for name in names] == list(DicomSeries)
    assert [series.number for series in DicomSeries] == [1, 2, 3, 4]
    with pytest.raises(KeyError):
        DicomSeries.of("readme.txt")


@pytest.mark.slow
def test_a_job_of_raw_data_has_dicom_and_nifti_and_a_target_gets_them(
    tmp_path: Path, models: Path
) -> None:
    with orthanc(tmp_path / "orthanc") as url:
        targets = {
            "pacs": {"url": url, "user": "user", "password": "secret"},
            "away": {"url": "http://127.0.0.1:9/dicom-web"},
        }
        settings = {"delivery_targets": json.dumps(targets), "delivery_attempts": 2}
        pause = {"delivery_pause_seconds": 0.1}
        with (
            serving(tmp_path / "data", models, **settings, **pause) as server,
            server.client() as client,
        ):
            job = ended(client, submitted(client, raw_file(tmp_path)))
            assert job["state"] == "succeeded", job["error"]
            listed = client.get(job["links"]["results"]).json()["items"]
            links = {item["name"]: item["href"] for item in listed}
            (tmp_path / "result.h5").write_bytes(client.get(links["result.h5"]).content)
            [posterior] = read_result(tmp_path / "result.h5")[0]

            (tmp_path / "std.nii.gz").write_bytes(client.get(links["std.nii.gz"]).content)
            volume = np.asarray(nibabel.load(tmp_path / "std.nii.gz").dataobj)
            np.testing.assert_array_equal(volume[..., 0], posterior.magnitude_std)

            packed = client.get(links["dicom.zip"])
            assert packed.headers["content-type"] == "application/zip"
            with zipfile.ZipFile(io.BytesIO(packed.content)) as archive:
                archive.extractall(tmp_path / "dicom")
            files = sorted((tmp_path / "dicom").iterdir())
            assert [f.name for f in files] == [
                "mean_0001.dcm", "overview_0001.dcm", "std_0001.dcm", "std_map_0001.dcm"
            ]  # fmt: skip
            assert {file.name: errors_of(file) for file in files if errors_of(file)} == {}
            text = b"".join(file.read_bytes() for file in files).decode("latin-1")
            assert [word for word in IDENTIFYING if word in text] == []

            deliveries = f"/v1/reconstructions/{job['id']}/deliveries"
            everything = {"target": "pacs", "products": ["mean", "std", "map", "overview"]}
            answer = client.post(deliveries, json=everything)
            assert answer.status_code == 202, answer.text
            link = answer.headers["location"]
            wait_for(lambda: client.get(link).json()["finished_at"], 120)
            done = client.get(link).json()
            assert (done["state"], done["stored"], done["failures"]) == ("delivered", 4, {})
            back = retrieved(url, str(pydicom.dcmread(files[0]).StudyInstanceUID))
            sent = {str(pydicom.dcmread(file).SOPInstanceUID): file for file in files}
            assert set(back) == set(sent)
            for uid, content in back.items():
                assert pydicom.dcmread(io.BytesIO(content)) == pydicom.dcmread(sent[uid])

            away = client.post(deliveries, json={"target": "away"}).json()["links"]["self"]
            wait_for(lambda: client.get(away).json()["finished_at"], 120)
            failed = client.get(away).json()
            assert (failed["state"], failed["attempts"]) == ("failed", 2)
            assert failed["error"]["type"] == "/problems/delivery-failed"
            assert len(client.get(deliveries).json()["items"]) == 2

            unknown = client.post(deliveries, json={"target": "http://127.0.0.1/"})
            assert (unknown.status_code, unknown.json()["type"]) == (
                404,
                "/problems/unknown-target",
            )


@pytest.mark.slow
def test_a_scan_that_does_not_know_its_size_gets_images_when_told(
    tmp_path: Path, models: Path
) -> None:
    scan = tiny_scan(tmp_path / "scan.h5")
    with serving(tmp_path / "data", models) as server, server.client() as client:
        job = ended(client, submitted(client, scan))
        link = job["links"]["results"]
        missing = client.get(f"{link}/dicom.zip")
        assert (missing.status_code, "voxel_mm" in missing.json()["detail"]) == (404, True)
        scan_id = job["scan"]["id"]
        asked = {"model": "tiny", "preset": "fast", "self_check": False, "scan_id": scan_id}
        bids = {"voxel_mm": [1, 1.5, 4], "bids_name": "sub-07_FLAIR"}
        again = client.post("/v1/reconstructions", json=asked | bids).json()
        link = ended(client, again)["links"]["results"]
        of_doubtful = {"classical.npy", "difference.npy"}
        expected = [name for name in PRODUCTS if name not in of_doubtful]
        assert [entry["name"] for entry in client.get(link).json()["items"]] == expected
        (tmp_path / "mean.nii.gz").write_bytes(client.get(f"{link}/mean.nii.gz").content)
        zooms = nibabel.load(tmp_path / "mean.nii.gz").header.get_zooms()
        np.testing.assert_allclose(zooms, (1, 1.5, 4))
        with zipfile.ZipFile(io.BytesIO(client.get(f"{link}/bids.zip").content)) as archive:
            names = archive.namelist()
        assert "sub-07/anat/sub-07_desc-posteriorStd_FLAIR.nii.gz" in names
        assert "dataset_description.json" in names


@pytest.mark.slow
def test_one_command_makes_dicom_and_nifti_of_the_genuine_siemens_file(
    tmp_path: Path, models: Path
) -> None:
    if not SIEMENS.is_file():
        pytest.skip("the shared Siemens file is not here")
    done = cli(
        environment(models), "reconstruct", SIEMENS, "-o", tmp_path / "r.h5", "--model", "tiny",
        "--preset", "fast", "--samples", "2", "--no-self-check", "--no-fit-noise",
        "--dicom", tmp_path / "dicom", "--nifti", tmp_path / "mean.nii.gz", "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "dicom").iterdir())
    assert [file.name for file in files] == ["mean_0001.dcm", "std_0001.dcm"]
    assert {file.name: errors_of(file) for file in files if errors_of(file)} == {}
    mean = pydicom.dcmread(files[0])
    assert (mean.Rows, mean.Columns) == (144, 192)
    assert mean.Manufacturer == "SIEMENS"
    images = load_images(tmp_path / "r.h5")
    slope = float(mean.RealWorldValueMappingSequence[0].RealWorldValueSlope)
    shown = turned(images.mean[0], upright(images.stack.planes[0]))
    error = np.abs(mean.pixel_array * slope - shown).max()
    assert error <= slope / 2 * 1.01  # single precision has 24 bits for 16-bit steps
    assert nibabel.load(tmp_path / "mean_std.nii.gz").shape == (192, 144, 1)


def test_a_wrong_name_is_refused_before_the_work(tmp_path: Path, models: Path) -> None:
    scan = raw_file(tmp_path)
    with ismrmrd.Dataset(str(scan), mode="r") as file:
        assert file.number_of_acquisitions() == len(ACQUISITIONS)
    done = cli(
        environment(models), "reconstruct", scan, "-o", tmp_path / "r.h5", "--nifti", "a.img"
    )
    assert (done.returncode, "nifti-name" in done.stderr) == (2, True)
    assert not (tmp_path / "r.h5").exists()
