"""A scan with known truth: an analytic axial head, smooth phase, coils, correlated noise.

The head is a stack of ellipses painted over one another, with T1-like contrast. It follows formulas
and not pixels, so the same seed gives the same anatomy at every matrix size. Lengths are in units
of half the field of view; x points right, y down (anterior is on top), z along the slices.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.scan import Geometry, Scan

_FAT, _BONE, _MARROW, _FLUID, _GREY, _WHITE = 0.95, 0.05, 0.30, 0.16, 0.50, 0.78
_SULCI = 52
_NOISE_SAMPLES = 4096
_SLICE_DISTANCE = 0.06
_PIXEL_MM = 0.9
_SLICE_MM = 5.0
_ANATOMY, _NOISE = 0, 1
"""Last words of the random streams, so that noise never moves the anatomy."""


class Ellipse(NamedTuple):
    """One painted region: centre, semi-axes along its own axes, turn in radians, intensity."""

    x: float
    y: float
    a: float
    b: float
    turn: float
    intensity: float


def simulate(
    slices: int = 1,
    coils: int = 8,
    rows: int = 256,
    columns: int = 256,
    snr: float = 40,
    seed: int = 0,
    *,
    slice_distance: float = _SLICE_DISTANCE,
) -> tuple[Scan, NDArray[np.complex64]]:
    """Fully sampled multi-coil scan of the head phantom, and the image it was made from.

    The image, complex64 (slices, rows, columns), is what an exact reconstruction finds, up to the
    phase that its coil maps define and the one factor of its prewhitening: coil maps are
    normalised in the metric of the noise (see `receiver_maps`).

    `snr` is the mean magnitude inside the head over the noise's standard deviation per real
    component in the optimal coil combination, equal everywhere; `math.inf` gives no noise at all
    and no noise scan. `slice_distance` is in halves of the field of view. Raises ScanError for
    sizes or levels that make no scan.
    """
    if min(slices, coils) < 1 or min(rows, columns) < 8:
        raise ScanError("phantom-size", "a phantom needs 1 slice, 1 coil and 8 x 8 pixels or more")
    if not snr > 0:
        raise ScanError("phantom-snr", f"the signal-to-noise ratio must be above 0, not {snr}")
    heights = (np.arange(slices) - (slices - 1) / 2) * slice_distance
    image = np.stack([_object(rows, columns, height, seed) for height in heights])
    noise_std = float(np.abs(image)[image != 0].mean() / snr)
    scan = receive(image, coils, noise_std, seed)
    return replace(scan, attributes={**scan.attributes, "snr": float(snr)}), image


def receive(
    image: NDArray[np.complex64],
    coils: int,
    noise_std: float,
    seed: int = 0,
    columns: int | None = None,
) -> Scan:
    """The fully sampled scan of `image` (slices, rows, columns) by a birdcage with coupled coils.

    `noise_std` is that of a real component in the optimal coil combination; a noise scan is part
    of the result unless it is zero. With `columns` the field of view is that many of the image's
    columns, at least half of them and central; what lies beyond folds back inside.
    """
    weighted = image[:, None] * receiver_maps(coils, *image.shape[1:])
    if columns is not None:
        weighted = _folded(weighted, columns)
    slices, _, rows, columns = weighted.shape
    import sigpy  # lazy: a second, for one step

    kspace = sigpy.fft(weighted, axes=(-2, -1)).astype(np.complex64)
    # One stream per slice: a slice keeps its noise when more slices follow it.
    for k, each in enumerate(kspace):
        each += _receiver_noise(each.shape, noise_std, (seed, k, _NOISE))
    alone = _receiver_noise((coils, _NOISE_SAMPLES), noise_std, (seed, slices, _NOISE))
    return Scan(
        kspace=kspace,
        mask=np.ones((rows, columns), dtype=np.bool_),
        noise_samples=alone if noise_std > 0 else None,
        geometry=Geometry((rows * _PIXEL_MM, columns * _PIXEL_MM, _SLICE_MM), (rows, columns)),
        attributes={
            "acquisition": "SIMULATED",
            "seed": seed,
            "noise_std": noise_std,
        },
    )


def _folded(images: NDArray[np.complex64], columns: int) -> NDArray[np.complex64]:
    """Images (..., wide) seen with a field of view of `columns`, round the same centre voxel."""
    first = images.shape[-1] // 2 - columns // 2
    beyond = images.shape[-1] - first - columns
    if not columns <= images.shape[-1] <= 2 * columns:
        raise ScanError("phantom-size", "the field of view is half the image's columns or more")
    inside = images[..., first : first + columns].copy()
    inside[..., :beyond] += images[..., first + columns :]
    inside[..., columns - first :] += images[..., :first]
    return inside


def coil_mixing(coils: int) -> NDArray[np.complex128]:
    """Matrix (coils, coils) through which neighbouring receivers couple; the identity for one.

    White noise of unit variance comes out with covariance M M^H, whose mean diagonal is 1.
    """
    mixing = np.eye(coils, dtype=np.complex128)
    for k in range(coils):
        if coils > 1:
            mixing[k, (k + 1) % coils] = 0.15 * np.exp(0.7j)
    return mixing * math.sqrt(coils / np.linalg.norm(mixing) ** 2)


def receiver_maps(coils: int, rows: int, columns: int) -> NDArray[np.complex64]:
    """Sensitivities (coils, rows, columns) behind the coupling: `coil_mixing` times a birdcage.

    The birdcage has sum |S|^2 = 1 everywhere. Coupling acts on signal and noise alike, so any
    prewhitening leads back to maps with sum |S|^2 = 1 and white noise; that is why the truth needs
    no factor, whatever the whitening matrix.
    """
    import sigpy.mri  # lazy: a second, for one step

    birdcage = sigpy.mri.birdcage_maps((coils, rows, columns), nzz=coils)
    return np.tensordot(coil_mixing(coils), birdcage, axes=1).astype(np.complex64)


def _receiver_noise(
    shape: tuple[int, ...], noise_std: float, stream: tuple[int, ...]
) -> NDArray[np.complex64]:
    """Complex noise (coils, ...) of covariance 2 noise_std^2 M M^H over coils, white elsewhere."""
    real, imaginary = np.random.default_rng(stream).standard_normal((2, *shape))
    mixed = np.tensordot(coil_mixing(shape[0]), real + 1j * imaginary, axes=1)
    return (noise_std * mixed).astype(np.complex64)


def _object(rows: int, columns: int, z: float, seed: int) -> NDArray[np.complex64]:
    """Head at height z times its phase, complex64 (rows, columns)."""
    # The head is taller than wide: it fills the rows and needs 0.8 of that along the columns.
    pixels_per_unit = min(rows / 2, columns / 1.6)
    y, x = np.meshgrid(
        (np.arange(rows) - rows // 2) / pixels_per_unit,
        (np.arange(columns) - columns // 2) / pixels_per_unit,
        indexing="ij",
    )
    # A gentle warp, narrower in front, so that nothing is an exact ellipse. Its finer waves bend
    # the cortex and leave the midline and the skull alone.
    wave = 0.045 * np.clip(0.9 - (x / 0.72) ** 2 - (y / 0.9) ** 2, 0, 0.4) * x**2 / (x**2 + 0.06)
    warped_x = x * (1 - 0.07 * y) + 0.005 * np.sin(5 * y + 1)
    warped_x += wave * (np.sin(17 * y + 3 * x + 2 * z) + 0.7 * np.sin(29 * y - 11 * x))
    warped_y = y + 0.006 * np.sin(5 * x + 0.5)
    warped_y += wave * (np.sin(19 * x - 4 * y - 2 * z) + 0.7 * np.sin(31 * x + 9 * y))
    magnitude = np.zeros((rows, columns))
    for ellipse in _head(z, np.random.default_rng((seed, _ANATOMY))):
        _paint(magnitude, ellipse, warped_x, warped_y, pixels_per_unit)
    shading = 1 + 0.03 * np.cos(4 * x + 3 * y + 2 * z) + 0.03 * np.cos(5 * x - 4 * y + 1)
    phase = 0.6 + 0.8 * x - 0.5 * y + 0.9 * x * y - 0.7 * y**2 + 0.4 * np.sin(3 * x + 2 * y + 3 * z)
    return (magnitude * shading * np.exp(1j * phase)).astype(np.complex64)


def _paint(
    image: NDArray[np.float64],
    ellipse: Ellipse,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    pixels_per_unit: float,
) -> None:
    """Lay the ellipse over the image in place, its edge a ramp one pixel wide (anti-aliased)."""
    cos, sin = math.cos(ellipse.turn), math.sin(ellipse.turn)
    u = ((x - ellipse.x) * cos + (y - ellipse.y) * sin) / ellipse.a
    v = ((y - ellipse.y) * cos - (x - ellipse.x) * sin) / ellipse.b
    radius = np.hypot(u, v) + 1e-12
    # Distance to the edge to first order, (f - 1) / |grad f| for f = radius, in pixels.
    slope = np.hypot(u / ellipse.a, v / ellipse.b) / radius + 1e-12
    cover = np.clip(0.5 - (radius - 1) / slope * pixels_per_unit, 0, 1)
    image += cover * (ellipse.intensity - image)


def _head(z: float, rng: np.random.Generator) -> Iterator[Ellipse]:
    """The ellipses at height z, outermost first."""
    size = math.sqrt(max(1 - (z / 1.2) ** 2, 0.05))
    for a, b, intensity in (
        (0.745, 0.930, 0.62),
        (0.735, 0.920, _FAT),
        (0.690, 0.875, _BONE),
        (0.672, 0.857, _MARROW),
        (0.655, 0.840, _BONE),
        (0.640, 0.825, _FLUID),
        (0.622, 0.807, _GREY),
        (0.585, 0.770, _WHITE),
    ):
        yield Ellipse(0, 0, a * size, b * size, 0, intensity)
    yield from _sulci(z, size, rng)
    yield from _fissure(size)
    yield from _deep_structures(z)
    yield from _lesions(z, rng)


def _sulci(z: float, size: float, rng: np.random.Generator) -> Iterator[Ellipse]:
    """Folds of the cortex: radial slits of fluid in sleeves of grey matter, drifting with z."""
    slits = []
    for k in range(_SULCI):
        jitter, drift, depth, tilt, branch = rng.uniform(-1, 1, 5)
        # Height moves a fold by less than the distance to the next: neighbours do not cross.
        place = k + 0.5 + 0.25 * jitter + 0.3 * math.sin(6 * z * drift + 3 * jitter)
        angle = 2 * math.pi * place / _SULCI
        length = 0.062 + 0.022 * depth + 0.012 * math.cos(6 * z + 5 * jitter) + 0.03 * (k % 3 == 0)
        turn = angle + 0.25 * tilt
        x, y = 0.625 * size * math.cos(angle), 0.81 * size * math.sin(angle)
        # The slit starts at the surface: its centre lies one semi-axis further in.
        root_x, root_y = x - length * math.cos(turn), y - length * math.sin(turn)
        tip_x, tip_y = x - 1.9 * length * math.cos(turn), y - 1.9 * length * math.sin(turn)
        across = turn + math.copysign(0.9, branch) + 0.4 * branch
        reach = 0.3 * length + 0.02
        yield Ellipse(root_x, root_y, length + 0.03, 0.034, turn, _GREY)
        yield Ellipse(tip_x, tip_y, reach + 0.025, 0.028, across, _GREY)
        slits.append(Ellipse(root_x, root_y, length, 0.0085, turn, 0.22))
        slits.append(Ellipse(tip_x, tip_y, reach, 0.006, across, 0.28))
    yield from slits


def _fissure(size: float) -> Iterator[Ellipse]:
    """The cleft between the hemispheres, before and behind the deep structures."""
    for y, b in ((-0.57 * size, 0.25), (0.58 * size, 0.22)):
        yield Ellipse(0, y, 0.038, b, 0, _GREY)
        yield Ellipse(0, y, 0.011, b, 0, _FLUID)
    yield Ellipse(0, 0.815 * size, 0.025, 0.018, 0, 0.85)


def _deep_structures(z: float) -> Iterator[Ellipse]:
    """Insula, basal ganglia, thalami and ventricles; they shrink and vanish with |z|."""
    share = math.sqrt(max(1 - (z / 0.42) ** 2, 0))
    if share < 0.05:
        return
    for side in (-1, 1):
        for x, y, a, b, turn, intensity in (
            (0.40, -0.03, 0.040, 0.190, -0.15, _GREY),
            (0.42, -0.03, 0.013, 0.170, -0.15, _FLUID),
            (0.30, -0.04, 0.012, 0.150, -0.20, 0.62),
            (0.245, -0.05, 0.046, 0.135, -0.30, 0.54),
            (0.195, -0.02, 0.028, 0.085, -0.40, 0.66),
            (0.100, 0.075, 0.078, 0.115, -0.35, 0.57),
            (0.135, -0.190, 0.040, 0.095, -0.30, 0.52),
            (0.075, -0.170, 0.036, 0.130, -0.35, _FLUID),
            (0.180, 0.270, 0.036, 0.120, -0.55, _FLUID),
            (0.175, 0.275, 0.016, 0.050, -0.55, 0.40),
        ):
            yield Ellipse(side * x, y, a * share, b * share, side * turn, intensity)
    yield Ellipse(0, 0.07, 0.013 * share, 0.085 * share, 0, _FLUID)
    yield Ellipse(0, 0.20, 0.030 * share, 0.022 * share, 0, 0.62)


def _lesions(z: float, rng: np.random.Generator) -> Iterator[Ellipse]:
    """A few spots in the white matter, bright or dark: what a prior might erase or invent."""
    for side in (-1, 1, -1, 1, 1):
        x, y, size, height, bright = rng.uniform(0, 1, 5)
        share = math.sqrt(max(1 - ((z - 0.2 * (height - 0.5)) / 0.25) ** 2, 0))
        radius = (0.012 + 0.018 * size) * share
        if radius > 0.004:
            intensity = 1.05 if bright > 0.5 else 0.32
            place = side * (0.22 + 0.12 * x), (0.25 + 0.2 * y) * (1 if bright > 0.4 else -1)
            yield Ellipse(*place, radius, radius * (0.7 + 0.3 * size), 3 * x, intensity)
