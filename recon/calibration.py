"""Coil maps of a slice, from the undersampled data alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from torch import Tensor

from recon.central_lines import (
    calibration_region,
    calibration_width,
    enough_for_maps,
    needed_for_maps,
)
from recon.errors import CalibrationError
from recon.espirit import EigenMaps, drowned, eigen_maps
from recon.kspace_centre import (
    calibration_lines,
    central,
    images_of,
    window,
)
from recon.overlap import Overlap, find_overlap
from recon.receivers import NoiseModel
from recon.scan import Scan, Trajectory
from recon.sensitivity import Sensitivity

_MAXIMUM_CALIBRATION = 32
_CALIBRATION_ALONG = 256
"""Samples along the lines that maps are found from, where the noise of so many does not drown them:
of few lines every sample tells something. On a head that folds, 14 lines and R = 4, it gains 0.6 dB
over 32 samples, elsewhere nothing."""
_NOISE_ENERGIES = 4
"""The noise's mean energy times this is taken off the second image's, voxel by voxel."""

Complex = NDArray[np.complex64]


@dataclass(frozen=True)
class CalibrationSettings:
    """What may be chosen; the defaults need no thought."""

    compress_above: int = 12
    """Coils beyond which SVD compression is applied; 0 switches it off."""
    compression_energy: float = 0.99
    """Share of every voxel's energy that compression keeps, at least 0.95."""
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
    sensitivity: Sensitivity
    """From images of these maps to the root of the sum of squares of the coils as received."""
    unit: float = 1.0
    """Of the input, in units of `kspace` (`NoiseModel.unit`)."""
    trajectory: Trajectory | None = None
    """Of the samples, where `kspace` is (coils, readouts, samples)."""
    overlap: Overlap | None = None
    """Where the field of view is smaller than the object; `coil_maps` then hold its strip too."""


def _espirit(
    kspace: Complex,
    sampled: NDArray[np.bool_],
    settings: CalibrationSettings,
    sets: int,
    noise_std: float,
    device: torch.device,
) -> EigenMaps:
    """Maps from the centre of k-space on the grid; found on the device, given back on the CPU."""

    def centre_of(region: tuple[int, int]) -> Tensor:
        return torch.from_numpy(central(kspace, region).copy()).to(device)

    region = calibration_region(sampled, _MAXIMUM_CALIBRATION, _CALIBRATION_ALONG)
    width = min(settings.kernel_width, min(region) // 2)
    centre = centre_of(region)
    if drowned(centre, width, noise_std):
        centre = centre_of(calibration_region(sampled, _MAXIMUM_CALIBRATION))
    found = eigen_maps(centre, (kspace.shape[1], kspace.shape[2]), width, sets)
    return EigenMaps(found.maps.cpu(), found.eigenvalues.cpu())


def _low_resolution(kspace: Complex, maps: Complex, weights: NDArray[np.float64]) -> Complex:
    """Coil combination of the windowed calibration region, (rows, columns)."""
    image = images_of(kspace * weights)
    return np.asarray((maps.conj() * image).sum(axis=0), dtype=np.complex64)


def calibrate(
    scan: Scan,
    index: int,
    model: NoiseModel,
    settings: CalibrationSettings | None = None,
    device: torch.device | str = "cpu",
) -> Calibration:
    """Whitened data and coil maps of slice `index`; `device` is where maps are estimated.

    Raises CalibrationError when maps must be estimated and the fully sampled centre is too small
    for that (`enough_for_maps`).
    """
    settings = settings or CalibrationSettings()
    kspace = np.einsum("vc,crk->vrk", model.whitening, scan.kspace[index]).astype(np.complex64)
    lines, sampled = calibration_lines(scan, index)
    grid = np.einsum("vc,crk->vrk", model.whitening, lines).astype(np.complex64)
    width = min(calibration_width(sampled), _MAXIMUM_CALIBRATION)
    overlap, second = None, None
    if scan.coil_maps is not None:
        # Given maps belong to the unwhitened coils; whitening and compression act on them alike.
        given = scan.coil_maps[index] / max(float(np.abs(scan.coil_maps[index]).max()), 1e-30)
        white = np.einsum("vc,crk->vrk", model.unit * model.whitening, given)
        maps = _normalised(white.astype(np.complex64))
    elif kspace.shape[0] == 1:
        maps = np.ones((1, *scan.image_shape), np.complex64)
    elif not enough_for_maps(sampled):
        raise CalibrationError(
            "no-calibration-region",
            f"coil maps need at least {needed_for_maps()}; this scan has {width}. Acquire more, "
            "hand in a scan that has them (--calibration FILE), or maps as the dataset "
            "'coil_maps'.",
        )
    else:
        sets = 2 if scan.trajectory is None and settings.second_crop < 1 else 1
        found = _espirit(grid, sampled, settings, sets, model.noise_std, torch.device(device))
        eigenvalues = found.eigenvalues.numpy()
        maps = found.maps[0].numpy() * (eigenvalues[0] > settings.map_crop)
        if sets == 2:
            second = found.maps[1].numpy() * (eigenvalues[1] > settings.second_crop)
    weights = window(grid.shape[1:], (max(width, 8), max(width, 8)))
    image = _low_resolution(grid, maps, weights)
    phase = _smooth_phase(image)
    maps = maps * phase
    if second is not None:
        region = calibration_region(sampled, max(scan.image_shape))
        weights = window(grid.shape[1:], region)
        beyond = _low_resolution(grid, second, weights)
        noise = 2 * model.noise_std**2 * np.mean(weights**2)
        energy = np.maximum(np.abs(beyond) ** 2 - _NOISE_ENERGIES * noise, 0)
        level = np.mean(np.abs(_low_resolution(grid, maps, weights)) ** 2)
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
        Sensitivity.of(model.unwhitening, maps, overlap),
        model.unit,
        scan.trajectory,
        overlap,
    )


def _smooth_phase(image: Complex) -> Complex:
    """(rows, columns) unit modulus."""
    smooth = gaussian_filter(image.real, 1) + 1j * gaussian_filter(image.imag, 1)
    return np.exp(1j * np.angle(smooth)).astype(np.complex64)


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
