"""EDM's SongUNet: the same function, the same preconditioning, or a refusal.

Numbers in `edm_outputs.json` were computed by the published network code with weights made by a
formula (`edm_fixture.py`). No published checkpoint was compared: none has two channels.
"""

from __future__ import annotations

import json
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models import convert_edm as conversion
from models import install
from models.convert import Conversion
from models.convert_edm import convert_edm
from models.denoiser import NetworkPrior
from models.loading import load_prior, verify_model
from models.parameterizations import EdmParameterization
from models.registry import ModelError, read_config
from models.song_unet import SongUNet, resample
from tests.models.edm_fixture import (
    LABEL,
    NETWORKS,
    OUTPUTS,
    TAPS,
    formula_image,
    original_state,
    shape_of,
)

KNOWN = json.loads(OUTPUTS.read_text())
ABOUT = Conversion(
    name="foreign",
    scale=2.0,
    training="elsewhere",
    licence="MIT",
    data_attributions=("unknown",),
    sigma_low=0.01,
    sigma_high=20.0,
    weights_dtype="float32",
)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def state() -> dict[str, Tensor]:
    """A network with an output of zero, which denoises as if images were white."""
    found = original_state("NCSN++")
    return {
        key: torch.zeros_like(value) if "aux_conv" in key else value for key, value in found.items()
    }


def stored(state: Any, tmp_path: Path) -> Path:
    torch.save(state, tmp_path / "net.pt")
    return tmp_path / "net.pt"


