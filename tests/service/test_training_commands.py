from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from models.errors import ModelError
from models.model_weights import read_model
from service.cli import app
from service.training.runs import read_plan

RECIPES = Path(__file__).parents[2] / "models" / "recipes"
PLAN = """
data = ["images"]
out = "run"
hold_out = 0.34

[training]
steps = 10
batch = 2
patch_sizes = [16, 16]
validate_every = 10

[training.network]
architecture = "monai-unet"
channels = [8, 8]
res_blocks = 1
norm_groups = 4
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three patients in two files, and a training file beside them."""
    generator = np.random.default_rng(0)
    row, column = np.mgrid[:72, :72]
    disc = (row - 36) ** 2 + (column - 36) ** 2 < 30**2
    (tmp_path / "images").mkdir()
    for name, patients in (("a", ["p1", "p1", "p2"]), ("b", ["p3"])):
        with h5py.File(tmp_path / "images" / f"{name}.h5", "w") as file:
            texture = generator.integers(100, 250, (len(patients), 72, 72))
            file["images"] = (disc * texture).astype(np.uint8)
            file["patient"] = np.array(patients, dtype="S2")
    (tmp_path / "plan.toml").write_text(PLAN)
    return tmp_path


def invoke(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["train", *map(str, arguments)])
    if isinstance(result.exception, ModelError):
        raise result.exception
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def test_a_plan_is_trained_and_validated_on_a_patient_of_its_own(folder: Path) -> None:
    code, output = invoke(folder / "plan.toml")
    assert code == 0, output
    assert re.search(r"step 10: denoising PSNR in dB on held-out slices: σ 0\.02: \d+", output)
    taken, held_out = map(int, re.search(r"(\d+) slices to train on, (\d+)", output).groups())
    assert taken + held_out == 4
    assert held_out in (1, 2)
    assert (folder / "run" / "weights.safetensors").exists()


def test_options_override_the_plan_and_a_longer_run_resumes(folder: Path) -> None:
    invoke(folder / "plan.toml", "--quiet")
    code, _ = invoke(folder / "plan.toml", "--steps", "20", "--quiet")
    assert code == 0
    lines = (folder / "run" / "log.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "10", "20"]


def test_separate_validation_images_leave_everyone_to_train_on(folder: Path) -> None:
    code, output = invoke(folder / "plan.toml", "--validation", folder / "images" / "b.h5")
    assert code == 0
    assert "4 slices to train on, 1 of others held out" in output
    assert "named on both sides: p3;" in output


def test_one_patient_alone_is_trained_on_with_a_warning(folder: Path) -> None:
    code, output = invoke(folder / "plan.toml", "--data", folder / "images" / "b.h5")
    assert code == 0
    assert "nobody is held out" in output


def test_a_run_begins_with_an_installed_model(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="do not fit the network"):
        invoke(folder / "plan.toml", "--from", "brain-preview")
    with pytest.raises(ModelError, match="there is no model"):
        invoke(folder / "plan.toml", "--from", "nothing-here", "--out", folder / "other")


RESIDUAL = """
data = ["images"]
out = "OUT"

[training]
steps = 1
batch = 1
patch_sizes = [16, 16]
learning_rate = 1e-9

[training.network]
architecture = "residual-unet"
channels = [8, 12]
blocks = 1
"""


def make_model(folder: Path, name: str, *options: str) -> None:
    """Of the run `runs/NAME`."""
    about = ("--training", "t", "--licence", "l", "--attribution", "a")
    made = ["models", "package", str(folder / "runs" / name), name, *options, *about]
    assert CliRunner().invoke(app, made).exit_code == 0


def test_a_run_goes_on_with_the_network_for_little_noise(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model of two; it says how the other one is put back."""
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(folder / "models"))
    for name in ("much", "both", "next"):
        (folder / f"{name}.toml").write_text(RESIDUAL.replace("OUT", f"runs/{name}"))
    invoke(folder / "much.toml")
    invoke(folder / "both.toml", "--seed", "1")
    make_model(folder, "much", "--lowest-sigma", "0.7")
    make_model(folder, "both", "--above", "much")
    _, output = invoke(folder / "next.toml", "--from", "both", "--seed", "2")
    assert "`mri-posterior models package --above both`" in output
    begun = load_file(folder / "models" / "both" / "weights.safetensors")
    for key, value in load_file(folder / "runs" / "next" / "weights.safetensors").items():
        torch.testing.assert_close(value, begun[f"fine.{key}"].float(), rtol=0, atol=1e-6)


def test_a_run_goes_on_with_all_networks_but_that_for_much_noise(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a model of three; a plan that names no network takes those of the model."""
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(folder / "models"))
    for name in ("much", "middle", "three"):
        (folder / f"{name}.toml").write_text(RESIDUAL.replace("OUT", f"runs/{name}"))
        invoke(folder / f"{name}.toml", "--seed", str(len(name)))
    make_model(folder, "much", "--lowest-sigma", "0.7")
    make_model(folder, "middle", "--lowest-sigma", "0.2")
    make_model(folder, "three", "--above", "much", "--between", "middle", "--weights-dtype", "int8")
    begun = read_model(folder / "models" / "three").tensors
    for name, plan in (
        ("unnamed", RESIDUAL[: RESIDUAL.index("[training.network]")]),
        ("named", RESIDUAL),  # the one for little noise: as if none was named
    ):
        (folder / f"{name}.toml").write_text(plan.replace("OUT", f"runs/{name}"))
        _, output = invoke(folder / f"{name}.toml", "--from", "three", "--seed", "2")
        assert "`mri-posterior models package --above three`" in output
        found = load_file(folder / "runs" / name / "weights.safetensors")
        assert {key.partition(".")[0] for key in found} == {"fine", "coarse"}
        for key, value in found.items():
            expected = begun[key.replace("coarse.", "middle.")].float()
            torch.testing.assert_close(value, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("data = [", "not a training file"),
        ('out = "a"', "data"),
        ('data = ["a"]\nout = "b"\nsteps = 3', "steps"),
        ('data = ["a"]\nout = "b"\n[training]\nbatch = 0', "batch"),
        ('data = ["a"]\nout = "b"\n[training.network]\narchitecture = "evil.module"', "evil"),
    ],
)
def test_a_wrong_plan_is_refused_by_name(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "plan.toml").write_text(text)
    with pytest.raises(ModelError, match=reason):
        invoke(tmp_path / "plan.toml")


