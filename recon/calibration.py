"""Noise level, coil maps and scale of a scan, from the undersampled data alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from recon.central_lines import MINIMUM_CALIBRATION as MINIMUM_CALIBRATION
from recon.central_lines import calibration_region as calibration_region
from recon.central_lines import calibration_width as calibration_width
from recon.errors import CalibrationError
from recon.espirit import EigenMaps, eigen_maps
from recon.noncartesian import gridded
from recon.overlap import Overlap, find_overlap
from recon.scan import Scan, Trajectory

_MAXIMUM_CALIBRATION = 32
_OUTER_SHARE = 0.04
_NO_NOISE_FLOOR = 1.6
_FLOOR_OF_SIGNAL = 2e-3
_QUIET_ROUNDS = 5
_LEAST_OWN_NOISE = 1e-3
_NOISE_ENERGIES = 4
"""The noise's mean energy times this is taken off the second image's, voxel by voxel."""

Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class CalibrationSettings:
    """What may be chosen; the defaults need no thought."""

    compress_above: int = 12
    """Coils beyond which SVD compression is applied; 0 switches it off."""
    compression_energy: float = 0.98
    """Share of the signal energy that compression keeps, at least 0.95."""
    kernel_width: int = 6
    """ESPIRiT kernel."""
    map_crop: float = 0.7
    """ESPIRiT eigenvalue below which a pixel is taken to be empty."""
    second_crop: float = 0.8
    """Second eigenvalue below which a pixel holds one place of the object; 1 looks for none."""

    def __post_init__(self) -> None:
        if not 0.95 <= self.compression_energy <= 1:
            raise CalibrationError(
                "compression-energy", "coil compression must keep 95 % to 100 % of the energy"
            )


class NoiseModel(NamedTuple):
    """Receiver noise of the scan."""

    whitening: NDArray[np.complex128]
    """(virtual coils, coils): applied to k-space, it makes the noise white of `noise_std`."""
    noise_std: float
    """Per real component after whitening, in units of the input."""
    source: str
    """`noise-scan`, `outer-kspace` or `floor`."""


@dataclass(frozen=True)
class Calibration:
    """What is known of one slice before any reconstruction."""

    kspace: Complex
    """(virtual coils, rows, columns) whitened, compressed, zero outside the mask."""
    coil_maps: Complex
    """(virtual coils, rows, columns) with sum |S|^2 of one inside the object, zero outside."""
    phase: Complex
    """(rows, columns) unit-modulus reference phase, taken out of the image (into the maps)."""
    mask: NDArray[np.bool_]
    noise_std: float
    noise_source: str
    trajectory: Trajectory | None = None
    """Of the samples, where `kspace` is (coils, readouts, samples)."""
    overlap: Overlap | None = None
    """Where the field of view is smaller than the object; `coil_maps` then hold its strip too."""


def _outer_samples(scan: Scan) -> tuple[NDArray[np.complex64], NDArray[np.complex64]]:
    """The outermost acquired samples and the ring inside them, each (coils, samples)."""
    if scan.trajectory is not None:
        radius = np.hypot(*np.moveaxis(scan.trajectory.points, -1, 0))[scan.mask]
    else:
        rows, columns = scan.mask.shape
        row = (np.arange(rows) - rows // 2) / max(rows / 2, 1)
        column = (np.arange(columns) - columns // 2) / max(columns / 2, 1)
        radius = np.hypot(row[:, None], column[None, :])[scan.mask]
    order = np.argsort(radius)
    count = max(min(100, len(order) // 2), int(_OUTER_SHARE * len(order)))
    samples = np.moveaxis(scan.kspace[..., scan.mask], 1, 0)  # (coils, slices, samples)
    outer = samples[..., order[-count:]].reshape(len(samples), -1)
    inner = samples[..., order[-3 * count : -count]].reshape(len(samples), -1)
    return outer, inner


def _component_std(samples: Complex) -> NDArray[np.float64]:
    """Robust noise std per real component of each coil, from the median of the power.

    |n|^2 of complex noise with variance s^2 per component is exponential with median 2 s^2 ln 2.
    """
    power = np.abs(samples.astype(np.complex128)) ** 2
    return np.asarray(np.sqrt(np.median(power, axis=-1) / (2 * np.log(2))))


def _robust_covariance(samples: Complex) -> NDArray[np.complex128]:
    """Covariance per real component: correlations of the quiet samples, robust coil variances."""
    std = np.maximum(_component_std(samples), 1e-30)
    normalised = samples / std[:, None]
    correlation = np.eye(len(samples), dtype=np.complex128)
    for _ in range(_QUIET_ROUNDS):
        # Quiet in the metric of the noise itself: any other cut weakens the correlations.
        power = (normalised.conj() * (np.linalg.pinv(correlation) @ normalised)).real.sum(axis=0)
        quiet = normalised[:, power <= np.quantile(power, 0.9)].astype(np.complex128)
        correlation = quiet @ quiet.conj().T
        diagonal = np.maximum(np.sqrt(np.diag(correlation).real), 1e-30)
        correlation = correlation / np.outer(diagonal, diagonal)
    return np.asarray(correlation * np.outer(std, std))


def noise_model(scan: Scan) -> tuple[NoiseModel, tuple[str, ...]]:
    """Noise covariance and whitening, with warnings in plain words.

    From the noise scan when there is one, else from the outermost acquired samples of k-space.
    Where these hold no plateau of noise (filtered or tapered k-space), a floor of
    0.2 % of the image's 99th percentile per component is taken.
    """
    coils = scan.kspace.shape[1]
    warnings: tuple[str, ...] = ()
    if scan.noise_samples is not None:
        centred = scan.noise_samples.astype(np.complex128)
        covariance = centred @ centred.conj().T / (2 * centred.shape[1])
        source = "noise-scan"
    else:
        outer, inner = _outer_samples(scan)
        falling = np.median(_component_std(inner) / np.maximum(_component_std(outer), 1e-30))
        if falling > _NO_NOISE_FLOOR or not outer.any():
            floor = _FLOOR_OF_SIGNAL * _zero_filled_percentile(scan)
            identity = np.eye(coils, dtype=np.complex128)
            return NoiseModel(identity, floor, "floor"), (
                "The edge of k-space holds no noise floor (filtered or tapered by the vendor): "
                "the noise level starts from 0.2 % of the signal and is fitted to the residual.",
            )
        covariance = _robust_covariance(outer)
        source = "outer-kspace"
    factor = _cholesky(covariance)
    level = float(np.exp(np.log(np.abs(np.diag(factor))).mean()))
    whitening = np.asarray(np.linalg.inv(factor) * level, dtype=np.complex128)
    return NoiseModel(whitening, level, source), warnings


def _cholesky(covariance: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Cholesky factor; rounding leaves tiny pivots, not zeros, where a coil repeats others."""
    try:
        factor = np.linalg.cholesky(covariance)
        own = np.diag(factor).real > _LEAST_OWN_NOISE * np.sqrt(np.diag(covariance).real)
        regular = bool(own.all())  # NaN compares False
    except np.linalg.LinAlgError:
        regular = False
    if not regular:
        raise CalibrationError(
            "noise-covariance",
            "the noise covariance is singular: two coils carry the same data, or one is empty",
        )
    return np.asarray(factor, dtype=np.complex128)


