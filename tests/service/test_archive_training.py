"""A prior learned from undersampled scans, small enough for seconds."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from models.errors import ModelError
from models.model_weights import read_model
from recon.chains import finished
from recon.errors import ScanError
from service.cli import app
from service.training.archive_plan import LAW_KEEPING, ArchivePlan, read_archive_plan
from service.training.archive_report import write_report
from service.training.expectation_maximization import ArchiveLearning, Judged, Learned
from service.training.held_out_likelihood import summary
from service.training.undersampled_scans import ScanList
from tests.service.undersampled_archive import write_archive

ROOT = Path(__file__).parents[2]
PLAN = """
from_undersampled = "scans"
out = "run"
hold_out = 0.34
rounds = {rounds}
patience = 3

[training]
steps = {steps}
batch = {batch}
learning_rate = 2e-3
patch_sizes = [64, 64]
save_every = 10

[training.network]
architecture = "residual-unet"
channels = [{channels}]
blocks = 1
"""


def plan_file(
    folder: Path, rounds: int, steps: int, batch: int = 2, channels: str = "8, 12"
) -> Path:
    file = folder / "plan.toml"
    file.write_text(PLAN.format(rounds=rounds, steps=steps, batch=batch, channels=channels))
    return file


def learned(folder: Path) -> Learned:
    plan = read_archive_plan(folder / "plan.toml")
    assert plan is not None
    *_, end = ArchiveLearning(plan, torch.device("cpu")).follow()
    assert isinstance(end, Learned)
    return end


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if isinstance(result.exception, ModelError | ScanError):
        raise result.exception
    return result.exit_code, re.sub(r"\s+", " ", result.output)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight subjects, and three files that are of no use."""
    folder = tmp_path_factory.mktemp("archive") / "scans"
    write_archive(folder, subjects=8)
    (folder / "person-8").mkdir()
    (folder / "person-8" / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"nothing" * 100)
    shutil.copy(folder / "person-0" / "scan.h5", folder / "person-8" / "copy.h5")
    shutil.copy(folder / "person-0" / "scan.h5", folder / "person-8" / "nan.h5")
    with h5py.File(folder / "person-8" / "nan.h5", "r+") as file:
        file["kspace"][0, 0, 3, 3] = np.nan
    return folder


@pytest.fixture(scope="module")
def run(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run by the command line, and what it said."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "scans").symlink_to(archive)
    code, output = invoke(plan_file(folder, 2, 30), "--licence", "of the test")
    assert code == 0, output
    return folder / "run", output


@pytest.mark.slow
def test_rounds_predict_held_out_lines_better_and_better(tmp_path: Path) -> None:
    write_archive(tmp_path / "scans", subjects=10)
    plan_file(tmp_path, 2, 500, 8, "24, 32")
    end = learned(tmp_path)
    densities = [summary(judged.predictions).log_density for judged in end.rounds]
    assert densities == sorted(densities)
    assert densities[2] - densities[0] > 0.05
    assert end.chosen == 2
    assert 0.8 < summary(end.rounds[2].predictions).coverage_90 < 0.97


def test_nobody_is_on_both_sides_and_what_is_broken_is_left_out(run: tuple[Path, str]) -> None:
    found = ScanList.model_validate_json((run[0] / "scans.json").read_bytes())
    assert len(found.scans) == 8
    assert len(found.held_out) == 3
    assert not {s.subject for s in found.training} & {s.subject for s in found.held_out}
    codes = {each.name: each.code for each in found.left_out}
    assert codes.keys() == {f"person-8/{name}.h5" for name in ("broken", "copy", "nan")}
    assert codes["person-8/copy.h5"] == "seen-twice"
    assert codes["person-8/nan.h5"] == "not-finite"
    page = (run[0] / "report.html").read_text()
    assert all(name in page for name in codes)
    assert "left out person-8/broken.h5" in run[1]


def test_every_round_is_a_model_whose_card_says_what_it_came_from(run: tuple[Path, str]) -> None:
    for number in (1, 2):
        folder = run[0] / "models" / f"archive-round-{number:02d}"
        config = read_model(folder).config
        assert config.licence == "of the test"
        card = (folder / "README.md").read_text()
        assert f"round {number}, from a Gaussian fitted to the same scans" in card
        assert "5 undersampled slices of 5 scans of 5 subjects" in card
    assert "report: " in run[1]


def test_the_report_ends_with_a_recommendation_and_a_search_for_memories(
    run: tuple[Path, str],
) -> None:
    report = json.loads((run[0] / "report.json").read_text())
    assert [row["round"] for row in report["rounds"]] == [0, 1, 2]
    assert report["compared"]["model"] == "brain-small"
    assert report["recommendation"].startswith("Keep brain-small: ")  # thirty steps teach little
    assert report["recommendation"] in run[1]


def test_what_the_weights_remember_is_looked_for(archive: Path, tmp_path: Path) -> None:
    """Of a run whose best round is the first: it begins with a prior that knows nothing."""
    (tmp_path / "scans").symlink_to(archive)
    plan_file(tmp_path, 1, 30)
    learning = ArchiveLearning(plan_of(tmp_path), torch.device("cpu"))
    *_, end = learning.follow()
    assert isinstance(end, Learned)
    found = finished(learning.search(1, end.scans))
    write_report(tmp_path, learning.plan, end, found)
    report = json.loads((tmp_path / "report.json").read_text())
    memory = report["memory"]
    assert len(memory["samples"]) == 8
    assert len(memory["held_out_correlations"]) == 3
    assert all(-1 <= each["correlation"] <= 1 for each in memory["samples"])
    assert all(re.match(r"person-\d/scan.h5, slice 0$", e["nearest"]) for e in memory["samples"])
    assert "data:image/png" in (tmp_path / "report.html").read_text()


def test_a_run_that_is_killed_again_and_again_ends_as_one_that_was_not(
    archive: Path, tmp_path: Path
) -> None:
    """At every event the folder is left as a kill would leave it, and a new run goes on."""
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "scans").symlink_to(archive)
        plan_file(tmp_path / name, 1, 20)
    whole = learned(tmp_path / "whole")
    plan = read_archive_plan(tmp_path / "killed" / "plan.toml")
    assert plan is not None
    kills = 0
    for stop in (3, 14, 29, 45, 49, 55):
        events = ArchiveLearning(plan, torch.device("cpu")).follow()
        for _ in range(stop):
            if isinstance(next(events), Learned):
                break
        else:
            kills += 1
        events.close()
    assert kills > 2
    again = learned(tmp_path / "killed")
    assert [judged.predictions for judged in again.rounds] == [
        judged.predictions for judged in whole.rounds
    ]
    weights = [
        load_file(tmp_path / name / "run/models/archive-round-01/weights.safetensors")
        for name in ("whole", "killed")
    ]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.slow
