"""The fully sampled middle of k-space, which coil maps are made from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MINIMUM_CALIBRATION = 12
"""Side of the fully sampled square that ESPIRiT needs,"""
MINIMUM_LINES = 6
"""or lines, where they are sampled along"""
_ALONG = 48
"""as many samples: these tell what lines do not."""


def calibration_width(mask: NDArray[np.bool_]) -> int:
    """Side of the largest fully sampled square round the centre of k-space (samples)."""
    rows, columns = mask.shape
    width = 0
    while width < min(rows, columns):
        grown = width + 1
        top, left = rows // 2 - grown // 2, columns // 2 - grown // 2
        if not mask[top : top + grown, left : left + grown].all():
            break
        width = grown
    return width


def calibration_region(
    mask: NDArray[np.bool_], most: int, most_along: int | None = None
) -> tuple[int, int]:
    """Rows and columns of the fully sampled rectangle round the centre of k-space.

    The largest square of at most `most` samples each way, grown along the axis that allows more
    (with lines as a mask, along them) up to `most_along`, by default `most` too.
    """
    most_along = most if most_along is None else most_along
    width = min(calibration_width(mask), most)

    def longest(lines: NDArray[np.bool_]) -> int:
        """Samples along the first axis round its centre, where all across it are there."""
        middle, size = len(lines) // 2, width
        full = np.asarray(lines.all(axis=1))
        while size < min(most_along, len(lines)):
            first = middle - (size + 1) // 2
            if not full[first : first + size + 1].all():
                break
            size += 1
        return size

    top, left = (size // 2 - width // 2 for size in mask.shape)
    rows = longest(mask[:, left : left + width])
    columns = longest(mask[top : top + width].T)
    return (rows, width) if rows >= columns else (width, columns)


def enough_for_maps(sampled: NDArray[np.bool_]) -> bool:
    """Whether coil maps can be found from the fully sampled centre of k-space (rows, columns)."""
    narrow, along = sorted(calibration_region(sampled, MINIMUM_CALIBRATION, _ALONG))
    return narrow >= MINIMUM_CALIBRATION or (narrow >= MINIMUM_LINES and along >= _ALONG)


def needed_for_maps() -> str:
    """The same in words."""
    return (
        f"{MINIMUM_LINES} fully sampled central lines, or {MINIMUM_CALIBRATION} x "
        f"{MINIMUM_CALIBRATION} samples where both directions are undersampled"
    )
