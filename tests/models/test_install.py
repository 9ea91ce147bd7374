"""Models packaged, added and removed."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import install, registry
from models.install import add_model, package, remove_model
from models.loading import verify_model
from models.model_folder import FACTORS_FILE, FILES
from models.registry import ModelError, list_models, read_card, read_config
from tests.models.model_files import (
    ABOUT,
    replace_tensors,
    replace_weights,
    rewrite,
    write_run,
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder; nothing is shipped."""
    folder = tmp_path / "models"
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(folder))
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "shipped")
    monkeypatch.setattr(install, "SHIPPED_FOLDER", tmp_path / "shipped")
    return folder


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", random=False)


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packaged")
    return package(write_run(folder / "run", random=False), folder, "tiny", **ABOUT)


@pytest.fixture
def offered(own: Path, packaged: Path, tmp_path: Path) -> Path:
    """A sound model `tiny`, somewhere on disk."""
    return shutil.copytree(packaged, tmp_path / "offered" / "tiny")


def refusal(folder: Path, name: str | None = None) -> str:
    """The code that adding is refused with; nothing may be left behind."""
    before = set(list_models())
    with pytest.raises(ModelError) as caught:
        add_model(folder, name)
    assert set(list_models()) == before
    own = registry.user_folder()
    assert not own.exists() or {entry.name for entry in own.iterdir()} == before
    return caught.value.code


def test_packaging_never_replaces_a_model(own: Path, run_folder: Path) -> None:
    package(run_folder, own, "tiny", **ABOUT)
    with pytest.raises(ModelError) as caught:
        package(run_folder, own, "tiny", **ABOUT)
    assert caught.value.code == "exists"


def test_failed_packaging_leaves_nothing_behind(own: Path, run_folder: Path) -> None:
    package(run_folder, own, "tiny", **ABOUT)
    (run_folder / "weights.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError) as caught:
        package(run_folder, own, "other", **ABOUT)
    assert caught.value.code == "bad-run"
    assert [entry.name for entry in own.iterdir()] == ["tiny"]


def test_a_run_of_another_network_is_refused(own: Path, run_folder: Path) -> None:
    record = json.loads((run_folder / "training.json").read_text())
    record["network"]["channels"] = [8, 16]
    (run_folder / "training.json").write_text(json.dumps(record))
    with pytest.raises(ModelError) as caught:
        package(run_folder, own, "other", **ABOUT)
    assert caught.value.code == "weights-mismatch"
    assert not own.exists()


def test_an_added_model_is_the_offered_one(offered: Path, own: Path) -> None:
    assert add_model(offered) == own / "tiny"
    assert list_models() == ("tiny",)
    for file in FILES:
        assert (own / "tiny" / file).read_bytes() == (offered / file).read_bytes()
    verify_model("tiny")


def test_a_model_may_be_added_under_another_name(offered: Path, own: Path) -> None:
    add_model(offered, "second")
    assert read_config("second").name == "second"
    assert read_config("second").weights_sha256 == verify_model("second")[0].config.weights_sha256
    assert json.loads((offered / "config.json").read_text())["name"] == "tiny"


def test_only_the_three_files_are_taken(offered: Path, own: Path) -> None:
    (offered / "evil.py").write_text("raise SystemExit")
    (offered / "more").mkdir()
    add_model(offered)
    assert {entry.name for entry in (own / "tiny").iterdir()} == set(FILES)


def test_a_model_without_a_card_gets_one(offered: Path) -> None:
    (offered / "README.md").unlink()
    add_model(offered)
    assert "CC0-1.0" in read_card("tiny")


def test_an_installed_name_is_not_taken_twice(offered: Path) -> None:
    add_model(offered)
    assert refusal(offered) == "exists"


def test_a_shipped_name_is_refused(offered: Path, run_folder: Path) -> None:
    package(run_folder, registry.SHIPPED_FOLDER, "official", **ABOUT)
    with pytest.raises(ModelError) as caught:
        add_model(offered, "official")
    assert caught.value.code == "shipped-name"
    assert not registry.user_folder().exists()


@pytest.mark.parametrize("name", ["../tiny", "/tmp/x", "a/b", "..", "", "Tiny", "a\0"])
def test_names_to_add_are_keys(offered: Path, name: str) -> None:
    assert refusal(offered, name) == "bad-name"


def test_a_name_inside_the_configuration_is_a_key_too(offered: Path) -> None:
    rewrite(offered, name="../../escaped")
    assert refusal(offered) == "bad-config"


@pytest.mark.parametrize("file", [*FILES, FACTORS_FILE])
@pytest.mark.parametrize("kind", ["link", "dangling", "fifo", "folder"])
def test_files_that_are_none_are_refused(
    offered: Path, tmp_path: Path, file: str, kind: str
) -> None:
    (offered / file).touch()
    path = offered / file
    if kind == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
        if kind == "dangling":
            path.symlink_to(tmp_path / "nowhere")
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()
    assert refusal(offered) == "not-a-file"


def test_a_link_to_a_folder_is_refused(offered: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(offered)
    assert refusal(tmp_path / "link") == "not-a-folder"
    assert refusal(tmp_path / "missing") == "not-a-folder"


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("config.json", "config-size"),
        ("weights.safetensors", "weights-size"),
        ("README.md", "card-size"),
    ],
)
def test_sizes_are_capped_before_reading(offered: Path, file: str, code: str) -> None:
    with (offered / file).open("r+b") as handle:
        handle.truncate(8 * 1024**3)  # sparse: 8 GB that take no space, and would be felt if read
    assert refusal(offered) == code


