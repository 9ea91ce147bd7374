"""From one array with named axes to two-dimensional k-space, one image after the other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.mrd_grid import IMAGES
from recon.io.mrd_volumes import Volumes, slices_of, way_of
from recon.io.read_limits import ReadLimits
from recon.planes import axial

_STRAY_ZEROS = 1e-3
"""Share of samples that may be exactly zero by rounding without telling of a sampling pattern."""
_ORDER = ("average", *IMAGES, "coil", "row", "column", "partition")


@dataclass(frozen=True)
class Arranged:
    """K-space of all images that were sampled alike."""

    kspace: NDArray[np.complex64]
    """(images, coils, rows, columns), slices fastest; zero where nothing was acquired."""
    averages: int
    """Of most samples."""


def shape_of(shape: Sequence[int], axes: Sequence[str]) -> tuple[int, int, int, int]:
    """(images, coils, rows, columns) of an array of this shape, not looking at its values.

    Raises ScanError where axes do not fit.
    """
    sizes = _sizes(shape, axes)
    images = math.prod(sizes.get(name, 1) for name in (*IMAGES, "partition"))
    coils = sizes.get("coil", 1) * sizes.get("coilpart", 2) // 2
    return images, coils, sizes["row"], sizes["column"]


def arranged(
    array: NDArray[Any],
    axes: Sequence[str],
    select: Mapping[str, int],
    limits: ReadLimits,
) -> Arranged:
    """Images of an array whose axes are named. Raises ScanError.

    Samples that are zero in all coils were not acquired.
    """
    _sizes(array.shape, axes)
    array, axes = _as_complex(array, list(axes))
    for name, value in select.items():
        array, axes = _chosen(array, axes, name, value)
    missing = [name for name in _ORDER if name not in axes]
    array = array.reshape(*array.shape, *(1 for _ in missing))
    places = [*axes, *missing]
    array = array.transpose([places.index(name) for name in _ORDER])
    if 8 * array.size > limits.declared_bytes:
        raise ScanError("too-large", f"k-space would have {8 * array.size} bytes; select images")
    acquired = (array != 0).any(axis=_ORDER.index("coil"))
    counts = acquired.sum(axis=0)
    kspace = array.sum(axis=0) if len(array) > 1 else array[0]
    if len(array) > 1:
        kspace /= np.maximum(counts, 1)[..., np.newaxis, :, :, :].astype(np.float32)
    kspace = kspace.reshape(-1, *kspace.shape[-4:])
    masks = (counts > 0).reshape(-1, *counts.shape[-3:])
    mask = _one_pattern(masks)
    return Arranged(
        _flat(np.ascontiguousarray(kspace, np.complex64), mask), int(np.median(counts[counts > 0]))
    )


def _sizes(shape: Sequence[int], axes: Sequence[str]) -> dict[str, int]:
    if len(shape) != len(axes):
        raise ScanError(
            "axes",
            f"the array has {len(shape)} axes, {tuple(shape)}, and {len(axes)} are named: "
            f"{','.join(axes)}",
        )
    sizes = dict(zip(axes, shape, strict=True))
    if len(sizes) < len(axes) or not {"row", "column"} <= set(sizes):
        raise ScanError("axes", "name every axis once, row and column among them")
    if sizes.get("part", 2) != 2 or sizes.get("coilpart", 2) % 2 or 0 in sizes.values():
        raise ScanError("axes", f"the axes {','.join(axes)} do not fit the shape {tuple(shape)}")
    return sizes


def _as_complex(array: NDArray[Any], axes: list[str]) -> tuple[NDArray[np.complex64], list[str]]:
    for name in ("part", "coilpart"):
        if name in axes:
            at = axes.index(name)
            pairs = np.moveaxis(np.asarray(array, np.float32), at, -1)
            array = np.ascontiguousarray(pairs).view(np.complex64)
            rest = [axis for axis in axes if axis != name]
            return (array[..., 0], rest) if name == "part" else (array, [*rest, "coil"])
    if array.dtype.kind != "c":
        raise ScanError(
            "kspace-type",
            f"k-space must be complex, not {array.dtype}; where real and imaginary parts are an "
            "axis of their own, name it part (or coilpart: both for each coil in turn)",
        )
    return np.asarray(array, np.complex64), axes


def _chosen(
    array: NDArray[np.complex64], axes: list[str], name: str, value: int
) -> tuple[NDArray[np.complex64], list[str]]:
    if name not in IMAGES:
        raise ScanError(
            "selection", f"images are selected by {', '.join(IMAGES)}, not by {name[:32]}"
        )
    size = array.shape[axes.index(name)] if name in axes else 1
    if value >= size:
        raise ScanError("selection", f"there is no {name} {value}; the scan has {size}, from 0")
    if name not in axes:
        return array, axes
    at = axes.index(name)
    return np.take(array, value, axis=at), [*axes[:at], *axes[at + 1 :]]


def _one_pattern(masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(rows, columns, partitions) that all images share; images that are all zero have none."""
    some = masks[masks.any(axis=(1, 2, 3))]
    if not len(some):
        raise ScanError("empty-kspace", "all of k-space is zero; export the scan again")
    everywhere = np.asarray(some.any(axis=0))
    holes = np.count_nonzero(everywhere) * len(some) - np.count_nonzero(some)
    # Receivers round: a few zeros inside whole lines are measurements, not holes.
    if holes > _STRAY_ZEROS * np.count_nonzero(some):
        raise ScanError(
            "patterns-differ",
            "the images of this scan were sampled on different lines; choose those of one "
            "pattern, for example --select phase=0",
        )
    return everywhere


def _flat(kspace: NDArray[np.complex64], mask: NDArray[np.bool_]) -> NDArray[np.complex64]:
    """Volumes (images, coils, rows, columns, partitions) as slices."""
    if mask.shape[2] == 1:
        return np.ascontiguousarray(kspace[..., 0])
    rows, columns, partitions = mask.shape
    planes = axial(len(kspace), (rows, columns), (1, 1, 1)).planes  # where they lie is not known
    volumes = Volumes(kspace, mask, planes, (1, 1, 1), (rows, columns, partitions))
    return np.ascontiguousarray(slices_of(volumes, way_of(mask))[0], np.complex64)
