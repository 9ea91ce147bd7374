import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.calibration import CalibrationSettings, calibrate
from recon.errors import CalibrationError
from recon.phantom import coil_mixing, simulate
from recon.receivers import NoiseModel, compress, noise_model
from recon.scan import Scan
from recon.undersampling import undersample, undersampling_mask

# Strongly coupled coils of different loudness: correlations of 0.6, with phases.
MIXING = np.array([[1, 0, 0], [0.9 + 0.9j, 1.2, 0], [0.5j, -0.8, 2.0]]) * 0.01
COVARIANCE = MIXING @ MIXING.conj().T
"""Per real component."""


def noise_of(mixing: NDArray[np.complex128], shape: tuple[int, ...], seed: int) -> NDArray:
    """Complex noise (coils, *shape) of covariance M M^H per real component."""
    real, imaginary = np.random.default_rng(seed).standard_normal((2, len(mixing), *shape))
    return np.tensordot(mixing, real + 1j * imaginary, axes=1).astype(np.complex64)


def scan_with_noise(slices: int = 4, size: int = 128) -> Scan:
    """Signal of a few hundred in the middle of k-space, nothing but noise outside it."""
    kspace = np.moveaxis(noise_of(MIXING, (slices, size, size), 1), 0, 1)
    place = (np.arange(size) - size // 2) / (size / 2)
    signal = 300 * np.exp(-(place[:, None] ** 2 + place[None, :] ** 2) / 0.02)
    kspace = kspace + (signal * np.array([1, 1j, -0.5])[:, None, None]).astype(np.complex64)
    return Scan(kspace, np.ones((size, size), dtype=np.bool_))


def whitened(model: NoiseModel, covariance: NDArray[np.complex128]) -> NDArray[np.complex128]:
    """Covariance after whitening, in units of the stated noise: the identity if all is right."""
    white = model.whitening @ covariance @ model.whitening.conj().T
    return np.asarray(white / model.noise_std**2)


def assert_white(covariance: NDArray[np.complex128], standard_error: float) -> None:
    assert np.abs(covariance - np.eye(len(covariance))).max() < 5 * standard_error


def test_noise_scan_gives_the_covariance() -> None:
    """W C W^H = level^2 I: entries have a standard error of 1 / sqrt(samples)."""
    samples = 20_000
    scan = replace(scan_with_noise(1, 32), noise_samples=noise_of(MIXING, (samples,), 2))
    model, warnings = noise_model(scan)
    assert model.source == "noise-scan"
    assert warnings == ()
    assert_white(whitened(model, COVARIANCE), samples**-0.5)
    # The level is the geometric mean over whitened coils: det C^(1 / 2 coils).
    level = float(np.linalg.det(COVARIANCE).real) ** (1 / 6)
    assert model.unit * model.noise_std == pytest.approx(level, rel=5 / math.sqrt(2 * 3 * samples))
    # The estimate itself, from the inverse of the whitening.
    inverse = np.linalg.inv(model.whitening) * model.noise_std
    found = inverse @ inverse.conj().T
    variances = np.diag(COVARIANCE).real
    standard_error = np.sqrt(np.outer(variances, variances) / samples)
    assert (np.abs(found - COVARIANCE) / standard_error).max() < 5


def test_outer_kspace_gives_the_covariance() -> None:
    """From the outermost 4 % of all slices; medians have 1.45 times the error of means.

    So many slices that a bias of 5 % in a correlation shows.
    """
    scan = scan_with_noise(slices=64)
    model, warnings = noise_model(scan)
    assert model.source == "outer-kspace"
    assert warnings == ()
    samples = 64 * int(0.04 * 128 * 128)
    inverse = np.linalg.inv(model.whitening) * model.noise_std
    found = inverse @ inverse.conj().T
    variances = np.diag(COVARIANCE).real
    standard_error = 1.45 * np.sqrt(np.outer(variances, variances) / samples)
    assert (np.abs(found - COVARIANCE) / standard_error).max() < 5


def test_whitening_from_outer_kspace_makes_fresh_noise_white() -> None:
    """Errors of a few correlated coils add up in the whitening: three of them, 1.45 each."""
    model, _ = noise_model(scan_with_noise(slices=8))
    fresh = noise_of(MIXING, (200_000,), 3)
    found = fresh.astype(np.complex128) @ fresh.conj().T / (2 * 200_000)
    samples = 8 * int(0.04 * 128 * 128)
    assert_white(whitened(model, found), 1.45 * math.sqrt(3 / samples))


@pytest.mark.parametrize("source", ["noise-scan", "outer-kspace"])
def test_noise_of_the_phantom(source: str) -> None:
    """The noise scan within 5 standard errors; the edge of k-space still holds a little signal."""
    scan, _ = simulate(1, 6, 128, 128, snr=20, seed=3)
    scan = scan if source == "noise-scan" else replace(scan, noise_samples=None)
    model, warnings = noise_model(scan)
    assert (model.source, warnings) == (source, ())
    mixing = coil_mixing(6) * float(scan.attributes["noise_std"])
    white = whitened(model, mixing @ mixing.conj().T)
    if source == "noise-scan":
        assert_white(white, 4096**-0.5)
    else:
        assert np.abs(white - np.eye(6)).max() < 0.25
        assert np.trace(white).real / 6 > 0.75


def test_signal_in_a_few_outer_samples_does_not_matter() -> None:
    scan = scan_with_noise(slices=8)
    kspace = scan.kspace.copy()
    spikes = np.random.default_rng(4).random(kspace[:, :1].shape) < 0.02
    kspace = kspace + (5 * spikes * np.ones((1, 3, 1, 1))).astype(np.complex64)
    quiet, loud = noise_model(scan)[0], noise_model(replace(scan, kspace=kspace))[0]
    # 2 % of outliers move the median of an exponential by 2 % / (2 ln 2 / 2) in power.
    assert loud.unit * loud.noise_std == pytest.approx(quiet.unit * quiet.noise_std, rel=0.03)


@pytest.mark.parametrize("axis", [0, 1])
def test_filtered_kspace_gives_the_floor_and_says_so(axis: int) -> None:
    scan, _ = simulate(1, 4, 64, 64, snr=50, seed=1)
    window = np.hanning(66)[1:-1].astype(np.float32)
    kspace = scan.kspace * window[:, None] * window[None, :]
    mask = undersampling_mask((64, 64), "equispaced", 2, 16 / 64, 0)
    filtered = undersample(
        replace(scan, kspace=kspace, noise_samples=None), mask if axis else mask.T.copy()
    )
    model, warnings = noise_model(filtered)
    assert model.source == "floor"
    np.testing.assert_array_equal(model.unit * model.whitening, np.eye(4))
    image = np.fft.ifft2(np.fft.ifftshift(filtered.kspace[0], axes=(-2, -1)), norm="ortho")
    peak = np.percentile(np.sqrt((np.abs(image) ** 2).sum(axis=0)), 99)
    assert model.unit * model.noise_std == pytest.approx(0.002 * peak, rel=1e-5)
    assert len(warnings) == 1
    assert "no noise floor" in warnings[0]
    # A noise scan is believed whatever the edge looks like.
    measured = replace(filtered, noise_samples=scan.noise_samples)
    assert noise_model(measured)[0].source == "noise-scan"


FAULTS = ("twin", "mixture")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("source", "fault"),
    [(source, fault) for source in ("noise scan", "outer k-space") for fault in FAULTS]
    + [("noise scan", "few samples")],
)
def test_singular_covariance_is_refused(source: str, fault: str, seed: int) -> None:
    """Rounding leaves pivots that are tiny, not zero: the whitening would be 1e6 times too loud."""
    coils = 4
    scan, _ = simulate(1, coils, 32, 32, snr=30, seed=seed)
    assert scan.noise_samples is not None
    samples, kspace = scan.noise_samples.copy(), scan.kspace.copy()
    for data in (samples, kspace[0]):
        if fault == "twin":
            data[3] = data[1]
        elif fault == "mixture":
            data[3] = data[1] + (0.5 + 0.5j) * data[0]
    if fault == "few samples":
        samples = samples[:, : coils - 1].copy()
    broken = replace(scan, kspace=kspace, noise_samples=samples if source == "noise scan" else None)
    with pytest.raises(CalibrationError, match="singular") as caught:
        noise_model(broken)
    assert caught.value.code == "noise-covariance"
    if fault == "twin":
        assert "coils 1, 3" in caught.value.message


