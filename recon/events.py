"""What a reconstruction tells while it runs, and at the end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recon.chains import Advance
from recon.posterior import SlicePosterior

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class CoarseReady:
    """The first picture of a slice, in input units."""

    index: int
    image: NDArray[np.complex64]


@dataclass(frozen=True)
class Progress:
    """How far a slice is."""

    index: int
    stage: str
    fraction: float
    estimates: Tensor | None = None
    """(chains, rows, columns): what the network takes the chains' images to be, as all coils see
    them and in internal units; only while the chains run whose draws are kept."""


Event = CoarseReady | Progress | SlicePosterior


def followed(
    run: Generator[Advance, None, _Result], tell: Callable[[int, Advance], Progress]
) -> Generator[Event, None, _Result]:
    """A run passed on as what `tell` makes of its steps, the first of which is 1; its result."""
    steps = 0
    while True:
        try:
            advance = next(run)
        except StopIteration as stop:
            result: _Result = stop.value
            return result
        steps += 1
        yield tell(steps, advance)
