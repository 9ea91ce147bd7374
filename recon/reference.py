"""The fully sampled answer that a result is compared with."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from recon.calibration import CalibrationSettings, calibrate, compress, noise_model
from recon.scan import Scan
from recon.undersampling import undersample


def coil_combination(
    full: Scan, mask: NDArray[np.bool_], settings: CalibrationSettings | None = None
) -> NDArray[np.complex64]:
    """Fully sampled coil combination (slices, rows, columns) in the units of a result.

    Whitening and coil maps are those that the reconstruction from `mask` used: they are found
    again from the same samples, so that only the missing samples make a difference.
    """
    settings = settings or CalibrationSettings()
    seen = undersample(full, mask)
    model, _ = noise_model(seen)
    model = compress(model, seen, settings)
    images = []
    for index, kspace in enumerate(full.kspace):
        calibration = calibrate(seen, index, model, settings)
        whitened = np.einsum("vc,crk->vrk", model.whitening, kspace)
        shifted = np.fft.ifftshift(whitened, axes=(-2, -1))
        coils = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
        overlap = calibration.overlap
        if overlap is not None:
            coils = overlap.unfolded(torch.from_numpy(coils)).numpy()
        combined = (calibration.coil_maps.conj() * coils).sum(axis=0)
        if overlap is not None:
            combined = overlap.joined(torch.from_numpy(combined)).numpy()
        images.append((combined * calibration.phase).astype(np.complex64))
    return np.stack(images)
