"""From a scan to posteriors, with an analytic prior: units, honesty, independence."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.calibration import calibrate
from recon.errors import CalibrationError, ScanError
from recon.phantom import simulate
from recon.pipeline import CoarseReady, Progress, reconstruct
from recon.posterior import SlicePosterior
from recon.receivers import noise_model
from recon.reference import Combination, reference_of
from recon.scan import Scan
from recon.schedule import PRESETS
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from tests.problems import power_law_prior

SIZE = 64


def undersampled(
    slices: int = 1, snr: float = 40, pattern: str = "equispaced", acceleration: float = 2
) -> tuple[Scan, Scan]:
    full, _ = simulate(slices, 6, SIZE, SIZE, snr)
    mask = undersampling_mask((SIZE, SIZE), pattern, acceleration, 0.25, 0)
    return full, undersample(full, mask)


def posteriors(
    scan: Scan, settings: Settings, slices: list[int] | None = None
) -> list[SlicePosterior]:
    events = reconstruct(scan, power_law_prior(), settings, slices)
    return [event for event in events if isinstance(event, SlicePosterior)]


FAST = Settings(preset="fast", self_check=False)
MANY = replace(FAST, samples=16)
"""Enough chains for a mean whose Monte Carlo error is small beside the posterior's std."""


def test_events_come_in_order_and_the_fraction_never_falls() -> None:
    _, scan = undersampled(slices=2)
    events = list(reconstruct(scan, power_law_prior(), replace(FAST, self_check=True)))
    kinds = [type(event) for event in events if not isinstance(event, Progress)]
    assert kinds == [CoarseReady, SlicePosterior] * 2
    for index in (0, 1):
        fractions = [e.fraction for e in events if isinstance(e, Progress) and e.index == index]
        assert fractions == sorted(fractions)
        assert fractions[-1] > 0.9


@pytest.mark.parametrize("pattern", ["equispaced", "poisson"])
def test_the_mean_is_the_coil_combination_in_input_units(pattern: str) -> None:
    full, scan = undersampled(pattern=pattern)
    (posterior,) = posteriors(scan, MANY)
    reference = reference_of(full, scan.mask, Combination.SENSE).images[0]
    error = np.abs(np.abs(posterior.mean) - np.abs(reference))
    inside = posterior.object_mask
    assert np.linalg.norm(error[inside]) < 0.10 * np.linalg.norm(np.abs(reference)[inside])
    scaled = replace(scan, kspace=(1000 * scan.kspace).astype(np.complex64))
    scaled = replace(scaled, noise_samples=(1000 * scan.noise_samples).astype(np.complex64))
    (louder,) = posteriors(scaled, MANY)
    ratio = np.abs(louder.mean[inside]).mean() / np.abs(posterior.mean[inside]).mean()
    assert ratio == pytest.approx(1000, rel=0.01)
    assert louder.noise_std == pytest.approx(1000 * posterior.noise_std, rel=0.02)


def test_phase_of_the_mean_is_that_of_the_coil_combination() -> None:
    full, scan = undersampled()
    (posterior,) = posteriors(scan, MANY)
    reference = reference_of(full, scan.mask, Combination.SENSE).images[0]
    inside = posterior.object_mask
    error = np.abs(posterior.mean - reference)[inside]
    assert np.linalg.norm(error) < 0.13 * np.linalg.norm(reference[inside])


@pytest.mark.parametrize("wrong", [0.4, 2.5])
def test_a_wrong_noise_level_is_found_out_and_fitted(wrong: float) -> None:
    _, scan = undersampled(snr=15)
    (right,) = posteriors(scan, FAST)
    misled = replace(scan, noise_samples=(wrong * scan.noise_samples).astype(np.complex64))
    (posterior,) = posteriors(misled, FAST)
    assert posterior.noise_std == pytest.approx(right.noise_std, rel=0.2)
    assert any("fitted to the residual" in text for text in posterior.warnings)
    (stubborn,) = posteriors(misled, replace(FAST, fit_noise=False))
    assert stubborn.noise_std == pytest.approx(wrong * right.noise_std, rel=0.25)


def test_a_slice_does_not_depend_on_the_others_and_a_seed_repeats() -> None:
    _, scan = undersampled(slices=2)
    together = posteriors(scan, FAST)
    alone = posteriors(scan, FAST, [1])
    assert [p.index for p in together] == [0, 1]
    scale = together[1].scale
    assert np.abs(alone[0].samples - together[1].samples).max() < 1e-3 * scale
    other = posteriors(scan, replace(FAST, seed=1), [1])
    assert np.abs(alone[0].samples - other[0].samples).max() > 0.01 * scale


def test_more_samples_leave_the_first_ones_alone() -> None:
    _, scan = undersampled()
    few = posteriors(scan, replace(FAST, samples=2))[0]
    more = posteriors(scan, replace(FAST, samples=5))[0]
    assert len(more.samples) == 5
    assert np.abs(few.samples - more.samples[:2]).max() < 1e-3 * few.scale


def test_products_are_finite_and_consistent() -> None:
    _, scan = undersampled()
    settings = Settings(preset="standard", samples=12)
    (posterior,) = posteriors(scan, settings)
    assert posterior.samples.shape == (12, SIZE, SIZE)
    assert posterior.evaluations == PRESETS["standard"].evaluations
    assert (np.diff(posterior.quantiles, axis=0) >= 0).all()
    for name in ("mean", "magnitude_std", "phase_std", "mean_error", "rhat", "effective_samples"):
        assert np.isfinite(getattr(posterior, name)).all(), name
    inside = posterior.object_mask
    assert 0.2 < inside.mean() < 0.95
    assert 0.8 < posterior.chi2_per_coil.mean() < 1.2
    assert (posterior.rhat[inside] < 1.2).mean() > 0.95
    assert (posterior.mean_error <= 1.01 * posterior.magnitude_std).mean() > 0.95
    check = posterior.self_check
    assert check is not None
    assert 0.6 < check.residual_std < 1.5
    assert 0.75 < check.coverage_90 < 0.99


def test_single_coil_scans_need_no_maps() -> None:
    full, _ = simulate(1, 1, SIZE, SIZE, 40)
    scan = undersample(full, undersampling_mask((SIZE, SIZE), "random", 2, 0.2, 0))
    (posterior,) = posteriors(scan, FAST)
    assert np.isfinite(posterior.mean).all()


def test_no_calibration_region_is_a_typed_error_and_maps_are_the_way_out() -> None:
    full, _ = undersampled()
    mask = np.zeros((SIZE, SIZE), dtype=np.bool_)
    mask[:, ::2] = True
    scan = undersample(full, mask)
    with pytest.raises(CalibrationError) as caught:
        posteriors(scan, FAST)
    assert caught.value.code == "no-calibration-region"
    model, _ = noise_model(full)
    known = calibrate(full, 0, model)
    maps = np.einsum("cv,vrk->crk", model.unwhitening, known.coil_maps)
    handed_in = replace(scan, coil_maps=maps[None].astype(np.complex64))
    (posterior,) = posteriors(handed_in, FAST)
    assert 0.8 < posterior.chi2_per_coil.mean() < 1.25


def test_slices_that_are_not_there_are_refused() -> None:
    _, scan = undersampled()
    with pytest.raises(ScanError) as caught:
        posteriors(scan, FAST, [1])
    assert caught.value.code == "no-such-slice"
