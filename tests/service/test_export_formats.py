"""BIDS derivatives, BART files, fastMRI submissions and overviews, as their programs see them."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
from fastmri.evaluate import evaluate
from numpy.typing import NDArray
from typer.testing import CliRunner

from recon.errors import ScanError
from recon.io.files import read_scan, write_result
from recon.planes import ATTRIBUTE, ImagePlane
from recon.posterior import SlicePosterior
from service.bids_names import BidsName
from service.cli import app
from service.exports.bart import write_bart
from service.exports.bids import write_bids
from service.exports.dicom import write_dicom
from service.exports.fastmri import write_fastmri
from service.exports.images import ResultImages
from service.exports.overview import draw_overview, sides
from service.requests import ReconstructionParameters
from tests.mrd_files import header
from tests.service.marked_results import IDENTIFYING, marked, position_of, posterior


def problems_of(dataset: Path) -> list[str]:
    """What the BIDS validator finds, but for who the authors are, which nothing here knows."""
    validator = pytest.importorskip("bids_validator_deno")
    program = Path(validator.__file__).parents[4] / "bin" / "bids-validator-deno"
    run = subprocess.run(
        [str(program), str(dataset), "--format", "json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    found = json.loads(run.stdout)
    assert found["summary"]["dataProcessed"], run.stderr
    assert found["summary"]["totalFiles"] > 5
    issues = found["issues"]["issues"]
    return [f"{i['code']} {i.get('location')}" for i in issues if i["code"] != "TOO_FEW_AUTHORS"]


def with_label(images: ResultImages, old: str, new: str) -> ResultImages:
    for plane in images.stack.planes:
        plane.labels[new] = plane.labels.pop(old)
    return images


@pytest.mark.parametrize(
    ("name", "images", "made"),
    [
        ("sub-01_T1w", marked((6, 8)), ["anat/sub-01_desc-posteriorMean_T1w.nii.gz"]),
        (
            "sub-a1_ses-pre_acq-fast_ce-gd_FLAIR.nii.gz",
            marked((6, 8), repetitions=2),
            [
                f"ses-pre/anat/sub-a1_ses-pre_acq-fast_ce-gd_run-{run}_desc-posteriorMean_FLAIR.nii.gz"
                for run in (1, 2)
            ],
        ),
        (
            "sub-01_part-mag_MEGRE",
            with_label(marked((6, 8), repetitions=2), "repetition", "contrast"),
            [f"anat/sub-01_echo-{k}_part-mag_desc-posteriorMean_MEGRE.nii.gz" for k in (1, 2)],
        ),
        ("sub-01_MESE", marked((6, 8)), ["anat/sub-01_echo-1_desc-posteriorMean_MESE.nii.gz"]),
    ],
)
def test_the_bids_validator_finds_nothing_wrong(
    name: str, images: ResultImages, made: list[str], tmp_path: Path
) -> None:
    written = write_bids(images, tmp_path, name)
    means = [file for file in written if "posteriorMean" in file.name]
    subject = tmp_path / name.split("_")[0]
    assert [str(file.relative_to(subject)) for file in means] == made
    assert len(written) == 2 * len(means)
    assert problems_of(tmp_path) == []


def test_the_bids_validator_sees_what_is_wrong(tmp_path: Path) -> None:
    written = write_bids(marked((6, 8)), tmp_path, "sub-01_T1w")
    written[0].rename(written[0].with_name("sub-01_desc-posteriorMean_T9w.nii.gz"))
    assert problems_of(tmp_path)


def test_bids_images_lie_in_their_place_and_say_how_they_came_about(tmp_path: Path) -> None:
    images = marked((6, 8))
    mean, std = write_bids(images, tmp_path, "sub-01_T1w")
    volume = nibabel.load(mean)
    index = np.unravel_index(np.argmax(volume.get_fdata()), volume.shape)
    x, y, z = nibabel.affines.apply_affine(volume.affine, index)
    np.testing.assert_allclose((-x, -y, z), position_of(0, 5, 1, 3, (6, 8)), atol=1e-3)
    np.testing.assert_array_equal(
        np.asarray(nibabel.load(std).dataobj), np.moveaxis(images.std, 0, -1)
    )
    said = json.loads((mean.parent / "sub-01_desc-posteriorMean_T1w.json").read_text())
    assert said["Manufacturer"] == "SIEMENS"
    assert said["Units"] == "root sum of squares of the coils as received"
    assert said["SkullStripped"] is False
    assert said["MriPosterior"]["seed"] == 7
    told = "".join(file.read_text() for file in tmp_path.rglob("*.json"))
    assert [word for word in IDENTIFYING if word in told] == []
    described = json.loads((tmp_path / "dataset_description.json").read_text())
    assert described["GeneratedBy"] == [{"Name": "mri-posterior", "Version": "0.1.0"}]


def test_a_second_subject_joins_the_dataset_and_raw_data_are_left_alone(tmp_path: Path) -> None:
    write_bids(marked((6, 8)), tmp_path / "d", "sub-01_T1w")
    description = (tmp_path / "d" / "dataset_description.json").read_bytes()
    write_bids(marked((6, 8)), tmp_path / "d", "sub-02_T1w")
    assert (tmp_path / "d" / "dataset_description.json").read_bytes() == description
    assert problems_of(tmp_path / "d") == []
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.10.0"}')
    with pytest.raises(ScanError) as caught:
        write_bids(marked((6, 8)), raw, "sub-01_T1w")
    assert caught.value.code == "bids-dataset"
    assert [file.name for file in raw.iterdir()] == ["dataset_description.json"]


@pytest.mark.parametrize(
    "name",
    [
        "T1w", "sub-01", "sub-01_T9w", "sub-01_bold", "sub-01_desc-x_T1w", "sub-01_sub-02_T1w",
        "sub-../../x_T1w", "sub-01/anat/sub-01_T1w", "sub-01_acq-a.b_T1w", "sub-01_T1w\n",
    ],
)  # fmt: skip
def test_other_names_are_refused_by_command_line_and_service(name: str) -> None:
    with pytest.raises(ScanError) as caught:
        BidsName.of(name)
    assert caught.value.code == "bids-name"
    with pytest.raises(ValueError, match="bids_name"):
        ReconstructionParameters(bids_name=name)
    assert ReconstructionParameters(bids_name="sub-01_T1w").bids_name == "sub-01_T1w"


def test_images_that_bids_cannot_name_are_refused(tmp_path: Path) -> None:
    phases = with_label(marked((6, 8), repetitions=2), "repetition", "phase")
    with pytest.raises(ScanError, match="differ by phase"):
        write_bids(phases, tmp_path, "sub-01_T1w")
    with pytest.raises(ScanError, match="leave run out"):
        write_bids(marked((6, 8), repetitions=2), tmp_path, "sub-01_run-1_T1w")


def bart(folder: Path, *arguments: str) -> str:
    program = shutil.which("bart")
    if program is None:
        pytest.skip("Debian's bart is not installed")
    run = subprocess.run(
        [program, *arguments], check=True, cwd=folder, capture_output=True, text=True
    )
    return run.stdout


def with_draws(index: int, images: NDArray[np.complex64]) -> SlicePosterior:
    """A posterior of these draws (samples, rows, columns)."""
    made = posterior(index, np.abs(images[0]))
    values = {"mean": images.mean(0), "samples": images, "coarse": images[0]}
    return SlicePosterior(**{**made.__dict__, **values})


def test_bart_sees_its_own_phantom_again(tmp_path: Path) -> None:
    """Its k-space read, transformed and written: rows, columns and centre are where it has them."""
    bart(tmp_path, "phantom", "-x", "24", "image")
    bart(tmp_path, "resize", "-c", "0", "30", "1", "26", "image", "wide")
    bart(tmp_path, "fft", "-u", "3", "wide", "ksp")
    kspace = read_scan(tmp_path / "ksp.cfl").kspace[0, 0]
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(kspace), norm="ortho"))
    write_bart([with_draws(0, image[np.newaxis].astype(np.complex64))], {}, tmp_path / "ours.cfl")
    bart(tmp_path, "nrmse", "-t", "1e-5", "wide", "ours")


def test_bart_sees_slices_repetitions_and_samples_in_its_dimensions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = marked((6, 8), slices=3, repetitions=2)
    draws = rng.normal(size=(6, 4, 6, 8)) + 1j * rng.normal(size=(6, 4, 6, 8))
    posteriors = [with_draws(k, draw.astype(np.complex64)) for k, draw in enumerate(draws)]
    stack = {ATTRIBUTE: images.stack.to_text()}
    names = write_bart(posteriors, stack, tmp_path / "a.cfl")
    assert [name.name for name in names] == [
        "a.cfl", "a_std.cfl", "a_coarse.cfl", "a_samples.cfl"
    ]  # fmt: skip
    shape = bart(tmp_path, "show", "-m", "a_samples").splitlines()[-1]
    assert shape.split()[-16:] == [
        "6",
        "8",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
        "1",
        "2",
        "1",
        "3",
        "1",
        "4",
    ]
    bart(tmp_path, "avg", str(1 << 15), "a_samples", "averaged")
    bart(tmp_path, "nrmse", "-t", "1e-6", "averaged", "a")
    bart(tmp_path, "slice", "11", "1", "13", "2", "a", "one")
    one = np.fromfile(tmp_path / "one.cfl", "<c8").reshape(6, 8, order="F")
    np.testing.assert_allclose(one, posteriors[5].mean)
    write_bart(posteriors[1:], stack, tmp_path / "b.cfl")  # no full grid: one after the other
    assert bart(tmp_path, "show", "-d", "13", "b").split()[-1] == "5"
    with pytest.raises(ScanError) as caught:
        write_bart(posteriors, stack, tmp_path / "a.h5")
    assert caught.value.code == "bart-name"


def test_fastmris_evaluation_takes_the_submission(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.uniform(1, 2, (3, 12, 8)).astype(np.float32)
    posteriors = [posterior(k, image) for k, image in reversed(list(enumerate(truth)))]
    xml = header((12, 8, 1), (8, 8, 1))
    for folder in ("theirs", "ours"):
        (tmp_path / folder).mkdir()
    with h5py.File(tmp_path / "theirs" / "file1.h5", "w") as file:
        file["reconstruction_rss"] = truth[:, 2:10]
    write_fastmri(posteriors, xml, tmp_path / "ours" / "file1.h5")
    folders = {"target_path": tmp_path / "theirs", "predictions_path": tmp_path / "ours"}
    asked = SimpleNamespace(**folders, acquisition=None, acceleration=None)
    means = evaluate(asked, "reconstruction_rss").means()
    assert means["NMSE"] < 1e-12
    assert means["SSIM"] > 0.9999
    with pytest.raises(ScanError) as caught:
        write_fastmri(posteriors[:2], xml, tmp_path / "file2.h5")
    assert caught.value.code == "slices-missing"


def test_the_overview_is_a_page_that_names_nobody(tmp_path: Path) -> None:
    images = marked((48, 64), identified=True)
    file = write_dicom(images, tmp_path, b"key", overview=True)[-1]
    data = pydicom.dcmread(file)
    page = data.pixel_array
    assert (file.name, data.SOPClassUID.name) == (
        "overview_0001.dcm", "Secondary Capture Image Storage"
    )  # fmt: skip
    np.testing.assert_array_equal(page, draw_overview(images))
    # What is not shown is who: the same page comes without a header, but for the derivation.
    np.testing.assert_array_equal(page, draw_overview(marked((48, 64), identified=False)))
    assert "FrameOfReferenceUID" not in data
    mean = pydicom.dcmread(tmp_path / "mean_0001.dcm")
    assert data.StudyInstanceUID == mean.StudyInstanceUID
    assert data.SeriesInstanceUID != mean.SeriesInstanceUID
    greys = page[150:550, 130:390].reshape(-1, 3)
    assert (greys == greys[:, :1]).mean() > 0.9
    colours = page[150:550, 640:900].reshape(-1, 3).astype(int)
    assert (colours[:, 0] > colours[:, 2] + 20).mean() > 0.5


@pytest.mark.parametrize(
    ("read", "phase", "expected"),
    [
        ((1, 0, 0), (0, 1, 0), ("A", "R")),
        ((0, -1, 0), (-1, 0, 0), ("A", "R")),
        ((0, 0, 1), (1, 0, 0), ("H", "R")),
        ((0, 1, 0), (0, 0, -1), ("H", "A")),
    ],
)
def test_the_overviews_letters_are_the_sides_that_people_expect(
    read: tuple[int, int, int], phase: tuple[int, int, int], expected: tuple[str, str]
) -> None:
    normal = tuple(np.cross(read, phase))
    assert sides(ImagePlane((0, 0, 0), read, phase, normal, {})) == expected


def test_the_command_writes_every_format(tmp_path: Path) -> None:
    images = marked((6, 8))
    posteriors = [posterior(i, image) for i, image in enumerate(images.mean)]
    provenance = {ATTRIBUTE: images.stack.to_text(), "seed": 3, "acceleration": 2.0}
    result = tmp_path / "r.h5"
    write_result(result, posteriors, provenance, header=header((6, 8, 1)))

    def export(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["export", str(result), *arguments])
        code = getattr(done.exception, "code", "")
        return "" if done.exit_code == 0 else f"{code} {done.output}"

    bids = str(tmp_path / "bids")
    assert export("--to", "bids", "-o", bids, "--bids-name", "sub-01_T1w") == ""
    assert problems_of(Path(bids)) == []
    assert export("--to", "bart", "-o", str(tmp_path / "a.cfl")) == ""
    assert (tmp_path / "a_samples.hdr").is_file()
    assert export("--to", "fastmri", "-o", str(tmp_path / "f.h5")) == ""
    with h5py.File(tmp_path / "f.h5") as file:
        np.testing.assert_allclose(file["reconstruction"], images.mean, rtol=1e-6)
    assert export("-o", str(tmp_path / "dicom"), "--overview") == ""
    assert (tmp_path / "dicom" / "overview_0001.dcm").is_file()
    assert "--bids-name" in export("--to", "bids", "-o", bids)
    assert "--bids-name" in export("--to", "bart", "-o", "b.cfl", "--bids-name", "sub-01_T1w")
    (tmp_path / "a.cfl").unlink()  # those beside it are still there
    assert "output-exists" in export("--to", "bart", "-o", str(tmp_path / "a.cfl"))
    assert "bart-name" in export("--to", "bart", "-o", str(tmp_path / "a.h5"))
