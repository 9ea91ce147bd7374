"""`calibrate` and what comes of it: a factor that is found, asked for, refused and named."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest

from models.conformal_factors import ConformalFactors
from recon.conformal import Comparison
from recon.io.files import read_result, read_result_maps, write_scan
from recon.phantom import simulate
from service.conformal_measurement import (
    Compared,
    ComparisonFolder,
    Protocol,
    choose_slices,
    find_files,
    units_of,
    with_phase,
)
from service.jobs.batches import output_digest
from service.requests import ReconstructionParameters
from tests.models.factor_entries import entry
from tests.service.live import cli, ended, environment, serving, submitted

SIZE = 32
BEFORE = "b15e46cdaa8e9ab3d1bfd3d46054047819f186aada1af8c75abe36c91a2de802"
"""Name of an output as it was before there were calibrations."""
UNDERSAMPLED = ("--acceleration", 1.6, "--center-fraction", 0.5)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four fully sampled scans, one of two slices."""
    folder = tmp_path_factory.mktemp("full")
    for seed in range(4):
        scan, _ = simulate(1 + (seed == 0), 4, SIZE, SIZE, 40, seed)
        write_scan(folder / f"{seed}.h5", scan)
    return folder


@pytest.fixture
def own(models: Path, tmp_path: Path) -> Path:
    """A folder of models of this test's own."""
    return Path(shutil.copytree(models, tmp_path / "models"))


def calibrated_model(folder: Path, factor: float) -> ConformalFactors:
    digest = json.loads((folder / "tiny" / "config.json").read_text())["weights_sha256"]
    made = ConformalFactors(
        weights_sha256=digest,
        entries=(entry(acceleration=1.6, center_fraction=0.5, factor=factor, data="four heads"),),
    )
    (folder / "tiny" / "calibration.json").write_text(made.model_dump_json())
    return made


def test_calibrate_writes_a_factor_that_reconstruct_applies_and_names(
    own: Path, full: Path, scan: Path, tmp_path: Path
) -> None:
    run = environment(own)
    asked = ("calibrate", full, "--model", "tiny", "--preset", "fast", *UNDERSAMPLED)
    few = cli(run, *asked)
    assert (few.returncode, "too-few-scans" in few.stderr) == (2, True)
    assert "10" in few.stderr
    work = tmp_path / "work"
    done = cli(
        run, *asked, "--confidence", 0.75, "--about", "four heads", "--work", work, "--samples", 2
    )
    assert done.returncode == 0, done.stderr
    assert "after" in done.stdout
    text = (own / "tiny" / "calibration.json").read_bytes()
    [made] = ConformalFactors.model_validate_json(text).entries
    assert (made.units, made.unit, made.scans, made.samples) == (4, "scan", 4, 2)
    assert made.acceleration == pytest.approx(1.6, rel=0.1)
    assert made.date == datetime.now(UTC).date()
    assert made.coverage_90.before >= made.coverage_90.as_read_off

    # The fourth smallest of four scores is the largest: kept comparisons say which that is.
    kept = [dict(np.load(io.BytesIO(file.read_bytes()))) for file in sorted(work.glob("*.npz"))]
    assert len(kept) == 5
    names = Comparison.__dataclass_fields__
    scores = [Comparison(**{n: one[n] for n in names}).score for one in kept]
    assert min(scores) <= made.factor <= max(scores) + 1e-3
    stamps = {file: file.stat().st_mtime_ns for file in work.glob("*.npz")}
    again = cli(
        run, *asked, "--confidence", 0.75, "--about", "four heads", "--work", work, "--samples", 2
    )
    assert again.returncode == 0, again.stderr
    assert {file: file.stat().st_mtime_ns for file in work.glob("*.npz")} == stamps

    common = ("reconstruct", scan, "--model", "tiny", "--preset", "fast", "--samples", 2)
    plain, wide = tmp_path / "plain.h5", tmp_path / "wide.h5"
    assert cli(run, *common, "-o", plain, "-q").returncode == 0
    shown = cli(run, *common, "-o", wide, "--calibrated", "--png", tmp_path / "wide.png")
    assert shown.returncode == 0, shown.stderr
    told = " ".join(shown.stdout.split())
    assert f"times {made.factor:.3g}" in told
    assert "4 scans of four heads" in told
    (before, about), (after, named) = read_result(plain), read_result(wide)
    assert "conformal_factor" not in about
    assert named["conformal_factor"] == made.factor
    assert (named["conformal_units"], named["conformal_unit"]) == (4, "scan")
    assert named["conformal_date"] == made.date.isoformat()
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(other.magnitude_std, made.factor * one.magnitude_std, rtol=1e-5)
        np.testing.assert_array_equal(other.mean, one.mean)
        np.testing.assert_array_equal(other.samples, one.samples)
        middle = one.quantiles[1:3].mean(axis=0)
        ends = np.maximum(middle + made.factor * (one.quantiles - middle), 0)
        np.testing.assert_allclose(other.quantiles, ends, rtol=1e-4, atol=1e-5 * ends.max())
    std, quantiles = read_result_maps(
        wide, ["uncalibrated/magnitude_std", "uncalibrated/quantiles"]
    )
    np.testing.assert_array_equal(std, np.stack([p.magnitude_std for p in before]))
    np.testing.assert_array_equal(quantiles, np.stack([p.quantiles for p in before]))


