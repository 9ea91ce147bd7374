from __future__ import annotations

import os
import pickle
import resource
import shutil
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import model_folder, model_weights, registry
from models.denoiser import NetworkPrior
from models.install import package
from models.loading import compute_dtype_for, load_prior, verify_model
from models.model_folder import STEP, count_parameters
from models.model_weights import read_model, to_stored
from models.network import UNet
from models.parameterizations import EdmParameterization
from models.registry import ModelError, is_shipped, list_models, read_card, read_config
from tests.models.model_files import (
    ABOUT,
    TINY,
    replace_tensors,
    replace_weights,
    rewrite,
    write_run,
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("random") / "run", random=True)


@pytest.fixture(scope="module")
def packaged(run_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return package(run_folder, tmp_path_factory.mktemp("packaged"), "tiny", **ABOUT)


@pytest.fixture
def models(tmp_path: Path, packaged: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder, holding one model named `tiny`; nothing is shipped."""
    folder = tmp_path / "models"
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(folder))
    monkeypatch.setattr(registry, "SHIPPED_FOLDER", tmp_path / "shipped")
    shutil.copytree(packaged, folder / "tiny")
    return folder


def refusal(name: str) -> str:
    with pytest.raises(ModelError) as caught:
        load_prior(name)
    assert caught.value.message
    return caught.value.code


def test_round_trip(models: Path, run_folder: Path) -> None:
    assert list_models() == ("tiny",)
    config = read_config("tiny")
    assert (config.network, config.sigma_range) == (TINY, (0.01, 5.0))
    assert config.parameterization == EdmParameterization(sigma_data=0.25)
    assert config.scale == 1
    assert config.data_attributions == ("nobody", "nowhere")

    network = UNet(TINY)
    stored = load_file(run_folder / "weights.safetensors")
    network.load_state_dict({key: value.float() for key, value in stored.items()})
    expected = NetworkPrior(network, (0.01, 5.0), torch.float32)
    loaded = load_prior("tiny", "cpu", torch.float32)
    noisy = torch.randn(2, 13, 18, dtype=torch.complex64)
    torch.testing.assert_close(loaded.denoise(noisy, 0.2), expected.denoise(noisy, 0.2))
    assert (loaded.sigma_range, loaded.power) == ((0.01, 5.0), 1)
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

    monkeypatch.setattr(model_weights, "load", parse)
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
        {"parameterization": {"kind": "edm", "sigma_data": 0}},
        {"parameterization": {"kind": "vp-epsilon"}, "sigma_range": [0.001, 5.0]},
        {"parameterization": {"kind": "os.system"}},
        {"scale": 0},
        {"power": 0},
        {"power": 5},
        {"weights_dtype": "float64"},
        {"licence": "free\x1b[2J"},
        {"weights_sha256": "abc"},
    ],
)
def test_bad_configurations_are_refused(models: Path, changes: dict[str, object]) -> None:
    rewrite(models / "tiny", **changes)
    assert refusal("tiny") == "bad-config"


WIDE = [1024] * 6
HUGE = {
    "monai-unet": {"channels": WIDE},
    "diffusers-unet2d": {
        "in_channels": 2,
        "out_channels": 2,
        "block_out_channels": [2048] * 8,
        "down_block_types": ["AttnDownBlock2D"] * 8,
        "up_block_types": ["AttnUpBlock2D"] * 8,
        "layers_per_block": 8,
    },
    "edm-songunet": {
        "base_channels": 2048,
        "channels": [2048] * 8,
        "blocks": 8,
        "attention": [True] * 8,
        "noise_channels": 2048,
        "embedding_channels": 2048,
    },
}


@pytest.mark.parametrize("architecture", HUGE)
def test_a_large_network_costs_no_memory_before_it_is_refused(
    models: Path, architecture: str
) -> None:
    rewrite(models / "tiny", network={"architecture": architecture, **HUGE[architecture]})
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    # The smallest of these networks has 1 GB of weights.
    resource.setrlimit(resource.RLIMIT_AS, (used + 400 * 1024**2, limits[1]))
    try:
        assert refusal("tiny") == "weights-mismatch"
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


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
    monkeypatch.setattr(model_weights, "MAX_WEIGHTS_BYTES", 1000)
    assert refusal("tiny") == "weights-size"
    monkeypatch.setattr(model_folder, "MAX_CONFIG_BYTES", 10)
    assert refusal("tiny") == "config-size"


@pytest.mark.parametrize("file", ["config.json", "weights.safetensors"])
def test_a_fifo_is_refused_at_once(models: Path, file: str) -> None:
    (models / "tiny" / file).unlink()
    os.mkfifo(models / "tiny" / file)
    assert refusal("tiny") == ("not-found" if file == "config.json" else "not-a-file")


def test_a_long_header_is_refused_unparsed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(content: bytes) -> None:
        raise AssertionError("a header longer than allowed was parsed")

    monkeypatch.setattr(model_weights, "load", parse)
    length = model_folder.MAX_HEADER_BYTES + 1
    replace_weights(models / "tiny", struct.pack("<Q", length) + b" " * length)
    assert refusal("tiny") == "weights-format"


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


@pytest.mark.parametrize("stored", ["bfloat16", "float16", "float32"])
def test_weights_may_be_stored_in_three_types(models: Path, run_folder: Path, stored: str) -> None:
    package(run_folder, models, "other", weights_dtype=stored, **ABOUT)
    tensors = load_file(models / "other" / "weights.safetensors")
    assert {value.dtype for value in tensors.values()} == {getattr(torch, stored)}
    prior, expected = (load_prior(name, "cpu", torch.float32) for name in ("other", "tiny"))
    noisy = torch.randn(1, 16, 16, dtype=torch.complex64)
    torch.testing.assert_close(
        prior.denoise(noisy, 0.2), expected.denoise(noisy, 0.2), rtol=0.01, atol=0.01
    )


def test_kernels_may_be_stored_as_whole_numbers(models: Path, run_folder: Path) -> None:
    """Half the bytes, each weight within half a step, and the same file when made again."""
    trained = load_file(run_folder / "weights.safetensors")
    package(run_folder, models, "eight", weights_dtype="int8", **ABOUT)
    stored = load_file(models / "eight" / "weights.safetensors")
    kernels = {key for key, value in stored.items() if value.dtype == torch.int8}
    assert kernels == {key for key, value in trained.items() if value.ndim == 4}
    model = read_model(models / "eight")
    assert model.tensors.keys() == trained.keys()
    for key, value in model.tensors.items():
        expected = trained[key].float()
        if key in kernels:
            largest = expected.abs().amax(dim=(1, 2, 3), keepdim=True)
            assert bool(((value - expected).abs() <= 0.5001 * largest / 127).all())
        else:
            assert torch.equal(value.float(), expected)
    assert count_parameters(models / "eight") == count_parameters(models / "tiny")
    again = to_stored(model.config, model.tensors)
    assert all(torch.equal(again[key], value) for key, value in stored.items())


def test_a_kernel_of_zeros_stays_one(models: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", random=True)
    weights = run / "weights.safetensors"
    save_file({k: torch.zeros_like(v) for k, v in load_file(weights).items()}, weights)
    package(run, models, "zeros", weights_dtype="int8", **ABOUT)
    assert all(not bool(v.any()) for v in read_model(models / "zeros").tensors.values())


@pytest.mark.parametrize("step", [float("nan"), 3e38])
def test_steps_that_are_not_finite_are_refused(models: Path, run_folder: Path, step: float) -> None:
    made = package(run_folder, models, "eight", weights_dtype="int8", **ABOUT)
    tensors = load_file(made / "weights.safetensors")
    changed = {k: torch.full_like(v, step) if k.endswith(STEP) else v for k, v in tensors.items()}
    replace_tensors(made, changed)
    assert refusal("eight") == "weights-not-finite"


def test_parameters_are_counted_from_the_header_alone(models: Path) -> None:
    weights = models / "tiny" / "weights.safetensors"
    content = weights.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    weights.write_bytes(content[:header])
    expected = sum(value.numel() for value in UNet(TINY).parameters())
    assert count_parameters(models / "tiny") == expected


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff" * 8, (9).to_bytes(8, "little") + b"[1, 2, 3]",
        (2).to_bytes(8, "little") + b"no",
        (16).to_bytes(8, "little") + b'{"a": {"b": [1]}',
        (5000).to_bytes(8, "little") + b"[" * 5000,
    ],
)  # fmt: skip
def test_a_header_that_is_none_is_refused(models: Path, content: bytes) -> None:
    (models / "tiny" / "weights.safetensors").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        count_parameters(models / "tiny")
    assert caught.value.code == "weights-format"


def test_shipped_models_are_told_from_own_ones(models: Path, run_folder: Path) -> None:
    package(run_folder, registry.SHIPPED_FOLDER, "official", **ABOUT)
    assert (is_shipped("official"), is_shipped("tiny")) == (True, False)


def test_cards_cannot_steer_a_terminal(models: Path) -> None:
    card = models / "tiny" / "README.md"
    card.write_text("# A\x1b[2Jcard\u202e\x07\n\tof *words*, σ é 脳\n")
    assert read_card("tiny") == "# A[2Jcard\n\tof *words*, σ é 脳\n"
    card.unlink()
    assert read_card("tiny") == ""


def test_a_model_that_denoises_is_verified(models: Path, tmp_path: Path) -> None:
    package(write_run(tmp_path / "quiet", random=False), models, "quiet", **ABOUT)
    model, smoke = verify_model("quiet")
    assert model.config.name == "quiet"
    # An output of zero leaves sigma_data**2 / (sigma**2 + sigma_data**2) of its input.
    assert smoke.remaining == pytest.approx(0.5 * 0.25**2 / (0.5**2 + 0.25**2), rel=0.05)


def test_a_model_that_keeps_the_noise_is_refused_by_verify(models: Path, tmp_path: Path) -> None:
    package(write_run(tmp_path / "quiet", random=False), models, "quiet", **ABOUT)
    rewrite(models / "quiet", parameterization={"kind": "edm", "sigma_data": 50})
    with pytest.raises(ModelError) as caught:
        verify_model("quiet")
    assert caught.value.code == "does-not-denoise"


def test_a_model_that_overflows_is_refused_by_verify(models: Path) -> None:
    tensors = load_file(models / "tiny" / "weights.safetensors")
    replace_tensors(models / "tiny", {k: torch.full_like(v, 1e30) for k, v in tensors.items()})
    with pytest.raises(ModelError) as caught:
        verify_model("tiny")
    assert caught.value.code == "output-not-finite"


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
