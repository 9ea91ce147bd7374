import dataclasses
import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.evaluation import evaluate, slice_scores, volume_scores, with_noise_energy
from recon.reference import Reference
from tests.recon.gaussian_posteriors import SHAPE, draw_reference, gaussian_posterior


def direct_ssim(x: NDArray[np.float64], y: NDArray[np.float64], peak: float) -> float:
    """Wang et al. 2004 with a flat 7 x 7 window and sample covariances, windows inside only."""
    views = [np.lib.stride_tricks.sliding_window_view(a, (7, 7)).reshape(-1, 49) for a in (x, y)]
    mean_x, mean_y = (v.mean(1) for v in views)
    var_x, var_y = (v.var(1, ddof=1) for v in views)
    covariance = ((views[0] - mean_x[:, None]) * (views[1] - mean_y[:, None])).sum(1) / 48
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    return float(np.mean(top / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))))


def test_scores_are_the_formulas_of_fastmri() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 4, (3, *SHAPE)) * np.arange(1, 4)[:, None, None]
    found = (true + 0.3 * rng.standard_normal(true.shape)).clip(0)
    turned = (found * np.exp(1j * rng.uniform(0, 6, true.shape))).astype(np.complex64)
    peak = true.max()
    scores = volume_scores(true, turned)
    error = np.mean((true - found) ** 2)
    assert scores.psnr == pytest.approx(10 * math.log10(peak**2 / error), abs=1e-4)
    assert scores.nmse == pytest.approx(error / np.mean(true**2), rel=1e-4)
    per_slice = [direct_ssim(a, b, peak) for a, b in zip(true, found, strict=True)]
    assert scores.ssim == pytest.approx(np.mean(per_slice), abs=1e-5)
    singles = slice_scores(true, turned)
    assert [s.ssim for s in singles] == pytest.approx(per_slice, abs=1e-5)
    for k, single in enumerate(singles):
        error = np.mean((true[k] - found[k]) ** 2)
        assert single.psnr == pytest.approx(10 * math.log10(peak**2 / error), abs=1e-4)
        assert single.nmse == pytest.approx(error / np.mean(true[k] ** 2), rel=1e-4)


def test_coverage_of_a_true_posterior_is_nominal() -> None:
    rng = np.random.default_rng(1)
    posteriors = [gaussian_posterior(k, rng) for k in range(6)]
    evaluation = evaluate(posteriors, Reference.exact(draw_reference(posteriors, 6, rng)))
    pixels = 6 * (SHAPE[0] - 3) * (SHAPE[1] - 2)
    assert evaluation.volume.object_pixels == pixels
    for found, nominal in (
        (evaluation.volume.coverage_50, 0.5),
        (evaluation.volume.coverage_90, 0.9),
    ):
        assert abs(found - nominal) < 4 * math.sqrt(nominal * (1 - nominal) / pixels)


def test_the_noise_of_the_reference_is_not_held_against_the_posterior() -> None:
    """A noisy reference leaves the intervals of the image, not those of image and noise."""
    rng = np.random.default_rng(4)
    posteriors = [gaussian_posterior(k, rng) for k in range(6)]
    reference = draw_reference(posteriors, 6, rng)
    noisy = np.abs(reference) + math.sqrt(0.75) * 0.3 * rng.standard_normal(reference.shape)
    posteriors = [dataclasses.replace(p, noise_std=0.3) for p in posteriors]
    noise = np.full(noisy.shape, math.sqrt(0.75), np.float32)
    told = Reference(noisy, noise, np.zeros_like(noise))
    found = evaluate(posteriors, told).volume
    doubt = 4 * math.sqrt(0.25 / found.object_pixels)
    assert abs(found.predicted_50 - 0.5) < doubt
    assert abs(found.predicted_90 - 0.9) < doubt
    assert found.coverage_90 < 0.85
    clean = evaluate(posteriors, Reference.exact(reference)).volume
    assert (clean.predicted_50, clean.predicted_90) == (clean.coverage_50, clean.coverage_90)