def test_wrong_digests_are_refused(offered: Path) -> None:
    rewrite(offered, weights_sha256="0" * 64)
    assert refusal(offered) == "weights-digest"


def test_a_renamed_pickle_is_refused(offered: Path) -> None:
    replace_weights(offered, pickle.dumps({"weights": [1.0]}))
    assert refusal(offered) == "weights-format"


def test_weights_that_are_not_finite_are_refused(offered: Path) -> None:
    tensors = load_file(offered / "weights.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("inf")
    replace_tensors(offered, tensors)
    assert refusal(offered) == "weights-not-finite"


def test_a_network_that_does_not_denoise_is_not_added(offered: Path) -> None:
    tensors = load_file(offered / "weights.safetensors")
    loud = {key: torch.randn_like(value) for key, value in tensors.items()}
    replace_tensors(offered, loud)
    assert refusal(offered) == "does-not-denoise"


def test_own_models_are_removed(offered: Path, own: Path) -> None:
    add_model(offered)
    assert remove_model("tiny") == own / "tiny"
    assert list(own.iterdir()) == []
    with pytest.raises(ModelError) as caught:
        remove_model("tiny")
    assert caught.value.code == "not-found"


def test_shipped_models_are_not_removed(offered: Path, run_folder: Path) -> None:
    package(run_folder, registry.SHIPPED_FOLDER, "official", **ABOUT)
    with pytest.raises(ModelError) as caught:
        remove_model("official")
    assert caught.value.code == "shipped"
    assert list_models() == ("official",)


@pytest.mark.parametrize("name", ["../offered/tiny", "..", "/"])
def test_removing_takes_keys_only(offered: Path, name: str) -> None:
    with pytest.raises(ModelError) as caught:
        remove_model(name)
    assert caught.value.code == "bad-name"
    assert (offered / "config.json").exists()


def test_removing_spares_what_is_no_model_file(offered: Path, own: Path) -> None:
    add_model(offered)
    (own / "tiny" / "notes.txt").write_text("mine")
    with pytest.raises(ModelError) as caught:
        remove_model("tiny")
    assert caught.value.code == "other-files"
    assert len(list((own / "tiny").iterdir())) == 4


def test_removing_does_not_follow_links(offered: Path, own: Path) -> None:
    own.mkdir()
    (own / "tiny").symlink_to(offered)
    with pytest.raises(ModelError) as caught:
        remove_model("tiny")
    assert caught.value.code == "not-a-folder"
    assert (offered / "config.json").exists()
