"""Whether k-space follows the conventions of this package, seen from where its energy lies.

A header or a shape can say anything; the samples cannot. The zero frequency carries most of the
energy of every object, so it shows where it was put; an object that crosses the edge of the image
was transformed without moving its origin; and coils, unlike lines, have no centre.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError

Complex = NDArray[np.complex64]

_SHORTEST = 16
"""Axes shorter than this say nothing about their centre."""
CLEAR = 4.0
"""Ratio of mean energies from which one place is taken to be the centre and another not. Real
scans have a thousand between the centre and the edge of k-space; noise alone has one."""
_NEAR = 8
"""Within one part in this of an axis from its middle, the zero frequency is where it belongs."""
_EDGE_LINES = 2
_IMAGES = 4
"""Slices whose images are looked at."""
_MOST_COILS = 256
_COIL_CENTRE = 0.6
"""Share of the energy in the middle eighth of an axis that no array of coils has."""
_NAMES = ("rows", "columns")


class Places(NamedTuple):
    """Along rows and columns, where the zero frequency and the image's origin were found."""

    frequency: tuple[int | None, int | None]
    """Index of the strongest samples where they are not near the middle; None where all is well."""
    origin: tuple[bool, bool]
    """Whether the object crosses the edge of the image."""


def require_coil_axis(kspace: Complex) -> None:
    """Raise ScanError where the second axis of (slices, coils, rows, columns) is not of coils."""
    coils, rows, columns = kspace.shape[1:]
    wrong = coils > _MOST_COILS
    if not wrong and coils >= 2 * _SHORTEST and coils > columns:
        energy = np.sum([_energy(slice_, (1, 2)) for slice_ in kspace], axis=0)
        middle = np.abs(np.arange(coils) - coils // 2) <= coils // 16
        wrong = bool(energy[middle].sum() > _COIL_CENTRE * energy.sum())
    if wrong:
        raise ScanError(
            "coil-axis",
            f"k-space of shape {kspace.shape} would be {coils} coils of {rows} x {columns} "
            "samples; name its axes, for example --axes slice,row,column,coil",
        )


def places_of(kspace: Complex, mask: NDArray[np.bool_]) -> Places:
    """Where the energy of (slices, coils, rows, columns) lies, of which `mask` was acquired."""
    energy = np.zeros(mask.shape)
    for slice_ in kspace:
        energy += _energy(slice_, (0,))
    frequency = _off_centre(energy, mask, 0), _off_centre(energy, mask, 1)
    image = np.zeros(mask.shape)
    for slice_ in kspace[:: max(1, len(kspace) // _IMAGES)]:
        # Wherever the zero frequency is, magnitudes are the same; their origin is at index 0.
        image += _energy(np.fft.ifft2(slice_), (0,))
    return Places(frequency, (_crosses_edge(image.sum(axis=1)), _crosses_edge(image.sum(axis=0))))


def require_centred(kspace: Complex, mask: NDArray[np.bool_], cure: str) -> None:
    """Raise ScanError where the zero frequency or the image's origin is not in the middle.

    `cure` ends the sentence: what can be done about it.
    """
    places = places_of(kspace, mask)
    for axis, index in enumerate(places.frequency):
        if index is not None:
            size = mask.shape[axis]
            raise ScanError(
                "kspace-not-centred",
                f"the strongest samples of k-space are at {_NAMES[axis][:-1]} {index} of {size}, "
                f"and the zero frequency belongs at {size // 2}; {cure}",
            )
    for axis, crossed in enumerate(places.origin):
        if crossed:
            raise ScanError(
                "image-not-centred",
                f"the object lies across the edge of the image along its {_NAMES[axis]}: k-space "
                f"was made without moving the image's origin to the middle; {cure}",
            )


def centred(kspace: Complex, mask: NDArray[np.bool_]) -> tuple[Complex, NDArray[np.bool_]]:
    """K-space and mask with zero frequency and origin in the middle, where they were at index 0.

    Raises ScanError where the zero frequency is at neither place.
    """
    for axis, index in enumerate(places_of(kspace, mask).frequency):
        if index is None:
            continue
        if not _near(index, 0, mask.shape[axis]):
            require_centred(kspace, mask, "it is at neither end, so no shift by half mends it")
        kspace = np.fft.fftshift(kspace, axes=axis - 2)
        mask = np.fft.fftshift(mask, axes=axis)
    for axis, crossed in enumerate(places_of(kspace, mask).origin):
        if crossed:  # moving the origin by half the image is a ramp of phase in k-space
            size = mask.shape[axis]
            steps = (np.arange(size) - size // 2) * (size // 2)
            ramp = np.exp(2j * np.pi * (steps % size) / size).astype(np.complex64)
            kspace = kspace * (ramp[:, np.newaxis] if axis == 0 else ramp)
    return np.ascontiguousarray(kspace), np.ascontiguousarray(mask)


def strongest(energy: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[int, float]:
    """Index of the greatest mean energy along an axis, and how many times that of its middle.

    `counts` are the samples behind each sum of energies; the means run over a few neighbours, round
    the ends.
    """
    size = len(energy)
    width = max(1, size // 64)
    near = np.arange(-width, width + 1)
    window = (np.arange(size)[:, np.newaxis] + near) % size
    samples = counts[window].sum(axis=1)
    means = np.divide(energy[window].sum(axis=1), samples, np.zeros(size), where=samples > 0)
    peak = int(means.argmax())
    middle = means[[i for i in range(size) if _near(i, size // 2, size)]].max()
    return peak, float(means[peak] / middle) if middle > 0 else np.inf


def _off_centre(energy: NDArray[np.float64], mask: NDArray[np.bool_], axis: int) -> int | None:
    if mask.shape[axis] < _SHORTEST:
        return None
    peak, ratio = strongest(energy.sum(axis=1 - axis), mask.sum(axis=1 - axis).astype(np.float64))
    return peak if ratio > CLEAR else None


def _crosses_edge(energy: NDArray[np.float64]) -> bool:
    """Whether an image of this profile, origin first, has its object on the far side of it.

    Lines at the edge of the image are then full, on both sides, and those in its middle empty.
    """
    size = len(energy)
    if size < _SHORTEST:
        return False
    near = np.arange(-_EDGE_LINES, _EDGE_LINES)
    edge, middle = energy[(size + 1) // 2 + near], energy[near]
    sides = min(edge[:_EDGE_LINES].mean(), edge[_EDGE_LINES:].mean())
    return bool(sides > CLEAR * middle.mean())


def _near(index: int, place: int, size: int) -> bool:
    distance = (index - place) % size
    return min(distance, size - distance) <= size // _NEAR


def _energy(values: NDArray[Any], axis: tuple[int, ...]) -> NDArray[np.float64]:
    """Sum of squared magnitudes along `axis`."""
    return np.sum(np.square(np.abs(values), dtype=np.float64), axis=axis)
