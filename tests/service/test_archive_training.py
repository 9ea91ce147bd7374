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
from collections.abc import Generator, Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from models.errors import ModelError
from models.model_weights import read_model
from models.training_data import ImageFile, SliceSet
from recon.chains import finished
from recon.coarse import CoarseMethod
from recon.errors import ScanError
from recon.io.files import read_scan
from recon.prior import Prior, StationaryPrior
from recon.settings import Settings
from recon.slice_draws import SPREADS, HeldOutLines, coarse_image
from service.cli import app
from service.training.archive_plan import (
    ARCHIVE_TRAINING,
    LAW_KEEPING,
    ArchivePlan,
    read_archive_plan,
)
from service.training.archive_report import write_report
from service.training.expectation_maximization import (
    ArchiveLearning,
    Event,
    Judged,
    Learned,
)
from service.training.held_out_likelihood import Place, summary
from service.training.memorised import Image, training_images
from service.training.slice_work import Step
from service.training.undersampled_scans import ScanList
from tests.service.undersampled_archive import write_archive

ROOT = Path(__file__).parents[2]
STALLED_SECONDS = 300
PLAN = """
from_undersampled = "scans"
out = "run"
hold_out = 0.34
rounds = {rounds}
rounds_of_means = {means}
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
    folder: Path, rounds: int, steps: int, batch: int = 2, channels: str = "8, 12", means: int = 1
) -> Path:
    file = folder / "plan.toml"
    file.write_text(
        PLAN.format(rounds=rounds, steps=steps, batch=batch, channels=channels, means=means)
    )
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
    code, output = invoke(plan_file(folder, 3, 20), "--licence", "of the test")
    assert code == 0, output
    return folder / "run", output


@pytest.mark.slow
def test_rounds_predict_held_out_lines_better_and_better(tmp_path: Path) -> None:
    write_archive(tmp_path / "scans", subjects=10)
    plan_file(tmp_path, 5, 200, 8, "16, 24")
    end = learned(tmp_path)
    densities = [summary(judged.predictions).log_density for judged in end.rounds]
    assert densities[1:] == sorted(densities[1:])
    assert densities[5] - densities[0] > 0.03
    assert end.chosen == 5
    assert 0.8 < summary(end.rounds[5].predictions).coverage_90 < 0.97


class _Scripted(ArchiveLearning):
    """Rounds whose predictions are known beforehand, and nothing is done for them."""

    def __init__(self, plan: ArchivePlan, densities: tuple[float, ...]) -> None:
        super().__init__(plan, torch.device("cpu"))
        self.densities = iter(densities)

    def _listed(self) -> Generator[Event, None, ScanList]:
        yield from ()
        return ScanList(scans=(), left_out=())

    def _make(self, number: int, found: ScanList) -> Iterator[Event]:
        return iter(())

    def prior(self, number: int) -> Prior:
        return StationaryPrior((1.0,), (1.0,))

    def _predict(
        self, prior: Prior, folder: Path, step: Step, found: ScanList
    ) -> Generator[Step, None, dict[Place, HeldOutLines]]:
        yield from ()
        lines = HeldOutLines((next(self.densities),) * len(SPREADS), 0.9, 4)
        return {Place(f"{k}", "scan", 0): lines for k in range(3)}


@pytest.mark.parametrize(
    ("densities", "judged", "chosen"),
    [
        ((-2.0, -2.4, -2.3, -2.2, -2.1, -9.0), 5, 0),
        ((-2.0, -1.8, -2.3, -2.2, -2.1, -9.0), 5, 1),
        ((-2.0, -2.4, -2.3, -1.7, -1.8, -1.6, -1.9, -1.9, -9.0), 8, 5),
    ],
)
def test_rounds_of_draws_alone_say_when_to_stop_and_the_best_round_is_kept(
    tmp_path: Path, densities: tuple[float, ...], judged: int, chosen: int
) -> None:
    """The rounds before them are steps on the way, and may be worse than the Gaussian."""
    plan = ArchivePlan(
        from_undersampled="scans", out=tmp_path, rounds=20, rounds_of_means=1, patience=2
    )
    *_, end = _Scripted(plan, (*densities[:judged], -3.0)).follow()
    assert isinstance(end, Learned)
    assert len(end.rounds) == judged
    assert end.chosen == chosen


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
    for number in (1, 2, 3):
        folder = run[0] / "models" / f"archive-round-{number:02d}"
        config = read_model(folder).config
        assert config.licence == "of the test"
        card = (folder / "README.md").read_text()
        assert f"round {number}, from coarse images of the same scans" in card
        assert "5 undersampled slices of 5 scans of 5 subjects" in card
        assert ("coarse images of 5", "means of draws from", "from draws from")[number - 1] in card
    assert "report: " in run[1]


def test_rounds_learn_from_coarse_images_then_from_means_then_from_draws(
    archive: Path, run: tuple[Path, str]
) -> None:
    learning = ArchiveLearning(plan_of(run[0].parent), torch.device("cpu"))
    targets = [learning.target(number) for number in (1, 2, 3)]
    assert targets == ["coarse images", "means of draws", "draws"]
    counts = [len(learned_from(learning, number)) for number in (1, 2, 3)]
    assert counts == [5, 5, 10]
    image, told = learned_from(learning, 1)[0]
    scan = read_scan(archive / told.split(",")[0])
    wavelet = coarse_image(scan, 0, Settings(coarse=CoarseMethod.L1_WAVELET))
    np.testing.assert_allclose(image, wavelet, atol=1e-4)


def test_files_that_are_learned_from_say_what_the_scans_measured(
    archive: Path, run: tuple[Path, str]
) -> None:
    learning = ArchiveLearning(plan_of(run[0].parent), torch.device("cpu"))
    assert learning.plan.training.unmeasured < 1
    for number in (1, 3):
        for file, told in learning.images(number).items():
            [measured] = SliceSet([ImageFile(file)]).measured
            assert measured is not None
            for samples, name in zip(measured, told, strict=True):
                scan = read_scan(archive / name.split(",")[0])
                assert 0 < samples.mean() < 1
                np.testing.assert_array_equal(samples, scan.sampled)


def learned_from(learning: ArchiveLearning, number: int) -> list[tuple[Image, str]]:
    return list(training_images(learning.images(number)))


def test_the_report_ends_with_a_recommendation_and_a_search_for_memories(
    run: tuple[Path, str],
) -> None:
    report = json.loads((run[0] / "report.json").read_text())
    assert [row["round"] for row in report["rounds"]] == [0, 1, 2, 3]
    assert report["compared"]["model"] == "brain-small"
    assert report["recommendation"].startswith("Keep brain-small: ")  # sixty steps teach little
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
        plan_file(tmp_path / name, 2, 10, means=0)
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
    # To rounding: a wavelet image depends in its last bits on where its arrays lie in memory.
    for one, other in zip(again.rounds, whole.rounds, strict=True):
        assert one.predictions.keys() == other.predictions.keys()
        for place, lines in one.predictions.items():
            wanted = other.predictions[place].log_densities
            assert lines.log_densities == pytest.approx(wanted, abs=1e-2)
    weights = [
        load_file(tmp_path / name / "run/models/archive-round-02/weights.safetensors")
        for name in ("whole", "killed")
    ]
    for key, values in weights[0].items():
        torch.testing.assert_close(weights[1][key], values, atol=1e-3, rtol=1e-2)


@pytest.mark.slow
def test_a_process_that_is_killed_with_a_signal_goes_on(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "scans").symlink_to(archive)
    file = plan_file(tmp_path, 2, 20, means=0)
    command = [sys.executable, "-m", "service.cli", "train", str(file)]
    watched = (
        "scans.json",
        "spectrum.json",
        "rounds/01/training/state.pt",
        "rounds/02/draws/*.npz",
        "rounds/02/training/state.pt",
    )
    for name in watched:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        kill_when_there(process, tmp_path / "run", name)
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert [row["round"] for row in report["rounds"]] == [0, 1, 2]


def kill_when_there(process: subprocess.Popen[bytes], folder: Path, name: str) -> None:
    """As soon as the run has written it; however slow the machine is, as long as it writes."""
    written: set[Path] = set()
    ends = time.monotonic() + STALLED_SECONDS
    while not any(folder.glob(name)):
        assert process.poll() is None, f"the run ended before it wrote {name}"
        now = set(folder.rglob("*"))
        if now != written:
            written, ends = now, time.monotonic() + STALLED_SECONDS
        assert time.monotonic() < ends, f"nothing was written, and no {name}"
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def test_a_run_begins_with_an_installed_model_and_keeps_its_network_for_much_noise(
    archive: Path, tmp_path: Path
) -> None:
    (tmp_path / "scans").symlink_to(archive)
    text = PLAN.format(rounds=1, steps=1, batch=1, channels="8, 8", means=1)
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
    assert plan.training.learning_rate == 2e-3
    assert plan.from_undersampled == str(tmp_path / "scans")


def test_a_model_to_begin_with_is_taught_slowly_unless_the_file_says_otherwise(
    tmp_path: Path,
) -> None:
    file = tmp_path / "plan.toml"
    start = 'from_undersampled = "scans"\nout = "run"\nstart_from = "brain-small"\n'
    file.write_text(start)
    assert plan_of(tmp_path).training.learning_rate == 2e-4
    file.write_text(start + "[training]\nlearning_rate = 1e-3\n")
    assert plan_of(tmp_path).training.learning_rate == 1e-3
    file.write_text(start.replace("start_from", "name"))
    assert plan_of(tmp_path).training == ARCHIVE_TRAINING


def test_other_choices_in_the_same_folder_are_refused(archive: Path, tmp_path: Path) -> None:
    plan = plan_of(plan_file(tmp_path, 1, 5).parent)
    ArchiveLearning(plan, torch.device("cpu"))
    ArchiveLearning(plan.model_copy(update={"rounds": 9}), torch.device("cpu"))
    with pytest.raises(ModelError, match="other choices"):
        ArchiveLearning(plan.model_copy(update={"preset": "standard"}), torch.device("cpu"))
    record = plan.out / "plan.json"
    kept = json.loads(record.read_text())
    del kept["layout"]  # as the first version wrote it
    record.write_text(json.dumps(kept))
    with pytest.raises(ModelError, match="another version of this program"):
        ArchiveLearning(plan, torch.device("cpu"))


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
