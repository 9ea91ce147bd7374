"""Slices whose posterior is Gaussian, and references drawn from it."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from recon.posterior import QUANTILE_LEVELS, SlicePosterior

SHAPE = (24, 31)


def gaussian_posterior(index: int, rng: np.random.Generator, draws: int = 3) -> SlicePosterior:
    """Magnitudes normal around a positive mean, known standard deviation, random phase."""
    mean = rng.uniform(5, 9, SHAPE)
    std = rng.uniform(0.1, 0.5, SHAPE)
    phase = np.exp(1j * rng.uniform(0, 6, SHAPE))
    samples = (mean + std * rng.standard_normal((draws, *SHAPE))) * phase
    levels = norm.ppf(np.array(QUANTILE_LEVELS))[:, None, None]
    flat = np.full(SHAPE, np.float32(1.0))
    mask = np.zeros(SHAPE, dtype=np.bool_)
    mask[3:, 2:] = True
    return SlicePosterior(
        index=index,
        mean=(mean * phase).astype(np.complex64),
        samples=samples.astype(np.complex64),
        coarse=(1.1 * mean * phase).astype(np.complex64),
        magnitude_std=std.astype(np.float32),
        phase_std=flat,
        quantiles=(mean + std * levels).astype(np.float32),
        mean_error=flat,
        rhat=np.where(np.arange(SHAPE[0])[:, None] < 13, 1.02, 1.3).astype(np.float32) * flat,
        effective_samples=flat,
        chi2_per_coil=np.array([0.8, 1.0], dtype=np.float32),
        object_mask=mask,
        sensitivity=flat,
        noise_std=1.0,
        scale=1.0,
        evaluations=40,
        converged=True,
        warnings=(),
        self_check=None,
    )


def draw_reference(
    posteriors: list[SlicePosterior], slices: int, rng: np.random.Generator
) -> NDArray[np.complex64]:
    reference = np.ones((slices, *SHAPE), dtype=np.complex64)
    for p in posteriors:
        magnitude = np.abs(p.mean) + p.magnitude_std * rng.standard_normal(SHAPE)
        reference[p.index] = magnitude * np.exp(1j * rng.uniform(0, 6, SHAPE))
    return reference
