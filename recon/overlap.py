"""A field of view smaller than the object: voxels that hold two places, and the images of both.

Then one set of coil maps cannot describe the data, whatever the image. The second set belongs to a
second image, of which only a strip is not zero: the places beyond the edges, folded back inside.
An image with an overlap is (..., rows, columns) with the strip appended along the folded axis, so
that everything that treats images as arrays (steps, solves, chains) needs to know nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor


@final
@dataclass(frozen=True)
class Overlap:
    """Which voxels hold a second place."""

    axis: int
    """-1 for columns, -2 for rows: along it the strip is appended."""
    size: int
    """Voxels of the field of view along the axis."""
    positions: Tensor
    """(m,) int64: where along the axis the strip's voxels lie, in the order of the strip."""
    support: Tensor
    """bool, of the strip's shape: where there is a second place at all."""

    def split(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The field of view (..., rows, columns), and the strip."""
        places = images.split([self.size, len(self.positions)], dim=self.axis)
        return places[0], places[1]

    def folded(self, images: Tensor) -> Tensor:
        """Both places of every voxel added up, (..., rows, columns)."""
        inside, strip = self.split(images)
        return inside.index_add(self.axis, self.positions, strip)

    def unfolded(self, images: Tensor) -> Tensor:
        """Adjoint of `folded`: every value at both of its places."""
        strip = images.index_select(self.axis, self.positions)
        return torch.cat([images, strip], dim=self.axis)

    def joined(self, images: Tensor) -> Tensor:
        """One picture (..., rows, columns): the root of the sum of squares of both places.

        The two maps of a voxel are orthogonal, so that it is what all coils saw there; its phase is
        that of the places' sum.
        """
        inside, strip = self.split(images)
        below = inside.index_select(self.axis, self.positions)
        both = torch.hypot(below.abs(), strip.abs()) * torch.sgn(below + strip)
        return inside.index_copy(self.axis, self.positions, both)

    def padded(self, images: Tensor) -> Tensor:
        """Images (..., rows, columns) with nothing in the strip."""
        strip = images.index_select(self.axis, self.positions)
        return torch.cat([images, torch.zeros_like(strip)], dim=self.axis)

    def to(self, device: torch.device) -> Overlap:
        """The same on another device."""
        return Overlap(self.axis, self.size, self.positions.to(device), self.support.to(device))