@pytest.mark.parametrize(
    "asked",
    [
        ("--preset", "standard"),
        ("--preset", "fast", "--samples", 3),
        ("--preset", "fast", "--no-fit-noise"),
        ("--preset", "fast", "--coarse", "zero-filled"),
    ],
)
def test_a_factor_for_something_else_is_refused_before_the_work(
    own: Path, scan: Path, tmp_path: Path, asked: tuple[object, ...]
) -> None:
    calibrated_model(own, 1.3)
    out = tmp_path / "r.h5"
    done = cli(
        environment(own), "reconstruct", scan, "-o", out, "--model", "tiny", "--calibrated", *asked
    )
    assert (done.returncode, "no-calibration" in done.stderr) == (2, True), done.stderr
    assert not out.exists()


def test_bad_input_is_refused_with_what_to_do(
    own: Path, full: Path, scan: Path, tmp_path: Path
) -> None:
    run = environment(own)
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file["images"] = np.zeros((12, SIZE, SIZE), np.uint8)
    (tmp_path / "nothing").mkdir()
    (tmp_path / "sparse").mkdir()
    for name in ("a.h5", "b.h5"):
        shutil.copy(scan, tmp_path / "sparse" / name)
    easy = ("--confidence", 0.5, "--preset", "fast", "--model", "tiny", "--samples", 2)
    for arguments, said in (
        ((tmp_path / "sparse", *easy), "not-fully-sampled"),
        ((tmp_path / "nothing", *easy), "no-scans"),
        ((tmp_path / "empty.h5", "--images", "--unit", "slice", *easy), "empty-slice"),
        ((full, *easy, "--about", "x\x1b[2J", *UNDERSAMPLED), "cannot be described so"),
        ((full, *easy[:4]), "comes with the software"),
    ):
        done = cli(run, "calibrate", *arguments)
        assert (done.returncode, said in " ".join(done.stderr.split())) == (2, True), done.stderr
        assert "Traceback" not in done.stderr
    assert not (own / "tiny" / "calibration.json").exists()


