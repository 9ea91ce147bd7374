"""The DDPM++ and NCSN++ U-Nets in the form that "EDM" checkpoints hold (NVlabs/edm, `SongUNet`).

Sources: Song et al. 2021, "Score-Based Generative Modeling through Stochastic Differential
Equations" (the networks), Karras et al. 2022, Appendix F.2 (their form here). Written from those
descriptions. Unconditional networks of two channels (real, imaginary), with the standard or the
residual encoder and the standard decoder.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.diffusers_unet import sinusoidal_embedding
from models.network_configs import SongUNetConfig
from models.padding import on_padded

Direction = Literal["up", "down"]
_SKIP_SCALE = math.sqrt(0.5)
_EPS = 1e-6


def resample(
    image: Tensor, taps: tuple[int, ...], direction: Direction, *, padded: bool = True
) -> Tensor:
    """Halve or double `image` (batch, channels, rows, columns) through a separable filter.

    `taps` has an even count; its middle lies between two pixels. Beyond the rim is zero, or,
    with `padded=False`, the rim is lost.
    """
    line = torch.empty(len(taps), dtype=image.dtype, device=image.device)
    for place, tap in enumerate(taps):  # a tensor of a list would be a copy that a GPU waits for
        line[place].fill_(tap)
    channels = image.shape[1]
    kernel = (line[:, None] * line / line.sum() ** 2).expand(channels, 1, -1, -1)
    rim = rim_width(taps) if padded else 0
    if direction == "down":
        return functional.conv2d(image, kernel, stride=2, padding=rim, groups=channels)
    # Doubling leaves three of four pixels empty: the factor keeps the mean.
    return functional.conv_transpose2d(image, 4 * kernel, stride=2, padding=rim, groups=channels)


def rim_width(taps: tuple[int, ...]) -> int:
    """Pixels around an image that the filter reaches."""
    return (len(taps) - 1) // 2


def _taps(config: SongUNetConfig) -> tuple[int, ...]:
    return (1, 1) if config.resample_filter == "box" else (1, 3, 3, 1)


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(min(32, channels // 4), channels, eps=_EPS)


class _Block(nn.Module):
    """Two normalised convolutions around the noise level, beside a shortcut; may attend."""

    def __init__(
        self,
        config: SongUNetConfig,
        inputs: int,
        outputs: int,
        direction: Direction | None = None,
        *,
        attention: bool = False,
    ) -> None:
        super().__init__()
        self.direction, self.taps, self.attention = direction, _taps(config), attention
        self.norm0 = _norm(inputs)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.affine = nn.Linear(config.embedding_channels, outputs)
        self.norm1 = _norm(outputs)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        plain = inputs == outputs and direction is None
        self.skip = nn.Identity() if plain else nn.Conv2d(inputs, outputs, 1)
        if attention:
            self.norm2 = _norm(outputs)
            self.qkv = nn.Conv2d(outputs, 3 * outputs, 1)
            self.proj = nn.Conv2d(outputs, outputs, 1)

    def _resized(self, image: Tensor) -> Tensor:
        return image if self.direction is None else resample(image, self.taps, self.direction)

    def forward(self, image: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.conv0(self._resized(functional.silu(self.norm0(image))))
        hidden = hidden + self.affine(embedding)[:, :, None, None]
        hidden = self.conv1(functional.silu(self.norm1(hidden)))
        hidden = (hidden + self.skip(self._resized(image))) * _SKIP_SCALE
        if not self.attention:
            return hidden
        # Query, key and value take turns along the channels.
        query, key, value = (
            part.mT[:, None]
            for part in self.qkv(self.norm2(hidden)).flatten(2).unflatten(1, (-1, 3)).unbind(2)
        )
        attended = functional.scaled_dot_product_attention(query, key, value)[:, 0]
        return (self.proj(attended.mT.reshape(hidden.shape)) + hidden) * _SKIP_SCALE


class _ResidualInput(nn.Module):
    """The pyramid beside NCSN++'s encoder: convolve, then filter and halve."""

    def __init__(self, config: SongUNetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.taps = _taps(config)
        # The convolution makes the rim that the filter then uses up.
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1 + rim_width(self.taps))

    def forward(self, image: Tensor) -> Tensor:
        return resample(self.conv(image), self.taps, "down", padded=False)


