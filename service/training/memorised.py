"""Whether a prior remembers whom it learned from: its own images beside those of the training.

Images drawn from the prior alone are compared with all training draws. How near they may come is
told by people who were not in the training: draws of their scans are compared in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.training_data import ImageFile, SliceSet

_SIDE = 32
_FEWEST = 5
"""Held-out images from which on they say how near is too near."""

Image = NDArray[np.complex64]


class Nearest(NamedTuple):
    """The training image that is most like another one."""

    correlation: float
    """Of magnitudes at low resolution, -1 to 1, the largest over flips and transposes."""
    origin: str
    """Which slice of the archive it was drawn for."""
    image: Image
    """The training image itself."""


class MemorySearch(NamedTuple):
    """Images of the prior alone, and held-out ones, beside the training."""

    samples: Sequence[Image]
    nearest: Sequence[Nearest]
    """For each sample."""
    held_out: Sequence[float]
    """Correlation of each held-out image with the training image nearest to it."""

    @property
    def bound(self) -> float:
        """The nearest that a person comes who was not in the training; NaN of too few."""
        return max(self.held_out) if len(self.held_out) >= _FEWEST else math.nan

    @property
    def too_near(self) -> int:
        """How many samples are nearer to a training image than that."""
        return sum(each.correlation > self.bound for each in self.nearest)


def search(
    samples: Sequence[Image], held_out: Sequence[Image], training: Iterable[tuple[Image, str]]
) -> MemorySearch:
    """The training image nearest to each; training images are seen one after the other."""
    asked = _thumbnails([*samples, *held_out])
    variants = torch.stack([_flat(each) for each in _variants(asked)])  # (8, images, pixels)
    found = torch.full((len(asked),), -math.inf)
    origins: list[tuple[Image, str]] = [(np.zeros((1, 1), np.complex64), "")] * len(asked)
    for image, origin in training:
        alike = (variants @ _flat(_thumbnails([image]))[0]).amax(dim=0)
        for k in torch.nonzero(alike > found).flatten().tolist():
            origins[k] = image, origin
        found = torch.maximum(found, alike)
    near = [
        Nearest(float(value), origin, image)
        for value, (image, origin) in zip(found, origins, strict=True)
    ]
    count = len(samples)
    return MemorySearch(samples, near[:count], [each.correlation for each in near[count:]])


def training_images(files: Mapping[Path, Sequence[str]]) -> Iterator[tuple[Image, str]]:
    """The images of a round's files with what each was drawn for."""
    for file, told in files.items():
        [images] = SliceSet([ImageFile(file)]).images
        yield from zip(images.astype(np.complex64), told, strict=True)


def _thumbnails(images: Sequence[Image]) -> Tensor:
    """(images, side, side): magnitudes in the middle of a square, at low resolution."""
    small = []
    for image in images:
        magnitude = torch.from_numpy(np.abs(image).astype(np.float32))
        side = max(magnitude.shape)
        missing = [side - size for size in magnitude.shape]
        edges = [missing[1] // 2, missing[1] - missing[1] // 2]
        edges += [missing[0] // 2, missing[0] - missing[0] // 2]
        square = functional.pad(magnitude, edges)
        small.append(functional.adaptive_avg_pool2d(square[None], _SIDE)[0])
    return torch.stack(small)


def _variants(images: Tensor) -> Iterator[Tensor]:
    """Flips and transposes of square images, eight in all."""
    for turned in (images, images.mT):
        for axes in ((), (-1,), (-2,), (-2, -1)):
            yield turned.flip(axes)


def _flat(images: Tensor) -> Tensor:
    """(images, pixels) of mean zero and length one."""
    flat = images.flatten(1)
    centred = flat - flat.mean(dim=1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
