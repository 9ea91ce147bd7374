"""The calibration beside the weights: read like a stranger's file, matched strictly."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from models import registry
from models.conformal_factors import (
    ConformalFactor,
    ConformalFactors,
    FoundFactors,
    choose_factor,
    write_factors,
)
from models.errors import ModelError
from models.install import add_model, package, remove_model
from models.loading import load_prior, verify_model
from models.registry import read_config, read_factors
from tests.models.factor_entries import HELD, entry
from tests.models.model_files import ABOUT, replace_weights, write_run


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model named `tiny` with a calibration, in the user's folder."""
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "shipped")
    run = write_run(tmp_path / "run", random=False)
    folder = package(run, tmp_path / "models", "tiny", **ABOUT)
    made = ConformalFactors(weights_sha256=read_config("tiny").weights_sha256, entries=(entry(),))
    write_factors(folder / "calibration.json", made)
    return folder


def refusal(act: Any, *arguments: Any) -> str:
    with pytest.raises(ModelError) as caught:
        act(*arguments)
    assert "".join(caught.value.message.split("\n")).isprintable()
    return caught.value.code


def rewrite(model: Path, **changes: Any) -> None:
    file = model / "calibration.json"
    text = json.loads(file.read_text())
    text["entries"][0] |= changes
    file.write_text(json.dumps(text))


def test_what_is_written_is_read_and_verified(model: Path) -> None:
    found = read_factors("tiny")
    assert found is not None
    assert found.factors.entries == (entry(),)
    verify_model("tiny")
    (model / "calibration.json").unlink()
    assert read_factors("tiny") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"factor": 0}, {"factor": float("nan")}, {"factor": float("inf")}, {"factor": 1e9},
        {"factor": "1.2; rm"}, {"surprise": 1}, {"preset": "best"}, {"acceleration": 0},
        {"data": "heads\x1b[2J"}, {"data": "x" * 1000}, {"data": ""}, {"unit": "voxel"},
        {"coverage_90": HELD | {"after": 1.5}}, {"date": "yesterday"}, {"confidence": 1},
    ],
)  # fmt: skip
def test_hostile_entries_are_refused_by_verify_but_not_by_plain_use(
    model: Path, changes: dict[str, Any]
) -> None:
    rewrite(model, **changes)
    assert refusal(read_factors, "tiny") == "bad-calibration"
    assert refusal(verify_model, "tiny") == "bad-calibration"
    load_prior("tiny")  # whoever asks for no factor is not kept from the model


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"weights_sha256": "x", "entries": []}'])
def test_files_that_are_no_calibrations_are_refused(model: Path, text: str) -> None:
    (model / "calibration.json").write_text(text)
    assert refusal(read_factors, "tiny") == "bad-calibration"


def test_one_for_other_weights_is_refused(model: Path) -> None:
    replace_weights(model, b"others")
    assert refusal(read_factors, "tiny") == "calibration-digest"


def test_size_is_capped_and_a_fifo_does_not_make_us_wait(model: Path) -> None:
    file = model / "calibration.json"
    file.write_bytes(b" " * (256 * 1024 + 1))
    assert refusal(read_factors, "tiny") == "calibration-size"
    file.unlink()
    os.mkfifo(file)
    assert refusal(read_factors, "tiny") == "not-a-file"


def test_it_comes_along_when_a_model_is_added_and_goes_when_it_is_removed(
    model: Path, tmp_path: Path
) -> None:
    copied = add_model(model, "copy")
    found = read_factors("copy")
    assert found is not None
    assert found.factors.entries == (entry(),)
    remove_model("copy")
    assert not copied.exists()
    rewrite(model, factor=-1)
    assert refusal(add_model, model, "copy") == "bad-calibration"
    secret = tmp_path / "elsewhere.json"
    shutil.move(model / "calibration.json", secret)
    (model / "calibration.json").symlink_to(secret)
    assert refusal(add_model, model, "copy") == "not-a-file"
    assert not copied.exists()


def choose(**asked: Any) -> ConformalFactor:
    asked = {
        "preset": "fast", "samples": 4, "evaluations": 47, "acceleration": 4.0, "lines": True
    } | asked  # fmt: skip
    near = entry(acceleration=4.3, factor=1.4)
    weights = "0" * 64
    found = ConformalFactors(weights_sha256=weights, entries=(entry(), near))
    return choose_factor(FoundFactors(found, ""), "tiny", **asked)


def test_a_calibration_of_another_power_is_refused(model: Path) -> None:
    """The same weights raised to another power have other intervals."""
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"power": 0.9}))
    assert refusal(read_factors, "tiny") == "calibration-power"
    assert refusal(verify_model, "tiny") == "calibration-power"


def test_an_entry_serves_what_it_was_made_for_and_nothing_else() -> None:
    assert choose().factor == 1.25
    assert choose(acceleration=4.1).factor == 1.25
    assert choose(acceleration=4.25).factor == 1.4
    assert choose(acceleration=4.73).factor == 1.4
    for other in (
        {"preset": "standard"}, {"samples": 8}, {"evaluations": 40}, {"acceleration": 5.0},
        {"acceleration": 3.6}, {"lines": False},
    ):  # fmt: skip
        with pytest.raises(
            ModelError, match=r"it has: fast \(47 evaluations\), 4 samples"
        ) as caught:
            choose(**other)
        assert caught.value.code == "no-calibration"
    with pytest.raises(ModelError, match="nothing at all"):
        choose_factor(None, "tiny", "fast", 4, 47, 4.0, lines=True)


def test_new_entries_replace_those_for_the_same_only() -> None:
    old = ConformalFactors(
        weights_sha256="0" * 64, entries=(entry(), entry(acceleration=8), entry(pattern="poisson"))
    )
    new = old.with_entries((entry(factor=1.5, acceleration=4.05),))
    assert sorted((e.acceleration, e.pattern, e.factor) for e in new.entries) == [
        (4.0, "poisson", 1.25), (4.05, "equispaced", 1.5), (8.0, "equispaced", 1.25),
    ]  # fmt: skip


def test_a_place_that_cannot_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    made = ConformalFactors(weights_sha256="0" * 64, entries=(entry(),))
    file = tmp_path / "missing" / "calibration.json"
    assert refusal(write_factors, file, made) == "not-writable"


def test_the_shipped_calibration_is_of_the_shipped_weights() -> None:
    found = read_factors("brain-small")
    assert found is not None
    assert {e.purpose.split()[0] for e in found.factors.entries} == {"fast"}
