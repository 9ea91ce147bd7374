"""From readouts that carry their k-space positions (radial, spiral) to a `Scan`.

The positions of MRD are cycles per voxel of the encoded matrix; k-space ends at half a cycle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.mrd_grid import (
    images_of,
    kept_samples,
    noise_of,
    numbered,
    planes_of,
    require_size,
)
from recon.io.mrd_header import Encoding
from recon.io.mrd_readouts import Readouts
from recon.io.read_limits import ReadLimits
from recon.planes import ATTRIBUTE, ImageStack
from recon.scan import Geometry, Scan, Trajectory

_EDGE = 0.5001
"""Cycles per voxel; single precision may leave half a cycle by a little."""


def scans_along_trajectories(
    xml: str,
    encoding: Encoding,
    readouts: Readouts,
    chosen: NDArray[np.bool_],
    sha256: str,
    limits: ReadLimits,
) -> tuple[Scan, ...]:
    """One scan for every set of trajectories; images that share them share a scan.

    Repeated readouts (averages) stay measurements of their own.

    Raises:
        ScanError: Positions are missing, outside k-space or three-dimensional; or images differ in
            their number of readouts.
    """
    require_trajectories(encoding, readouts.head[chosen])
    stacked, points = readouts.stack(chosen), readouts.trajectories(chosen)
    heads = readouts.head[chosen]
    if points.shape[1] != kept_samples(heads):
        raise ScanError("trajectory-length", "positions and samples differ in number")
    if not np.isfinite(points).all() or np.abs(points).max() > _EDGE:
        raise ScanError(
            "trajectory-range",
            "k-space positions must be cycles per voxel, from -0.5 to 0.5; divide them by the "
            "encoded matrix if they count its samples",
        )
    images, which = images_of(heads)
    rows, columns, _ = encoding.encoded.matrix
    require_size(8 * len(images) * stacked.shape[1] * rows * columns, stacked.nbytes, limits)
    patterns = numbered([points[which == image].tobytes() for image in range(len(images))])
    scans = []
    for pattern in range(patterns.max() + 1):
        members = np.flatnonzero(patterns == pattern)
        of_pattern = np.isin(which, members)
        own = points[which == members[0]]
        kspace = np.stack([np.moveaxis(stacked[which == image], 1, 0) for image in members])
        distance = np.zeros(np.count_nonzero(of_pattern), np.int64)
        planes = planes_of(heads[of_pattern], images[members], _ranks(which[of_pattern]), distance)
        view, keep = encoding.recon.field_of_view_mm, encoding.kept
        stack = ImageStack(encoding.encoded.voxel_mm, keep[:2], planes)
        scans.append(
            Scan(
                kspace=np.ascontiguousarray(kspace, np.complex64),
                mask=np.ones(own.shape[:2], np.bool_),
                trajectory=Trajectory(np.ascontiguousarray(own), (rows, columns)),
                noise_samples=noise_of(readouts, heads, encoding, 1),
                geometry=Geometry(field_of_view_mm=view, recon_shape=keep[:2]),
                header=xml,
                attributes={ATTRIBUTE: stack.to_text(), "trajectory": encoding.trajectory},
                sha256=sha256,
            )
        )
    return tuple(scans)


def require_trajectories(encoding: Encoding, heads: NDArray[np.void]) -> None:
    """Raise ScanError unless imaging readouts of these headers can be read off the grid."""
    if encoding.encoded.matrix[2] > 1:
        raise ScanError(
            "unsupported-trajectory",
            f"this {encoding.trajectory} scan is three-dimensional and only two-dimensional ones "
            "are read; transform it along its partitions first",
        )
    dimensions = {int(count) for count in heads["trajectory_dimensions"]}
    if dimensions != {2}:
        raise ScanError(
            "no-trajectory",
            f"the readouts of this {encoding.trajectory} scan must carry two k-space coordinates "
            f"per sample, not {sorted(dimensions)}; convert the raw data with their trajectory",
        )


def _ranks(which: NDArray[np.int64]) -> NDArray[np.int64]:
    """Image numbers without gaps."""
    return np.asarray(np.unique(which, return_inverse=True)[1])
