"""Magnitude slices turned into complex images like those a receiver array delivers.

All functions take a `torch.Generator`, so that one (seed, step) pair always gives one batch.
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional


def _uniform(shape: tuple[int, ...], low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator)


def random_patches(slices: Tensor, size: int, generator: Generator) -> Tensor:
    """Random flips, transposes and square patches of `slices` (batch, rows, columns).

    Half of the patches are cut on the pixel grid; the others are rotated by up to 20 degrees and
    zoomed by 0.7-1.4, which stands for other voxel sizes and costs a little sharpness.
    """
    patches = []
    for image in slices:
        flips = torch.rand(4, generator=generator)
        turned = image.T if flips[0] < 0.5 else image
        turned = turned.flip(0) if flips[1] < 0.5 else turned
        turned = turned.flip(1) if flips[2] < 0.5 else turned
        rows, columns = turned.shape
        if flips[3] < 0.5:
            top = int(torch.randint(0, max(rows - size, 0) + 1, (), generator=generator))
            left = int(torch.randint(0, max(columns - size, 0) + 1, (), generator=generator))
            patches.append(turned[top : top + size, left : left + size])
            continue
        angle, log_zoom, row, column = _uniform((4,), -1.0, 1.0, generator).tolist()
        angle, zoom = math.radians(20) * angle, 1.4**log_zoom
        reach = max(0.0, 1 - size / max(rows, columns))
        cosine, sine = math.cos(angle) / zoom, math.sin(angle) / zoom
        theta = torch.tensor(
            [
                [cosine * size / columns, -sine * size / columns, reach * column],
                [sine * size / rows, cosine * size / rows, reach * row],
            ]
        )
        grid = functional.affine_grid(theta[None], [1, 1, size, size], align_corners=False)
        patch = functional.grid_sample(
            turned[None, None], grid, mode="bicubic", align_corners=False
        )
        patches.append(patch[0, 0].clamp_min(0))
    return torch.stack(patches)


def random_contrast(magnitude: Tensor, generator: Generator) -> Tensor:
    """Random gamma and intensity (batch, rows, columns): the test-time scale is never exact."""
    batch = (magnitude.shape[0], 1, 1)
    gamma = torch.exp(0.25 * torch.randn(batch, generator=generator))
    intensity = torch.exp(0.15 * torch.randn(batch, generator=generator))
    return intensity * magnitude.clamp_min(1e-4) ** gamma * (magnitude > 0)


def random_phase(magnitude: Tensor, generator: Generator) -> Tensor:
    """Give magnitude images a smooth random phase; returns complex64 of the same shape.

    Phase = constant + linear and quadratic terms + a Gaussian random field of random smoothness,
    as left over by coil combination with maps that carry one coil's phase.
    """
    batch, rows, columns = magnitude.shape
    row = torch.linspace(-1, 1, rows)[None, :, None]
    column = torch.linspace(-1, 1, columns)[None, None, :]
    terms = torch.stack(
        [
            (row + 0 * column)[0],
            (column + 0 * row)[0],
            (row * column)[0],
            (row**2 + 0 * column)[0],
            (column**2 + 0 * row)[0],
        ]
    )
    weights = _uniform((batch, 5), 0, 1.0, generator) * torch.randn((batch, 5), generator=generator)
    polynomial = torch.einsum("bt,trc->brc", weights, terms)
    frequency = (
        torch.fft.fftfreq(rows)[None, :, None] ** 2 + torch.fft.fftfreq(columns)[None, None] ** 2
    )
    # Cycles per pixel: correlation lengths of 80 to 13 pixels.
    width = torch.exp(_uniform((batch, 1, 1), math.log(0.002), math.log(0.012), generator))
    white = torch.randn((batch, rows, columns), generator=generator)
    field = torch.fft.ifft2(torch.fft.fft2(white) * torch.exp(-frequency / (2 * width**2))).real
    field = field / field.std(dim=(1, 2), keepdim=True).clamp_min(1e-6)
    strength = _uniform((batch, 1, 1), 0, 0.7, generator)
    constant = _uniform((batch, 1, 1), -math.pi, math.pi, generator)
    return torch.polar(magnitude, constant + polynomial + strength * field)


def receiver_noise(image: Tensor, generator: Generator) -> Tensor:
    """Add white complex noise, std 0.002-0.015 per component, to about a third of the images."""
    batch = (image.shape[0], 1, 1)
    level = torch.exp(_uniform(batch, math.log(0.002), math.log(0.015), generator))
    level = level * (torch.rand(batch, generator=generator) < 0.35)
    noise = torch.randn((*image.shape, 2), generator=generator)
    return image + level * torch.view_as_complex(noise)


def complex_patches(slices: Tensor, size: int, generator: Generator) -> Tensor:
    """The whole chain: (batch, rows, columns) magnitude → (batch, size, size) complex64."""
    magnitude = random_contrast(random_patches(slices, size, generator), generator)
    return receiver_noise(random_phase(magnitude, generator), generator)
