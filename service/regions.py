"""Questions about a region of interest, answered from the posterior's samples.

The mean of a region, and the difference of two, have a distribution of their own: each sample
gives one value. Pixel-wise maps cannot tell it, because neighbouring pixels err together.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.regions import Region
from service.region_answers import Interval, PlaneName

_AXES = {"slices": (0, 1, 2), "rows": (1, 0, 2), "columns": (1, 2, 0)}
_ALL = slice(None)


@dataclass(frozen=True)
class Block:
    """The part of a stack of samples that a question is about."""

    positions: Sequence[int]
    """Of the slices, in the stack."""
    rows: slice = field(default_factory=lambda: _ALL)
    columns: slice = field(default_factory=lambda: _ALL)


def polygon_mask(corners: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (rows, columns) whose centre lies inside; corners (n, 2) are (row, column).

    Pixel centres are at whole numbers. Crossings are counted (even-odd rule): each side of the
    polygon turns over, in the rows that it crosses, the pixels left of it. The work grows with
    sides times rows, not with sides times pixels.
    """
    rows = np.arange(shape[0], dtype=float)
    ends = np.zeros((shape[0], shape[1] + 1), bool)  # where a run of turned pixels ends
    for (r0, c0), (r1, c1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crossed = np.flatnonzero((r0 > rows) != (r1 > rows))
        if crossed.size:
            at = c0 + (rows[crossed] - r0) / (r1 - r0) * (c1 - c0)
            ends[crossed, np.clip(np.ceil(at), 0, shape[1]).astype(int)] ^= True
    turned: NDArray[np.bool_] = np.logical_xor.accumulate(ends[:, :0:-1], axis=1)[:, ::-1]
    return turned


def packed_mask(text: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Mask from Base64 of numpy.packbits, of pictures behind each other or the same in each.

    `shape` is how many, and lines and columns: (slices, rows, columns) of a stack.
    Raises ValueError.
    """
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    for wanted in (shape, shape[-2:]):
        count = math.prod(wanted)
        if packed.size == math.ceil(count / 8):
            return np.unpackbits(packed, count=count).astype(bool).reshape(wanted)
    raise ValueError(
        f"a mask of {shape} has {math.ceil(math.prod(shape) / 8)} bytes, not {packed.size}"
    )


def stacked(mask: NDArray[np.bool_], plane: PlaneName) -> NDArray[np.bool_]:
    """A mask of pictures of a plane, as (slices, rows, columns); a view.

    Pictures lie behind each other along the first axis: (slices, rows, columns), or of rows
    (rows, slices, columns), or of columns (columns, slices, rows).
    """
    return mask.transpose(_AXES[plane])


def region_values(samples: Path, block: Block, mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(samples,) mean magnitude inside the mask, one per sample of the stack.

    `mask` is (slices, rows, columns) of the block. Samples of the same number belong together from
    slice to slice. Raises ScanError for an empty region.
    """
    if not mask.any():
        raise ScanError("empty-region", "the region holds no pixel centre; make it larger")
    stack = np.load(samples, mmap_mode="r", allow_pickle=False)
    total = np.zeros(len(stack))
    for position, inside in zip(block.positions, mask, strict=True):
        if inside.any():
            images = stack[:, position, block.rows, block.columns]
            total += [np.abs(image[inside]).sum(dtype=np.float64) for image in images]
    return total / np.count_nonzero(mask)


def point_values(samples: Path, position: int, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """(samples, points) magnitudes of a slice at (row, column), interpolated linearly.

    Raises ScanError for points beyond the outermost pixel centres.
    """
    stack = np.load(samples, mmap_mode="r", allow_pickle=False)
    images = np.abs(stack[:, position])
    last = np.array(images.shape[1:]) - 1
    if (points < 0).any() or (points > last).any():
        raise ScanError(
            "outside-the-picture", f"rows go from 0 to {last[0]}, columns from 0 to {last[1]}"
        )
    (top, left), (down, right) = np.floor(points).astype(int).T, (points % 1).T
    below, beside = np.minimum(top + 1, last[0]), np.minimum(left + 1, last[1])
    upper = images[:, top, left] * (1 - right) + images[:, top, beside] * right
    lower = images[:, below, left] * (1 - right) + images[:, below, beside] * right
    return np.asarray(upper * (1 - down) + lower * down, np.float64)


def statistics(values: NDArray[np.float64]) -> Interval:
    """Summary of one value per sample, at least two."""
    return Interval.of(Region(values))