@pytest.mark.parametrize("with_noise_scan", [True, False])
@pytest.mark.parametrize("fault", ["dead", "drowned"])
def test_a_useless_coil_is_left_out_and_named(fault: str, with_noise_scan: bool) -> None:
    """The coil is lost, not the scan, and the others' whitening is what it is without it."""
    scan, _ = simulate(1, 4, 64, 64, snr=30, seed=3)
    assert scan.noise_samples is not None
    samples, kspace = scan.noise_samples.copy(), scan.kspace.copy()
    for data, seed in ((samples, 1), (kspace[0], 2)):
        loud = 300 * float(scan.attributes["noise_std"]) * noise_of(np.eye(1), data.shape[1:], seed)
        data[2] = 0 if fault == "dead" else data[2] + loud[0]
    broken = replace(scan, kspace=kspace, noise_samples=samples if with_noise_scan else None)
    model, warnings = noise_model(broken)
    assert model.whitening.shape == (3, 4)
    np.testing.assert_array_equal(model.whitening[:, 2], 0)
    np.testing.assert_array_equal(model.unwhitening[2], 0)
    assert [text.startswith("Coil 2 ") for text in warnings] == [True]
    others = [0, 1, 3]
    alone = replace(
        scan,
        kspace=scan.kspace[:, others],
        noise_samples=scan.noise_samples[others] if with_noise_scan else None,
    )
    expected, _ = noise_model(alone)
    found = model.unit * model.whitening[:, others]
    np.testing.assert_allclose(found, expected.unit * expected.whitening, rtol=1e-4, atol=1e-6)
    sound, none = noise_model(scan if with_noise_scan else replace(scan, noise_samples=None))
    assert (sound.whitening.shape, none) == ((4, 4), ())


