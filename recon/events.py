"""What a reconstruction tells while it runs, and at the end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recon.posterior import SlicePosterior


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
