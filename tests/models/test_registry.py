from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import registry
from models.denoiser import SIGMA_DATA, NetworkPrior
from models.network import UNet, UNetConfig
from models.registry import (
    ModelError,
    compute_dtype_for,
    list_models,
    load_prior,
    package,
    read_config,
)
from models.train import TrainingConfig

TINY = UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4)
ABOUT: dict[str, Any] = {
    "training": "6 steps on noise",
    "licence": "CC0-1.0",
    "data_attributions": ("nobody", "nowhere"),
}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    network = UNet(TINY)
    state = {key: 0.1 * torch.randn_like(value) for key, value in network.state_dict().items()}
    save_file({k: v.to(torch.bfloat16) for k, v in state.items()}, folder / "weights.safetensors")
    config = TrainingConfig(network=TINY, sigma_range=(0.01, 5.0))
    (folder / "training.json").write_text(config.model_dump_json())
    return folder


@pytest.fixture
def models(tmp_path: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, holding one model named `tiny`; nothing is shipped."""
    folder = tmp_path / "models"
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(folder))
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "shipped")
    package(run_folder, folder, "tiny", **ABOUT)
    return folder


def rewrite(model: Path, **changes: object) -> None:
    """Change entries of a model's configuration."""
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def replace_weights(model: Path, content: bytes) -> None:
    """Other weights, with a digest that vouches for them: all later checks must hold alone."""
    (model / "weights.safetensors").write_bytes(content)
    rewrite(model, weights_sha256=hashlib.sha256(content).hexdigest())


def replace_tensors(model: Path, tensors: dict[str, torch.Tensor]) -> None:
    save_file(tensors, model / "weights.safetensors")
    replace_weights(model, (model / "weights.safetensors").read_bytes())


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_prior(name)
    assert caught.value.message
    return caught.value.code


def test_round_trip(models: Path, run_folder: Path) -> None:
    assert list_models() == ("tiny",)
    config = read_config("tiny")
    assert (config.network, config.sigma_range) == (TINY, (0.01, 5.0))
    assert config.sigma_data == SIGMA_DATA
    assert config.data_attributions == ("nobody", "nowhere")

    network = UNet(TINY)
    stored = load_file(run_folder / "weights.safetensors")
    network.load_state_dict({key: value.float() for key, value in stored.items()})
    expected = NetworkPrior(network, (0.01, 5.0), torch.float32)
    loaded = load_prior("tiny", "cpu", torch.float32)
    noisy = torch.randn(2, 13, 18, dtype=torch.complex64)
    torch.testing.assert_close(loaded.denoise(noisy, 0.2), expected.denoise(noisy, 0.2))
    assert loaded.sigma_range == (0.01, 5.0)
    assert {p.dtype for p in loaded.network.parameters()} == {torch.float32}
    assert load_prior("tiny").compute_dtype == compute_dtype_for("cpu")


def test_model_card_names_licence_and_data(models: Path) -> None:
    card = (models / "tiny" / "README.md").read_text()
    assert all(text in card for text in ("tiny", "6 steps on noise", "CC0-1.0", "- nowhere"))


def test_shipped_models_are_found_and_come_first(
    models: Path, run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package(run_folder, registry.SHIPPED_FOLDER, "tiny", **(ABOUT | {"licence": "shipped"}))
    package(run_folder, registry.SHIPPED_FOLDER, "alone", **ABOUT)
    assert list_models() == ("alone", "tiny")
    assert read_config("tiny").licence == "shipped"
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(models / "nowhere"))
    assert list_models() == ("alone", "tiny")


def test_user_folder_follows_the_platform(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MRI_POSTERIOR_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert registry.user_folder() == tmp_path / "mri-posterior" / "models"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert registry.user_folder() == tmp_path / ".local/share/mri-posterior/models"


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../tiny", "/etc", "a/b", "a\\b", "Tiny", "-a", "tiny\n", "a" * 65, "tiny\0"],
)
def test_names_are_keys_and_never_paths(models: Path, name: str) -> None:
    assert refusal(name) == "bad-name"


def test_unknown_model_lists_the_known_ones(models: Path) -> None:
    with pytest.raises(ModelError, match="tiny") as caught:
        load_prior("other")
    assert caught.value.code == "not-found"


def test_tampered_weights_are_refused_unparsed(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = models / "tiny" / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)

    def parse(content: bytes) -> None:
        raise AssertionError("parsed before the digest was checked")

    monkeypatch.setattr(registry, "load", parse)
    assert refusal("tiny") == "weights-digest"


@pytest.mark.parametrize(
    "changes",
    [
        {"network": TINY.model_dump(mode="json") | {"architecture": "os.system"}},
        {"network": TINY.model_dump(mode="json") | {"channels": [9, 9]}},
        {"network": TINY.model_dump(mode="json") | {"channels": [0, 0]}},
        {"network": TINY.model_dump(mode="json") | {"channels": [2**20, 2**20]}},
        {"surprise": 1},
        {"sigma_range": [1.0, 0.1]},
        {"sigma_range": [0.1, "inf"]},
        {"sigma_data": 0.5},
        {"weights_dtype": "float16"},
        {"weights_sha256": "abc"},
    ],
)
def test_bad_configurations_are_refused(models: Path, changes: dict[str, object]) -> None:
    rewrite(models / "tiny", **changes)
    assert refusal("tiny") == "bad-config"


def test_a_large_network_costs_no_memory_before_it_is_refused(models: Path) -> None:
    rewrite(models / "tiny", network=TINY.model_dump(mode="json") | {"channels": [1024] * 6})
    assert refusal("tiny") == "weights-mismatch"


def test_a_configuration_must_carry_the_name_of_its_folder(models: Path) -> None:
    (models / "tiny").rename(models / "renamed")
    assert refusal("renamed") == "name-mismatch"


def test_broken_json_is_refused(models: Path) -> None:
    (models / "tiny" / "config.json").write_text("{")
    assert refusal("tiny") == "bad-config"


def test_missing_weights_are_refused(models: Path) -> None:
    (models / "tiny" / "weights.safetensors").unlink()
    assert refusal("tiny") == "missing-file"


def test_sizes_are_capped(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "MAX_WEIGHTS_BYTES", 1000)
    assert refusal("tiny") == "weights-size"
    monkeypatch.setattr(registry, "MAX_CONFIG_BYTES", 10)
    assert refusal("tiny") == "config-size"


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "dtype"])
def test_tensors_that_do_not_fit_the_network_are_refused(models: Path, change: str) -> None:
    tensors = load_file(models / "tiny" / "weights.safetensors")
    key = next(iter(tensors))
    if change == "missing":
        del tensors[key]
    elif change == "extra":
        tensors["extra"] = torch.zeros(1, dtype=torch.bfloat16)
    elif change == "shape":
        tensors[key] = tensors[key].flatten()[None].contiguous()
    else:
        tensors[key] = tensors[key].to(torch.float32)
    replace_tensors(models / "tiny", tensors)
    assert refusal("tiny") == "weights-mismatch"