def refusal(source: Path, own: Path, sigma_data: float = 0.5) -> ModelError:
    with pytest.raises(ModelError) as caught:
        convert_edm(source, own, ABOUT, sigma_data)
    assert not own.exists() or list(own.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("name", NETWORKS)
def test_converted_networks_compute_what_edm_computed(
    name: str, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "smoke_test", lambda prior, name: None)  # weights by a formula
    convert_edm(stored(original_state(name), tmp_path), own, ABOUT, 0.5)
    assert read_config("foreign").network == shape_of(name)
    network = load_prior("foreign", "cpu", torch.float32).network
    with torch.no_grad():
        found = network(formula_image(), torch.tensor([LABEL]))
    expected = torch.tensor(KNOWN[name]).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("taps", TAPS.values())
@pytest.mark.parametrize("direction", ["up", "down"])
def test_resampling_is_an_explicit_convolution(taps: tuple[int, ...], direction: str) -> None:
    image = torch.randn(4, 6)
    line = [tap / sum(taps) for tap in taps]
    rim = (len(taps) - 1) // 2
    found = resample(image[None, None], taps, direction)[0, 0]
    expected = torch.zeros_like(found)
    for row in range(found.shape[0]):
        for column in range(found.shape[1]):
            for i, down in enumerate(line):
                for j, across in enumerate(line):
                    if direction == "down":
                        y, x = 2 * row + i - rim, 2 * column + j - rim
                        gain = 1.0
                    else:
                        # The pixel (y, x) spreads to 2 y + i - rim.
                        if (row - i + rim) % 2 or (column - j + rim) % 2:
                            continue
                        y, x = (row - i + rim) // 2, (column - j + rim) // 2
                        gain = 4.0
                    if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
                        expected[row, column] += gain * down * across * image[y, x]
    torch.testing.assert_close(found, expected)


class Constant(nn.Module):
    """Answers with one number and remembers what it was asked."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        self.image, self.label = image, label
        return torch.full_like(image, self.value)


@pytest.mark.parametrize("sigma", [0.01, 0.5, 30.0])
def test_preconditioning_has_the_published_coefficients(sigma: float) -> None:
    data, noisy = 0.5, torch.randn(1, 2, 8, 8)
    network = Constant(0.3)
    clean = EdmParameterization(sigma_data=data, noise_label="quarter-log").denoise(
        network, noisy, torch.tensor([sigma])
    )
    total = math.hypot(sigma, data)
    torch.testing.assert_close(network.image, noisy / total)
    assert float(network.label) == pytest.approx(math.log(sigma) / 4, rel=1e-5)
    torch.testing.assert_close(clean, noisy * (data / total) ** 2 + 0.3 * sigma * data / total)


def test_a_network_in_other_units_is_the_same_denoiser() -> None:
    torch.manual_seed(0)
    network = SongUNet(shape_of("DDPM++"))
    edm = EdmParameterization(sigma_data=0.5, noise_label="quarter-log")
    ours = NetworkPrior(network, (0.01, 20.0), torch.float32, edm, 2.0)
    theirs = NetworkPrior(network, (0.01, 20.0), torch.float32, edm, 1.0)
    noisy = torch.randn(1, 8, 8, dtype=torch.complex64)
    torch.testing.assert_close(ours.denoise(noisy, 0.3), theirs.denoise(2 * noisy, 0.6) / 2)
    assert not torch.allclose(ours.denoise(noisy, 0.3), theirs.denoise(noisy, 0.3))


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (1, 3)])
def test_any_matrix_size_keeps_its_shape(size: tuple[int, int]) -> None:
    network = SongUNet(shape_of("NCSN++"))
    with torch.no_grad():
        assert network(torch.randn(2, 2, *size), torch.tensor([-1.0, 0.5])).shape == (2, 2, *size)


def test_a_state_dict_becomes_a_model(state: dict[str, Tensor], own: Path, tmp_path: Path) -> None:
    assert convert_edm(stored(state, tmp_path), own, ABOUT, 0.5) == own / "foreign"
    config = read_config("foreign")
    assert config.parameterization == EdmParameterization(sigma_data=0.5, noise_label="quarter-log")
    assert (config.scale, config.sigma_range) == (2.0, (0.01, 20.0))
    # c_skip of sigma = 0.5 times the scale of 2.
    expected = 0.5 * 0.5**2 / (1.0**2 + 0.5**2)
    assert verify_model("foreign")[1].remaining == pytest.approx(expected, rel=0.02)


def test_prefix_and_format_make_no_difference(
    state: dict[str, Tensor], own: Path, tmp_path: Path
) -> None:
    convert_edm(stored(state, tmp_path), own, ABOUT, 0.5)
    expected = load_file(own / "foreign" / "weights.safetensors")
    (own / "foreign").rename(tmp_path / "first")
    prefixed = {f"model.{key}": value.contiguous() for key, value in state.items()}
    save_file(prefixed, tmp_path / "net.safetensors")
    convert_edm(tmp_path / "net.safetensors", own, ABOUT, 0.5)
    found = load_file(own / "foreign" / "weights.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[key], expected[key]) for key in expected)


def test_frequencies_are_never_rounded(state: dict[str, Tensor], own: Path, tmp_path: Path) -> None:
    about = Conversion(**{**vars(ABOUT), "weights_dtype": "bfloat16"})
    convert_edm(stored(state, tmp_path), own, about, 0.5)
    found = load_file(own / "foreign" / "weights.safetensors")
    assert torch.equal(found.pop("map_noise.freqs"), state["map_noise.freqs"])
    assert {value.dtype for value in found.values()} == {torch.bfloat16}


def test_pickles_are_refused_with_the_way_out(own: Path, tmp_path: Path) -> None:
    (tmp_path / "net.pkl").write_bytes(b"anything")
    error = refusal(tmp_path / "net.pkl", own)
    assert error.code == "pickle"
    assert "state_dict()" in error.message


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return pytest.fail, ("a pickle was executed",)


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(Bomb()), b"", b"\x80\x02", b"PK\x03\x04", pickle.dumps({"a": [1] * 9})],
)
def test_files_of_anything_else_are_refused_unexecuted(
    own: Path, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "net.pt").write_bytes(content)
    assert refusal(tmp_path / "net.pt", own).code == "weights-format"


@pytest.mark.parametrize("content", [Bomb(), {"net": Bomb()}, {"step": 3}, [torch.zeros(1)]])
def test_only_a_dictionary_of_tensors_is_read(own: Path, tmp_path: Path, content: object) -> None:
    assert refusal(stored(content, tmp_path), own).code == "weights-format"


def test_expanded_tensors_are_refused_before_they_are_written_out(
    state: dict[str, Tensor], own: Path, tmp_path: Path
) -> None:
    state["dec.4x4_block0.norm0.weight"] = torch.zeros(1).expand(10**13)
    source = stored(state, tmp_path)
    assert source.stat().st_size < 1_000_000
    assert refusal(source, own).code == "weights-mismatch"


def test_archives_are_measured_before_they_are_unpacked(
    state: dict[str, Tensor], own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stored(state | {"zeros": torch.zeros(10**6)}, tmp_path)
    with zipfile.ZipFile(source) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    monkeypatch.setattr(conversion, "MAX_SOURCE_BYTES", 2_000_000)
    assert source.stat().st_size < 2_000_000
    assert refusal(source, own).code == "weights-size"


@pytest.mark.parametrize("channels", [1, 3])
def test_models_without_phase_are_refused(
    state: dict[str, Tensor], own: Path, tmp_path: Path, channels: int
) -> None:
    state["enc.8x8_conv.weight"] = torch.zeros(4, channels, 3, 3)
    state["dec.8x8_aux_conv.weight"] = torch.zeros(channels, 4, 3, 3)
    assert refusal(stored(state, tmp_path), own).code == "not-complex"


def test_other_networks_are_refused(state: dict[str, Tensor], own: Path, tmp_path: Path) -> None:
    box = torch.full((1, 1, 2, 2), 0.25)
    variants = {
        "no SongUNet": {"weight": torch.zeros(2)},
        "empty": {},
        "class labels": state | {"map_label.weight": torch.zeros(8, 10)},
        "skip decoder": state | {"dec.4x4_aux_up.resample_filter": box},
        "two filters": state | {"enc.4x4_down.conv0.resample_filter": box},
        "other sizes": {key.replace("4x4", "3x3"): value for key, value in state.items()},
        "no output": {key: value for key, value in state.items() if "aux_conv" not in key},
        "flat output": state | {"dec.8x8_aux_conv.weight": torch.tensor(2.0)},
        "no embedding": {key: v for key, v in state.items() if "map_layer0" not in key},
    }
    for name, variant in variants.items():
        assert refusal(stored(variant, tmp_path), own).code == "unsupported-source", name


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_tensors_that_do_not_fit_are_refused(
    state: dict[str, Tensor], own: Path, tmp_path: Path, change: str
) -> None:
    key = "dec.4x4_block0.norm0.weight"
    if change == "missing":
        del state[key]
    elif change == "extra":
        state["dec.4x4_block0.extra"] = torch.zeros(3)
    else:
        state[key] = torch.zeros(3)
    assert refusal(stored(state, tmp_path), own).code == "weights-mismatch"


def test_sigma_data_is_positive(state: dict[str, Tensor], own: Path, tmp_path: Path) -> None:
    assert refusal(stored(state, tmp_path), own, 0.0).code == "unsupported-source"
