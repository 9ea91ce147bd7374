"""Raw networks a prior may be built from: an allow-list, nothing loaded by name from outside."""

from __future__ import annotations

from torch import nn

from models.diffusers_unet import DiffusersUNet
from models.network import UNet
from models.network_configs import (
    DiffusersUNetConfig,
    NetworkConfig,
    NoiseExpertsConfig,
    ResidualUNetConfig,
    SongUNetConfig,
    UNetConfig,
)
from models.noise_experts import NoiseExperts
from models.residual_unet import ResidualUNet
from models.song_unet import SongUNet


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