def test_weights_that_are_not_finite_are_refused(models: Path) -> None:
    tensors = load_file(models / "tiny" / "weights.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    replace_tensors(models / "tiny", tensors)
    assert refusal("tiny") == "weights-not-finite"


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was executed",)


def test_a_pickle_in_disguise_is_refused_unexecuted(models: Path, tmp_path: Path) -> None:
    replace_weights(models / "tiny", pickle.dumps(Bomb()))
    assert refusal("tiny") == "weights-format"
    torch.save({"bomb": Bomb()}, tmp_path / "bomb.pt")
    replace_weights(models / "tiny", (tmp_path / "bomb.pt").read_bytes())
    assert refusal("tiny") == "weights-format"


@pytest.mark.parametrize("content", [b"", b"\0" * 8, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"{}"])
def test_damaged_safetensors_are_refused(models: Path, content: bytes) -> None:
    replace_weights(models / "tiny", content)
    assert refusal("tiny") in {"weights-format", "weights-mismatch"}


def test_packaging_never_replaces_a_model(models: Path, run_folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        package(run_folder, models, "tiny", **ABOUT)
    assert caught.value.code == "exists"


def test_failed_packaging_leaves_nothing_behind(models: Path, run_folder: Path) -> None:
    (run_folder / "weights.safetensors").write_bytes(b"nonsense")
    with pytest.raises(ModelError) as caught:
        package(run_folder, models, "other", **ABOUT)
    assert caught.value.code == "bad-run"
    assert [entry.name for entry in models.iterdir()] == ["tiny"]


def test_errors_survive_a_process_boundary() -> None:
    error = pickle.loads(pickle.dumps(ModelError("a-code", "a sentence")))
    assert (type(error), error.code, error.message) == (ModelError, "a-code", "a sentence")


def test_cpu_computes_in_bfloat16_only_where_it_is_native(monkeypatch: pytest.MonkeyPatch) -> None:
    for avx, amx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda avx=avx: avx)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda amx=amx: amx)
        expected = torch.bfloat16 if avx or amx else torch.float32
        assert compute_dtype_for(torch.device("cpu")) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_prior_runs_on_cuda(models: Path) -> None:
    noisy = torch.randn(2, 13, 18, dtype=torch.complex64)
    clean = load_prior("tiny", "cuda", torch.float32).denoise(noisy.cuda(), 0.2)
    expected = load_prior("tiny", "cpu", torch.float32).denoise(noisy, 0.2)
    torch.testing.assert_close(clean.cpu(), expected, rtol=1e-3, atol=1e-3)
