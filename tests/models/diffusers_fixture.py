"""Small `UNet2DModel`s with weights made by a formula, and what diffusers computes with them.

`python -m tests.models.diffusers_fixture`, where diffusers is installed, writes
`diffusers_outputs.json`; the tests read it everywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OUTPUTS = Path(__file__).parent / "diffusers_outputs.json"

BASE: dict[str, Any] = {
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": [4, 8],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 4,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sine first": {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-3},
    "no attention": {
        "add_attention": False,
        "down_block_types": ["DownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "UpBlock2D"],
        "downsample_padding": 0,
    },
    "scale and shift": {
        "resnet_time_scale_shift": "scale_shift",
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "mid_block_scale_factor": 1.5,
        "down_block_types": ["AttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
        "layers_per_block": 2,
        "attention_head_dim": None,
    },
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "prediction_type": "epsilon"},
    "scaled": {
        "beta_schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "prediction_type": "v_prediction",
    },
    "cosine": {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"},
}
TIMESTEPS = (0, 137, 620, 999)


def formula_weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Weights that depend on names and shapes alone; normalisations stay near one."""
    weights = {}
    for index, key in enumerate(sorted(shapes)):
        count = torch.Size(shapes[key]).numel()
        wave = torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + index)
        centre = 1.0 if "norm" in key and key.endswith("weight") else 0.0
        weights[key] = (centre + 0.3 * wave).reshape(shapes[key]).to(torch.float32)
    return weights


def formula_image() -> Tensor:
    """(1, 2, 8, 8) float32."""
    wave = torch.sin(1.3 * torch.arange(128, dtype=torch.float64) ** 1.1)
    return wave.reshape(1, 2, 8, 8).to(torch.float32)


def main() -> None:
    """Ask diffusers and write its answers, rounded to seven digits."""
    from diffusers import DDPMScheduler, UNet2DModel  # lazy: only this script needs diffusers

    def rounded(image: Tensor) -> list[float]:
        return [float(f"{value:.7g}") for value in image.flatten().tolist()]

    networks, schedules = {}, {}
    for name, options in NETWORKS.items():
        model = UNet2DModel(**(BASE | options)).eval()
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        model.load_state_dict(formula_weights(shapes))
        with torch.no_grad():
            networks[name] = rounded(model(formula_image(), 137).sample)
    for name, options in SCHEDULERS.items():
        scheduler = DDPMScheduler(clip_sample=False, **options)
        output, noisy = formula_image().flip(-1), formula_image()
        schedules[name] = [
            {
                "timestep": timestep,
                "kept": float(scheduler.alphas_cumprod[timestep].double()),
                # Only the corner is kept: every pixel follows one formula.
                "clean": rounded(
                    scheduler.step(output, timestep, noisy).pred_original_sample[..., :2, :2]
                ),
            }
            for timestep in TIMESTEPS
        ]
    OUTPUTS.write_text(json.dumps({"networks": networks, "schedules": schedules}) + "\n")


if __name__ == "__main__":
    main()
