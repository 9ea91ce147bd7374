"""Gridded k-space of an ISMRMRD acquisition, and the slices that its volumes become."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum, auto

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.mrd_grid import grid_of, planes_of, vector_of
from recon.io.mrd_header import Encoding
from recon.io.read_limits import ReadLimits
from recon.planes import ImagePlane, ImageStack, Vector


@dataclass(frozen=True)
class Volumes:
    """Gridded k-space of all images, still three-dimensional."""

    kspace: NDArray[np.complex64]
    """(images, coils, x, y, z)."""
    mask: NDArray[np.bool_]
    """(x, y, z)."""
    planes: tuple[ImagePlane, ...]
    voxel_mm: Vector
    keep: tuple[int, int, int]


class Way(Enum):
    """How a volume becomes slices."""

    PLANES = auto()
    """It is two-dimensional."""
    PARTITIONS = auto()
    READOUT = auto()


def way_of(mask: NDArray[np.bool_]) -> Way:
    """Along which direction a volume of this mask (x, y, z) is cut. Raises ScanError."""
    if mask.shape[2] == 1:
        return Way.PLANES
    lines: NDArray[np.bool_] = np.any(mask, axis=0)
    if (np.all(lines, axis=1) == np.any(lines, axis=1)).all():
        return Way.PARTITIONS
    if not mask.any(axis=(1, 2)).all():
        raise ScanError(
            "no-full-direction",
            "no direction of this three-dimensional scan is fully sampled; it cannot be cut "
            "into slices",
        )
    return Way.READOUT


def gridded(
    stacked: NDArray[np.complex64],
    heads: NDArray[np.void],
    encoding: Encoding,
    limits: ReadLimits,
) -> tuple[Volumes, int]:
    """Readouts in their places, averages averaged; and how many there are of most lines."""
    profile = np.square(np.abs(stacked), dtype=np.float64).sum(axis=(0, 1))
    grid = grid_of(heads, encoding, limits, stacked.nbytes, profile)
    kspace = np.zeros((len(grid.images), stacked.shape[1], *grid.matrix), np.complex64)
    counts = grid.counts
    along = slice(grid.start, grid.start + grid.samples)
    for line, image, y, z in zip(stacked, grid.which, grid.y, grid.z, strict=True):
        kspace[image, :, along, y, z] += line
    kspace /= np.maximum(counts, 1)[:, np.newaxis, np.newaxis]
    distance = (grid.y - grid.matrix[1] // 2) ** 2 + (grid.z - grid.matrix[2] // 2) ** 2
    planes = planes_of(heads, grid.images, grid.which, distance)
    averages = int(np.median(counts[counts > 0]))
    return Volumes(kspace, grid.sampled, planes, grid.voxel_mm, grid.keep), averages


def without_oversampling(volumes: Volumes) -> Volumes:
    """Complete readouts are cut to the field of view in image space."""
    have, want = volumes.kspace.shape[2], volumes.keep[0]
    complete = volumes.mask.any(axis=(1, 2)).all()
    if want == have or not complete:
        return volumes
    first = have // 2 - want // 2
    kspace = cut(volumes.kspace, 2, slice(first, first + want))
    mask = np.ascontiguousarray(volumes.mask[:want])  # complete: every row has the same lines
    return replace(volumes, kspace=kspace * mask, mask=mask)


def slices_of(
    volumes: Volumes, way: Way
) -> tuple[NDArray[np.complex64], NDArray[np.bool_], ImageStack]:
    """Two-dimensional k-space (slices, coils, rows, columns), its mask, and where slices lie."""
    x, _, z = volumes.mask.shape
    dx, dy, dz = volumes.voxel_mm
    keep_x, keep_y, keep_z = volumes.keep
    if way is Way.PLANES:
        stack = ImageStack((dx, dy, dz), (keep_x, keep_y), volumes.planes)
        return volumes.kspace[..., 0], volumes.mask[..., 0], stack
    if way is Way.PARTITIONS:
        images = to_image(volumes.kspace, axis=4)
        first = z // 2 - keep_z // 2
        slices = np.moveaxis(images[..., first : first + keep_z], -1, 1)
        stack = ImageStack(
            (dx, dy, dz),
            (keep_x, keep_y),
            tuple(
                _moved(plane, plane.slice_dir, (k - keep_z // 2) * dz, k)
                for plane in volumes.planes
                for k in range(keep_z)
            ),
        )
        return _merged(slices), np.any(volumes.mask, axis=2), stack
    first = x // 2 - keep_x // 2
    images = to_image(volumes.kspace, axis=2)[:, :, first : first + keep_x]
    planes = tuple(
        replace(
            _moved(plane, plane.read_dir, (k - keep_x // 2) * dx, k),
            read_dir=plane.phase_dir,
            phase_dir=plane.slice_dir,
            slice_dir=plane.read_dir,
        )
        for plane in volumes.planes
        for k in range(keep_x)
    )
    stack = ImageStack((dy, dz, dx), (keep_y, keep_z), planes)
    return _merged(np.moveaxis(images, 2, 1)), np.any(volumes.mask, axis=0), stack


def _moved(plane: ImagePlane, direction: Vector, distance: float, partition: int) -> ImagePlane:
    position = np.array(plane.position) + distance * np.array(direction)
    return replace(
        plane, position=vector_of(position), labels={**plane.labels, "partition": partition}
    )


def _merged(slices: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """(images, slices, coils, rows, columns) with the first two axes made one."""
    return slices.reshape(-1, *slices.shape[2:])


def cut(kspace: NDArray[np.complex64], axis: int, kept: slice) -> NDArray[np.complex64]:
    """K-space of a part of the image along one axis, all of which was acquired."""
    image = to_image(kspace, axis)[(slice(None),) * axis + (kept,)]
    return to_kspace(image, axis)


def to_image(kspace: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    """Centred, orthonormal inverse transform along one axis."""
    shifted = np.fft.ifftshift(kspace, axes=axis)
    return np.fft.fftshift(np.fft.ifft(shifted, axis=axis, norm="ortho"), axes=axis)


def to_kspace(image: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    """Centred, orthonormal transform along one axis."""
    shifted = np.fft.ifftshift(image, axes=axis)
    return np.fft.fftshift(np.fft.fft(shifted, axis=axis, norm="ortho"), axes=axis)