def test_without_a_plan_data_and_out_are_asked_for() -> None:
    with pytest.raises(ModelError, match="--data and --out"):
        invoke()


def test_a_folder_without_images_says_what_was_refused(folder: Path) -> None:
    empty = folder / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("nothing")
    with pytest.raises(ModelError, match="no image to train on"):
        invoke(folder / "plan.toml", "--data", empty)


def test_synthetic_heads_are_drawn_from_the_plan_s_labels(folder: Path) -> None:
    plan = PLAN.replace("steps = 10", "steps = 10\nsynthetic = 1.0")
    (folder / "plan.toml").write_text(plan)
    with pytest.raises(ModelError, match="name them in `labels`"):
        invoke(folder / "plan.toml")
    volume = np.zeros((60, 60, 60), np.int16)
    volume[10:50, 10:50, 10:50] = 3
    (folder / "heads").mkdir()
    np.save(folder / "heads" / "one.npy", volume)
    (folder / "plan.toml").write_text('labels = ["heads"]\n' + plan)
    code, _ = invoke(folder / "plan.toml")
    assert code == 0
    learned = load_file(folder / "run" / "weights.safetensors")
    (folder / "plan.toml").write_text('labels = ["heads"]\n' + PLAN.replace('"run"', '"other"'))
    invoke(folder / "plan.toml")
    other = load_file(folder / "other" / "weights.safetensors")
    assert any(not torch.equal(learned[key], other[key]) for key in learned)


def test_weights_of_a_file_that_is_not_there_are_refused(folder: Path) -> None:
    text = PLAN.replace("[training]", "[weights]\n'a.h5' = 5\n'c.h5' = 1\n[training]", 1)
    (folder / "plan.toml").write_text(text)
    with pytest.raises(ModelError, match=r"\[weights\] names files that are not in data: c\.h5"):
        invoke(folder / "plan.toml")
    (folder / "plan.toml").write_text(text.replace("'c.h5'", "'b.h5'"))
    assert invoke(folder / "plan.toml")[0] == 0


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_recipes_are_valid_and_relative_to_their_folder(recipe: Path) -> None:
    plan = read_plan(recipe)
    shared = (RECIPES.parents[2] / "shared" / "data").resolve()
    assert all(path.resolve().is_relative_to(shared / "train") for path in plan.data)
    assert all(path.resolve().is_relative_to(shared / "labels") for path in plan.labels)
