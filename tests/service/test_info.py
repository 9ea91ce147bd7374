"""`info` knows what people have: scans, results, masks, and what they took for a scan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from typer.testing import CliRunner

from recon.errors import ScanError
from recon.io.files import read_scan, write_result, write_scan
from recon.io.recognition import recognise
from recon.phantom import simulate
from recon.undersampling import undersample, undersampling_mask
from service.cli import app
from tests.recon.slice_posteriors import slice_of
from tests.twix_files import line, protocol
from tests.twix_files import write as write_twix


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a full scan, one that runs, one with too few lines, and one with maps."""
    folder = tmp_path_factory.mktemp("scans")
    full, _ = simulate(2, 4, 48, 48)
    write_scan(folder / "full.h5", full)
    wide = undersample(full, undersampling_mask((48, 48), "equispaced", 2, 0.34, 0))
    write_scan(folder / "runs.h5", wide)
    narrow = undersample(full, undersampling_mask((48, 48), "equispaced", 3, 0.08, 0))
    write_scan(folder / "narrow.h5", narrow)
    write_scan(folder / "maps.h5", replace(narrow, coil_maps=np.ones_like(narrow.kspace)))
    return folder


@pytest.mark.parametrize(
    ("name", "runs", "advice"),
    [
        ("full", True, "undersample {file}"),
        ("runs", True, "reconstruct {file}"),
        ("narrow", False, "--maps"),
        ("maps", True, "reconstruct {file}"),
    ],
)
def test_scans_say_whether_they_run(scans: Path, name: str, runs: bool, advice: str) -> None:
    found = recognise(scans / f"{name}.h5")
    assert found.kind == "fastMRI k-space (HDF5)"
    assert found.runs is runs
    assert advice in found.advice
    assert "2 slices, 4 coils, 48 × 48, Cartesian" in found.contents


def test_a_result_says_what_made_it(tmp_path: Path) -> None:
    posterior = slice_of(np.ones((3, 8, 9)))
    write_result(tmp_path / "r.h5", [posterior], {"model_id": "brain-small", "preset": "fast"})
    found = recognise(tmp_path / "r.h5")
    assert found.kind == "result of `reconstruct`"
    assert found.contents[0] == "1 slice of 8 × 9, 3 samples each"
    assert "brain-small" in found.contents[1]
    assert "export {file}" in found.advice


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content + bytes(600))
    return path


@pytest.mark.parametrize(
    ("name", "content", "kind", "advice"),
    [
        ("image.dcm", bytes(128) + b"DICM", "DICOM", "train"),
        ("image.nii.gz", b"\x1f\x8b", "NIfTI", "train"),
        ("P12345.7", b"x", "GE P-file", "ge_to_ismrmrd"),
        ("scan.raw", b"x", "Philips", "philips_to_ismrmrd"),
        ("old.mat", b"MATLAB 5.0 MAT-file", "MATLAB before", "-v7.3"),
        ("text.h5", b"this is not HDF5", "not known", "fastMRI"),
    ],
)
def test_what_is_taken_for_a_scan_is_named(
    tmp_path: Path, name: str, content: bytes, kind: str, advice: str
) -> None:
    found = recognise(write(tmp_path / name, content))
    assert found.kind.startswith(kind)
    assert not found.runs
    assert advice in found.advice


def test_matlab_behind_a_header_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        file["kspace"] = np.ones((1, 1, 8, 8), np.complex64)
    with (tmp_path / "x.mat").open("r+b") as file:
        file.write(b"MATLAB 7.3 MAT-file")
    found = recognise(tmp_path / "x.mat")
    assert found.kind.startswith("CMRxRecon")
    assert found.runs


def test_siemens_raw_data_run(tmp_path: Path) -> None:
    kspace = simulate(1, 2, 32, 32)[0].kspace[0]
    blocks = [line(kspace[..., k], Lin=k, centre_line=16) for k in range(32)]
    found = recognise(write_twix(tmp_path / "meas.dat", (protocol(flReadoutOSFactor=1.0), blocks)))
    assert (found.kind, found.runs) == ("Siemens twix", True)
    assert found.contents[0] == "1 slice, 2 coils, 32 × 32, Cartesian"


def test_arrays_of_numpy_and_bart(tmp_path: Path) -> None:
    np.save(tmp_path / "mask.npy", np.arange(64) % 4 == 0)
    np.save(tmp_path / "kspace.npy", np.ones((4, 8, 8), np.complex64))
    np.save(tmp_path / "image.npy", np.arange(64.0))
    (tmp_path / "k.hdr").write_text("# Dimensions\n64 64 1 8\n")
    write(tmp_path / "k.cfl", bytes(8))
    mask = recognise(tmp_path / "mask.npy")
    assert mask.kind == "sampling mask"
    assert mask.contents[1] == "25.0% sampled"
    assert "--mask {file}" in mask.advice
    assert "--axes coil,row,column" in recognise(tmp_path / "kspace.npy").advice
    assert recognise(tmp_path / "image.npy").kind == "NumPy array"
    short = recognise(tmp_path / "k.cfl")
    assert short.kind == "BART cfl"
    assert "bart-size" in short.advice


def test_a_file_without_kspace_says_what_it_holds(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["reconstruction_rss"] = np.ones((2, 8, 8), np.float32)
    found = recognise(tmp_path / "x.h5")
    assert found.contents == ("reconstruction_rss: 2 × 8 × 8, float32",)
    with pytest.raises(ScanError, match=r"it holds 'reconstruction_rss' \(2, 8, 8\)"):
        read_scan(tmp_path / "x.h5")


def test_the_command_gives_the_command(scans: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        answer = CliRunner().invoke(app, ["info", *map(str, arguments)])
        assert answer.exit_code == 0, answer.output
        return answer.output

    assert f"runs: mri-posterior reconstruct {scans / 'runs.h5'} -o result.h5" in run(
        scans / "runs.h5"
    )
    assert json.loads(run(scans / "narrow.h5", "--json"))["runs"] is False
    for path, said in ((tmp_path / "none", "no such file"), (tmp_path, "is a folder")):
        answer = CliRunner().invoke(app, ["info", str(path)])
        assert isinstance(answer.exception, ScanError)
        assert said in str(answer.exception)
