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

    With evenly spaced `colours` (red, green, blue) it is a palette picture, otherwise grey. Where a
    value is not finite the picture is transparent: what is not known has no colour. `see_through`
    makes the darkest colour transparent too.
    """
    values = np.asarray(image, np.float32)
    known = np.isfinite(values)
    low, high = window
    level = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-40), 0, 1)
    if colours is None and known.all():
        picture, clear = Image.fromarray((255 * level + 0.5).astype(np.uint8)), None
    else:
        # The first place of the palette is for what is not known, the others are colours.
        places = np.where(known, 1 + (254 * level + 0.5).astype(np.uint8), 0).astype(np.uint8)
        table = _palette(colours or ((0, 0, 0), (255, 255, 255)), 255)
        picture = Image.fromarray(places)
        picture.putpalette(np.concatenate([table[:1], table]).tobytes())
        clear = b"\0\0" if see_through else b"\0"
    buffer = BytesIO()
    picture.save(buffer, "PNG", **({} if clear is None else {"transparency": clear}))
    return buffer.getvalue()


def _palette(colours: Sequence[tuple[int, int, int]], count: int) -> NDArray[np.uint8]:
    """(count, 3) by linear interpolation."""
    table = np.array(colours, float)
    at = np.linspace(0, len(table) - 1, count)
    columns = [np.interp(at, np.arange(len(table)), channel) for channel in table.T]
    return np.stack(columns, axis=1).round().astype(np.uint8)
