"""A U-Net, a Wiener filter that takes its estimate as pilot, and a second U-Net that corrects both.

The filter brings what small networks learn last: fine detail that overlapping transform windows
tell from noise. The second network starts from its result.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from models.denoiser import SIGMA_DATA
from models.network import UNet, UNetConfig
from models.padding import on_padded
from models.wiener import WienerFilter


class CascadeConfig(BaseModel):
    """Shape of the three stages."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    architecture: Literal["wiener-cascade"] = "wiener-cascade"
    pilot: UNetConfig = UNetConfig()
    correction: UNetConfig = UNetConfig(channels=(48, 64, 96), res_blocks=1, inputs=3)
    window: int = Field(8, ge=4, le=16, description="side of the Wiener filter's windows, pixels")
    stride: int = Field(2, ge=1, le=8, description="pixels between windows")


class WienerCascade(nn.Module):
    """Raw network for EDM preconditioning, as `models.network.UNet`: same inputs and output.

    The noise level is read back from the label, because the filter needs it in image units.
    """

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__()
        self.config = config
        self.pilot = UNet(config.pilot)
        self.wiener = WienerFilter(config.window, config.stride)
        self.correction = UNet(config.correction)

    def forward(self, image: Tensor, noise_label: Tensor) -> Tensor:
        sigma = (noise_label.float() / 100 - 7).exp()
        level = sigma.view(-1, 1, 1, 1)
        total = level**2 + SIGMA_DATA**2
        skip, out = SIGMA_DATA**2 / total, level * SIGMA_DATA * total.rsqrt()
        noisy = image.float() * total.sqrt()
        pilot = self.pilot(image, noise_label).float()
        filtered = on_padded(
            lambda both: self.wiener(both[:, :2], both[:, 2:], sigma),
            torch.cat([noisy, skip * noisy + out * pilot], 1),
            self.config.stride,
        )
        estimate = (filtered - skip * noisy) / out
        correction = self.correction(torch.cat([image, pilot, estimate], 1), noise_label)
        return estimate + correction.float()
