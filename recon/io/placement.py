"""K-space put on a grid of another size, zero frequency on zero frequency."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def placed(array: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """The last axes of `array` cut or filled with zeros to `shape`, index n // 2 on n // 2."""
    out = np.zeros((*array.shape[: array.ndim - len(shape)], *shape), array.dtype)
    old: list[Any] = [...]
    new: list[Any] = [...]
    for have, want in zip(array.shape[array.ndim - len(shape) :], shape, strict=True):
        before = min(have // 2, want // 2)
        length = before + min(have - have // 2, want - want // 2)
        old.append(slice(have // 2 - before, have // 2 - before + length))
        new.append(slice(want // 2 - before, want // 2 - before + length))
    out[tuple(new)] = array[tuple(old)]
    return out
