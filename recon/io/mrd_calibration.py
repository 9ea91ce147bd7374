"""Calibration lines of an ISMRMRD acquisition that are not part of its images.

Scanners measure the coils before, between or after the image, sometimes once for all repetitions,
at a matrix and a readout length of their own. What such lines give is k-space on the grid of the
image, zero where they have nothing.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from ismrmrd.xsd import ismrmrdHeader
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.mrd_grid import calibrating, images_of, patterns_of
from recon.io.mrd_header import encoding_of
from recon.io.mrd_readouts import Readouts
from recon.io.mrd_volumes import Volumes, Way, gridded, slices_of, to_image, to_kspace
from recon.io.placement import placed
from recon.io.read_limits import ReadLimits

_SAME_VIEW = 0.01
"""Relative difference of fields of view that means nothing."""


def calibration_of(
    readouts: Readouts,
    header: ismrmrdHeader,
    images: NDArray[np.int64],
    volumes: Volumes,
    way: Way,
    limits: ReadLimits,
) -> NDArray[np.complex64] | None:
    """(slices, coils, rows, columns) of the lines flagged for calibration, on the scan's own grid.

    `images` are the counters of the scan's images, and `volumes` their k-space as it is cut into
    slices in that `way`. None where no such lines cover all slices with the scan's channels and
    field of view.
    """
    chosen = calibrating(readouts.head)
    if not chosen.any():
        return None
    space = readouts.head["encoding_space_ref"]
    chosen &= space == space[chosen].min()
    try:
        encoding, stacked = encoding_of(header, int(space[chosen][0])), readouts.stack(chosen)
        if stacked.shape[1] != volumes.kspace.shape[1]:
            return None
        heads = readouts.head[chosen]
        own = patterns_of(heads) == 0
        found, _ = gridded(stacked[own], heads[own], encoding, limits)
    except ScanError:  # no block of lines that can be read: the scan itself may need none
        return None
    nearest = _nearest(images, images_of(heads[own])[0])
    fitted = _fitted(found, volumes)
    if nearest is None or fitted is None:
        return None
    lines, sampled, _ = slices_of(replace(fitted, kspace=fitted.kspace[nearest]), way)
    return np.ascontiguousarray(lines * sampled, np.complex64)


def _nearest(images: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """For each image, which of those found has its slice and else the most equal counters."""
    equal = images[:, np.newaxis] == found
    alike = np.where(equal[..., -1], equal.sum(axis=-1), -1)
    return None if (alike.max(axis=1) < 0).any() else alike.argmax(axis=1)


def _fitted(found: Volumes, scan: Volumes) -> Volumes | None:
    """Volumes on the grid of the scan's; None where it has another field of view."""
    shape = scan.kspace.shape[2:]
    have = np.multiply(found.kspace.shape[2:], found.voxel_mm)
    want = np.multiply(shape, scan.voxel_mm)
    kspace, mask = found.kspace, found.mask
    if have[0] > want[0] * (1 + _SAME_VIEW):
        size, cut = mask.shape[0], round(float(want[0] / found.voxel_mm[0]))
        first = size // 2 - cut // 2
        kspace = to_kspace(to_image(kspace, axis=2)[:, :, first : first + cut], axis=2)
        # A sample between two old ones is known where both are.
        old = size // 2 + (np.arange(cut) - cut // 2) * (size / cut)
        mask = mask[np.floor(old).astype(int)] & mask[np.ceil(old).astype(int) % size]
        have[0] = want[0]
    if not np.allclose(have, want, rtol=_SAME_VIEW):
        return None
    return replace(scan, kspace=placed(kspace, shape), mask=placed(mask, shape), planes=scan.planes)