def _zero_filled_percentile(scan: Scan) -> float:
    kspace = _on_grid(scan, scan.kspace[0])
    images = np.fft.ifft2(np.fft.ifftshift(kspace, axes=(-2, -1)), norm="ortho")
    return float(np.percentile(np.sqrt((np.abs(images) ** 2).sum(axis=0)), 99))


def compress(model: NoiseModel, scan: Scan, settings: CalibrationSettings) -> NoiseModel:
    """The whitening followed by the leading principal coils of the whitened data."""
    coils = scan.kspace.shape[1]
    if not settings.compress_above or coils <= settings.compress_above:
        return model
    samples = np.moveaxis(scan.kspace[..., scan.mask], 1, 0).reshape(coils, -1)
    whitened = model.whitening @ samples[:, :: max(1, samples.shape[1] // 200_000)]
    values, vectors = np.linalg.eigh(whitened @ whitened.conj().T)
    energy = np.cumsum(values[::-1]) / values.sum()
    keep = int(np.searchsorted(energy, settings.compression_energy)) + 1
    leading = vectors[:, ::-1][:, :keep]
    return model._replace(whitening=leading.conj().T @ model.whitening)


def _espirit(
    kspace: Complex, region: tuple[int, int], settings: CalibrationSettings, sets: int
) -> EigenMaps:
    """Maps from the centre of k-space on the grid."""
    rows, columns = kspace.shape[1:]
    top, left = rows // 2 - region[0] // 2, columns // 2 - region[1] // 2
    centre = kspace[:, top : top + region[0], left : left + region[1]]
    width = min(settings.kernel_width, min(region) // 2)
    return eigen_maps(torch.from_numpy(centre.copy()), (rows, columns), width, sets)


def _window(shape: tuple[int, ...], region: tuple[int, int]) -> NDArray[np.float64]:
    """(rows, columns) Hann window over the centre of k-space."""
    sides = []
    for size, width in zip(shape, region, strict=True):
        distance = np.abs(np.arange(size) - size // 2)
        sides.append((distance < width / 2) * np.cos(np.pi * distance / width) ** 2)
    return np.asarray(sides[0][:, None] * sides[1][None, :])


def _low_resolution(kspace: Complex, maps: Complex, window: NDArray[np.float64]) -> Complex:
    """Coil combination of the windowed calibration region, (rows, columns)."""
    filtered = kspace * window
    axes = (-2, -1)
    image = np.fft.fftshift(
        np.fft.ifft2(np.fft.ifftshift(filtered, axes=axes), norm="ortho"), axes=axes
    )
    return np.asarray((maps.conj() * image).sum(axis=0), dtype=np.complex64)


def calibrate(
    scan: Scan, index: int, model: NoiseModel, settings: CalibrationSettings | None = None
) -> Calibration:
    """Whitened data and coil maps of slice `index`.

    Raises CalibrationError when maps must be estimated and the fully sampled centre is smaller
    than 12 x 12 samples.
    """
    settings = settings or CalibrationSettings()
    kspace = np.einsum("vc,crk->vrk", model.whitening, scan.kspace[index]).astype(np.complex64)
    grid, sampled = _calibration_lines(scan, index, model, kspace)
    width = min(calibration_width(sampled), _MAXIMUM_CALIBRATION)
    overlap, second = None, None
    if scan.coil_maps is not None:
        # Given maps belong to the unwhitened coils; whitening and compression act on them alike.
        given = np.einsum("vc,crk->vrk", model.whitening, scan.coil_maps[index])
        maps = _normalised(given.astype(np.complex64))
    elif kspace.shape[0] == 1:
        maps = np.ones((1, *scan.image_shape), np.complex64)
    elif width < MINIMUM_CALIBRATION:
        raise CalibrationError(
            "no-calibration-region",
            f"coil maps need at least {MINIMUM_CALIBRATION} fully sampled central lines (in both "
            f"directions for a 2-D mask); this scan has {width}. Acquire more, hand in a scan that "
            "has them (--calibration FILE), or maps as the dataset 'coil_maps'.",
        )
    else:
        sets = 2 if scan.trajectory is None and settings.second_crop < 1 else 1
        region = calibration_region(sampled, _MAXIMUM_CALIBRATION)
        found = _espirit(grid, region, settings, sets)
        eigenvalues = found.eigenvalues.numpy()
        maps = found.maps[0].numpy() * (eigenvalues[0] > settings.map_crop)
        if sets == 2:
            second = found.maps[1].numpy() * (eigenvalues[1] > settings.second_crop)
    window = _window(grid.shape[1:], (max(width, 8), max(width, 8)))
    image = _low_resolution(grid, maps, window)
    phase = _smooth_phase(image)
    maps = maps * phase
    if second is not None:
        region = calibration_region(sampled, max(scan.image_shape))
        window = _window(grid.shape[1:], region)
        beyond = _low_resolution(grid, second, window)
        noise = 2 * model.noise_std**2 * np.mean(window**2)
        energy = np.maximum(np.abs(beyond) ** 2 - _NOISE_ENERGIES * noise, 0)
        level = np.mean(np.abs(_low_resolution(grid, maps, window)) ** 2)
        overlap = find_overlap(energy / max(level, 1e-30), second.any(axis=0))
        if overlap is not None:
            strip = np.take(second * _smooth_phase(beyond), overlap.positions, axis=overlap.axis)
            maps = np.concatenate([maps, strip], axis=overlap.axis)
    return Calibration(
        kspace,
        maps.astype(np.complex64),
        phase,
        scan.mask,
        model.noise_std,
        model.source,
        scan.trajectory,
        overlap,
    )


def _calibration_lines(
    scan: Scan, index: int, model: NoiseModel, kspace: Complex
) -> tuple[Complex, NDArray[np.bool_]]:
    """What the coil maps are found from, on the grid of the image, and where it was acquired.

    The slice's whitened k-space, or lines acquired apart where these are more round the centre.
    """
    if scan.calibration is not None:
        apart = (scan.calibration[index] != 0).any(axis=0)
        if calibration_width(apart) > calibration_width(scan.sampled):
            lines = np.einsum("vc,crk->vrk", model.whitening, scan.calibration[index])
            return lines.astype(np.complex64), apart
    return _on_grid(scan, kspace), scan.sampled


def _smooth_phase(image: Complex) -> Complex:
    """(rows, columns) unit modulus."""
    smooth = gaussian_filter(image.real, 1) + 1j * gaussian_filter(image.imag, 1)
    return np.exp(1j * np.angle(smooth)).astype(np.complex64)


def _on_grid(scan: Scan, kspace: Complex) -> Complex:
    """K-space of one slice (coils, rows, columns) on the grid of the image."""
    if scan.trajectory is None:
        return kspace
    return gridded(kspace, scan.trajectory.points, scan.mask, scan.trajectory.matrix)


def _normalised(maps: Complex) -> Complex:
    norm = np.sqrt((np.abs(maps) ** 2).sum(axis=0))
    safe = np.where(norm > 0, norm, 1)
    return np.asarray(np.where(norm > 1e-6 * norm.max(), maps / safe, 0), dtype=np.complex64)


def scaled(calibration: Calibration, scale: float) -> Calibration:
    """The same slice in units of `scale`: data and noise alike."""
    return replace(
        calibration,
        kspace=(calibration.kspace / scale).astype(np.complex64),
        noise_std=calibration.noise_std / scale,
    )
