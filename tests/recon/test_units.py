"""Results are in the field's own units: the root of the sum of squares of the coils as received."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from pathlib import Path

import fastmri.evaluate
import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.evaluation import evaluate
from recon.io.files import read_result, write_result
from recon.kspace_centre import images_of
from recon.phantom import receive, simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import GaussianPrior
from recon.reference import Combination, Reference, coil_combination, reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask

SIZE = 72
FULL = np.ones((SIZE, SIZE), np.bool_)
LOUDNESS = np.array([1, 1, 2, 0.5, 1, 3], np.complex64)
FAST = Settings(preset="fast", self_check=False)


def prior(size: int = SIZE, width: int = SIZE) -> GaussianPrior:
    """Images of unit scale whose spectrum falls like that of the phantom."""
    rows, columns = torch.arange(size) - size // 2, torch.arange(width) - width // 2
    radius = torch.hypot(rows[:, None].float(), columns[None, :].float()).clamp_min(0.7)
    return GaussianPrior(
        torch.zeros(size, width, dtype=torch.complex64), 60.0 / radius**2.6, (0.002, 100.0)
    )


def noiseless(coils: int = 6) -> Scan:
    return simulate(1, coils, SIZE, SIZE, math.inf)[0]


def mixed(scan: Scan, mixing: NDArray[np.complexfloating], noise_scan: bool) -> Scan:
    """Coils that mix signals, and a noise scan that says their noise is mixed alike."""
    kspace = np.einsum("dc,scrk->sdrk", mixing, scan.kspace).astype(np.complex64)
    real, imaginary = np.random.default_rng(1).standard_normal((2, len(mixing), 4096))
    noise = 1e-4 * (mixing @ (real + 1j * imaginary))
    return replace(
        scan, kspace=kspace, noise_samples=noise.astype(np.complex64) if noise_scan else None
    )


def correlated(coils: int, share: float) -> NDArray[np.complexfloating]:
    """Mixing with that correlation of the noise of any two coils."""
    covariance = share + (1 - share) * np.eye(coils)
    return np.linalg.cholesky(covariance).astype(np.complex64)


CASES = {
    "no noise scan": lambda: noiseless(),
    "white noise scan": lambda: mixed(noiseless(), np.eye(6), noise_scan=True),
    "unequal coils": lambda: mixed(noiseless(), np.diag(LOUDNESS), noise_scan=True),
    "unequal coils, no noise scan": lambda: mixed(noiseless(), np.diag(LOUDNESS), noise_scan=False),
    "correlated": lambda: mixed(noiseless(), correlated(6, 0.3), noise_scan=True),
    "one coil": lambda: mixed(noiseless(1), np.eye(1), noise_scan=True),
    "compressed": lambda: mixed(noiseless(16), np.diag(np.tile(LOUDNESS, 3)[:16]), True),
    "two sets of maps": lambda: receive(simulate(1, 1, 72, 96, math.inf)[1], 6, 0, columns=64),
}


@pytest.mark.parametrize("case", CASES)
def test_a_fully_sampled_scan_gives_back_its_root_sum_of_squares(case: str) -> None:
    scan = CASES[case]()
    expected = np.linalg.norm(images_of(scan.kspace[0]), axis=0)
    reference = reference_of(scan, scan.mask)
    np.testing.assert_allclose(reference.images[0], expected, rtol=1e-4, atol=1e-6)
    found = np.abs(reference_of(scan, scan.mask, Combination.SENSE).images[0])
    inside = expected > 0.05 * expected.max()
    error = np.linalg.norm((found - expected)[inside]) / np.linalg.norm(expected[inside])
    assert error < 0.01
    assert found[inside].sum() == pytest.approx(expected[inside].sum(), rel=0.005)
    if case not in ("one coil", "white noise scan"):
        # In the metric of the noise it is another image: what would be written without the factor.
        bare = np.abs(coil_combination(scan, scan.mask)[0])
        assert np.linalg.norm((bare - expected)[inside]) > 0.02 * np.linalg.norm(expected[inside])


def reconstructed(scan: Scan) -> SlicePosterior:
    events = reconstruct(scan, prior(*scan.image_shape), FAST, [0])
    return next(event for event in events if isinstance(event, SlicePosterior))


@pytest.mark.parametrize("case", ["unequal coils", "correlated", "one coil", "two sets of maps"])
def test_a_reconstruction_gives_back_the_root_sum_of_squares(case: str) -> None:
    """Mean, samples, intervals and coarse image alike."""
    scan = CASES[case]()
    expected = np.linalg.norm(images_of(scan.kspace[0]), axis=0)
    posterior = reconstructed(scan)
    inside = expected > 0.1 * expected.max()
    size = np.linalg.norm(expected[inside])
    for name, image in {
        "mean": posterior.mean,
        "sample": posterior.samples[0],
        "coarse": posterior.coarse,
        "middle": posterior.quantiles[1:3].mean(axis=0),
    }.items():
        error = np.linalg.norm((np.abs(image) - expected)[inside]) / size
        assert error < (0.02 if name == "sample" else 0.013), name
    louder = reconstructed(replace(scan, kspace=scan.kspace * np.float32(16)))
    np.testing.assert_allclose(louder.sensitivity, posterior.sensitivity, rtol=1e-4)


def test_fastmri_itself_finds_the_same_scores(tmp_path: Path) -> None:
    """`fastmri.evaluate` on the result file and the file of the full scan, oversampled rows cut."""
    image = np.zeros((2, 2 * SIZE, SIZE), np.complex64)
    image[:, SIZE // 2 : 3 * SIZE // 2] = simulate(2, 1, SIZE, SIZE, math.inf)[1]
    full = receive(image, 6, 0.01, seed=1)
    full = replace(full, geometry=replace(full.geometry, recon_shape=(SIZE, SIZE)))
    mask = undersampling_mask(full.image_shape, "equispaced", 2, 0.25, 0)
    scan = undersample(full, mask)
    events = reconstruct(scan, prior(*scan.image_shape), FAST)
    posteriors = [event for event in events if isinstance(event, SlicePosterior)]
    for folder in ("results", "scans"):
        (tmp_path / folder).mkdir()
    result = tmp_path / "results" / "scan.h5"
    write_result(result, posteriors, {}, recon_shape=(SIZE, SIZE))
    reference = reference_of(full, mask)
    middle = slice(SIZE // 2, 3 * SIZE // 2)
    with h5py.File(tmp_path / "scans" / "scan.h5", "w") as file:
        file["reconstruction_rss"] = reference.images[:, middle]
        file.attrs["acquisition"], file.attrs["acceleration"] = "", 0
    arguments = argparse.Namespace(
        target_path=tmp_path / "scans", predictions_path=tmp_path / "results"
    )
    arguments.acquisition, arguments.acceleration = None, None
    theirs = fastmri.evaluate.evaluate(arguments, "reconstruction_rss").means()
    ours = evaluate(read_result(result)[0], reference, (SIZE, SIZE)).volume.mean
    assert ours.psnr == pytest.approx(theirs["PSNR"], abs=1e-3)
    assert ours.ssim == pytest.approx(theirs["SSIM"], abs=1e-4)
    assert ours.nmse == pytest.approx(theirs["NMSE"], rel=1e-3)
    assert 25 < ours.psnr < 60


def test_the_noise_of_a_root_sum_of_squares_is_known() -> None:
    """Spread and floor of the reference's magnitudes, over many noises of unequal coils."""
    mixing = np.diag(LOUDNESS) @ correlated(6, 0.5)
    clean = mixed(noiseless(), mixing, noise_scan=True)
    mask = undersampling_mask((SIZE, SIZE), "equispaced", 3, 0.2, 0)
    noise_std, many = 1e-2, []
    for seed in range(240):
        real, imaginary = np.random.default_rng(seed).standard_normal((2, *clean.kspace[0].shape))
        noise = noise_std * np.tensordot(mixing, real + 1j * imaginary, 1)
        noise[:, mask] = 0  # what the result shares with its reference
        many.append(np.linalg.norm(images_of(clean.kspace[0] + noise.astype(np.complex64)), axis=0))
    told = reference_of(clean, mask)
    level = float(
        np.exp(np.log(np.abs(np.diag(np.linalg.cholesky(mixing @ mixing.conj().T)))).mean())
    )
    inside = told.images[0] > 0.2 * told.images[0].max()
    expected = (noise_std * level * told.noise[0])[inside]
    spread = np.std(many, axis=0)[inside]
    assert np.median(spread / expected) == pytest.approx(1, abs=0.05)
    risen = (np.square(many).mean(axis=0) - told.images[0] ** 2)[inside]
    share = 1 - np.count_nonzero(mask) / mask.size
    floor = (noise_std * level) ** 2 * (share * told.floor[0] + told.noise[0] ** 2)[inside]
    assert risen.mean() == pytest.approx(floor.mean(), rel=0.05)


def test_an_exact_reference_has_no_noise() -> None:
    reference = Reference.exact(np.ones((2, 9, 8)))
    assert not reference.noise.any()
    assert not reference.floor.any()
