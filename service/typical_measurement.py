"""What a prior makes of right scans, for the table beside its weights: `models typical`.

Images are received by simulated coils, undersampled and reconstructed, at pixel sizes, noise
levels and accelerations as scans have them. What the prior makes of the draws, and their
self-checks of lines that were held out, are a row of the table: images themselves would surprise
it less than draws do. All of it is drawn from a seed, so that the table can be made again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.reduction import resized_complex
from models.registry import read_config
from models.training_data import ImageFile, SliceSet
from models.typical_scans import TypicalTable
from recon.errors import ReconError
from recon.phantom import receive
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from recon.verdict import SURPRISE_SIGMAS, Evidence
from service.conformal_measurement import scaled_image, with_phase
from service.verdicts import distributions_of

_LARGEST_PIXEL = 2.0
_SMALLEST_PIXEL = 1.3
"""Smaller ones take minutes each, and surprise the prior hardly otherwise."""
_COILS = (4, 8, 12)
_NOISE = (0.005, 0.03)
_ACCELERATIONS = (2.0, 5.0)
_CENTRE_LINES = 16
_OUTER_LINES = 8
"""At least; a self-check needs six."""
_SMALLEST_SIDE = 64
_MARGIN = 6
_OBJECT = 0.1


@dataclass(frozen=True)
class Measured:
    """What one scan came to."""

    done: int
    of: int
    surprise: tuple[float, ...] | None = None
    """Logarithms of `Evidence.energy` and `Evidence.surprise`; None where nothing came of it."""
    held_out: tuple[float, float] | None = None
    """Logarithm of `Evidence.held_out`, and its freedom; None where too few lines were acquired."""


def measure(
    files: Sequence[Path], prior: Prior, scans: int, seed: int, device: torch.device
) -> Iterator[Measured]:
    """Rows of the table as they are made. Raises ScanError, ModelError."""
    chosen = _spread([SliceSet([ImageFile(path)]).images[0] for path in files], scans)
    for number, raw in enumerate(chosen):
        random = np.random.default_rng((seed, number))
        # Half of them of the largest pixels, where a prior is surprised most and scatters most.
        size = 1.0 if number % 2 else random.uniform(math.log(_SMALLEST_PIXEL, _LARGEST_PIXEL), 1)
        image = _prepared(raw, _LARGEST_PIXEL**-size, random)
        evidence = _evidence_of(image, prior, random, device)
        surprise, held_out = (None, None) if evidence is None else _logarithms(evidence)
        yield Measured(number + 1, len(chosen), surprise, held_out)


def table_of(rows: Sequence[Measured], model: str, about: str) -> TypicalTable:
    """The table of what was measured. Raises ModelError where that is too little for one."""
    config = read_config(model)
    table = TypicalTable(
        weights_sha256=config.weights_sha256,
        power=config.power,
        data=about,
        date=datetime.now(UTC).date(),
        software_version=version("mri-posterior"),
        sigmas=SURPRISE_SIGMAS,
        surprises=tuple(row.surprise for row in rows if row.surprise is not None),
        held_out=tuple(row.held_out for row in rows if row.held_out is not None),
    )
    distributions_of(table)
    return table


def _spread(files: Sequence[NDArray[Any]], count: int) -> list[NDArray[Any]]:
    """About `count` slices, as many of each file, away from the ends of its stack."""
    each = max(1, round(count / len(files)))
    return [
        images[int((k + 0.5) * len(images) / min(each, len(images)))]
        for images in files
        for k in range(min(each, len(images)))
    ]


def _prepared(
    raw: NDArray[Any], shrink: float, random: np.random.Generator
) -> NDArray[np.complex64]:
    """A slice cut to its object, with larger pixels and a smooth phase; 99th percentile one."""
    image = scaled_image(raw, "an image of the table")
    inside = np.abs(image) > _OBJECT
    rows, columns = (_reach(inside.any(axis=axis)) for axis in (1, 0))
    image = image[rows, columns]
    sides = [max(_SMALLEST_SIDE, 2 * round(size * shrink / 2)) for size in image.shape]
    small = resized_complex(
        torch.from_numpy(np.ascontiguousarray(image, np.complex64)), (sides[0], sides[1])
    ).numpy()
    if np.iscomplexobj(image):
        return scaled_image(small, "an image of the table")
    return with_phase(scaled_image(np.abs(small), "an image"), int(random.integers(2**31)))


def _reach(full: NDArray[np.bool_]) -> slice:
    places = np.flatnonzero(full)
    return slice(max(0, int(places[0]) - _MARGIN), int(places[-1]) + 1 + _MARGIN)


def _evidence_of(
    image: NDArray[np.complex64], prior: Prior, random: np.random.Generator, device: torch.device
) -> Evidence | None:
    """Of a simulated scan of it, `fast`; None where it cannot be reconstructed."""
    low, high = np.log(_NOISE)
    noise = float(np.exp(random.uniform(low, high)))
    full = receive(image[None], int(random.choice(_COILS)), noise, int(random.integers(2**31)))
    rows, columns = image.shape
    most = columns / (_CENTRE_LINES + _OUTER_LINES)
    mask = undersampling_mask(
        (rows, columns),
        "equispaced" if random.random() < 0.5 else "random",
        max(1.5, min(random.uniform(*_ACCELERATIONS), most)),
        _CENTRE_LINES / columns,
        int(random.integers(2**31)),
    )
    settings = Settings("fast", seed=int(random.integers(2**31)))
    try:
        *_, posterior = reconstruct(undersample(full, mask), prior, settings, [0], device)
    except ReconError:
        return None
    assert isinstance(posterior, SlicePosterior)
    return posterior.evidence


def _logarithms(
    evidence: Evidence,
) -> tuple[tuple[float, ...] | None, tuple[float, float] | None]:
    surprise, held_out = None, None
    found = (evidence.energy, *evidence.surprise)
    if all(value > 0 for value in found):
        surprise = tuple(round(math.log(value), 4) for value in found)
    if evidence.held_out > 0 and math.isfinite(evidence.held_out_freedom):
        held_out = (round(math.log(evidence.held_out), 4), round(evidence.held_out_freedom, 1))
    return surprise, held_out
