"""A raw network that works on the centre of k-space: all that is left of an image in much noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SIGMA_DATA = 0.25
"""RMS of one component of a training image whose 99th percentile is 1."""


def on_reduced(
    network: Callable[[Tensor, Tensor], Tensor], image: Tensor, sigma: Tensor, factor: int
) -> Tensor:
    """What EDM preconditioning has to get for `network` to denoise smaller images.

    With P the cut to 1/factor of k-space and U its inverse, filled with zeros, the denoiser becomes
    D(x; sigma) = U D_small(P x; sigma'), where sigma' is the noise that is left in P x. Both D and
    D_small are preconditioned by Karras et al. 2022, Table 1; this solves the one for its raw
    network. `image` is (batch, 2, rows, columns) as the raw network is given it, `sigma` (batch,).
    """
    shape = (image.shape[-2], image.shape[-1])
    smaller = (-(-shape[0] // factor), -(-shape[1] // factor))
    left = sigma * math.sqrt(math.prod(smaller) / math.prod(shape))
    noisy = image.float() * (sigma**2 + SIGMA_DATA**2).sqrt().view(-1, 1, 1, 1)
    small = resized(noisy, smaller)
    scale = (left**2 + SIGMA_DATA**2).rsqrt().view(-1, 1, 1, 1)
    raw = network(small * scale, left).float()
    clean = (SIGMA_DATA * scale) ** 2 * small + SIGMA_DATA * left.view(-1, 1, 1, 1) * scale * raw
    total = (sigma**2 + SIGMA_DATA**2).view(-1, 1, 1, 1)
    skipped = SIGMA_DATA**2 / total * noisy
    return (resized(clean, shape) - skipped) / (
        SIGMA_DATA * sigma.view(-1, 1, 1, 1) * total.rsqrt()
    )


def resized(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Real and imaginary parts (batch, 2, rows, columns) on another matrix, same field of view.

    k-space is cut or filled with zeros; values keep their size.
    """
    kspace = torch.fft.fftshift(
        torch.fft.fft2(torch.view_as_complex(image.movedim(1, -1).contiguous()), norm="forward"),
        dim=(-2, -1),
    )
    for axis, size in zip((-2, -1), shape, strict=True):
        kspace = _cut_or_filled(kspace, axis, size)
    changed = torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=(-2, -1)), norm="forward")
    return torch.view_as_real(changed).movedim(-1, 1)


def _cut_or_filled(kspace: Tensor, axis: int, size: int) -> Tensor:
    before = kspace.shape[axis]
    start = before // 2 - size // 2
    if size <= before:
        return kspace.narrow(axis, start, size)
    filled = list(kspace.shape)
    filled[axis] = size
    larger = kspace.new_zeros(filled)
    larger.narrow(axis, -start, before).copy_(kspace)
    return larger
