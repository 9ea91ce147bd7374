"""Models on disk for tests: a tiny one, and ways to damage it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from models.network import UNet
from models.network_configs import UNetConfig

TINY = UNetConfig(channels=(8, 8), res_blocks=1, norm_groups=4)
ABOUT: dict[str, Any] = {
    "training": "6 steps on noise",
    "licence": "CC0-1.0",
    "data_attributions": ("nobody", "nowhere"),
}


def write_run(folder: Path, *, random: bool) -> Path:
    """A training run of the tiny network, random everywhere or with an output layer of zeros.

    With an output of zero the denoiser shrinks its input as for white images of std 0.25.
    """
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    state = UNet(TINY).state_dict()
    if random:
        state = {key: 0.1 * torch.randn_like(value) for key, value in state.items()}
    save_file({k: v.to(torch.bfloat16) for k, v in state.items()}, folder / "weights.safetensors")
    run = {"network": TINY.model_dump(mode="json"), "sigma_range": [0.01, 5.0], "seed": 0}
    (folder / "training.json").write_text(json.dumps(run))
    return folder


def rewrite(model: Path, **changes: object) -> None:
    """Change entries of a model's configuration."""
    file = model / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def replace_weights(model: Path, content: bytes) -> None:
    """Other weights, with a digest that vouches for them: all later checks must hold alone."""
    (model / "weights.safetensors").write_bytes(content)
    rewrite(model, weights_sha256=hashlib.sha256(content).hexdigest())


def replace_tensors(model: Path, tensors: dict[str, Tensor]) -> None:
    """Other tensors, with a digest that vouches for them."""
    save_file(tensors, model / "weights.safetensors")
    replace_weights(model, (model / "weights.safetensors").read_bytes())
