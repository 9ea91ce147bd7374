"""Magnitude slices turned into complex images like those a receiver array delivers.

Everything is computed for a whole batch on the device of the slices, and drawn from one
`torch.Generator` of that device, so that a generator's seed decides the batch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Generator, Tensor
from torch.nn import functional

_TISSUES = 6
"""Brightnesses beside that of air which are told apart."""


class Augmentation(BaseModel):
    """What is varied, and how much; a zero switches it off."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flips: bool = Field(True, description="random flips and transposes")
    resampled: float = Field(0.5, ge=0, le=1, description="share that is rotated and zoomed")
    rotation: float = Field(20.0, ge=0, le=180, description="largest rotation, degrees")
    zoom: float = Field(1.4, ge=1, le=3, description="largest zoom and its inverse: pixel sizes")
    gamma: float = Field(0.25, ge=0, description="std of the log of the gamma")
    intensity: float = Field(0.15, ge=0, description="std of the log of the intensity")
    tissue: float = Field(0.25, ge=0, le=1, description="share given a random tissue contrast")
    shading: float = Field(0.2, ge=0, description="largest std of the log receive sensitivity")
    phase: float = Field(1.0, ge=0, description="strength of the random smooth phase, radians")
    tissue_phase: float = Field(
        1.2, ge=0, description="largest std of the phase that a tissue has of its own, radians"
    )
    asymmetry: float = Field(
        0.3, ge=0, lt=1, description="largest std of the share by which a side of k-space is weaker"
    )
    noise: float = Field(0.02, ge=0, description="largest std of receiver noise per component")
    noisy: float = Field(0.2, ge=0, le=1, description="share that receives receiver noise")


class Patches(NamedTuple):
    """Square training images and, where it is known, what was measured of their k-space."""

    images: Tensor
    """(batch, size, size) complex64."""
    measured: Tensor | None
    """(batch, size, size) ones and zeros, zero frequency in the middle."""


class _Draw:
    """Random numbers, one row for each image of a batch."""

    def __init__(self, count: int, generator: Generator) -> None:
        self.count, self.generator = count, generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        sample = torch.rand(
            (self.count, *shape), generator=self.generator, device=self.generator.device
        )
        return low + (high - low) * sample

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(
            (self.count, *shape), generator=self.generator, device=self.generator.device
        )

    def chance(self, probability: float) -> Tensor:
        """(count,) booleans."""
        return self.uniform(0, 1) < probability


