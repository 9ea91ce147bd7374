"""diffusers' checkpoints: the same function, the same schedule, or a refusal.

Numbers in `diffusers_outputs.json` were computed by diffusers itself (`diffusers_fixture.py`);
where diffusers is installed, random networks and its own schedulers are compared as well.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from models import install
from models.convert import Conversion
from models.convert_diffusers import convert_diffusers
from models.diffusers_unet import DiffusersUNet
from models.loading import load_prior, verify_model
from models.network_configs import DiffusersUNetConfig
from models.parameterizations import VariancePreservingParameterization
from models.registry import ModelError, read_config
from tests.models.diffusers_fixture import (
    BASE,
    NETWORKS,
    OUTPUTS,
    SCHEDULERS,
    formula_image,
    formula_weights,
)

KNOWN = json.loads(OUTPUTS.read_text())
KINDS = {"epsilon": "vp-epsilon", "v_prediction": "vp-v"}
ABOUT = Conversion(
    name="foreign",
    scale=0.5,
    training="elsewhere",
    licence="MIT",
    data_attributions=("unknown",),
    weights_dtype="float32",
)
# Identity: pairs of channels (x, -x) survive silu, as silu(x) - silu(-x) = x. With unit variance
# after the last normalisation, this network predicts the noise of an empty image exactly.
IDENTITY = BASE | {
    "block_out_channels": [4],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "mid_block_type": None,
    "norm_num_groups": 1,
    "norm_eps": 1e-12,
}


def options(name: str) -> dict[str, Any]:
    return BASE | NETWORKS[name]


def build(config: dict[str, Any]) -> DiffusersUNet:
    return DiffusersUNet(DiffusersUNetConfig.model_validate_json(json.dumps(config))).eval()


def identity_weights() -> dict[str, Tensor]:
    state = {key: torch.zeros_like(value) for key, value in build(IDENTITY).state_dict().items()}
    for channel in range(4):
        state["conv_in.weight"][channel, channel // 2, 1, 1] = (-1) ** channel
        state["conv_out.weight"][channel // 2, channel, 1, 1] = (-1) ** channel
        for block in range(2):
            shortcut = f"up_blocks.0.resnets.{block}.conv_shortcut.weight"
            state[shortcut][channel, channel, 0, 0] = 1
    state["conv_norm_out.weight"] += 1
    return state


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tmp_path / "models"))
    return tmp_path / "models"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder as diffusers saves a pipeline: `unet` and `scheduler` side by side."""
    folder = tmp_path / "pipeline" / "unet"
    folder.mkdir(parents=True)
    (folder.parent / "scheduler").mkdir()
    config = {"_class_name": "UNet2DModel", "_diffusers_version": "0.30.0", "sample_size": 64}
    (folder / "config.json").write_text(json.dumps(config | IDENTITY))
    save_file(identity_weights(), folder / "diffusion_pytorch_model.safetensors")
    scheduler = {"_class_name": "DDPMScheduler", "clip_sample": True, "beta_schedule": "linear"}
    (folder.parent / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


def change(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def refusal(source: Path, own: Path, about: Conversion = ABOUT) -> ModelError:
    with pytest.raises(ModelError) as caught:
        convert_diffusers(source, own, about)
    assert not own.exists() or list(own.iterdir()) == []
    return caught.value


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_compute_what_diffusers_computed(name: str) -> None:
    network = build(options(name))
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(formula_weights(shapes))
    with torch.no_grad():
        found = network(formula_image(), torch.tensor([137.0]))
    expected = torch.tensor(KNOWN["networks"][name]).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_denoisers_give_the_original_sample_that_diffusers_gave(name: str) -> None:
    schedule = dict(SCHEDULERS[name])
    parameterization = VariancePreservingParameterization(
        kind=KINDS[schedule.pop("prediction_type")], **schedule
    )
    told: list[float] = []

    class Fixed(nn.Module):
        def forward(self, image: Tensor, timestep: Tensor) -> Tensor:
            told.append(float(timestep))
            torch.testing.assert_close(image, formula_image(), rtol=1e-5, atol=1e-5)
            return formula_image().flip(-1)

    for known in KNOWN["schedules"][name]:
        kept = known["kept"]
        sigma = torch.tensor([(1 / kept - 1) ** 0.5])
        clean = parameterization.denoise(Fixed(), formula_image() / kept**0.5, sigma)
        expected = torch.tensor(known["clean"]).reshape(1, 2, 2, 2)
        tolerance = 1e-5 * float(1 + sigma)  # the image is a difference of two of this size
        torch.testing.assert_close(clean[..., :2, :2], expected, rtol=1e-4, atol=tolerance)
        assert told[-1] == pytest.approx(known["timestep"], abs=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_between_timesteps_the_network_is_told_a_fraction(name: str) -> None:
    schedule = dict(SCHEDULERS[name])
    parameterization = VariancePreservingParameterization(
        kind=KINDS[schedule.pop("prediction_type")], **schedule
    )
    levels = torch.from_numpy(parameterization.noise_levels)
    middle = (levels[:-1] * levels[1:]).sqrt()
    torch.testing.assert_close(
        parameterization.timestep(middle), torch.arange(999) + 0.5, rtol=0, atol=1e-3
    )
    beyond = torch.stack([levels[0] / 2, levels[-1] * 2])
    assert parameterization.timestep(beyond).tolist() == [0, 999]


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (1, 3)])
def test_any_matrix_size_keeps_its_shape(size: tuple[int, int]) -> None:
    network = build(options("plain"))
    with torch.no_grad():
        assert network(torch.randn(2, 2, *size), torch.tensor([3.0, 500.0])).shape == (2, 2, *size)


def test_a_checkpoint_becomes_a_model(checkpoint: Path, own: Path) -> None:
    assert convert_diffusers(checkpoint, own, ABOUT) == own / "foreign"
    config = read_config("foreign")
    assert config.parameterization == VariancePreservingParameterization(kind="vp-epsilon")
    assert (config.scale, config.licence) == (0.5, "MIT")
    # 1 - 0.0001 is kept of the image at the first timestep: 0.01 in its units, 0.02 in ours.
    assert config.sigma_range[0] == pytest.approx(0.02, rel=1e-3)
    # It removes noise of unit variance; that of 8,192 normal numbers is known to one percent.
    assert verify_model("foreign")[1].remaining < 0.01 * 0.5


def test_units_are_converted_by_the_scale(checkpoint: Path, own: Path) -> None:
    convert_diffusers(checkpoint, own, ABOUT)
    prior = load_prior("foreign", "cpu", torch.float32)
    noise = torch.view_as_complex(torch.randn(1, 32, 32, 2))
    # The network normalises its input: the denoiser takes sigma of unit variance away.
    level = torch.view_as_real(noise).square().mean().sqrt()
    torch.testing.assert_close(
        prior.denoise(3 * noise, 0.7), 3 * noise - 0.7 * noise / level, rtol=1e-4, atol=1e-5
    )


def test_chosen_levels_are_kept(checkpoint: Path, own: Path) -> None:
    about = Conversion(**{**vars(ABOUT), "sigma_low": 0.05, "sigma_high": 4.0})
    convert_diffusers(checkpoint, own, about)
    assert read_config("foreign").sigma_range == (0.05, 4.0)


def test_attention_layers_by_their_old_names(
    checkpoint: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(install, "smoke_test", lambda prior, name: None)  # weights by a formula
    network = build(options("plain"))
    weights = formula_weights({k: tuple(v.shape) for k, v in network.state_dict().items()})
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {
        re.sub(r"to_([qkv]|out\.0)\b", lambda found: old[found[0]], key): value
        for key, value in weights.items()
    }
    assert renamed.keys() != weights.keys()
    plain = options("plain") | {"mid_block_type": "UNetMidBlock2D", "norm_eps": 1e-5}
    change(checkpoint / "config.json", **plain)
    save_file(renamed, checkpoint / "diffusion_pytorch_model.safetensors")
    convert_diffusers(checkpoint, own, ABOUT)
    with torch.no_grad():
        found = load_prior("foreign", "cpu", torch.float32).network(
            formula_image(), torch.tensor([137.0])
        )
    expected = torch.tensor(KNOWN["networks"]["plain"]).reshape(found.shape)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("place", ["beside", "below"])
def test_the_schedule_is_found_in_three_places(checkpoint: Path, own: Path, place: str) -> None:
    source = checkpoint.parent / "scheduler" / "scheduler_config.json"
    change(source, beta_end=0.01)
    target = checkpoint if place == "beside" else checkpoint / "scheduler"
    target.mkdir(exist_ok=True)
    source.rename(target / "scheduler_config.json")
    convert_diffusers(checkpoint, own, ABOUT)
    assert read_config("foreign").parameterization.beta_end == 0.01


@pytest.mark.parametrize("channels", [1, 3])
def test_models_without_phase_are_refused(checkpoint: Path, own: Path, channels: int) -> None:
    change(checkpoint / "config.json", in_channels=channels, out_channels=channels)
    error = refusal(checkpoint, own)
    assert error.code == "not-complex"
    assert "phase" in error.message


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "UNet2DConditionModel"},
        {"down_block_types": ["SkipDownBlock2D"], "up_block_types": ["SkipUpBlock2D"]},
        {"down_block_types": ["DownBlock2D"] * 2},
        {"time_embedding_type": "fourier"},
        {"act_fn": "gelu"},
        {"center_input_sample": True},
        {"class_embed_type": "timestep"},
        {"num_class_embeds": 10},
        {"resnet_time_scale_shift": "spatial"},
        {"layers_per_block": 10**9},
        {"block_out_channels": [10**9]},
        {"an_option_of_tomorrow": 1},
        {"norm_eps": float("nan")},
    ],
)
def test_other_networks_are_refused(
    checkpoint: Path, own: Path, changes: dict[str, object]
) -> None:
    change(checkpoint / "config.json", **changes)
    assert refusal(checkpoint, own).code == "unsupported-source"


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "ScoreSdeVeScheduler"},
        {"_class_name": None},
        {"beta_schedule": "sigmoid"},
        {"prediction_type": "sample"},
        {"prediction_type": "flow_prediction"},
        {"trained_betas": [0.1, 0.2]},
        {"rescale_betas_zero_snr": True},
        {"num_train_timesteps": 10**9},
        {"beta_start": 0},
    ],
)
def test_other_schedules_are_refused(
    checkpoint: Path, own: Path, changes: dict[str, object]
) -> None:
    change(checkpoint.parent / "scheduler" / "scheduler_config.json", **changes)
    assert refusal(checkpoint, own).code == "unsupported-source"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_is_a_positive_number(checkpoint: Path, own: Path, scale: float) -> None:
    about = Conversion(**{**vars(ABOUT), "scale": scale})
    assert refusal(checkpoint, own, about).code == "bad-scale"


def test_levels_outside_the_schedule_are_refused(checkpoint: Path, own: Path) -> None:
    about = Conversion(**{**vars(ABOUT), "sigma_low": 0.001})
    error = refusal(checkpoint, own, about)
    assert error.code == "bad-config"
    assert "0.02" in error.message


def test_missing_parts_are_named(checkpoint: Path, own: Path) -> None:
    (checkpoint / "diffusion_pytorch_model.safetensors").rename(checkpoint / "model.bin")
    assert "safe_serialization" in refusal(checkpoint, own).message
    (checkpoint.parent / "scheduler" / "scheduler_config.json").unlink()
    assert "scheduler_config.json" in refusal(checkpoint, own).message


@pytest.mark.parametrize("text", ["{", "[]", "[" * 60_000, ""])
def test_broken_configurations_are_refused(checkpoint: Path, own: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    assert refusal(checkpoint, own).code == "bad-config"


def test_a_network_that_predicts_nothing_is_refused(checkpoint: Path, own: Path) -> None:
    weights = identity_weights()
    weights["conv_out.weight"].zero_()
    save_file(weights, checkpoint / "diffusion_pytorch_model.safetensors")
    assert refusal(checkpoint, own).code == "does-not-denoise"
