"""The table beside the weights: bound to them, checked like all that strangers may write."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import registry
from models.errors import ModelError
from models.install import add_model, package, remove_model
from models.loading import verify_model
from models.model_folder import TYPICAL_FILE
from models.registry import read_config, read_typical
from models.typical_scans import TypicalTable, write_typical
from recon.verdict import SURPRISE_SIGMAS
from service.verdicts import distributions_of, typical_of
from tests.models.model_files import ABOUT, write_run


def table(weights: str, images: int = 40) -> TypicalTable:
    rng = np.random.default_rng(0)
    return TypicalTable(
        weights_sha256=weights,
        data="heads",
        date=date(2026, 11, 27),
        software_version="0.1.0",
        sigmas=SURPRISE_SIGMAS,
        surprises=tuple(map(tuple, rng.normal(size=(images, 1 + len(SURPRISE_SIGMAS))).tolist())),
        held_out=tuple(map(tuple, (rng.normal(size=(20, 2)) * [0.1, 1] + [0, 400]).tolist())),
    )


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model named `tiny` with a table, in the user's folder."""
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "shipped")
    run = write_run(tmp_path / "run", random=False)
    folder = package(run, tmp_path / "models", "tiny", **ABOUT)
    write_typical(folder / TYPICAL_FILE, table(read_config("tiny").weights_sha256))
    return folder


def rewrite(model: Path, **changes: Any) -> None:
    file = model / TYPICAL_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(act: Any, *arguments: Any) -> str:
    with pytest.raises(ModelError) as caught:
        act(*arguments)
    return caught.value.code


def test_what_is_written_is_read_and_makes_verdicts(model: Path) -> None:
    found = read_typical("tiny")
    assert found == table(read_config("tiny").weights_sha256)
    verify_model("tiny")
    made = typical_of("tiny")
    assert made is not None
    np.testing.assert_array_equal(made.surprises, np.array(found.surprises))
    assert not list(model.glob("*.part"))
    (model / TYPICAL_FILE).unlink()
    assert read_typical("tiny") is None
    assert typical_of("tiny") is None


def test_a_table_of_another_power_is_refused_and_makes_no_verdicts(model: Path) -> None:
    """The same weights raised to another power draw otherwise."""
    config = model / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"power": 0.9}))
    assert refusal(read_typical, "tiny") == "typical-power"
    assert refusal(verify_model, "tiny") == "typical-power"
    assert typical_of("tiny") is None
    rewrite(model, power=0.9)
    assert typical_of("tiny") is not None


def test_a_table_of_other_weights_is_refused_and_makes_no_verdicts(model: Path) -> None:
    rewrite(model, weights_sha256="ab" * 32)
    assert refusal(read_typical, "tiny") == "typical-digest"
    assert refusal(verify_model, "tiny") == "typical-digest"
    assert typical_of("tiny") is None


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"surprises": []},
        {"surprises": [[1.0]]},
        {"held_out": [[1.0, 2.0, 3.0]]},
        {"data": "a\u202eb"},
        {"sigmas": "many"},
    ],
)
def test_a_strangers_table_is_checked(model: Path, changes: dict[str, Any]) -> None:
    rewrite(model, **changes)
    assert refusal(read_typical, "tiny") == "bad-typical"


def test_the_size_of_a_table_has_a_limit(model: Path) -> None:
    (model / TYPICAL_FILE).write_bytes(b" " * (1 << 20))
    assert refusal(read_typical, "tiny") == "typical-size"


def test_too_little_or_other_levels_make_no_distribution() -> None:
    assert refusal(distributions_of, table("ab" * 32, images=8)) == "too-few-typical"
    other = table("ab" * 32).model_copy(update={"sigmas": (0.1,)})
    assert refusal(distributions_of, other) == "typical-levels"


def test_a_model_is_added_and_removed_with_its_table(model: Path, tmp_path: Path) -> None:
    added = add_model(model, "other")
    assert (added / TYPICAL_FILE).read_bytes() == (model / TYPICAL_FILE).read_bytes()
    assert read_typical("other") is not None
    remove_model("other")
    assert not added.exists()


def test_tables_that_are_shipped_are_of_the_weights_that_are() -> None:
    """Fails when weights change: make the table again with `models typical`."""
    tables = {file.parent.name for file in registry.SHIPPED_FOLDER.glob(f"*/{TYPICAL_FILE}")}
    assert all(typical_of(name) is not None for name in tables)
