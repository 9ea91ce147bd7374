"""A raw network that works on the centre of k-space: all that is left of an image in much noise."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from models.parameterizations import SIGMA_DATA, edm_scales


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
    skip, out, into = edm_scales(sigma, SIGMA_DATA)
    small_skip, small_out, small_into = edm_scales(left, SIGMA_DATA)
    noisy = image.float() / into
    small = resized(noisy, smaller)
    clean = small_skip * small + small_out * network(small_into * small, left).float()
    return (resized(clean, shape) - skip * noisy) / out


def resized(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """`resized_complex` of real and imaginary parts (batch, 2, rows, columns)."""
    complex_image = torch.view_as_complex(image.movedim(1, -1).contiguous())
    return torch.view_as_real(resized_complex(complex_image, shape)).movedim(-1, 1)


def resized_complex(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Images (..., rows, columns) complex64 on another matrix, same field of view.

    k-space is cut or filled with zeros; values keep their size.
    """
    kspace = torch.fft.fftshift(torch.fft.fft2(image, norm="forward"), dim=(-2, -1))
    for axis, size in zip((-2, -1), shape, strict=True):
        kspace = cut_or_filled(kspace, axis, size)
    return torch.fft.ifft2(torch.fft.ifftshift(kspace, dim=(-2, -1)), norm="forward")


def cut_or_filled(kspace: Tensor, axis: int, size: int) -> Tensor:
    """The `size` samples around the zero frequency, which is in the middle; zeros beyond."""
    before = kspace.shape[axis]
    start = before // 2 - size // 2
    if size <= before:
        return kspace.narrow(axis, start, size)
    filled = list(kspace.shape)
    filled[axis] = size
    larger = kspace.new_zeros(filled)
    larger.narrow(axis, -start, before).copy_(kspace)
    return larger
