import math

import fastmri
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.phantom import coil_mixing, receive, receiver_maps, simulate


def inverse_fft(kspace: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """fastMRI's centred transform: independent of the code under test."""
    pairs = torch.view_as_real(torch.from_numpy(kspace.copy()))
    return torch.view_as_complex(fastmri.ifft2c(pairs)).numpy()


def whitening(coils: int) -> NDArray[np.complex128]:
    mixing = coil_mixing(coils)
    return np.linalg.inv(np.linalg.cholesky(mixing @ mixing.conj().T))


@pytest.mark.parametrize(("coils", "rows", "columns"), [(8, 64, 48), (3, 33, 40), (1, 24, 31)])
def test_whitened_combination_of_noiseless_kspace_is_the_truth(
    coils: int, rows: int, columns: int
) -> None:
    scan, truth = simulate(2, coils, rows, columns, snr=math.inf)
    white = whitening(coils)
    coil_images = np.einsum("cd,sdyx->scyx", white, inverse_fft(scan.kspace))
    maps = np.einsum("cd,dyx->cyx", white, receiver_maps(coils, rows, columns))
    np.testing.assert_allclose(np.sum(np.abs(maps) ** 2, axis=0), 1, atol=1e-5)
    combined = np.sum(maps.conj() * coil_images, axis=1)
    np.testing.assert_allclose(combined, truth, atol=2e-6)
    assert scan.noise_samples is None


@pytest.mark.parametrize("source", ["noise scan", "k-space"])
def test_noise_has_the_known_covariance(source: str) -> None:
    scan, truth = simulate(1, 4, 64, 64, snr=20, seed=3)
    clean, _ = simulate(1, 4, 64, 64, snr=math.inf, seed=3)
    level = np.abs(truth)[truth != 0].mean() / 20
    if source == "noise scan":
        assert scan.noise_samples is not None
        noise = scan.noise_samples
    else:
        noise = (scan.kspace - clean.kspace)[0].reshape(4, -1)
    samples = noise.shape[1]
    mixing = coil_mixing(4)
    expected = 2 * level**2 * mixing @ mixing.conj().T
    found = noise @ noise.conj().T / samples
    # Var of the mean of n_i conj(n_j) for proper complex noise is C_ii C_jj / samples.
    variances = np.diag(expected).real
    standard_error = np.sqrt(np.outer(variances, variances) / samples)
    assert np.all(np.abs(found - expected) < 4.5 * standard_error)
    # Proper: real and imaginary parts alike and unrelated.
    assert np.all(np.abs(noise @ noise.T / samples) < 4.5 * math.sqrt(2) * standard_error)
    assert np.trace(mixing @ mixing.conj().T).real == pytest.approx(4)
    assert scan.attributes["noise_std"] == pytest.approx(level, rel=1e-6)


def test_noise_of_the_optimal_combination_is_the_same_everywhere() -> None:
    scan, _ = simulate(1, 6, 64, 64, snr=10)
    clean, _ = simulate(1, 6, 64, 64, snr=math.inf)
    white = whitening(6)
    noise = np.einsum("cd,dyx->cyx", white, inverse_fft(scan.kspace - clean.kspace)[0])
    maps = np.einsum("cd,dyx->cyx", white, receiver_maps(6, 64, 64))
    combined = np.sum(maps.conj() * noise, axis=0) / scan.attributes["noise_std"]
    for quadrant in (
        combined[:32, :32],
        combined[:32, 32:],
        combined[32:, :32],
        combined[32:, 32:],
    ):
        parts = np.stack([quadrant.real, quadrant.imag])
        assert abs(np.mean(parts**2) - 1) < 4.5 * math.sqrt(2 / parts.size)


def test_a_small_field_of_view_is_every_second_sample_of_a_large_one() -> None:
    """Half the field of view: k-space at twice the distance, by the definition of aliasing."""
    image = simulate(1, 1, 48, 64, math.inf)[1]
    wide, narrow = receive(image, 3, 0.0), receive(image, 3, 0.0, columns=32)
    assert narrow.kspace.shape == (1, 3, 48, 32)
    expected = wide.kspace[..., ::2] * 2**0.5  # orthonormal on half as many columns
    np.testing.assert_allclose(narrow.kspace, expected, atol=1e-5)
    with pytest.raises(ScanError):
        receive(image, 3, 0.0, columns=31)
    with pytest.raises(ScanError):
        receive(image, 3, 0.0, columns=65)


def test_streams_are_keyed_by_seed_and_slice() -> None:
    first, image = simulate(2, 2, 32, 32, seed=5)
    again, same = simulate(2, 2, 32, 32, seed=5)
    other, different = simulate(2, 2, 32, 32, seed=6)
    np.testing.assert_array_equal(first.kspace, again.kspace)
    np.testing.assert_array_equal(image, same)
    assert np.abs(image - different).max() > 0.1
    assert not np.array_equal(first.noise_samples, other.noise_samples)
    assert np.abs(np.abs(image[0]) - np.abs(image[1])).max() > 0.1


def test_head_is_bright_ring_dark_skull_and_empty_air() -> None:
    scan, truth = simulate(1, 1, 128, 128, snr=math.inf)
    magnitude = np.abs(truth[0])
    assert truth.dtype == np.complex64
    assert truth.shape == (1, 128, 128)
    assert scan.attributes["acquisition"] == "SIMULATED"
    assert np.all(magnitude[:3] == 0)
    assert np.all(magnitude[:, :10] == 0)
    row = magnitude[64]
    scalp = int(np.argmax(row > 0.5))
    assert row[scalp : scalp + 4].max() > 0.85
    assert row[scalp : scalp + 12].min() < 0.15  # thinner than a pixel: never quite dark
    assert 0.4 < np.median(magnitude[30:100, 40:90]) < 0.9


def test_anatomy_is_the_same_at_every_matrix_size() -> None:
    _, coarse = simulate(1, 1, 64, 64, snr=math.inf)
    _, fine = simulate(1, 1, 192, 192, snr=math.inf)
    # Pixel k of the coarse grid covers the fine pixels around 3 k.
    blocks = np.abs(np.roll(fine[0], (1, 1), (0, 1))).reshape(64, 3, 64, 3).mean((1, 3))
    assert np.abs(blocks - np.abs(coarse[0])).mean() < 0.02


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"slices": 0}, "phantom-size"),
        ({"coils": 0}, "phantom-size"),
        ({"rows": 4}, "phantom-size"),
        ({"snr": 0.0}, "phantom-snr"),
        ({"snr": math.nan}, "phantom-snr"),
    ],
)
def test_impossible_phantoms_are_refused(change: dict[str, float], code: str) -> None:
    with pytest.raises(ScanError) as refusal:
        simulate(**{"coils": 1, "rows": 16, "columns": 16} | change)
    assert refusal.value.code == code
