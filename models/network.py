"""MONAI's diffusion U-Net as a raw network; the first prior was one."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network_configs import UNetConfig
from models.padding import on_padded


class UNet(nn.Module):
    """MONAI's diffusion U-Net between a pixel-unshuffle and its inverse, without attention.

    Maps (batch, 2, rows, columns) real/imaginary images of any size, and one noise label per
    image, to the same shape. Without attention the cost grows linearly in the number of pixels.
    """

    def __init__(self, config: UNetConfig) -> None:
        from monai.networks.nets.diffusion_model_unet import (  # lazy: seconds, few priors need it
            DiffusionModelUNet,
        )

        super().__init__()
        self.config = config
        levels = len(config.channels)
        inner = 2 * config.patch**2
        self.unet = DiffusionModelUNet(
            spatial_dims=2,
            in_channels=inner,
            out_channels=inner,
            channels=config.channels,
            num_res_blocks=config.res_blocks,
            attention_levels=(False,) * levels,
            num_head_channels=config.channels,
            norm_num_groups=config.norm_groups,
        )
        # MONAI always attends in the middle; cost and effect would depend on the matrix size.
        self.unet.middle_block.attention = nn.Identity()

    def forward(self, image: Tensor, noise_label: Tensor) -> Tensor:
        def on_patches(padded: Tensor) -> Tensor:
            patches = functional.pixel_unshuffle(padded, self.config.patch)
            # MONAI embeds the label sinusoidally with a base of 10,000, made for labels in 0-1000.
            output = self.unet(patches.contiguous(memory_format=torch.channels_last), noise_label)
            return functional.pixel_shuffle(output, self.config.patch)

        return on_padded(on_patches, image, self.config.multiple)
