"""Radial and spiral scans of the analytic phantom, by sums over a finer grid than any image's."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recon.phantom import receiver_maps, simulate
from recon.scan import Geometry, Scan, Trajectory

_FINER = 3
"""The phantom is drawn with so many pixels per pixel: what is measured is not what is modelled."""


def spokes(count: int, samples: int) -> NDArray[np.float32]:
    """(spokes, samples, 2) golden-angle radial readouts across all of k-space."""
    angles = np.arange(count) * math.pi * (math.sqrt(5) - 1) / 2
    radius = (np.arange(samples) - samples // 2) / samples
    along = np.stack([np.cos(angles), np.sin(angles)], axis=-1)
    return (along[:, np.newaxis] * radius[:, np.newaxis]).astype(np.float32)


def spirals(count: int, samples: int, turns: float) -> NDArray[np.float32]:
    """(interleaves, samples, 2) Archimedean spirals from the centre."""
    share = np.linspace(0, 1, samples)
    angles = 2 * math.pi * (turns * share + np.arange(count)[:, np.newaxis] / count)
    path = 0.4999 * share * np.stack([np.cos(angles), np.sin(angles)])
    return np.moveaxis(path, 0, -1).astype(np.float32)


def fourier_sums(
    image: NDArray[np.complex128], points: NDArray[np.floating]
) -> NDArray[np.complex128]:
    """sum x(r) exp(-2 pi i k r) at points (n, 2) in cycles per pixel, r from pixel n // 2.

    Direct, by one phase factor for rows and one for columns; images (..., rows, columns).
    """
    rows, columns = (np.arange(n) - n // 2 for n in image.shape[-2:])
    by_row = np.exp(-2j * np.pi * np.outer(points[:, 0], rows))
    by_column = np.exp(-2j * np.pi * np.outer(points[:, 1], columns))
    return np.einsum("kr,...rk->...k", by_row, image @ by_column.T)


def phantom_scan(
    points: NDArray[np.float32], size: int, coils: int = 4, noise_std: float = 0.01, seed: int = 0
) -> tuple[Scan, NDArray[np.float64]]:
    """One slice along a trajectory; and the magnitude (size, size) with all of k-space measured.

    The latter is what the lowest size x size Fourier coefficients of the same object give.
    """
    fine = _FINER * size
    image = simulate(1, coils, fine, fine, math.inf, seed)[1][0]
    received = (image * receiver_maps(coils, fine, fine)).astype(np.complex128)
    flat = points.reshape(-1, 2).astype(np.float64) / _FINER
    # An orthonormal transform of `size` pixels; each holds as many fine ones, averaged.
    scale = 1 / (size * _FINER**2)
    kspace = scale * fourier_sums(received, flat).reshape(coils, *points.shape[:2])
    rng = np.random.default_rng((seed, 1))
    kspace += noise_std * _complex(rng, kspace.shape)
    noise = noise_std * _complex(rng, (coils, 4096))
    steps = (np.arange(size) - size // 2) / size
    grid = np.stack(np.meshgrid(steps, steps, indexing="ij"), axis=-1).reshape(-1, 2) / _FINER
    whole = fourier_sums(image.astype(np.complex128), grid).reshape(size, size) * scale
    shifted = np.fft.ifft2(np.fft.ifftshift(whole), norm="ortho")
    scan = Scan(
        kspace=kspace[np.newaxis].astype(np.complex64),
        mask=np.ones(points.shape[:2], np.bool_),
        trajectory=Trajectory(points.copy(), (size, size)),
        noise_samples=noise.astype(np.complex64),
        geometry=Geometry(None, (size, size)),
    )
    return scan, np.abs(np.fft.fftshift(shifted))


def psnr(image: NDArray[np.complexfloating], truth: NDArray[np.float64]) -> float:
    """In dB, of the magnitude after the best scale."""
    found = np.abs(image).astype(np.float64)
    found *= (found * truth).sum() / (found**2).sum()
    return float(20 * np.log10(truth.max() / np.sqrt(((found - truth) ** 2).mean())))


def _complex(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.complex128]:
    return rng.normal(size=shape) + 1j * rng.normal(size=shape)
