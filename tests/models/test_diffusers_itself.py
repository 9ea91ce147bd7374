"""Side by side with diffusers, where it is installed (it is no dependency)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from models import install
from models.convert import Conversion
from models.convert_diffusers import convert_diffusers
from models.diffusers_unet import DiffusersUNet
from models.loading import load_prior
from models.network_configs import DiffusersUNetConfig
from models.registry import read_config

diffusers = pytest.importorskip("diffusers")

BASE: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}


def random_network(**changes: object) -> Any:
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(**(BASE | changes)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"add_attention": False},
        {"flip_sin_to_cos": False, "freq_shift": 1},
        {"norm_eps": 1e-3},
        {"layers_per_block": 2, "downsample_padding": 0},
        {"attention_head_dim": None},
        {"resnet_time_scale_shift": "scale_shift"},
        {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 2},
        {"mid_block_scale_factor": 1.7, "downsample_type": "resnet", "upsample_type": "resnet"},
        {"mid_block_type": None},
        {"time_embedding_dim": 20},
        {
            "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D", "UpBlock2D"),
            "block_out_channels": (12, 24, 8),
        },
    ],
)
def test_random_networks_agree(changes: dict[str, object]) -> None:
    theirs = random_network(**changes)
    ours = DiffusersUNet(DiffusersUNetConfig(**(BASE | changes))).eval()
    ours.load_state_dict(theirs.state_dict())
    image, timestep = torch.randn(2, 2, 16, 24), torch.tensor([3, 771])
    with torch.no_grad():
        expected = theirs(image, timestep).sample
        torch.testing.assert_close(ours(image, timestep), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_converted_models_predict_the_original_sample(
    kind: str, schedule: str, prediction: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tmp_path))
    monkeypatch.setattr(install, "smoke_test", lambda prior, name: None)  # weights are random
    scheduler = getattr(diffusers, kind)(
        beta_schedule=schedule, prediction_type=prediction, clip_sample=False
    )
    network = random_network()
    network.save_pretrained(tmp_path / "source")
    scheduler.save_pretrained(tmp_path / "source" / "scheduler")
    scale = 0.4
    about = Conversion("foreign", scale, "elsewhere", "MIT", (), weights_dtype="float32")
    convert_diffusers(tmp_path / "source", tmp_path, about)
    prior = load_prior("foreign", "cpu", torch.float32)
    scheduler.set_timesteps(1000)
    for timestep in (0, 250, 700):
        kept = scheduler.alphas_cumprod[timestep]
        noisy = torch.randn(1, 2, 16, 24)
        with torch.no_grad():
            output = network(noisy, timestep).sample
        expected = scheduler.step(output, timestep, noisy).pred_original_sample
        ours = torch.view_as_complex((noisy / kept.sqrt() / scale).movedim(1, -1).contiguous())
        found = prior.denoise(ours, float(((1 - kept) / kept).sqrt()) / scale)
        found = scale * torch.view_as_real(found).movedim(-1, 1)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert json.loads(read_config("foreign").model_dump_json())["scale"] == scale
