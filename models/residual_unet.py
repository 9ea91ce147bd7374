"""The network of our own priors: residual blocks without normalisation, on phase-aligned images.

Blocks and shape follow DRUNet (Zhang et al. 2021, "Plug-and-Play Image Restoration with Deep
Denoiser Prior"): convolutions and ReLU only, sums instead of concatenations. Two changes make it
learn from few images. The smooth part of the phase, estimated from the noisy image itself, is taken
out before and put back after, so that most of an image lies in one of two channels, whatever the
receiver's phase. And the noise level scales the features of every block.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network_configs import ResidualUNetConfig
from models.padding import on_padded
from models.reduction import on_reduced

_FREQUENCIES = 8
_EMBEDDING = 64
_PHASE_WIDTH = 4.0


class ResidualUNet(nn.Module):
    """Raw network for EDM preconditioning.

    Maps (batch, 2, rows, columns) real/imaginary images of any size and a noise label per image
    (100 (ln sigma + 7), `models.denoiser`) to the same shape. Turning the phase of an image by a
    constant turns the output alike, exactly.
    """

    def __init__(self, config: ResidualUNetConfig) -> None:
        super().__init__()
        self.config = config
        channels, inner = config.channels, 2 * config.patch**2
        self.embedding = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, _EMBEDDING),
            nn.SiLU(),
            nn.Linear(_EMBEDDING, _EMBEDDING),
            nn.SiLU(),
        )
        self.head = nn.Conv2d(inner, channels[0], 3, padding=1)
        self.down = nn.ModuleList(_blocks(width, config.blocks) for width in channels)
        self.up = nn.ModuleList(_blocks(width, config.blocks) for width in channels[:-1])
        pairs = list(pairwise(channels))
        self.coarser = nn.ModuleList(nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs)
        self.finer = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in pairs)
        self.tail = nn.Conv2d(channels[0], inner, 3, padding=1)
        with torch.no_grad():
            self.tail.weight.mul_(0.1)
            self.tail.bias.zero_()  # type: ignore[union-attr]

    def forward(self, image: Tensor, noise_label: Tensor) -> Tensor:
        sigma = (noise_label.float() / 100 - 7).exp()
        if self.config.reduction == 1:
            return self._on_any_size(image, sigma)
        return on_reduced(self._on_any_size, image, sigma, self.config.reduction)

    def _on_any_size(self, image: Tensor, sigma: Tensor) -> Tensor:
        embedded = self._embed(sigma.log()[:, None])
        return on_padded(
            lambda padded: self._aligned(padded, sigma, embedded), image, self.config.multiple
        )

    def _embed(self, log_sigma: Tensor) -> Tensor:
        angle = log_sigma * (0.25 + 0.5 * torch.arange(_FREQUENCIES, device=log_sigma.device))
        embedded: Tensor = self.embedding(torch.cat([angle.sin(), angle.cos()], 1))
        return embedded

    def _aligned(self, image: Tensor, sigma: Tensor, embedded: Tensor) -> Tensor:
        """The features' network between alignment and its inverse."""
        phase = smooth_phase(image, sigma)
        # Real products: complex tensors would leave autocast and channels-last.
        aligned = torch.stack(
            [(image * phase).sum(1), image[:, 1] * phase[:, 0] - image[:, 0] * phase[:, 1]], 1
        )
        patches = functional.pixel_unshuffle(aligned, self.config.patch)
        features = self._features(patches.contiguous(memory_format=torch.channels_last), embedded)
        output = functional.pixel_shuffle(features, self.config.patch).float()
        return torch.stack(
            [
                output[:, 0] * phase[:, 0] - output[:, 1] * phase[:, 1],
                output[:, 0] * phase[:, 1] + output[:, 1] * phase[:, 0],
            ],
            1,
        )

    def _features(self, patches: Tensor, embedded: Tensor) -> Tensor:
        first = features = self.head(patches)
        passed = []
        for blocks, coarser in zip(self.down, self.coarser, strict=False):
            features = _through(blocks, features, embedded)
            passed.append(features)
            features = coarser(features)
        features = _through(self.down[-1], features, embedded)
        for blocks, finer in zip(reversed(self.up), reversed(self.finer), strict=True):
            features = _through(blocks, finer(features) + passed.pop(), embedded)
        output: Tensor = self.tail(features + first)
        return output


class _Block(nn.Module):
    """x + conv(relu(conv(x) scaled by the noise level)); near the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Linear(_EMBEDDING, width)
        with torch.no_grad():
            self.second.weight.mul_(0.1)
            for start in (self.second.bias, self.scale.weight, self.scale.bias):
                start.zero_()  # type: ignore[union-attr]

    def forward(self, features: Tensor, embedded: Tensor) -> Tensor:
        scaled = self.first(features) * (1 + self.scale(embedded))[:, :, None, None]
        return features + self.second(functional.relu(scaled))


def _blocks(width: int, count: int) -> nn.ModuleList:
    return nn.ModuleList(_Block(width) for _ in range(count))


def _through(blocks: nn.Module, features: Tensor, embedded: Tensor) -> Tensor:
    for block in blocks:  # type: ignore[attr-defined]
        features = block(features, embedded)
    return features


def smooth_phase(image: Tensor, sigma: Tensor) -> Tensor:
    """Unit vectors (batch, 2, rows, columns): phase of the image after a Gaussian.

    Its width is 4 pixels, from noise of 2 on twice `sigma` (batch,): the noise that is left then
    stays below the signal. Where noise outweighs the signal of a neighbourhood all the same it is a
    random smooth phase, which does no harm: it is put back. No gradient passes through it.
    """
    with torch.no_grad(), torch.autocast(image.device.type, enabled=False):
        width = (2 * sigma.float()).clamp_min(_PHASE_WIDTH)
        rows, columns = (_gaussian(width, side)[:, None] for side in image.shape[-2:])
        smooth = rows @ image.float() @ columns
        length = smooth.square().sum(1, keepdim=True).sqrt()
        flat = torch.cat([torch.ones_like(length), torch.zeros_like(length)], 1)
        return torch.where(length > 1e-12, smooth / length.clamp_min(1e-12), flat)


def _gaussian(width: Tensor, side: int) -> Tensor:
    """(batch, side, side): blurs a line of `side` pixels, cut off at two widths; not normalised."""
    place = torch.arange(side, device=width.device)
    distance = (place[:, None] - place).abs() / width[:, None, None]
    return torch.exp(-(distance**2) / 2) * (distance <= 2)
