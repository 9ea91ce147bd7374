"""Posteriors of a slice of which only the samples matter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recon.posterior import SlicePosterior


def slice_of(magnitude: NDArray[np.float64]) -> SlicePosterior:
    """With these samples (samples, rows, columns), and ones elsewhere."""
    flat = np.ones(magnitude.shape[1:], np.float32)
    image = flat.astype(np.complex64)
    return SlicePosterior(
        index=0, mean=image, samples=magnitude.astype(np.complex64), coarse=image,
        magnitude_std=flat, phase_std=flat, quantiles=np.stack([flat] * 4), mean_error=flat,
        rhat=flat, effective_samples=flat, chi2_per_coil=np.ones(1, np.float32),
        object_mask=flat.astype(bool),
        sensitivity=flat, noise_std=1.0, scale=1.0, evaluations=1, converged=True,
        warnings=(), self_check=None,
    )  # fmt: skip
