"""Which slices of a scan are neighbours, and the noise that their chains share.

A slice's chain is a function of its noise. Chains of neighbouring slices that see independent noise
disagree wherever the data leave a choice, so that a sample flickers from slice to slice, and the
mean of a region over several slices seems better known than it is. Their image noise is therefore
drawn together (after ISCS, arXiv 2602.04162): the Fourier coefficients of a slice at height h are

    z(h) = cos(t) g_k + sin(t) g_{k+1},

g_k white fields at knots a fixed distance apart along the stack, t from 0 to pi / 2 between two of
them. The distance of the knots grows with the wavelength, an octave at a time: what is fine changes
from slice to slice, what is coarse holds. Its growth and the default of `slice_coherence` were
chosen so that samples of a simulated head agree from slice to slice as the mean's errors do.

Every slice's noise is white and of unit variance as before, so that its samples have the law that
they had. The numbers depend on the seed, the chain and the height alone: a slice by itself, a part
of a volume on another worker and the whole volume get the same. Noise that stands for that of the
receivers is not shared: where much was measured, errors of neighbouring slices are independent.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from recon.noise import Band, NoiseKey
from recon.planes import ATTRIBUTE, ImagePlane, ImageStack
from recon.scan import Scan

_OCTAVES = 4
_GROWTH = 4
"""Of the distance of the knots, from octave to octave."""


class Place(NamedTuple):
    """Where a slice lies in its stack."""

    series: str
    """Slices of different series (contrast, repetition, direction, …) share nothing."""
    height: float
    """Along the stack, in sides of a pixel."""


def places(scan: Scan) -> tuple[Place | None, ...]:
    """Of every slice; None where the scan says neither positions nor a thickness."""
    view = scan.view_mm
    text = scan.attributes.get(ATTRIBUTE)
    if view is None:
        return (None,) * len(scan.kspace)
    rows, columns = scan.image_shape
    side = math.sqrt(view[0] / rows * view[1] / columns)
    if isinstance(text, str):
        return tuple(_place(plane, side) for plane in ImageStack.from_text(text).planes)
    assert scan.geometry.field_of_view_mm is not None
    thickness = scan.geometry.field_of_view_mm[2]
    return tuple(Place("", index * thickness / side) for index in range(len(scan.kspace)))


def noise_key(
    seed: int, purpose: str, index: int, place: Place | None, coherence: float
) -> NoiseKey:
    """Noise of a run of slice `index`; its finest octave is shared over `coherence` pixels."""
    own = f"{purpose}-{index}"
    if place is None or coherence == 0:
        return NoiseKey(seed, own)
    bands = []
    for octave in range(_OCTAVES):
        knot = place.height / (coherence * _GROWTH**octave)
        below = math.floor(knot)
        turn = (knot - below) * math.pi / 2
        names = (f"{purpose}-stack-{place.series}-{octave}-{below + k}" for k in (0, 1))
        fields = tuple(zip(names, (math.cos(turn), math.sin(turn)), strict=True))
        bands.append(Band(0.5**octave, fields))
    return NoiseKey(seed, own, tuple(bands))


def _place(plane: ImagePlane, side: float) -> Place:
    labels = {k: v for k, v in sorted(plane.labels.items()) if k not in ("slice", "partition")}
    direction = np.round(plane.slice_dir, 2) + 0.0
    series = ",".join([*(f"{k}={v}" for k, v in labels.items()), *map(str, direction)])
    return Place(series, float(np.dot(plane.position, plane.slice_dir)) / side)
