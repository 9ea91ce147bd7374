"""What a prior makes of right images and scans, for the table beside its weights: `models typical`.

Images are denoised as the draws of a reconstruction are, at pixel sizes and levels of leftover
noise as draws have them; some are received by simulated coils, undersampled and reconstructed for
what their self-checks find. All of it is drawn from a seed, so that the table can be made again.
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
from recon.evidence import energy_of, surprise
from recon.noise import NoiseStreams
from recon.phantom import receive
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from recon.verdict import SURPRISE_SIGMAS
from service.conformal_measurement import scaled_image, with_phase
from service.verdicts import distributions_of

_LEFT_NOISE = (0.01, 0.06)
"""Noise that draws still have: that of the scan and of the last level."""
_LARGEST_PIXEL = 2.0
_COILS = (4, 8, 12)
_NOISE = (0.01, 0.05)
_ACCELERATIONS = (2.0, 5.0)
_CENTRE_LINES = 16
_OUTER_LINES = 14
"""On average; a self-check needs six."""
_SMALLEST_SIDE = 64
_MARGIN = 6
_OBJECT = 0.1
_LOOKS = 1


@dataclass(frozen=True)
class Measured:
    """What one image or scan came to."""

    done: int
    of: int
    surprise: tuple[float, ...] | None = None
    held_out: tuple[float, float] | None = None


def measure(
    files: Sequence[Path], prior: Prior, images: int, scans: int, seed: int, device: torch.device
) -> Iterator[Measured]:
    """Rows of the table as they are made; scans whose lines are too few for a check give none.

    Raises ScanError, ModelError.
    """
    chosen = _spread([SliceSet([ImageFile(path)]).images[0] for path in files], images)
    every = max(1, len(chosen) // max(scans, 1))
    total = len(chosen) + len(chosen[::every])
    done = 0
    for number, raw in enumerate(chosen):
        random = np.random.default_rng((seed, number))
        # Half of them of the smallest size, where a prior is surprised most and scatters most.
        larger = 1.0 if number % 2 else random.random()
        image = _prepared(raw, _LARGEST_PIXEL**-larger, random)
        done += 1
        yield Measured(done, total, surprise=_surprise_of(image, prior, random, device))
        if number % every == 0:  # of the smallest size: it is the time that this takes
            image = _prepared(raw, 1 / _LARGEST_PIXEL, random)
            done += 1
            yield Measured(done, total, held_out=_held_out_of(image, prior, random, device))


def table_of(rows: Sequence[Measured], model: str, about: str) -> TypicalTable:
    """The table of what was measured. Raises ModelError where that is too little for one."""
    table = TypicalTable(
        weights_sha256=read_config(model).weights_sha256,
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


def _surprise_of(
    image: NDArray[np.complex64], prior: Prior, random: np.random.Generator, device: torch.device
) -> tuple[float, ...]:
    low, high = np.log(_LEFT_NOISE)
    left = float(np.exp(random.uniform(low, high)))
    streams = NoiseStreams.keyed(int(random.integers(2**31)), "typical", range(_LOOKS))
    clean = torch.from_numpy(image).to(device)
    draws = clean + left * streams.normal(image.shape, device)
    found = [float(surprise(prior, draws, streams, sigma)[0]) for sigma in SURPRISE_SIGMAS]
    return tuple(round(math.log(value), 4) for value in (energy_of(draws), *found))


def _held_out_of(
    image: NDArray[np.complex64], prior: Prior, random: np.random.Generator, device: torch.device
) -> tuple[float, float] | None:
    """Of a simulated scan, `fast`; None where too few lines lie outside the centre."""
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
        for event in reconstruct(undersample(full, mask), prior, settings, [0], device):
            if isinstance(event, SlicePosterior):
                evidence = event.evidence
    except ReconError:
        return None
    if not (evidence.held_out > 0 and math.isfinite(evidence.held_out_freedom)):
        return None
    return round(math.log(evidence.held_out), 4), round(evidence.held_out_freedom, 1)
