"""The U-Net of Hugging Face's `diffusers.UNet2DModel`, for checkpoints trained with it.

Written from its documented options and formulas; parameters carry diffusers' names, so that its
state dict loads unchanged. Unconditional models of two channels (real, imaginary) only.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network_configs import DiffusersUNetConfig, DownBlockType, UpBlockType
from models.padding import on_padded

Direction = Literal["up", "down"]


def sinusoidal_embedding(
    label: Tensor, channels: int, *, cosine_first: bool, shift: float
) -> Tensor:
    """(batch,) → (batch, channels): sines and cosines of 1 to 1e-4 radians per unit of `label`."""
    half = channels // 2
    exponent = torch.arange(half, dtype=torch.float32, device=label.device) / (half - shift)
    angle = label.to(torch.float32)[:, None] * torch.exp(-math.log(10_000) * exponent)
    parts = (angle.cos(), angle.sin()) if cosine_first else (angle.sin(), angle.cos())
    return functional.pad(torch.cat(parts, dim=1), (0, channels % 2))


class _TimestepEmbedding(nn.Module):
    def __init__(self, channels: int, embedding: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(channels, embedding)
        self.linear_2 = nn.Linear(embedding, embedding)

    def forward(self, sinusoids: Tensor) -> Tensor:
        return self.linear_2(functional.silu(self.linear_1(sinusoids)))


class _Resnet(nn.Module):
    """Two normalised convolutions around the timestep, beside a shortcut; may change the size."""

    def __init__(
        self,
        config: DiffusersUNetConfig,
        inputs: int,
        outputs: int,
        resample: Direction | None = None,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.resample, self.output_scale = resample, output_scale
        self.scale_shift = config.resnet_time_scale_shift == "scale_shift"
        self.norm1 = nn.GroupNorm(config.norm_num_groups, inputs, config.norm_eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(config.embedding, outputs * (2 if self.scale_shift else 1))
        self.norm2 = nn.GroupNorm(config.norm_num_groups, outputs, config.norm_eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def _resized(self, image: Tensor) -> Tensor:
        if self.resample == "up":
            return functional.interpolate(image, scale_factor=2.0, mode="nearest")
        return functional.avg_pool2d(image, 2) if self.resample == "down" else image

    def forward(self, image: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv1(self._resized(functional.silu(self.norm1(image))))
        time = self.time_emb_proj(functional.silu(embedding))[:, :, None, None]
        if self.scale_shift:
            scale, shift = time.chunk(2, dim=1)
            hidden = self.norm2(hidden) * (1 + scale) + shift
        else:
            hidden = self.norm2(hidden + time)
        hidden = self.conv2(functional.silu(hidden))
        return (self.conv_shortcut(self._resized(image)) + hidden) / self.output_scale


class _Attention(nn.Module):
    """Multi-head attention of every pixel to every other, added to its input."""

    def __init__(
        self,
        config: DiffusersUNetConfig,
        channels: int,
        groups: int | None,
        output_scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.heads, self.output_scale = config.heads(channels), output_scale
        self.group_norm = (
            nn.Identity() if groups is None else nn.GroupNorm(groups, channels, config.norm_eps)
        )
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, image: Tensor) -> Tensor:
        pixels = self.group_norm(image).flatten(2).mT
        query, key, value = (
            layer(pixels).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)
        output = self.to_out[0](attended.transpose(1, 2).flatten(2))
        return (output.mT.reshape(image.shape) + image) / self.output_scale


class _Resample(nn.Module):
    """A strided convolution, or a convolution after nearest-neighbour enlargement."""

    def __init__(self, channels: int, direction: Direction, padding: int = 1) -> None:
        super().__init__()
        self.direction, self.padding = direction, padding
        stride = 2 if direction == "down" else 1
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=padding)

    def forward(self, image: Tensor, embedding: Tensor) -> Tensor:
        del embedding
        if self.direction == "up":
            image = functional.interpolate(image, scale_factor=2.0, mode="nearest")
        elif self.padding == 0:
            image = functional.pad(image, (0, 1, 0, 1))
        return self.conv(image)


class _Level(nn.Module):
    """The blocks of one resolution; the last level of either direction keeps its size.

    On the way down every result is appended to `skips`; on the way up they are taken from it.
    """

    def __init__(
        self,
        config: DiffusersUNetConfig,
        kind: DownBlockType | UpBlockType,
        inputs: tuple[int, ...],
        outputs: int,
        direction: Direction,
        *,
        resampled: bool,
    ) -> None:
        super().__init__()
        self.direction = direction
        self.resnets = nn.ModuleList([_Resnet(config, width, outputs) for width in inputs])
        attends = kind in ("AttnDownBlock2D", "AttnUpBlock2D")
        self.attentions = nn.ModuleList(
            [_Attention(config, outputs, config.norm_num_groups) for _ in inputs if attends]
        )
        self.downsamplers, self.upsamplers = nn.ModuleList(), nn.ModuleList()
        if not resampled:
            return
        # diffusers heeds its options `downsample_type` and `upsample_type` in attention blocks.
        chosen = config.downsample_type if direction == "down" else config.upsample_type
        by_resnet = kind.startswith("Resnet") or (attends and chosen == "resnet")
        padding = config.downsample_padding if direction == "down" else 1
        (self.downsamplers if direction == "down" else self.upsamplers).append(
            _Resnet(config, outputs, outputs, direction)
            if by_resnet
            else _Resample(outputs, direction, padding)
        )

    def forward(self, hidden: Tensor, embedding: Tensor, skips: list[Tensor]) -> Tensor:
        for index, resnet in enumerate(self.resnets):
            if self.direction == "up":
                hidden = torch.cat([hidden, skips.pop()], dim=1)
            hidden = resnet(hidden, embedding)
            if self.attentions:
                hidden = self.attentions[index](hidden)
            if self.direction == "down":
                skips.append(hidden)
        for downsampler in self.downsamplers:
            hidden = downsampler(hidden, embedding)
            skips.append(hidden)
        for upsampler in self.upsamplers:
            hidden = upsampler(hidden, embedding)
        return hidden


class _Middle(nn.Module):
    def __init__(self, config: DiffusersUNetConfig, channels: int) -> None:
        super().__init__()
        scale = config.mid_block_scale_factor
        groups = config.attn_norm_num_groups
        if groups is None and config.resnet_time_scale_shift == "default":
            groups = config.norm_num_groups
        self.resnets = nn.ModuleList(
            [_Resnet(config, channels, channels, output_scale=scale) for _ in range(2)]
        )
        self.attentions = nn.ModuleList(
            [_Attention(config, channels, groups, scale)] if config.add_attention else []
        )

    def forward(self, image: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.resnets[0](image, embedding)
        for attention in self.attentions:
            hidden = attention(hidden)
        return self.resnets[1](hidden, embedding)


class DiffusersUNet(nn.Module):
    """Maps (batch, 2, rows, columns) of any size and timesteps (batch,), whole or not, to images.

    With attention at full resolution the cost grows with the square of the number of pixels.
    """

    def __init__(self, config: DiffusersUNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, layers = config.block_out_channels, config.layers_per_block
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.in_channels, widths[0], 3, padding=1)
        self.time_embedding = _TimestepEmbedding(widths[0], config.embedding)
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]
        for level, kind in enumerate(config.down_block_types):
            inputs = (skips[-1],) + (widths[level],) * (layers - 1)
            self.down_blocks.append(
                _Level(config, kind, inputs, widths[level], "down", resampled=level < last)
            )
            skips += [widths[level]] * (layers + (level < last))
        if config.mid_block_type is not None:
            self.mid_block = _Middle(config, widths[-1])
        current = widths[-1]
        for level, up_kind in zip(range(last, -1, -1), config.up_block_types, strict=True):
            inputs = tuple(
                (current if index == 0 else widths[level]) + skips.pop()
                for index in range(layers + 1)
            )
            current = widths[level]
            self.up_blocks.append(
                _Level(config, up_kind, inputs, current, "up", resampled=level > 0)
            )
        self.conv_norm_out = nn.GroupNorm(config.norm_num_groups, widths[0], config.norm_eps)
        self.conv_out = nn.Conv2d(widths[0], config.out_channels, 3, padding=1)

    def forward(self, image: Tensor, timestep: Tensor) -> Tensor:
        sinusoids = sinusoidal_embedding(
            timestep,
            self.config.block_out_channels[0],
            cosine_first=self.config.flip_sin_to_cos,
            shift=self.config.freq_shift,
        )
        embedding = self.time_embedding(sinusoids)
        return on_padded(
            lambda padded: self._multiple_sized(padded, embedding), image, self.config.multiple
        )

    def _multiple_sized(self, image: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv_in(image)
        skips = [hidden]
        for level in self.down_blocks:
            hidden = level(hidden, embedding, skips)
        if self.config.mid_block_type is not None:
            hidden = self.mid_block(hidden, embedding)
        for level in self.up_blocks:
            hidden = level(hidden, embedding, skips)
        return self.conv_out(functional.silu(self.conv_norm_out(hidden)))