def test_a_process_that_is_killed_with_a_signal_goes_on(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").symlink_to(archive)
    file = plan_file(tmp_path, 1, 40)
    command = [sys.executable, "-m", "service.cli", "train", str(file)]
    watched = (
        "scans.json",
        "spectrum.json",
        "rounds/01/images.json",
        "rounds/01/training/state.pt",
    )
    for name in watched:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ends = time.monotonic() + 300
        while not (tmp_path / "run" / name).exists() and process.poll() is None:
            assert time.monotonic() < ends
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "report.json").read_text())["rounds"][1]["round"] == 1


def test_a_run_begins_with_an_installed_model_and_keeps_its_second_network(
    archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "scans").symlink_to(archive)
    text = PLAN.format(rounds=1, steps=1, batch=1, channels="8, 8")
    text = text[: text.index("[training.network]")]
    (tmp_path / "plan.toml").write_text('start_from = "brain-small"\n' + text)
    events = ArchiveLearning(plan_of(tmp_path), torch.device("cpu")).follow()
    rounds = [event for event in events if isinstance(event, Judged)]
    assert [judged.model for judged in rounds] == ["brain-small", "archive-round-01"]
    config = read_model(tmp_path / "run" / "models" / "archive-round-01").config
    assert config.network.architecture == "noise-experts"
    assert config.sigma_range[1] == 100.0
    assert "round 1, from the model brain-small" in config.training


def plan_of(folder: Path) -> ArchivePlan:
    plan = read_archive_plan(folder / "plan.toml")
    assert plan is not None
    return plan


def test_what_a_file_leaves_out_keeps_the_law_of_images(tmp_path: Path) -> None:
    plan = plan_of(plan_file(tmp_path, 3, 7).parent)
    assert plan.training.steps == 7
    assert plan.training.augmentation == LAW_KEEPING
    assert plan.from_undersampled == str(tmp_path / "scans")


def test_other_choices_in_the_same_folder_are_refused(archive: Path, tmp_path: Path) -> None:
    plan = plan_of(plan_file(tmp_path, 1, 5).parent)
    ArchiveLearning(plan, torch.device("cpu"))
    ArchiveLearning(plan.model_copy(update={"rounds": 9}), torch.device("cpu"))
    with pytest.raises(ModelError, match="other choices"):
        ArchiveLearning(plan.model_copy(update={"preset": "standard"}), torch.device("cpu"))


def test_one_subject_alone_cannot_be_held_out(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match=r"usable scans of 1 subject"):
        invoke("--from-undersampled", archive / "person-0", "--out", tmp_path / "run")


def test_options_of_images_and_of_scans_do_not_mix(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--data is of images"):
        invoke("--from-undersampled", archive, "--data", archive, "--out", tmp_path)
    with pytest.raises(ModelError, match="--rounds goes with --from-undersampled"):
        invoke("--data", archive, "--rounds", "2", "--out", tmp_path)
    with pytest.raises(ModelError, match="give --out"):
        invoke("--from-undersampled", archive)
