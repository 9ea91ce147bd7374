"""How well a prior denoises: PSNR per noise level, on images that training never saw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from torch import Tensor

from recon.prior import Prior

SIGMAS = (0.02, 0.05, 0.1, 0.2, 0.5)
_BATCH = 16


def add_noise(image: Tensor, sigma: float, seed: int) -> Tensor:
    """`image` (rows, columns) complex64 plus white noise, std `sigma` per component.

    The noise depends on `seed` and the shape alone, so that every denoiser is given the same.
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((*image.shape, 2), generator=generator)
    return image + sigma * torch.view_as_complex(noise)


def psnr(denoised: Tensor, clean: Tensor) -> float:
    """In dB for a peak of one. Complex images: squared error per real component."""
    error = denoised - clean
    if error.is_complex():
        error = torch.view_as_real(error)
    return float(-10 * torch.log10(error.square().mean()))


def denoising_psnr(
    prior: Prior,
    images: Sequence[Tensor],
    sigmas: Sequence[float] = SIGMAS,
    device: torch.device | str = "cpu",
) -> dict[float, float]:
    """Mean `psnr` over complex `images` (each (rows, columns) complex64) for every sigma."""
    scores = {}
    for sigma in sigmas:
        total = 0.0
        for first, clean in _batches(images):
            noisy = torch.stack(
                [add_noise(image, sigma, first + number) for number, image in enumerate(clean)]
            )
            denoised = prior.denoise(noisy.to(device), sigma).cpu()
            total += sum(map(psnr, denoised, clean))
        scores[sigma] = total / len(images)
    return scores


def _batches(images: Sequence[Tensor]) -> Iterator[tuple[int, list[Tensor]]]:
    """Neighbouring images of one shape, each group with the place of its first image."""
    first = 0
    for _, group in groupby(images, key=lambda image: image.shape):
        same = list(group)
        for start in range(0, len(same), _BATCH):
            yield first + start, same[start : start + _BATCH]
        first += len(same)
