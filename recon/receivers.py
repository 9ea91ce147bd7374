"""The receivers of a scan: their noise, the whitening that makes it white, and fewer of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from recon.central_lines import calibration_region
from recon.errors import CalibrationError
from recon.kspace_centre import calibration_lines, central, images_of, on_grid, window
from recon.scan import Scan

_OUTER_SHARE = 0.04
_NO_NOISE_FLOOR = 1.6
_FLOOR_OF_SIGNAL = 2e-3
_QUIET_ROUNDS = 5
_LEAST_OWN_NOISE = 1e-3
_DROWNED = 12.0
"""Mean energy of a coil's loudest thousandth over that of its noise; of noise alone it is 8."""
_HEARD = 4.0
"""Times that, the coils' median must be before one is left out for it."""
_LEAST_REGION = 8
_SIGNAL = 3.0
"""Energy over that of the noise from which on samples are no noise."""
_NOISE_MARGIN = 2.0
"""Standard deviations of noise that are not counted as a change."""
_SMALLEST = 1e-34
_COMPRESSION_REGION = 32
_LEAST_SEEN = 0.01
"""Of the loudest voxel's energy: what is fainter does not decide how many coils are kept."""

Complex = NDArray[np.complex64]


class NoiseModel(NamedTuple):
    """Receiver noise of the scan, and the way from its coils to white ones and back."""

    whitening: NDArray[np.complex128]
    """(virtual coils, coils): applied to k-space, it makes the noise white of `noise_std` and
    takes out `unit`. Zero for coils that are left out."""
    unwhitening: NDArray[np.complex128]
    """(coils, virtual coils): from whitened data back to the coils' own, up to `unit`. Where coils
    were compressed it is the least-squares fit of all coils by the virtual ones."""
    noise_std: float
    """Per real component after whitening."""
    source: str
    """`noise-scan`, `outer-kspace` or `floor`."""
    unit: float = 1.0
    """Of the input, in units of the whitened data: a power of two that brings the largest sample
    near one, so that any finite scale of the input gives the same numbers."""


def noise_model(scan: Scan) -> tuple[NoiseModel, tuple[str, ...]]:
    """Noise covariance and whitening, with warnings in plain words.

    From the noise scan when there is one, else from the outermost acquired samples of k-space.
    Where these hold no plateau of noise (filtered or tapered k-space), a floor of
    0.2 % of the image's 99th percentile per component is taken. Coils without any signal, and
    coils whose noise drowns theirs, are left out and named. Raises CalibrationError.
    """
    unit = _unit(scan.kspace)
    samples = _acquired(scan) / np.float32(unit)
    used = [int(coil) for coil in np.flatnonzero(samples.any(axis=(1, 2)))]
    warnings = _left_out(used, len(samples), "holds no signal at all")
    if scan.noise_samples is not None:
        source, known = "noise-scan", scan.noise_samples.astype(np.complex128) / unit
    else:
        outer, inner = _outer_samples(scan, samples)
        source, known = "outer-kspace", outer.astype(np.complex128)
        if not _ends_in_noise(outer[used], inner[used]):
            floor = _FLOOR_OF_SIGNAL * _zero_filled_percentile(scan, unit)
            whitening = _embedded(np.eye(len(used)), used, len(samples))
            return NoiseModel(whitening / unit, whitening.T, floor, "floor", unit), (
                *warnings,
                "The edge of k-space holds no noise floor (filtered or tapered by the vendor): "
                "the noise level starts from 0.2 % of the signal and is fitted to the residual.",
            )
    covariance = _covariance(known[used], source)
    heard = [used[k] for k in _heard(samples[used], covariance)]
    if heard != used:
        warnings += _left_out(heard, used, "is drowned by its own noise")
        used, covariance = heard, _covariance(known[heard], source)
    factor = _cholesky(covariance, used)
    level = float(np.exp(np.log(np.abs(np.diag(factor))).mean()))
    whitening = _embedded(np.linalg.inv(factor) * level, used, len(samples))
    unwhitening = _embedded(factor.T / level, used, len(samples)).T
    return NoiseModel(whitening / unit, unwhitening, level, source, unit), warnings


def _unit(kspace: Complex) -> float:
    """The power of two nearest to the largest part of any sample."""
    largest = max(float(np.abs(kspace.real).max()), float(np.abs(kspace.imag).max()))
    if not _SMALLEST < largest < 1 / _SMALLEST:
        raise CalibrationError(
            "kspace-scale",
            f"the largest sample of k-space is {largest:.2g}; numbers like that leave no room in "
            "single precision. Multiply k-space by a constant and write the file again",
        )
    return 2.0 ** round(math.log2(largest))


