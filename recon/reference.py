"""The fully sampled answer that a result is compared with, and the noise that it has itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from recon.calibration import Calibration, CalibrationSettings, calibrate
from recon.errors import ScanError
from recon.kspace_centre import images_of
from recon.receivers import NoiseModel, compress, noise_model
from recon.scan import Scan
from recon.undersampling import undersample


class Combination(StrEnum):
    """How the coil images of the fully sampled scan become one picture."""

    ROOT_SUM_OF_SQUARES = "rss"
    """Of all coils as received, as fastMRI's `reconstruction_rss` is."""
    SENSE = "sense"
    """By the coil maps that the result was made with: less noise, and nothing outside the maps."""


@dataclass(frozen=True)
class Reference:
    """Pictures (slices, rows, columns) of all slices of a scan, in the units of its results."""

    images: NDArray[Any]
    """Complex pictures count by their magnitude."""
    noise: NDArray[np.float32]
    """Of the same shape: standard deviation of the magnitudes by the receivers' noise in those
    samples that the result was not made from, per unit of the result's `noise_std`."""
    floor: NDArray[np.float32]
    """Of the same shape: what the noise of all samples adds to squared magnitudes on average, per
    unit of `noise_std` squared, beyond what `noise` stands for."""

    @classmethod
    def exact(cls, images: NDArray[Any]) -> Self:
        """Pictures without noise."""
        none = np.zeros(images.shape, np.float32)
        return cls(images, none, none)


def reference_of(
    full: Scan,
    mask: NDArray[np.bool_],
    combination: Combination = Combination.ROOT_SUM_OF_SQUARES,
    settings: CalibrationSettings | None = None,
) -> Reference:
    """The fully sampled picture of every slice, for a result from the samples in `mask`.

    Noise and, for SENSE, coil maps are those of the reconstruction: they are found again from the
    same samples. Raises ScanError, CalibrationError.
    """
    if full.trajectory is not None:
        raise ScanError("not-cartesian", "results are compared with Cartesian references only")
    seen = undersample(full, mask)
    model, _ = noise_model(seen)
    unseen = (np.count_nonzero(full.mask) - np.count_nonzero(seen.mask)) / mask.size
    acquired = np.count_nonzero(full.mask) / mask.size
    if combination is Combination.SENSE:
        return _sense(full, seen, settings, unseen)
    used = np.flatnonzero(model.whitening.any(axis=0))
    images, noise, floor = [], [], []
    for kspace in full.kspace:
        coils = images_of(kspace[used]).astype(np.complex128)
        picture = np.sqrt((np.abs(coils) ** 2).sum(axis=0))
        # Covariance of the coils' noise is W^-1 W^-H; along the signal it changes magnitudes.
        back = model.unwhitening[used]
        along = np.einsum("cv,crk->vrk", back.conj(), coils / np.maximum(picture, 1e-300))
        gain = np.asarray((np.abs(along) ** 2).sum(axis=0))
        images.append(picture.astype(np.float32))
        noise.append(np.sqrt(unseen * gain).astype(np.float32))
        total = 2 * float((np.abs(back) ** 2).sum())
        floor.append((acquired * (total - gain)).astype(np.float32))
    return Reference(np.stack(images), np.stack(noise), np.stack(floor))


def _sense(
    full: Scan, seen: Scan, settings: CalibrationSettings | None, unseen: float
) -> Reference:
    images, noise = [], []
    for calibration, combined in _combined(full, seen, settings or CalibrationSettings()):
        picture = calibration.sensitivity.picture(torch.from_numpy(combined)).numpy()
        images.append((picture * (calibration.phase * calibration.unit)).astype(np.complex64))
        # White noise stays white of the same std in a combination with sum |S|^2 = 1.
        noise.append(np.float32(unseen**0.5) * calibration.sensitivity.of_picture)
    return Reference(np.stack(images), np.stack(noise), np.zeros_like(np.stack(noise)))


def coil_combination(
    full: Scan, mask: NDArray[np.bool_], settings: CalibrationSettings | None = None
) -> NDArray[np.complex64]:
    """Fully sampled coil combination (slices, rows, columns) in the metric of the noise.

    These are the images that a prior is of: no coil's shading is in them. A result is this times
    the sensitivity of its coils (`recon.sensitivity`). Raises ScanError, CalibrationError.
    """
    seen = undersample(full, mask)
    images = []
    for calibration, combined in _combined(full, seen, settings or CalibrationSettings()):
        picture = combined
        if calibration.overlap is not None:
            picture = calibration.overlap.joined(torch.from_numpy(combined)).numpy()
        images.append((picture * (calibration.phase * calibration.unit)).astype(np.complex64))
    return np.stack(images)


def _combined(
    full: Scan, seen: Scan, settings: CalibrationSettings
) -> Iterator[tuple[Calibration, NDArray[np.complex64]]]:
    """Calibration by `seen` and the combination of `full`, both places of voxels that hold two."""
    model = model_of(seen, settings)
    for index, kspace in enumerate(full.kspace):
        calibration = calibrate(seen, index, model, settings)
        coils = images_of(np.einsum("vc,crk->vrk", model.whitening, kspace))
        if calibration.overlap is not None:
            coils = calibration.overlap.unfolded(torch.from_numpy(coils)).numpy()
        yield calibration, (calibration.coil_maps.conj() * coils).sum(axis=0)


def model_of(scan: Scan, settings: CalibrationSettings) -> NoiseModel:
    """Noise model and compression as a reconstruction finds them, without its warnings."""
    model, _ = noise_model(scan)
    return compress(model, scan, settings.compress_above, settings.compression_energy)
