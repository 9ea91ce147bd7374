"""Small `SongUNet`s with weights made by a formula, and what NVlabs/edm computes with them.

`python -m tests.models.edm_fixture EDM`, with a clone of https://github.com/NVlabs/edm in the
folder EDM, writes `edm_outputs.json`; the tests read it everywhere.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.network_configs import SongUNetConfig
from models.song_unet import SongUNet

OUTPUTS = Path(__file__).parent / "edm_outputs.json"
LABEL = -0.3
TAPS = {"box": (1, 1), "binomial": (1, 3, 3, 1)}

BASE: dict[str, Any] = {
    "img_resolution": 8,
    "in_channels": 2,
    "out_channels": 2,
    "model_channels": 4,
    "channel_mult": [1, 2],
    "channel_mult_emb": 2,
    "num_blocks": 1,
    "attn_resolutions": [4],
}
NETWORKS: dict[str, dict[str, Any]] = {
    "DDPM++": {"channel_mult": [2, 1, 2], "num_blocks": 2, "attn_resolutions": [8, 2]},
    "NCSN++": {
        "embedding_type": "fourier",
        "channel_mult_noise": 2,
        "encoder_type": "residual",
        "resample_filter": [1, 3, 3, 1],
        "channel_mult": [1, 2, 2],
    },
    "augmented": {"augment_dim": 9, "encoder_type": "residual", "model_channels": 8},
    "binomial": {"resample_filter": [1, 3, 3, 1], "attn_resolutions": []},
}


def formula_state(shapes: dict[str, tuple[int, ...]], taps: list[int]) -> dict[str, Tensor]:
    """A state dict that depends on names and shapes alone; filters are what they must be."""
    line = torch.tensor(taps, dtype=torch.float32)
    state = {}
    for index, key in enumerate(sorted(shapes)):
        count = torch.Size(shapes[key]).numel()
        wave = torch.sin(0.7 * torch.arange(count, dtype=torch.float64) + index)
        centre = 1.0 if re.search(r"norm\d?\.weight", key) else 0.0
        state[key] = (centre + 0.3 * wave).reshape(shapes[key]).to(torch.float32)
        if key.endswith("resample_filter"):
            state[key] = (torch.outer(line, line) / line.sum() ** 2)[None, None]
    return state


def formula_image() -> Tensor:
    """(1, 2, 8, 8) float32."""
    wave = torch.sin(1.3 * torch.arange(128, dtype=torch.float64) ** 1.1)
    return wave.reshape(1, 2, 8, 8).to(torch.float32)


def main(clone: str) -> None:
    """Ask the published code and write its answers, rounded to seven digits."""
    sys.path.insert(0, clone)
    networks = importlib.import_module("training.networks")
    known = {}
    for name, changes in NETWORKS.items():
        options = BASE | changes
        model = networks.SongUNet(**options).eval()
        shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        model.load_state_dict(formula_state(shapes, options.get("resample_filter", [1, 1])))
        with torch.no_grad():
            output = model(formula_image(), torch.tensor([LABEL]), None)
        known[name] = [float(f"{value:.7g}") for value in output.flatten().tolist()]
    OUTPUTS.write_text(json.dumps(known) + "\n")


def shape_of(name: str) -> SongUNetConfig:
    """Our configuration of a network that the fixture describes with EDM's options."""
    options = BASE | NETWORKS[name]
    base = options["model_channels"]
    return SongUNetConfig(
        base_channels=base,
        channels=tuple(base * factor for factor in options["channel_mult"]),
        blocks=options["num_blocks"],
        attention=tuple(
            (8 >> level) in options["attn_resolutions"]
            for level in range(len(options["channel_mult"]))
        ),
        noise_channels=base * options.get("channel_mult_noise", 1),
        embedding_channels=base * options["channel_mult_emb"],
        embedding=options.get("embedding_type", "positional"),
        encoder=options.get("encoder_type", "standard"),
        resample_filter="binomial" if "resample_filter" in options else "box",
    )


def original_state(name: str) -> dict[str, Tensor]:
    """The state dict by EDM's names, by size of the image instead of level."""
    config = shape_of(name)
    shapes = {}
    for key, value in SongUNet(config).state_dict().items():
        theirs = re.sub(r"\.(\d)_", lambda found: "." + "{0}x{0}_".format(8 >> int(found[1])), key)
        shapes[theirs.replace("aux_residual.conv.", "aux_residual.")] = tuple(value.shape)
    taps = TAPS[config.resample_filter]
    for key in list(shapes):
        if re.search(r"(_up|_down)\.(conv0|skip)\.weight|aux_residual\.weight", key):
            shapes[key.replace(".weight", ".resample_filter")] = (1, 1, len(taps), len(taps))
    if augmentation := NETWORKS[name].get("augment_dim"):
        shapes["map_augment.weight"] = (config.noise_channels, augmentation)
    return formula_state(shapes, list(taps))


if __name__ == "__main__":
    main(sys.argv[1])
