"""One slice as a PNG: values between two ends in grey or in colours, nothing drawn on top."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def png(
    image: NDArray[Any],
    window: tuple[float, float],
    colours: Sequence[tuple[int, int, int]] | None = None,
    *,
    see_through: bool = False,
) -> bytes:
    """An 8-bit PNG from the lower end of the window to the upper one.

    With evenly spaced `colours` (red, green, blue) it is a palette picture, otherwise grey;
    `see_through` makes the darkest of them transparent.
    """
    values = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = window
    level = np.clip((values - low) / max(high - low, 1e-30), 0, 1)
    picture = Image.fromarray((255 * level + 0.5).astype(np.uint8))
    if colours is not None:
        picture.putpalette(_palette(colours).tobytes())
    buffer = BytesIO()
    picture.save(buffer, "PNG", **({"transparency": 0} if see_through and colours else {}))
    return buffer.getvalue()


def _palette(colours: Sequence[tuple[int, int, int]]) -> NDArray[np.uint8]:
    """(256, 3) by linear interpolation."""
    table = np.array(colours, float)
    at = np.linspace(0, len(table) - 1, 256)
    columns = [np.interp(at, np.arange(len(table)), channel) for channel in table.T]
    return np.stack(columns, axis=1).round().astype(np.uint8)