def test_slices_are_matched_by_index_and_pooled() -> None:
    rng = np.random.default_rng(2)
    posteriors = [gaussian_posterior(k, rng) for k in (3, 1)]
    reference = draw_reference(posteriors, 5, rng)
    evaluation = evaluate(posteriors, Reference.exact(reference))
    assert evaluation.indices == (3, 1)
    chosen = reference[[3, 1]]
    mean = np.stack([p.mean for p in posteriors])
    assert evaluation.volume.mean == volume_scores(chosen, mean)
    assert tuple(s.mean for s in evaluation.slices) == slice_scores(chosen, mean)
    draws = [volume_scores(chosen, np.stack([p.samples[k] for p in posteriors])) for k in range(3)]
    assert evaluation.volume.sample.psnr == pytest.approx(np.mean([d.psnr for d in draws]))
    # A draw is farther from the truth than the mean: twice the variance, 3 dB.
    assert 2 < evaluation.volume.mean.psnr - evaluation.volume.sample.psnr < 4
    assert evaluation.volume.coarse.psnr < evaluation.volume.mean.psnr
    assert evaluation.volume.rhat_share == pytest.approx(10 / 21)
    assert evaluation.volume.chi2 == pytest.approx(0.9)
    pooled = np.mean([s.coverage_90 for s in evaluation.slices])
    assert evaluation.volume.coverage_90 == pytest.approx(pooled)


def test_as_dict_is_json_without_nan() -> None:
    rng = np.random.default_rng(3)
    posterior = dataclasses.replace(
        gaussian_posterior(0, rng, draws=1),
        rhat=np.full(SHAPE, np.float32(np.nan)),
        object_mask=np.zeros(SHAPE, dtype=np.bool_),
    )
    evaluation = evaluate([posterior], Reference.exact(posterior.mean[None]))
    assert math.isinf(evaluation.volume.mean.psnr)
    plain = json.loads(json.dumps(evaluation.as_dict(), allow_nan=False))
    assert plain["slices"][0]["slice"] == 0
    assert plain["volume"]["mean"]["psnr"] is None
    assert plain["volume"]["mean"]["nmse"] == 0
    assert plain["volume"]["coverage_50"] is None
    assert plain["volume"]["rhat_share"] is None
    assert plain["volume"]["object_pixels"] == 0


def test_what_does_not_fit_is_refused() -> None:
    posterior = gaussian_posterior(2, np.random.default_rng(4))
    for reference in (np.ones((2, *SHAPE)), np.ones((3, 24, 30)), np.ones(SHAPE)):
        with pytest.raises(ScanError) as refusal:
            evaluate([posterior], Reference.exact(reference))
        assert refusal.value.code == "reference-shape"
    with pytest.raises(ScanError, match="no slice"):
        evaluate([], Reference.exact(np.ones((2, *SHAPE))))
    with pytest.raises(ScanError, match="7 x 7"):
        volume_scores(np.ones((1, 6, 9)), np.ones((1, 6, 9)))
    with pytest.raises(ScanError, match="both be"):
        volume_scores(np.ones((1, 9, 9)), np.ones((1, 9, 8)))


def test_a_noisy_reference_is_predicted_with_the_energy_of_its_noise() -> None:
    """Root of the sum of squares of eight noisy coils, object and air: the right image is told."""
    rng = np.random.default_rng(5)
    coils, level, shape = 8, 0.1, (1, 64, 64)
    image = np.where(np.arange(64) < 32, 1.0, 0.0) * np.ones(shape)
    noise = level * rng.standard_normal((2, coils, *shape))
    received = image / math.sqrt(coils) + noise[0] + 1j * noise[1]
    reference = np.sqrt(np.square(np.abs(received)).sum(axis=0))
    along, across = level, level**2 * (2 * coils - 1)
    told = with_noise_energy(image, np.full(shape, along), np.full(shape, across))
    air = image == 0
    assert np.square(reference[air]).mean() == pytest.approx(np.square(told[air]).mean(), rel=0.02)
    left = np.square(reference - told)  # nothing but what noise scatters
    assert left[~air].mean() == pytest.approx(level**2, rel=0.1)
    assert left[air].mean() < level**2
    assert volume_scores(reference, image).psnr + 5 < volume_scores(reference, told).psnr