def local_scan(coils: int, size: int = 96, noise: float = 1e-3) -> tuple[Scan, NDArray]:
    """The head received by small loops close to it, and their root of the sum of squares."""
    _, image = simulate(1, 1, size, size, snr=math.inf)
    y, x = np.meshgrid(*(np.linspace(-1, 1, size, endpoint=False),) * 2, indexing="ij")
    angles = 2 * np.pi * np.arange(coils) / coils
    away = [np.hypot(x - 1.3 * np.cos(a), y - 1.3 * np.sin(a)) for a in angles]
    maps = [np.exp(1j * a) / (1 + (d / 0.4) ** 2) ** 1.5 for a, d in zip(angles, away, strict=True)]
    received = np.stack(maps) * image
    shifted = np.fft.fft2(np.fft.ifftshift(received, axes=(-2, -1)), norm="ortho")
    kspace = np.fft.fftshift(shifted, axes=(-2, -1))
    kspace += noise * noise_of(np.eye(coils), (1, size, size), 3)[:, 0]
    full = Scan(kspace[None].astype(np.complex64), np.ones((size, size), np.bool_))
    return full, np.linalg.norm(received, axis=0)


def voxel_changes(model: NoiseModel, scan: Scan) -> NDArray[np.float64]:
    """Share by which each voxel's energy, of the unwhitened coils, changes with virtual ones."""
    shifted = np.fft.ifftshift(scan.kspace[0], axes=(-2, -1))
    coils = np.fft.fftshift(np.fft.ifft2(shifted, norm="ortho"), axes=(-2, -1))
    back = model.unit * model.unwhitening @ model.whitening
    total, found = (
        (np.abs(images) ** 2).sum(axis=0)
        for images in (coils, np.einsum("cd,drk->crk", back, coils))
    )
    inside = total > 0.02 * np.percentile(total, 99)
    return np.asarray((np.abs(found - total) / total)[inside])


@pytest.mark.parametrize("energy", [0.95, 0.98, 0.995])
@pytest.mark.parametrize("loudness", [1, 4])
def test_compression_keeps_the_energy_of_every_voxel(energy: float, loudness: float) -> None:
    """Surface coils: what a share of all energy leaves out would be a voxel's whole signal."""
    scan, _ = local_scan(16)
    gains = np.where(np.arange(16) % 3 == 0, loudness, 1).astype(np.float32)
    scan = replace(scan, kspace=scan.kspace * gains[:, None, None])
    model, _ = noise_model(scan)
    small = compress(model, scan, 4, energy)
    kept = len(small.whitening)
    assert 4 < kept <= 16
    assert small.whitening.shape == (kept, 16)
    assert np.quantile(voxel_changes(small, scan), 0.98) < 1.5 * (1 - energy)
    fewer = small._replace(whitening=small.whitening[:-1], unwhitening=small.unwhitening[:, :-1])
    assert np.quantile(voxel_changes(fewer, scan), 0.99) > 0.5 * (1 - energy)


def test_compression_leaves_the_noise_white() -> None:
    scan, _ = simulate(1, 16, 64, 64, snr=30, seed=5)
    scan = undersample(scan, undersampling_mask((64, 64), "equispaced", 3, 16 / 64, 0))
    model, _ = noise_model(scan)
    small = compress(model, scan)
    kept = len(small.whitening)
    assert kept < 16
    assert (small.noise_std, small.source) == (model.noise_std, model.source)
    mixing = coil_mixing(16) * float(scan.attributes["noise_std"])
    assert_white(whitened(small, mixing @ mixing.conj().T), 4096**-0.5)
    maps = calibrate(scan, 0, small).coil_maps
    assert maps.shape == (kept, 64, 64)


def test_compression_is_an_option() -> None:
    scan, _ = simulate(1, 14, 32, 32, snr=30)
    model, _ = noise_model(scan)
    assert compress(model, scan, 0) is model
    assert compress(model, scan, 14) is model
    assert len(compress(model, scan).whitening) < 14
    for energy in (0.94, 1.01):
        with pytest.raises(CalibrationError) as caught:
            CalibrationSettings(compression_energy=energy)
        assert caught.value.code == "compression-energy"