@pytest.mark.slow
def test_a_calibrated_job_names_its_factor_and_another_is_refused(
    own: Path, scan: Path, tmp_path: Path
) -> None:
    made = calibrated_model(own, 1.3)
    with serving(tmp_path / "data", own) as server, server.client() as client:
        offered = client.get("/v1/models/tiny").json()
        assert offered["calibrated_for"] == [made.entries[0].purpose]
        job = ended(client, submitted(client, scan, calibrated=True, samples=4))
        assert job["state"] == "succeeded", job["error"]
        said = job["summary"]["calibration"]
        assert (said["factor"], said["units"], said["date"]) == (1.3, 12, "2026-11-25")
        link = job["links"]["results"]
        report = client.get(f"{link}/report.json").json()
        assert report["calibration"] == said
        (tmp_path / "r.h5").write_bytes(client.get(f"{link}/result.h5").content)
        (tmp_path / "std.npy").write_bytes(client.get(f"{link}/std.npy").content)
        posteriors, about = read_result(tmp_path / "r.h5")
        assert about["conformal_factor"] == 1.3
        [plain] = read_result_maps(tmp_path / "r.h5", ["uncalibrated/magnitude_std"])
        std = np.load(tmp_path / "std.npy")
        np.testing.assert_array_equal(std, np.stack([p.magnitude_std for p in posteriors]))
        np.testing.assert_allclose(std, 1.3 * plain, rtol=1e-5)
        page = client.get(f"/view/plain/{job['id']}").text
        assert "1.3" in page
        assert "2026-11-25" in page

        plain_job = ended(client, submitted(client, scan))
        assert plain_job["summary"]["calibration"] is None
        refused = ended(client, submitted(client, scan, calibrated=True, samples=3))
        assert refused["state"] == "failed"
        assert refused["error"]["type"] == "/problems/no-calibration"
        assert refused["error"]["status"] == 422
        answer = client.post(
            "/v1/reconstructions",
            json={"scan_id": job["scan"]["id"], "calibrated": True, "deadline_s": 60},
        )
        assert (answer.status_code, "calibrated" in answer.text) == (422, True)


def test_outputs_are_named_by_the_calibration_and_plain_ones_as_ever() -> None:
    scan, model = "a" * 64, "b" * 64
    plain = ReconstructionParameters(preset="fast")
    asked = ReconstructionParameters(preset="fast", calibrated=True)
    # Archives keep the outputs that they have.
    assert output_digest(scan, model, plain) == BEFORE
    assert output_digest(scan, model, plain, calibration_sha256="c") == BEFORE
    names = {output_digest(scan, model, asked, calibration_sha256=c) for c in ("c", "d", None)}
    assert len(names | {BEFORE}) == 4


def test_a_damaged_comparison_is_made_again(tmp_path: Path) -> None:
    kept = ComparisonFolder(tmp_path)
    values = Comparison(*(np.full(3, k, np.float32) for k in range(6)))
    kept.put("key", values, 4.0)
    found = kept.get("key")
    assert found is not None
    np.testing.assert_array_equal(found[0].std, values.std)
    assert found[1] == 4.0
    (tmp_path / "key.npz").write_bytes((tmp_path / "key.npz").read_bytes()[:-40])
    assert kept.get("key") is None
    assert kept.get("other") is None


def test_slices_are_spread_evenly_and_files_are_found_once(tmp_path: Path) -> None:
    assert choose_slices(10, 3) == [1, 5, 8]
    assert choose_slices(3, 5) == choose_slices(3, None) == [0, 1, 2]
    for name in ("b.h5", "a.hdf5", "c.txt"):
        (tmp_path / name).touch()
    found = find_files([tmp_path, tmp_path / "b.h5"])
    assert [path.name for path in found] == ["a.hdf5", "b.h5"]


def test_magnitudes_get_a_phase_and_keep_their_magnitude() -> None:
    magnitude = np.random.default_rng(0).uniform(0, 1, (24, 32)).astype(np.float32)
    image = with_phase(magnitude, 3)
    np.testing.assert_allclose(np.abs(image), magnitude, atol=1e-6)
    assert np.ptp(np.angle(image)) > 0.1
    np.testing.assert_array_equal(image, with_phase(magnitude, 3))
    assert not np.array_equal(image, with_phase(magnitude, 4))


def test_a_unit_is_a_file_or_a_slice() -> None:
    values = Comparison(*(np.ones(3, np.float32) for _ in range(6)))
    protocol = Protocol("tiny", "fast", None, 4.0)
    made = [Compared("f", digest, k, protocol, values, 4.0) for k, digest in enumerate("aab")]
    assert [len(unit.off) for unit in units_of(made, "scan")] == [6, 3]
    assert [len(unit.off) for unit in units_of(made, "slice")] == [3, 3, 3]
