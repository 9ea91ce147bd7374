"""The centre of k-space, and the coarse images that it gives."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.central_lines import calibration_width
from recon.noncartesian import gridded
from recon.scan import Scan

Complex = NDArray[np.complex64]


def central(kspace: Complex, region: tuple[int, int]) -> Complex:
    """The `region` (rows, columns) round the centre of k-space (..., rows, columns)."""
    rows, columns = kspace.shape[-2:]
    top, left = rows // 2 - region[0] // 2, columns // 2 - region[1] // 2
    return kspace[..., top : top + region[0], left : left + region[1]]


def window(shape: tuple[int, ...], region: tuple[int, int]) -> NDArray[np.float64]:
    """(rows, columns) Hann window over the centre of k-space."""
    sides = []
    for size, width in zip(shape, region, strict=True):
        distance = np.abs(np.arange(size) - size // 2)
        sides.append((distance < width / 2) * np.cos(np.pi * distance / width) ** 2)
    return np.asarray(sides[0][:, None] * sides[1][None, :])


def images_of(kspace: Complex) -> Complex:
    """Centred orthonormal inverse transform of k-space (..., rows, columns) on the grid."""
    shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
    images = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    return np.asarray(images, dtype=np.complex64)


def on_grid(scan: Scan, kspace: Complex) -> Complex:
    """K-space of one slice (coils, rows, columns) on the grid of the image."""
    if scan.trajectory is None:
        return kspace
    return gridded(kspace, scan.trajectory.points, scan.mask, scan.trajectory.matrix)


def calibration_lines(scan: Scan, index: int) -> tuple[Complex, NDArray[np.bool_]]:
    """What coil maps are found from, on the grid of the image, and where it was acquired.

    The slice's k-space (coils, rows, columns), or lines acquired apart where these are more round
    the centre.
    """
    if scan.calibration is not None:
        apart = (scan.calibration[index] != 0).any(axis=0)
        if calibration_width(apart) > calibration_width(scan.sampled):
            return scan.calibration[index], apart
    return on_grid(scan, scan.kspace[index]), scan.sampled
