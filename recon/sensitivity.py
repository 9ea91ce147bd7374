"""What all coils together see of a place: from an image to the root of the sum of squares.

A slice is reconstructed in the metric of its noise, where coil maps s have a sum of squares of one.
The coils as they were received saw W^-1 s x, W the whitening, whose root of the sum of squares is
|W^-1 s| |x|: the units in which the field compares images (`reconstruction_rss` of fastMRI).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.overlap import Overlap


@final
@dataclass(frozen=True)
class Sensitivity:
    """A smooth real factor per voxel, |W^-1 s|; zero where no coil sees."""

    values: Tensor
    """float32, of an image's shape: with an overlap that of the second place in the strip."""
    coherence: Tensor | None = None
    """complex64, of the strip's shape: inner product of what the coils see of both places of a
    voxel, over the product of their sensitivities. Whitened they are orthogonal, unwhitened not."""
    overlap: Overlap | None = None

    @classmethod
    def of(
        cls,
        unwhitening: NDArray[np.complex128],
        coil_maps: NDArray[np.complex64],
        overlap: Overlap | None,
    ) -> Self:
        """Of whitened maps (virtual coils, rows, columns); `unwhitening` is (coils, virtual)."""
        seen = torch.from_numpy(np.einsum("cv,vrk->crk", unwhitening, coil_maps))
        values = torch.linalg.vector_norm(seen, dim=0)
        if overlap is None:
            return cls(values.float())
        inside, strip = overlap.split(seen)
        below = inside.index_select(overlap.axis, overlap.positions)
        product = (below.conj() * strip).sum(dim=0)
        lengths = torch.linalg.vector_norm(below, dim=0) * torch.linalg.vector_norm(strip, dim=0)
        return cls(
            values.float(), (product / lengths.clamp_min(1e-30)).to(torch.complex64), overlap
        )

    @property
    def of_picture(self) -> NDArray[np.float32]:
        """(rows, columns); where a voxel holds two places that of the one inside."""
        values = self.values if self.overlap is None else self.overlap.split(self.values)[0]
        return np.asarray(values.cpu().numpy(), np.float32)

    def picture(self, images: Tensor) -> Tensor:
        """Pictures (..., rows, columns) of images: magnitudes are roots of sums of squares."""
        seen = images * self.values
        return seen if self.overlap is None else self.overlap.joined(seen, self.coherence)

    def to(self, device: torch.device) -> Sensitivity:
        """The same on another device."""
        coherence = None if self.coherence is None else self.coherence.to(device)
        overlap = None if self.overlap is None else self.overlap.to(device)
        return Sensitivity(self.values.to(device), coherence, overlap)
