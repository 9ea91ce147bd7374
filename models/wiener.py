"""Sliding-window Wiener filtering with a pilot estimate, as a layer of a network.

The second stage of BM3D without its search for similar blocks (Dabov et al. 2007, section III-C):
overlapping windows go to a transform domain, where the pilot's energy decides how much of each
noisy coefficient is kept. Filters and noise weights start as a cosine transform and can be trained.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


def cosine_transform(window: int) -> Tensor:
    """Orthonormal two-dimensional DCT-II (window^2, window, window)."""
    place, order = torch.arange(window) + 0.5, torch.arange(window)
    line = torch.cos(math.pi / window * order[:, None] * place) * math.sqrt(2 / window)
    line[0] /= math.sqrt(2)
    return torch.einsum("ai,bj->abij", line, line).flatten(0, 1)


class WienerFilter(nn.Module):
    """Maps noisy and pilot images (batch, 2, rows, columns) and sigma (batch,) to an estimate.

    Real and imaginary part share the gain of a coefficient, so that a global phase passes through.
    Rows and columns must be multiples of `stride`.
    """

    def __init__(self, window: int = 8, stride: int = 2) -> None:
        super().__init__()
        self.window, self.stride = window, stride
        self.filters = nn.Parameter(cosine_transform(window))
        self.log_noise = nn.Parameter(torch.zeros(window**2))

    def forward(self, noisy: Tensor, pilot: Tensor, sigma: Tensor) -> Tensor:
        with torch.autocast(noisy.device.type, enabled=False):
            kernel = self._kernel()
            coefficients = self._analyse(noisy.float(), kernel)
            energy = self._analyse(pilot.float(), kernel).square().sum(1)
            noise = 2 * sigma.float()[:, None] ** 2 * self.log_noise.exp()
            gain = energy / (energy + noise[:, :, None, None])
            # Windows with few kept coefficients carry less noise and count more.
            weight = 1 / (gain.square().sum(1, keepdim=True) + 1e-2)
            filtered = self._synthesise(
                coefficients * (gain * weight)[:, None], kernel, noisy.shape
            )
            return filtered / self._coverage(weight, noisy.shape)

    def _kernel(self) -> Tensor:
        """The filters as a convolution between unshuffled pixels: (filters, stride^2, k, k)."""
        return functional.pixel_unshuffle(self.filters[:, None], self.stride)

    def _analyse(self, image: Tensor, kernel: Tensor) -> Tensor:
        """(batch, 2, rows, columns) to (batch, 2, filters, windows, windows)."""
        margin = self.window - self.stride
        padded = functional.pad(image, (margin,) * 4, mode="reflect").flatten(0, 1)
        blocks = functional.pixel_unshuffle(padded[:, None], self.stride)
        return functional.conv2d(blocks, kernel).unflatten(0, (-1, 2))

    def _synthesise(self, coefficients: Tensor, kernel: Tensor, shape: torch.Size) -> Tensor:
        """The adjoint of `_analyse`, without its padding."""
        blocks = functional.conv_transpose2d(coefficients.flatten(0, 1), kernel)
        image = functional.pixel_shuffle(blocks, self.stride)[:, 0]
        margin = self.window - self.stride
        return image[:, margin : margin + shape[2], margin : margin + shape[3]].unflatten(
            0, (-1, 2)
        )

    def _coverage(self, weight: Tensor, shape: torch.Size) -> Tensor:
        """Sum of the windows' weights at every pixel (batch, 1, rows, columns)."""
        size = self.window // self.stride
        blocks = functional.conv_transpose2d(weight, weight.new_ones(1, 1, size, size))
        margin = self.window // self.stride - 1
        rows, columns = shape[2] // self.stride, shape[3] // self.stride
        blocks = blocks[:, :, margin : margin + rows, margin : margin + columns]
        return blocks.repeat_interleave(self.stride, 2).repeat_interleave(self.stride, 3)
