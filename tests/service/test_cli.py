"""The command line as a user runs it: a process, its exit code, its files."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
from fastmri.evaluate import psnr

from recon.io.files import read_result, read_scan
from recon.schedule import PRESETS
from service.slices import parse_slices


def command(*arguments: object, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        cwd=Path(__file__).parents[2],
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small scan taken all the way with the shipped prior."""
    folder = tmp_path_factory.mktemp("scan")
    found = {name: folder / f"{name}.h5" for name in ("full", "scan", "result")}
    full, scan, result, picture = (found["full"], found["scan"], found["result"], folder / "p.png")
    sparser = ("--acceleration", 3, "--center-fraction", 0.2)
    steps = (
        ("simulate", "-o", full, "--rows", 72, "--columns", 64, "--slices", 2, "-q"),
        ("undersample", full, "-o", scan, *sparser, "-q"),
        ("reconstruct", scan, "-o", result, "--preset", "fast", "--slices", 1, "--png", picture),
    )
    for step in steps:
        done = command(*step)
        assert done.returncode == 0, done.stderr
    found["summary"] = folder / "summary.txt"
    found["summary"].write_text(done.stdout)
    found["picture"] = picture
    return found


def test_help_keeps_what_stands_in_brackets() -> None:
    """Rich takes "[all]" for a tag and leaves it out, unless it is told not to."""
    said = command("export", "--help").stdout + command("models", "--help").stdout
    assert "[random]" in said


def test_it_says_its_version() -> None:
    assert command("--version").stdout == f"mri-posterior {version('mri-posterior')}\n"


def test_a_result_carries_its_provenance(files: dict[str, Path]) -> None:
    posteriors, attributes = read_result(files["result"])
    assert [p.index for p in posteriors] == [1]
    assert posteriors[0].samples.shape == (4, 72, 64)
    assert attributes["schema"] == "mri-posterior/result/1"
    assert attributes["not_for_diagnostic_use"] == 1
    assert attributes["input_sha256"] == read_scan(files["scan"]).sha256
    for name in ("model_id", "model_sha256", "seed", "steps", "software_version", "acceleration"):
        assert name in attributes
    assert attributes["steps"] == PRESETS["fast"].evaluations
    assert files["picture"].read_bytes().startswith(b"\x89PNG")


def test_the_summary_says_what_was_written(files: dict[str, Path]) -> None:
    text = files["summary"].read_text()
    assert "χ²" in text
    assert "result.h5" in text.replace("\n", "")


def test_fastmri_reads_the_result_unchanged(files: dict[str, Path]) -> None:
    with h5py.File(files["result"]) as file:
        found = file["reconstruction"][()]
    with h5py.File(files["full"]) as file:
        truth = np.abs(file["ground_truth"][1:2])
    assert found.shape == truth.shape
    gain = (found * truth).sum() / (found**2).sum()
    assert psnr(truth, gain * found) > 20


def test_evaluate_prints_a_table_or_json(files: dict[str, Path], tmp_path: Path) -> None:
    picture = tmp_path / "error.png"
    done = command(
        "evaluate", files["result"], "--reference", files["full"], "--json", "--png", picture
    )
    assert done.returncode == 0, done.stderr
    scores = json.loads(done.stdout)
    assert scores["slices"][0]["slice"] == 1
    assert scores["volume"]["mean"]["psnr"] > scores["volume"]["sample"]["psnr"]
    assert 0.5 < scores["volume"]["chi2"] < 2
    assert picture.exists()
    table = command("evaluate", files["result"], "--reference", files["full"])
    assert "PSNR" in table.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("reconstruct", "{scan}", "-o", "{out}", "--model", "no-such-model"), "no-such-model"),
        (("reconstruct", "{scan}", "-o", "{out}", "--slices", "7"), "slices"),
        (("reconstruct", "{text}", "-o", "{out}"), "HDF5"),
        (("reconstruct", "{missing}", "-o", "{out}"), "no such file"),
        (("reconstruct", "{scan}", "-o", "{out}", "--device", "cuda:99"), "device"),
        (("reconstruct", "{scan}", "-o", "{out}", "--preset", "slow"), "preset"),
        (("evaluate", "{scan}", "--reference", "{full}"), "result"),
        (("evaluate", "{result}", "--reference", "{scan}"), "reference"),
        (("undersample", "{full}", "-o", "{out}", "--acceleration", "40"), "centre"),
    ],
)
def test_bad_input_is_refused_with_a_sentence_and_code_2(
    files: dict[str, Path], tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    text = tmp_path / "text.h5"
    text.write_text("this is not HDF5")
    names = {"out": tmp_path / "out.h5", "text": text, "missing": tmp_path / "missing.h5", **files}
    done = command(*(argument.format(**names) for argument in arguments))
    assert done.returncode == 2, done.stdout + done.stderr
    assert said.lower() in done.stderr.lower().replace("center", "centre")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.h5").exists()


def test_help_names_every_command() -> None:
    done = command("--help")
    assert done.returncode == 0
    for name in ("reconstruct", "undersample", "evaluate", "simulate", "demo", "models"):
        assert name in done.stdout


def test_quiet_prints_nothing(files: dict[str, Path], tmp_path: Path) -> None:
    done = command("undersample", files["full"], "-o", tmp_path / "s.h5", "--quiet")
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, [0, 1, 2, 3]),
        ("2", [2]),
        ("1:3", [1, 2]),
        (":2", [0, 1]),
        ("3:", [3]),
        ("3,0:2", [0, 1, 3]),
    ],
)
def test_choices_of_slices(text: str | None, expected: list[int]) -> None:
    assert list(parse_slices(text, 4)) == expected
