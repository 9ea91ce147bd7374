"""Factors from held-out scans: what they promise, counted on scans that really err together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from recon.conformal import (
    Comparison,
    compare,
    conformal_factor,
    fewest_scans,
    joined,
    left_out_factors,
    widened,
)
from recon.errors import ScanError
from recon.evaluation import evaluate
from recon.reference import Reference
from tests.recon.gaussian_posteriors import draw_reference, gaussian_posterior


def code(error: pytest.ExceptionInfo[ScanError]) -> str:
    return error.value.code


@pytest.mark.parametrize("unseen", [0.0, 0.7])
@pytest.mark.parametrize("factor", [0.6, 1.0, 1.7])
def test_coverage_is_that_of_evaluate_before_and_after(unseen: float, factor: float) -> None:
    rng = np.random.default_rng(0)
    posterior = replace(gaussian_posterior(0, rng), noise_std=0.2)
    posterior = replace(posterior, sensitivity=2 * posterior.sensitivity)
    reference = draw_reference([posterior], 1, rng)
    noise = np.full(reference.shape, unseen**0.5, np.float32) * posterior.sensitivity
    noisy = Reference(reference, noise, np.zeros_like(noise))
    found = compare(posterior, reference[0], unseen)
    judged = evaluate([widened(posterior, factor)], noisy).slices[0]
    # Single precision may put a pixel on the other side of an end.
    near = pytest.approx
    pixels = 2 / judged.object_pixels
    assert found.coverage(0.5, factor) == near(judged.predicted_50, abs=pixels)
    assert found.coverage(0.9, factor) == near(judged.predicted_90, abs=pixels)
    assert found.coverage(0.5, factor, noisy=False) == near(judged.coverage_50, abs=pixels)
    assert found.coverage(0.9, factor, noisy=False) == near(judged.coverage_90, abs=pixels)


def test_the_score_is_the_least_factor_that_holds_nine_tenths() -> None:
    rng = np.random.default_rng(1)
    posterior = replace(gaussian_posterior(0, rng), noise_std=0.1)
    found = compare(posterior, draw_reference([posterior], 1, rng)[0], 0.5)
    assert found.coverage(0.9, 1.0001 * found.score) >= 0.9
    assert found.coverage(0.9, 0.999 * found.score) < 0.9


def test_a_right_posterior_scores_one_and_a_narrow_one_what_it_lacks() -> None:
    rng = np.random.default_rng(2)
    right = gaussian_posterior(0, rng)
    reference = draw_reference([right], 1, rng)[0]
    found = compare(right, reference, 0)
    narrow = compare(widened(right, 1 / 1.5), reference, 0)
    # 630 pixels: the 90 % quantile of |z| has a standard error of 4 %, the std one of 3 %.
    assert found.score == pytest.approx(1, abs=0.12)
    assert found.standardized_error() == pytest.approx(1, abs=0.09)
    assert narrow.score == pytest.approx(1.5 * found.score, rel=1e-4)
    assert narrow.standardized_error() == pytest.approx(1.5 * found.standardized_error(), rel=1e-4)
    assert narrow.standardized_error(1.5) == pytest.approx(found.standardized_error(), rel=1e-4)


def test_the_noise_of_the_true_values_is_allowed_for() -> None:
    rng = np.random.default_rng(3)
    pixels, std, noise = 40_000, 1.0, 0.8
    seen = std * rng.standard_normal(pixels) + noise * rng.standard_normal(pixels)
    reach = np.full(pixels, std, np.float32)
    found = Comparison(
        seen.astype(np.float32), 0.6745 * reach, 1.6449 * reach, seen.astype(np.float32), reach,
        np.full(pixels, noise, np.float32),
    )  # fmt: skip
    # Four standard errors of the shares of 40,000 independent values.
    assert found.coverage(0.5) == pytest.approx(0.5, abs=0.01)
    assert found.coverage(0.9) == pytest.approx(0.9, abs=0.006)
    assert found.coverage(0.9, noisy=False) == pytest.approx(0.801, abs=0.01)
    assert found.score == pytest.approx(1, abs=0.03)
    assert found.standardized_error() == pytest.approx(1, abs=0.015)


def correlated_scans(rng: np.random.Generator, scans: int) -> list[Comparison]:
    """Scans whose pixels err together: each has a width of its own, log-normal with std 0.3."""
    found = []
    for width in np.exp(0.3 * rng.standard_normal(scans)):
        error = (width * rng.standard_normal(200)).astype(np.float32)
        reach = np.ones(200, np.float32)
        found.append(Comparison(error, 0.6745 * reach, 1.6449 * reach, error, reach, 0 * reach))
    return found


@pytest.mark.parametrize("confidence", [0.5, 0.9])
@pytest.mark.parametrize("count", [9, 20])
def test_further_scans_are_held_as_often_as_promised(count: int, confidence: float) -> None:
    rng = np.random.default_rng((4, count))
    trials = 600
    enough = 0
    for _ in range(trials):
        *known, new = correlated_scans(rng, count + 1)
        factor = conformal_factor([scan.score for scan in known], confidence)
        enough += new.coverage(0.9, 1.00001 * factor) >= 0.9
    # Exactly k / (n + 1) on average, without ties; three standard errors of a share of 600.
    exact = math.ceil((count + 1) * confidence - 1e-9) / (count + 1)
    bound = 3 * math.sqrt(exact * (1 - exact) / trials)
    assert enough / trials == pytest.approx(exact, abs=bound)


def test_pixels_are_not_counted_as_if_they_were_independent() -> None:
    # The quantile of all pixels together, which takes them to be exchangeable, holds too few scans.
    rng = np.random.default_rng(5)
    pooled = joined(correlated_scans(rng, 400)).score
    share = np.mean([scan.score <= pooled for scan in correlated_scans(rng, 400)])
    assert share < 0.75


def test_too_few_scans_promise_nothing() -> None:
    assert [fewest_scans(c) for c in (0.5, 0.8, 0.9, 0.95)] == [1, 4, 9, 19]
    assert conformal_factor([1.0] * 8 + [1.5], 0.9) == 1.5
    with pytest.raises(ScanError, match="needs 9 of them") as error:
        conformal_factor([1.0] * 8, 0.9)
    assert code(error) == "too-few-scans"
    with pytest.raises(ScanError) as error:
        left_out_factors([1.0] * 9, 0.9)
    assert code(error) == "too-few-scans"
    with pytest.raises(ScanError) as error:
        conformal_factor([1.0], 1.0)
    assert code(error) == "confidence"


def test_a_scan_left_out_has_no_say_in_its_factor() -> None:
    scores = [1.0, 2.0, 3.0, 4.0]
    assert left_out_factors(scores, 0.75) == [4.0, 4.0, 4.0, 3.0]


def test_a_scan_without_an_object_is_not_ignored() -> None:
    empty = Comparison(*(np.zeros(0, np.float32) for _ in range(6)))
    assert math.isinf(empty.score)
    assert math.isnan(empty.coverage(0.9))
    with pytest.raises(ScanError) as error:
        conformal_factor([1.0] * 8 + [empty.score], 0.9)
    assert code(error) == "no-object"


def test_widening_leaves_the_images_alone_and_ends_at_zero() -> None:
    posterior = gaussian_posterior(0, np.random.default_rng(6))
    wide = widened(posterior, 100.0)
    for name in ("mean", "samples", "phase_std", "mean_error", "rhat"):
        assert getattr(wide, name) is getattr(posterior, name)
    assert wide.quantiles.min() == 0
    np.testing.assert_allclose(wide.magnitude_std, 100 * posterior.magnitude_std, rtol=1e-6)
    assert wide.quantiles.dtype == wide.magnitude_std.dtype == np.float32
    same = widened(posterior, 1.0)
    np.testing.assert_allclose(same.quantiles, posterior.quantiles, rtol=1e-6)


def test_a_reference_of_another_shape_is_refused() -> None:
    posterior = gaussian_posterior(0, np.random.default_rng(7))
    with pytest.raises(ScanError) as error:
        compare(posterior, np.zeros((3, 4), np.complex64), 0)
    assert code(error) == "reference-shape"
