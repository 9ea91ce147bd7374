"""Pictures without a reconstruction: what a scan shows before any prior has been asked."""

from __future__ import annotations

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.scan import Scan


def zero_filled(scan: Scan) -> NDArray[np.float32]:
    """(slices, rows, columns) root sum of squares over the coils, missing samples zero.

    Raises ScanError for scans off the grid.
    """
    if scan.trajectory is not None:
        raise ScanError("not-cartesian", "zero-filled pictures are of Cartesian scans only")
    largest = float(np.abs(scan.kspace).max())
    images = np.empty((len(scan.kspace), *scan.image_shape), np.float32)
    for image, kspace in zip(images, scan.kspace, strict=True):  # one slice in memory at a time
        shifted = np.fft.ifftshift(kspace, axes=(-2, -1))
        coils = scipy.fft.ifft2(shifted / np.float32(largest), norm="ortho")
        image[:] = largest * np.fft.fftshift(np.linalg.norm(coils, axis=0), axes=(-2, -1))
    return images