def _ends_in_noise(outer: Complex, inner: Complex) -> bool:
    """Whether the power of (coils, samples) has stopped falling at the edge of k-space."""
    falling = np.median(_component_std(inner) / np.maximum(_component_std(outer), 1e-30))
    return bool(outer.any() and falling <= _NO_NOISE_FLOOR)


def _covariance(samples: NDArray[np.complexfloating], source: str) -> NDArray[np.complex128]:
    """(coils, coils) per real component, of noise alone or of the edge of k-space."""
    if source == "noise-scan":
        return np.asarray(samples @ samples.conj().T / (2 * samples.shape[1]), np.complex128)
    return _robust_covariance(samples)


def _acquired(scan: Scan) -> Complex:
    """(coils, slices, samples) what was acquired."""
    return np.moveaxis(scan.kspace[..., scan.mask], 1, 0)


def _embedded(
    matrix: NDArray[np.number], used: Sequence[int], coils: int
) -> NDArray[np.complex128]:
    """(rows, coils) from (rows, used): zero for the coils that are left out."""
    whole = np.zeros((len(matrix), coils), np.complex128)
    whole[:, used] = matrix
    return whole


def _left_out(kept: Sequence[int], before: Sequence[int] | int, why: str) -> tuple[str, ...]:
    """A sentence for the coils that are no longer among those kept; coils count from 0."""
    gone = sorted(set(range(before) if isinstance(before, int) else before) - set(kept))
    if not gone:
        return ()
    names = ", ".join(map(str, gone))
    coils = f"Coil {names} (counted from 0) {why}"
    return (f"{coils}: left out. The picture is the root of the sum of squares of the others.",)


