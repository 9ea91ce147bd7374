"""A field of view smaller than the object: voxels that hold two places, and the images of both.

Then one set of coil maps cannot describe the data, whatever the image. The second set belongs to a
second image, of which only a strip is not zero: the places beyond the edges, folded back inside.
An image with an overlap is (..., rows, columns) with the strip appended along the folded axis, so
that everything that treats images as arrays (steps, solves, chains) needs to know nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LEAST_OVERLAP = 2e-3
"""Energy of second places, over the image's at low resolution, from which on they count: 0.005 and
more on a scan that folds, 0.0015 and less on heads that just reach the edges."""
_OVERLAP_CUT = 0.02
"""Of the loudest line of the strip: what lies below is left out."""
_MOST_OVERLAP = 0.5
"""Share of the axis beyond which it is no fold, but noise or maps that fail."""
_OVERLAP_MARGIN = 2
"""Lines added on either side of the strip."""


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

    def joined(self, images: Tensor, coherence: Tensor | None = None) -> Tensor:
        """One picture (..., rows, columns): the root of the sum of squares of both places.

        Whitened maps of a voxel are orthogonal, so that it is what all coils saw there. For others
        `coherence`, of the strip's shape, is the inner product of the two, of length one each. The
        phase is that of the places' sum.
        """
        inside, strip = self.split(images)
        below = inside.index_select(self.axis, self.positions)
        energy = below.abs().square() + strip.abs().square()
        if coherence is not None:
            energy = energy + 2 * (below.conj() * coherence * strip).real
        both = energy.clamp_min(0).sqrt() * torch.sgn(below + strip)
        return inside.index_copy(self.axis, self.positions, both)

    def padded(self, images: Tensor) -> Tensor:
        """Images (..., rows, columns) with nothing in the strip."""
        strip = images.index_select(self.axis, self.positions)
        return torch.cat([images, torch.zeros_like(strip)], dim=self.axis)

    def to(self, device: torch.device) -> Overlap:
        """The same on another device."""
        return Overlap(self.axis, self.size, self.positions.to(device), self.support.to(device))


def find_overlap(energy: NDArray[np.floating], there: NDArray[np.bool_]) -> Overlap | None:
    """The strip that holds what is seen of second places, or None where that is next to nothing.

    `energy` is that of the low-resolution image by the second maps, without its noise, in units of
    the mean of the first; `there` where the second eigenvalue speaks for one. A voxel folds over
    the nearest edge, and the axis that folds more is taken: across the other one it is mostly the
    kernel, which sees no finer than a sixth of the field of view, that looks over the edge.
    """
    energy = np.where(there, energy, 0)
    depth = [np.minimum(np.arange(size), np.arange(size)[::-1]) for size in energy.shape]
    across = depth[1][None, :] < depth[0][:, None]
    folded = {-1: np.where(across, energy, 0), -2: np.where(across, 0, energy)}
    axis = max(folded, key=lambda each: float(folded[each].sum()))
    if folded[axis].sum() < _LEAST_OVERLAP * energy.size:
        return None
    size = energy.shape[axis]
    profile = folded[axis].sum(axis=-3 - axis)
    loud = np.flatnonzero(profile > _OVERLAP_CUT * profile.max())
    held = np.zeros(size, np.bool_)
    for shift in range(-_OVERLAP_MARGIN, _OVERLAP_MARGIN + 1):
        held[(loud + shift) % size] = True
    if held.mean() > _MOST_OVERLAP:
        return None
    places = np.flatnonzero(held)
    # In the order in which the places follow each other across the edge.
    gaps = np.diff(places, append=places[0] + size)
    places = np.roll(places, -1 - int(np.argmax(gaps)))
    support = np.take(there, places, axis=axis)
    return Overlap(axis, size, torch.from_numpy(places.copy()), torch.from_numpy(support.copy()))