def random_patches(
    slices: Tensor,
    size: int,
    augmentation: Augmentation,
    generator: Generator,
    measured: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Square patches (batch, channels, size, size) of `slices` (batch, channels, rows, rows).

    A share is rotated and zoomed, which stands for other voxel sizes and costs a little sharpness;
    the others are cut on the pixel grid. Outside a slice is air. With them the same of their
    k-space: which samples (batch, size, size) of a patch were measured, from those of `measured`
    (batch, rows, rows); zero frequency in the middle.
    """
    draw = _Draw(len(slices), generator)
    side = slices.shape[-1]
    resampled = draw.chance(augmentation.resampled)
    angle = math.radians(augmentation.rotation) * draw.uniform(-1, 1) * resampled
    zoom = augmentation.zoom ** (draw.uniform(-1, 1) * resampled)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
    if augmentation.flips:
        signs = 1.0 - 2.0 * draw.uniform(0, 1, 2).round()
        swap = draw.chance(0.5)[:, None, None]
        turn = torch.where(swap, turn.flip(1), turn) * signs[:, :, None]
    # Patches hardly smaller than the slice still move by a tenth of it.
    reach = max(side - size, side // 10) / 2
    centre = draw.uniform(-reach, reach, 2)
    # Whole pixels, or half ones where only these put the patch's pixels on those of the slice.
    half = (side - size) % 2 / 2
    centre = torch.where(resampled[:, None], centre, (centre - half).round() + half)
    theta = torch.cat(
        [turn * (size / side) / zoom[:, None, None], centre[:, :, None] * (2 / side)], dim=2
    )
    grid = functional.affine_grid(
        theta, [len(slices), slices.shape[1], size, size], align_corners=False
    )
    patches = functional.grid_sample(slices, grid, mode="bicubic", align_corners=False)
    if measured is not None:
        measured = _turned(measured, turn * zoom[:, None, None], size)
    return patches, measured


def _turned(measured: Tensor, turn: Tensor, size: int) -> Tensor:
    """What was measured (batch, size, size) of images that were turned and zoomed by `turn`.

    A frequency turns with its image, and zooms against it. With an even number of samples the
    highest one is that of either sign: with it twice, zero stays where it is when they turn.
    """
    twice = 1 - measured.shape[-1] % 2
    both = functional.pad(measured[:, None].float(), (0, twice, 0, twice), mode="circular")
    theta = torch.cat([turn, torch.zeros_like(turn[:, :, :1])], dim=2)
    reach = size + 1 - size % 2
    shape = [len(measured), 1, reach, reach]
    grid = functional.affine_grid(theta, shape, align_corners=True)
    found = functional.grid_sample(both, grid, mode="nearest", align_corners=True)
    return found[:, 0, :size, :size]


def random_contrast(magnitude: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Factor (batch, rows, columns) that gives `magnitude` of that shape another contrast.

    Gamma and intensity (the scale is never exact when the prior is used); for a share of the
    images a random piecewise linear map of intensities, which turns bright tissue dark and dark
    tissue bright while air stays dark; and a smooth shading as of surface coils.
    """
    draw = _Draw(len(magnitude), generator)
    gamma = torch.exp(augmentation.gamma * draw.normal(1, 1))
    intensity = torch.exp(augmentation.intensity * draw.normal(1, 1))
    safe = magnitude.clamp_min(1e-4)
    factor = intensity * safe ** (gamma - 1)
    if augmentation.tissue:
        # Air keeps its value, tissues get random ones.
        values = draw.uniform(0.05, 1.1, _TISSUES)
        values = torch.cat([torch.zeros_like(values[:, :1]), values], 1)
        mapped = _by_tissue(values, magnitude)
        chosen = draw.chance(augmentation.tissue)[:, None, None]
        factor = torch.where(chosen, mapped / safe, factor)
    if augmentation.shading:
        strength = draw.uniform(0, augmentation.shading, 1, 1)
        factor = factor * torch.exp(strength * _smooth_polynomial(magnitude, draw))
    return factor


def _by_tissue(values: Tensor, magnitude: Tensor) -> Tensor:
    """Piecewise linear in `magnitude`: `values` (batch, 7) hold for 0, 0.25, 0.5 and so on."""
    place = (magnitude / 0.25).clamp(0, _TISSUES - 1e-3)
    below = place.floor().long()
    flat = below.flatten(1)
    low, high = values.gather(1, flat), values.gather(1, flat + 1)
    return torch.lerp(low, high, (place - below).flatten(1)).view_as(magnitude)


def _smooth_polynomial(like: Tensor, draw: _Draw) -> Tensor:
    """Random linear and quadratic terms over a patch, each weight of std one."""
    row = torch.linspace(-1, 1, like.shape[1], device=like.device)[:, None].expand(like.shape[1:])
    column = torch.linspace(-1, 1, like.shape[2], device=like.device).expand(like.shape[1:])
    terms = torch.stack([row, column, row * column, row**2, column**2])
    return torch.einsum("bt,trc->brc", draw.normal(5), terms)


def _random_field(like: Tensor, draw: _Draw, smoothest: float, finest: float) -> Tensor:
    """Smooth Gaussian random fields of std one, their spectrum that many cycles per pixel wide."""
    rows, columns = like.shape[1:]
    frequency = (
        torch.fft.fftfreq(rows, device=like.device)[:, None] ** 2
        + torch.fft.fftfreq(columns, device=like.device) ** 2
    )
    width = torch.exp(draw.uniform(math.log(smoothest), math.log(finest), 1, 1))
    white = draw.normal(rows, columns)
    field = torch.fft.ifft2(torch.fft.fft2(white) * torch.exp(-frequency / (2 * width**2))).real
    return field / field.std(dim=(1, 2), keepdim=True).clamp_min(1e-6)


def random_phase(like: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """A smooth random phase in radians, real, of the shape of `like` (batch, rows, columns).

    Constant + linear and quadratic terms + a Gaussian random field of random smoothness, as left
    over by coil combination with maps that carry one coil's phase. The constant is always there.
    """
    draw = _Draw(len(like), generator)
    # Correlation lengths of 80 to 13 pixels.
    field = _random_field(like, draw, 0.002, 0.012)
    strength = augmentation.phase * draw.uniform(0, 1, 2, 1, 1)
    constant = draw.uniform(-math.pi, math.pi, 1, 1)
    polynomial = _smooth_polynomial(like, draw)
    return constant + strength[:, 0] * polynomial + 0.7 * strength[:, 1] * field


def tissue_phase(magnitude: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """A phase that follows the tissue, radians, of the shape of `magnitude` (batch, rows, columns).

    Fat is off resonance, blood flows, iron and air change the field: tissues of different
    brightness get different phases, which vary slowly from place to place, and small places, like
    vessels, one of their own.
    """
    draw = _Draw(len(magnitude), generator)
    tissue = _by_tissue(draw.normal(_TISSUES + 1), magnitude)
    # Weak far more often than strong: spin echoes have little of it, gradient echoes much.
    strength = augmentation.tissue_phase * draw.uniform(0, 1, 1, 1) ** 2
    spots = _random_field(magnitude, draw, 0.02, 0.08)
    spots = torch.sigmoid(8 * (spots - 2)) - torch.sigmoid(8 * (-spots - 2))
    phase = tissue * _random_field(magnitude, draw, 0.003, 0.02)
    return strength * (phase + 2 * draw.normal(1, 1) * spots)


def uneven_kspace(image: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Complex images (batch, rows, columns) whose k-space is weaker on one side than on the other.

    The signal decays while k-space is read, echoes are off centre, even and odd ones differ: edges
    then have a phase of their own. K-space is multiplied by 1 + a sin(pi k), k from -1 to 1, along
    rows and along columns; in the image that is a difference of two neighbours, times i.
    """
    draw = _Draw(len(image), generator)
    for axis in (1, 2):
        weight = draw.uniform(0, augmentation.asymmetry, 1, 1) * draw.normal(1, 1)
        place = torch.arange(image.shape[axis], device=image.device)
        later = image.index_select(axis, (place + 1).clamp_max(len(place) - 1))
        earlier = image.index_select(axis, (place - 1).clamp_min(0))
        image = image + 0.5j * weight.clamp(-0.9, 0.9) * (later - earlier)
    return image


def with_phases(
    image: Tensor, tissues: Tensor, augmentation: Augmentation, generator: Generator
) -> Tensor:
    """Complex images (batch, rows, columns) with every phase that a scan gives them.

    `tissues` are magnitudes of the same shape, which tell one tissue from the other.
    """
    phase = random_phase(tissues, augmentation, generator)
    if augmentation.tissue_phase:
        phase = phase + tissue_phase(tissues, augmentation, generator)
    image = image * torch.polar(torch.ones_like(phase), phase)
    return uneven_kspace(image, augmentation, generator) if augmentation.asymmetry else image


def receiver_noise(image: Tensor, augmentation: Augmentation, generator: Generator) -> Tensor:
    """Add white complex noise to a share of the complex images (batch, rows, columns)."""
    draw = _Draw(len(image), generator)
    highest = max(augmentation.noise, 1e-9)
    level = torch.exp(draw.uniform(math.log(highest / 15), math.log(highest), 1, 1))
    level = level * draw.chance(augmentation.noisy)[:, None, None]
    return image + level * torch.view_as_complex(draw.normal(*image.shape[1:], 2))


def complex_patches(
    slices: Tensor, size: int, augmentation: Augmentation, generator: Generator
) -> Patches:
    """The whole chain: one batch of training images.

    `slices` is (batch, 1, side, side) magnitude or (batch, 2, side, side) real and imaginary part,
    floating point, with a 99th percentile of the magnitude of about 1. A third channel is what was
    measured of their k-space.
    """
    parts, measured = slices[:, :2].float(), slices[:, 2] if slices.shape[1] > 2 else None
    patches, measured = random_patches(parts, size, augmentation, generator, measured)
    if patches.shape[1] == 1:
        image = patches[:, 0].to(torch.complex64)
    else:
        image = torch.view_as_complex(patches.movedim(1, -1).contiguous())
    magnitude = image.abs()
    factor = random_contrast(magnitude, augmentation, generator)
    image = with_phases(image * factor, magnitude, augmentation, generator)
    return Patches(receiver_noise(image, augmentation, generator), measured)