def _heard(samples: Complex, covariance: NDArray[np.complex128]) -> list[int]:
    """Coils whose loudest samples stand out of their noise, where those of most coils do.

    Of a coil that is drowned whitening takes next to nothing; but a root of a sum of squares, which
    weighs all coils alike, would show its noise and little else.
    """
    power = np.abs(samples.reshape(len(samples), -1)).astype(np.float64) ** 2
    count = max(1, power.shape[1] // 1000)
    loudest = np.partition(power, -count, axis=1)[:, -count:].mean(axis=1)
    above = loudest / np.maximum(2 * np.diag(covariance).real, 1e-60)
    if np.median(above) < _HEARD * _DROWNED:
        return list(range(len(samples)))
    return [int(k) for k in np.flatnonzero(above > _DROWNED)]


def _outer_samples(scan: Scan, acquired: Complex) -> tuple[Complex, Complex]:
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
    filled = acquired[:, acquired.any(axis=(0, 2))]  # an empty slice has no noise either
    outer = filled[..., order[-count:]].reshape(len(filled), -1)
    inner = filled[..., order[-3 * count : -count]].reshape(len(filled), -1)
    return outer, inner


def _component_std(samples: NDArray[np.complexfloating]) -> NDArray[np.float64]:
    """Robust noise std per real component of each coil, from the median of the power.

    |n|^2 of complex noise with variance s^2 per component is exponential with median 2 s^2 ln 2.
    """
    power = np.abs(samples.astype(np.complex128)) ** 2
    return np.asarray(np.sqrt(np.median(power, axis=-1) / (2 * np.log(2))))


def _robust_covariance(samples: NDArray[np.complexfloating]) -> NDArray[np.complex128]:
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


def _cholesky(covariance: NDArray[np.complex128], coils: Sequence[int]) -> NDArray[np.complex128]:
    """Cholesky factor; rounding leaves tiny pivots, not zeros, where a coil repeats others."""
    try:
        factor = np.linalg.cholesky(covariance)
        own = np.diag(factor).real > _LEAST_OWN_NOISE * np.sqrt(np.diag(covariance).real)
        regular = bool(own.all())  # NaN compares False
    except np.linalg.LinAlgError:
        regular = False
    if not regular:
        std = np.sqrt(np.maximum(np.diag(covariance).real, 1e-60))
        alike = np.abs(covariance) / np.outer(std, std) > 1 - _LEAST_OWN_NOISE**2
        doubtful = (alike.sum(axis=0) > 1) | (std <= 1e-30)
        names = ", ".join(str(coils[int(k)]) for k in np.flatnonzero(doubtful)) or "unknown"
        raise CalibrationError(
            "noise-covariance",
            "the noise covariance is singular: two coils carry the same data, or one has no noise "
            f"(coils {names}, counted from 0); take one of them out of the file",
        )
    return np.asarray(factor, dtype=np.complex128)


def _zero_filled_percentile(scan: Scan, unit: float) -> float:
    """99th percentile of the root of the sum of squares of the loudest slice, in `unit`s."""
    loudest = max(scan.kspace, key=lambda kspace: float(np.abs(kspace).max()))
    images = images_of(on_grid(scan, loudest / np.float32(unit)))
    return float(np.percentile(np.sqrt((np.abs(images) ** 2).sum(axis=0)), 99))


def has_signal(model: NoiseModel, kspace: Complex, mask: NDArray[np.bool_]) -> bool:
    """Whether anything in k-space (coils, rows, columns) of a slice stands out of its noise.

    Mean energies over 5 x 5 samples and all coils: of white noise none is twice what it should be,
    and of an object those round the zero frequency are thousands of times.
    """
    white = np.einsum("vc,crk->vrk", model.whitening, kspace)
    energy = np.mean(np.abs(white) ** 2, axis=0) / (2 * model.noise_std**2)
    sums, counts = (uniform_filter(each, 5, mode="constant") for each in (energy, mask + 0.0))
    return bool((sums > _SIGNAL * np.maximum(counts, 0.2)).any())


def compress(
    model: NoiseModel, scan: Scan, above: int = 12, least_energy: float = 0.99
) -> NoiseModel:
    """The whitening followed by the leading principal coils of the white data, if there are many.

    As few as give (nearly) every voxel its energy, up to a share of 1 - `least_energy`, as the
    root of the sum of squares of the *unwhitened* coils counts it in images of the centre of
    k-space. A share of the energy of all k-space says nothing of it: what is lost may lie all
    together in the voxels next to a few coils, and un-whitened it is no longer orthogonal to what
    is kept. Never fewer than `above`: coils are there to unfold, too. With `above` zero, or no
    more coils than that, the model is left as it is.
    """
    coils = np.count_nonzero(model.whitening.any(axis=0))
    if not above or coils <= above:
        return model
    samples = _acquired(scan).reshape(scan.kspace.shape[1], -1)
    whitened = model.whitening @ samples[:, :: max(1, samples.shape[1] // 200_000)]
    vectors = np.linalg.eigh(whitened @ whitened.conj().T)[1][:, ::-1]
    turned = model._replace(
        whitening=vectors.conj().T @ model.whitening, unwhitening=model.unwhitening @ vectors
    )
    changes = _changes(turned, scan)
    keep = max(above, int(np.argmax(changes <= 1 - least_energy)))
    return turned._replace(
        whitening=turned.whitening[:keep], unwhitening=turned.unwhitening[:, :keep]
    )


def _changes(model: NoiseModel, scan: Scan) -> NDArray[np.float64]:
    """(virtual coils + 1,) share by which a voxel's energy changes with the first n coils alone.

    Of unwhitened coils in images of the centre of k-space, in 99 % of the voxels of all slices
    that hold a signal; less what may be noise. The last is zero.
    """
    lines = [calibration_lines(scan, index) for index in range(len(scan.kspace))]
    region = calibration_region(lines[0][1], _COMPRESSION_REGION)
    if min(region) < _LEAST_REGION:
        shape = scan.image_shape
        region = (min(_COMPRESSION_REGION, shape[0]), min(_COMPRESSION_REGION, shape[1]))
    weights = window(region, region)
    lengths = (np.abs(model.unwhitening) ** 2).sum(axis=0)
    noise = 2 * model.noise_std**2 * float(np.mean(weights**2)) * lengths
    energies = []
    for kspace, _ in lines:
        centre = central(kspace, region) * weights
        virtual = np.einsum("vc,crk->vrk", model.whitening, images_of(centre))
        virtual = virtual.reshape(len(virtual), -1)
        kept = np.zeros((len(model.unwhitening), virtual.shape[1]), np.complex128)
        of_slice = [np.zeros(virtual.shape[1])]
        for column, image in zip(model.unwhitening.T, virtual, strict=True):
            kept += np.outer(column, image)
            of_slice.append((np.abs(kept) ** 2).sum(axis=0))
        energies.append(np.stack(of_slice))
    energy = np.concatenate(energies, axis=1)
    total = energy[-1]
    seen = total > max(_LEAST_SEEN * float(total.max()), _NOISE_MARGIN**2 * float(noise.sum()))
    left = np.append(noise[::-1].cumsum()[::-1], 0)[:, None]
    doubt = 2 * _NOISE_MARGIN * np.sqrt(total[seen] * left) + left
    change = np.maximum(np.abs(total[seen] - energy[:, seen]) - doubt, 0) / total[seen]
    if not seen.any():
        return np.zeros(len(energy))
    return np.asarray(np.quantile(change, 0.99, axis=1))
