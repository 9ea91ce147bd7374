"""Retrospective undersampling: masks over columns or over both axes, and scans thinned by them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, get_args

import numpy as np
from fastmri.data.subsample import EquispacedMaskFractionFunc, RandomMaskFunc
from numpy.typing import NDArray

from recon.choices import PatternName
from recon.errors import ScanError
from recon.scan import Scan

_POISSON_LEAST_ACCELERATION = 2.0
_POISSON_LEAST_SIDE = 32
_POISSON_LEAST_OUTER_SAMPLES = 32
_POISSON_LEAST_OUTER_SHARE = 0.2
_POISSON_BISECTIONS = 10


def undersampling_mask(
    shape: tuple[int, int],
    pattern: PatternName,
    acceleration: float,
    center_fraction: float,
    seed: int,
) -> NDArray[np.bool_]:
    """Mask (rows, columns), True where acquired, that keeps 1 / acceleration of k-space in all.

    The central `center_fraction` of the columns is fully sampled, and counts: as for the public
    fastMRI data, "4 times" is columns / 4 lines with the centre among them, so that outer lines lie
    wider apart than 4 (5.4 for a centre of 8 %).

    * `equispaced` (fastMRI's EquispacedMaskFractionFunc): whole columns, at a constant spacing
      rounded to the grid; the count is within 3 of columns / acceleration.
    * `random` (fastMRI's RandomMaskFunc): whole columns, each outer one with the same probability;
      the count is right on average only (standard deviation 6 lines at 256 columns, 4 times).
    * `poisson`: Poisson disc on both axes, density falling from the centre outwards, corners left
      out. The centre is `center_fraction` of either axis; the number of samples is exact.

    Acceleration 1 keeps everything. The mask depends on the arguments alone. Raises ScanError for
    requests that no mask meets.
    """
    _check(shape, pattern, acceleration, center_fraction, seed)
    if acceleration == 1:
        return np.ones(shape, dtype=np.bool_)
    if pattern == "poisson":
        return _poisson(shape, acceleration, center_fraction, seed)
    return _lines(shape, pattern, acceleration, center_fraction, seed)


def undersample(scan: Scan, mask: NDArray[np.bool_]) -> Scan:
    """The scan as if only `mask` (rows, columns) had been acquired; what was missing stays so."""
    if scan.trajectory is not None:
        raise ScanError(
            "not-cartesian", "only Cartesian scans are undersampled; leave readouts out instead"
        )
    if mask.shape != scan.mask.shape or mask.dtype != np.bool_:
        raise ScanError(
            "mask-shape",
            f"the mask must be boolean {scan.mask.shape}, not {mask.dtype} {mask.shape}",
        )
    kept = scan.mask & mask
    return replace(scan, kspace=np.where(kept, scan.kspace, np.complex64(0)), mask=kept)


def _check(
    shape: tuple[int, int], pattern: str, acceleration: float, center_fraction: float, seed: int
) -> None:
    if pattern not in get_args(PatternName):
        known = ", ".join(get_args(PatternName))
        raise ScanError("unknown-pattern", f"no sampling pattern {pattern!r}; there are {known}")
    if not acceleration >= 1:
        raise ScanError("acceleration", f"the acceleration must be at least 1, not {acceleration}")
    if not 0 <= center_fraction <= 1:
        raise ScanError(
            "center-fraction", f"the centre fraction must lie in 0 to 1, not {center_fraction}"
        )
    if not 0 <= seed < 2**32:
        raise ScanError("seed", f"the seed of a mask must lie in 0 to 2^32 - 1, not {seed}")
    if min(shape) < 1:
        raise ScanError("mask-shape", f"a mask needs at least one row and column, not {shape}")


def _lines(
    shape: tuple[int, int],
    pattern: Literal["equispaced", "random"],
    acceleration: float,
    center_fraction: float,
    seed: int,
) -> NDArray[np.bool_]:
    columns = shape[1]
    center = round(columns * center_fraction)
    if columns / acceleration - center < 1:
        raise _center_too_large(acceleration, columns / acceleration, center, "lines")
    kind = EquispacedMaskFractionFunc if pattern == "equispaced" else RandomMaskFunc
    line_mask, _ = kind([center_fraction], [acceleration], seed=seed)((1, columns, 1))
    return np.broadcast_to(line_mask.numpy().reshape(1, columns) > 0, shape).copy()


def _poisson(
    shape: tuple[int, int], acceleration: float, center_fraction: float, seed: int
) -> NDArray[np.bool_]:
    if acceleration < _POISSON_LEAST_ACCELERATION or min(shape) < _POISSON_LEAST_SIDE:
        raise ScanError(
            "poisson-acceleration",
            f"a Poisson-disc mask needs acceleration {_POISSON_LEAST_ACCELERATION:g} and "
            f"{_POISSON_LEAST_SIDE} samples along either axis or more, "
            f"not {acceleration:g} and {shape}",
        )
    rows, columns = (round(n * center_fraction) for n in shape)
    budget = round(shape[0] * shape[1] / acceleration)
    outer = budget - rows * columns
    if outer < max(_POISSON_LEAST_OUTER_SAMPLES, _POISSON_LEAST_OUTER_SHARE * budget):
        raise _center_too_large(acceleration, budget, rows * columns, "samples")
    return _poisson_disc(shape, (rows, columns), budget, np.random.default_rng(seed))


def _poisson_disc(
    shape: tuple[int, int], center: tuple[int, int], budget: int, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Variable-density Poisson-disc mask with exactly `budget` samples and a full centre.

    The mean distance between samples grows as 0.8 + slope r, r the distance from the centre; a
    fixed number of bisections finds the slope. The density comes out near that of
    `sigpy.mri.poisson`, whose own search may never end (seen for shape (74, 90), acceleration
    8.99803184932367, centre (7, 9), seed 2164294335, tolerance a tenth) and is not called.
    """
    radius, beyond, middle = _geometry(shape, center)
    # The same random order for every slope, so that the count falls as the slope rises.
    candidates = rng.permutation(np.flatnonzero((radius < 1) & ~middle))
    # On a grid distances jump (1, 1.4, 2): a factor per sample lets the density fall smoothly.
    dither = rng.uniform(0.75, 1.25, shape)
    low, high = 0.0, float(max(shape))
    best, gap = middle, math.inf
    for _ in range(_POISSON_BISECTIONS):
        slope = (low + high) / 2
        mask = middle | _spread(dither * (0.8 + slope * beyond), candidates)
        surplus = int(np.count_nonzero(mask)) - budget
        if abs(surplus) < gap:
            best, gap = mask, abs(surplus)
        low, high = (slope, high) if surplus > 0 else (low, slope)
        if surplus == 0:
            break
    surplus = int(np.count_nonzero(best)) - budget
    # The few samples too many or too few are taken or given at random.
    movable = candidates[best.flat[candidates] == (surplus > 0)]
    best.flat[movable[: abs(surplus)]] = surplus < 0
    return best


def _spread(distance: NDArray[np.float64], candidates: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Take candidates in turn, each shutting out the others within its `distance` (in samples)."""
    rows, columns = distance.shape
    open_to = np.ones(distance.shape, dtype=np.bool_)
    taken = np.zeros(distance.shape, dtype=np.bool_)
    reach = math.ceil(distance.max())
    offsets = np.hypot(*np.ogrid[-reach : reach + 1, -reach : reach + 1])
    for y, x in zip(*(axis.tolist() for axis in np.divmod(candidates, columns)), strict=True):
        if not open_to[y, x]:
            continue
        taken[y, x] = True
        r = math.ceil(distance[y, x]) - 1
        top, left = max(y - r, 0), max(x - r, 0)
        bottom, right = min(y + r + 1, rows), min(x + r + 1, columns)
        disc = offsets[reach + top - y : reach + bottom - y, reach + left - x : reach + right - x]
        open_to[top:bottom, left:right] &= disc >= distance[y, x]
    return taken


def _geometry(
    shape: tuple[int, int], center: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Distance from zero frequency, distance beyond the centre (edges at 1), and the centre."""
    from_zero, from_center = [], []
    middle = np.zeros(shape, dtype=np.bool_)
    for size, width in zip(shape, center, strict=True):
        away = np.abs(np.arange(size) - size // 2)
        outside = np.maximum(away - width / 2, 0)
        from_zero.append(away / (size / 2))
        from_center.append(outside / outside.max())
    top, left = ((size - width + 1) // 2 for size, width in zip(shape, center, strict=True))
    middle[top : top + center[0], left : left + center[1]] = True
    return np.hypot(*np.ix_(*from_zero)), np.hypot(*np.ix_(*from_center)), middle


def _center_too_large(acceleration: float, budget: float, center: int, unit: str) -> ScanError:
    return ScanError(
        "center-too-large",
        f"{acceleration:g} times leaves {budget:.0f} {unit} in all, too few for a centre of "
        f"{center} and any outside it; lower the acceleration or the centre fraction",
    )