class _Fourier(nn.Module):
    freqs: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("freqs", torch.zeros(channels // 2))

    def forward(self, label: Tensor) -> Tensor:
        angle = 2 * math.pi * label.to(torch.float32)[:, None] * self.freqs
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class SongUNet(nn.Module):
    """Maps (batch, 2, rows, columns) of any size and labels ln(sigma)/4 (batch,) to images.

    Where a level attends, the cost grows with the square of its number of pixels.
    """

    def __init__(self, config: SongUNetConfig) -> None:
        super().__init__()
        if len(config.attention) != len(config.channels):
            raise ValueError("`attention` and `channels` must have one entry for each level")
        self.config = config
        self.map_noise = (
            _Fourier(config.noise_channels) if config.embedding == "fourier" else nn.Identity()
        )
        self.map_layer0 = nn.Linear(config.noise_channels, config.embedding_channels)
        self.map_layer1 = nn.Linear(config.embedding_channels, config.embedding_channels)
        self.enc, self.dec = nn.ModuleDict(), nn.ModuleDict()
        last = len(config.channels) - 1
        current = config.base_channels
        pyramid = 2
        skips = []
        for level, width in enumerate(config.channels):
            if level == 0:
                self.enc["0_conv"] = nn.Conv2d(2, current, 3, padding=1)
            else:
                self.enc[f"{level}_down"] = _Block(config, current, current, "down")
                if config.encoder == "residual":
                    self.enc[f"{level}_aux_residual"] = _ResidualInput(config, pyramid, current)
                    pyramid = current
            skips.append(current)
            for index in range(config.blocks):
                attends = config.attention[level]
                self.enc[f"{level}_block{index}"] = _Block(
                    config, current, width, attention=attends
                )
                current = width
                skips.append(current)
        for level, width in reversed(list(enumerate(config.channels))):
            if level == last:
                self.dec[f"{level}_in0"] = _Block(config, current, current, attention=True)
                self.dec[f"{level}_in1"] = _Block(config, current, current)
            else:
                self.dec[f"{level}_up"] = _Block(config, current, current, "up")
            for index in range(config.blocks + 1):
                attends = config.attention[level] and index == config.blocks
                self.dec[f"{level}_block{index}"] = _Block(
                    config, current + skips.pop(), width, attention=attends
                )
                current = width
        self.dec["0_aux_norm"] = _norm(current)
        self.dec["0_aux_conv"] = nn.Conv2d(current, 2, 3, padding=1)

    def forward(self, image: Tensor, noise_label: Tensor) -> Tensor:
        if self.config.embedding == "fourier":
            waves = self.map_noise(noise_label)
        else:
            waves = sinusoidal_embedding(
                noise_label, self.config.noise_channels, cosine_first=False, shift=1
            )
        embedding = functional.silu(self.map_layer0(waves))
        embedding = functional.silu(self.map_layer1(embedding))
        return on_padded(
            lambda padded: self._multiple_sized(padded, embedding), image, self.config.multiple
        )

    def _multiple_sized(self, image: Tensor, embedding: Tensor) -> Tensor:
        hidden, pyramid = self.enc["0_conv"](image), image
        skips = [hidden]
        for level in range(len(self.config.channels)):
            if level > 0:
                hidden = self.enc[f"{level}_down"](hidden, embedding)
                if self.config.encoder == "residual":
                    beside = self.enc[f"{level}_aux_residual"](pyramid)
                    hidden = pyramid = (hidden + beside) * _SKIP_SCALE
                skips.append(hidden)
            for index in range(self.config.blocks):
                hidden = self.enc[f"{level}_block{index}"](hidden, embedding)
                skips.append(hidden)
        for level in reversed(range(len(self.config.channels))):
            for name in (f"{level}_in0", f"{level}_in1", f"{level}_up"):
                if name in self.dec:
                    hidden = self.dec[name](hidden, embedding)
            for index in range(self.config.blocks + 1):
                joined = torch.cat([hidden, skips.pop()], dim=1)
                hidden = self.dec[f"{level}_block{index}"](joined, embedding)
        return self.dec["0_aux_conv"](functional.silu(self.dec["0_aux_norm"](hidden)))
