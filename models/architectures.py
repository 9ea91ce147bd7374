"""Raw networks a prior may be built from: an allow-list, nothing loaded by name from outside."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from models.diffusers_unet import DiffusersUNet, DiffusersUNetConfig
from models.network import UNet, UNetConfig
from models.noise_experts import NoiseExperts, NoiseExpertsConfig
from models.residual_unet import ResidualUNet, ResidualUNetConfig
from models.song_unet import SongUNet, SongUNetConfig

TrainableConfig = Annotated[ResidualUNetConfig | UNetConfig, Field(discriminator="architecture")]
"""The architectures that `models.train` trains."""

NetworkConfig = Annotated[
    ResidualUNetConfig | NoiseExpertsConfig | UNetConfig | DiffusersUNetConfig | SongUNetConfig,
    Field(discriminator="architecture"),
]
"""Every architecture there is. All map (batch, 2, rows, columns) and a label (batch,) to images."""


def build_network(config: NetworkConfig) -> nn.Module:
    """The network that `config` describes, on torch's current default device.

    Raises ValueError or RuntimeError when no such network exists (for example, channels that
    cannot be divided into the groups of a normalisation).
    """
    match config:
        case ResidualUNetConfig():
            return ResidualUNet(config)
        case NoiseExpertsConfig():
            return NoiseExperts(config)
        case UNetConfig():
            return UNet(config)
        case DiffusersUNetConfig():
            return DiffusersUNet(config)
        case SongUNetConfig():
            return SongUNet(config)
