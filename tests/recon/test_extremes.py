"""Scans that are empty, noise, of any scale: no wrong image without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.calibration import calibrate
from recon.errors import CalibrationError
from recon.evaluation import evaluate
from recon.io.files import read_result, write_result
from recon.phantom import simulate
from recon.pipeline import CoarseReady, Progress, reconstruct
from recon.posterior import SlicePosterior
from recon.prior import GaussianPrior
from recon.quick_look import zero_filled
from recon.receivers import has_signal, noise_model
from recon.reference import reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask

SIZE = 48
FAST = Settings(preset="fast", samples=2, self_check=False)


def prior() -> GaussianPrior:
    frequency = torch.arange(SIZE).float() - SIZE // 2
    radius = torch.hypot(frequency[:, None], frequency[None, :]).clamp_min(0.7)
    zero = torch.zeros(SIZE, SIZE, dtype=torch.complex64)
    return GaussianPrior(zero, 60.0 / radius**2.6, (0.002, 100.0))


def undersampled(slices: int = 1, coils: int = 4) -> Scan:
    full, _ = simulate(slices, coils, SIZE, SIZE, 40)
    return undersample(full, undersampling_mask((SIZE, SIZE), "equispaced", 2, 0.3, 0))


def noise_only(scan: Scan, slices: Sequence[int]) -> Scan:
    """The scan with nothing but its receivers' noise in those slices."""
    kspace = scan.kspace.copy()
    real, imaginary = np.random.default_rng(5).standard_normal((2, *kspace.shape))
    noise = float(scan.attributes["noise_std"]) * (real + 1j * imaginary) * scan.mask
    kspace[list(slices)] = noise[list(slices)]
    return replace(scan, kspace=kspace)


def posteriors(scan: Scan, slices: list[int] | None = None) -> list[SlicePosterior]:
    events = reconstruct(scan, prior(), FAST, slices)
    return [event for event in events if isinstance(event, SlicePosterior)]


@pytest.mark.parametrize("exponent", [-30, 30])
def test_any_scale_gives_the_same_picture(exponent: int) -> None:
    scan = undersampled()
    assert scan.noise_samples is not None
    (expected,) = posteriors(scan)
    factor = np.float32(10.0**exponent)
    (found,) = posteriors(
        replace(scan, kspace=scan.kspace * factor, noise_samples=scan.noise_samples * factor)
    )
    peak = np.abs(expected.mean).max()
    assert np.isfinite(found.mean).all()
    difference = np.abs(found.mean / factor - expected.mean)
    # Rounding differs, and where a posterior is wide that moves a draw.
    assert np.median(difference) < 2e-3 * peak
    assert found.noise_std == pytest.approx(float(factor) * expected.noise_std, rel=0.01)
    assert found.scale == pytest.approx(float(factor) * expected.scale, rel=0.01)
    np.testing.assert_allclose(found.sensitivity, expected.sensitivity, rtol=1e-3)
    looks = [zero_filled(replace(scan, kspace=scan.kspace * k))[0] / k for k in (1, factor)]
    np.testing.assert_allclose(looks[1], looks[0], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-42, 1e37])
def test_scales_that_single_precision_cannot_hold_are_refused(factor: float) -> None:
    scan = undersampled()
    with pytest.raises(CalibrationError) as caught:
        noise_model(replace(scan, kspace=(scan.kspace * factor).astype(np.complex64)))
    assert caught.value.code == "kspace-scale"


@pytest.mark.parametrize("kind", ["zero", "noise"])
def test_an_empty_slice_costs_that_slice(kind: str, tmp_path) -> None:
    scan = undersampled(slices=3)
    if kind == "zero":
        kspace = scan.kspace.copy()
        kspace[1] = 0
        scan = replace(scan, kspace=kspace)
    else:
        scan = noise_only(scan, [1])
    events = list(reconstruct(scan, prior(), FAST, [0, 1]))
    kinds = [type(event) for event in events if not isinstance(event, Progress)]
    assert kinds == [CoarseReady, SlicePosterior] * 2
    first, empty = [event for event in events if isinstance(event, SlicePosterior)]
    assert np.abs(first.mean).max() > 0
    assert not empty.mean.any()
    assert not empty.magnitude_std.any()
    assert not empty.object_mask.any()
    assert not empty.converged
    assert "no signal" in empty.warnings[-1]
    if kind == "noise":
        assert empty.chi2_per_coil == pytest.approx(np.ones(4), abs=0.3)
    write_result(tmp_path / "result.h5", [first, empty], {})
    back, _ = read_result(tmp_path / "result.h5")
    judged = evaluate(back, reference_of(simulate(3, 4, SIZE, SIZE, 40)[0], scan.mask))
    assert judged.slices[1].object_pixels == 0
    (alone,) = posteriors(scan, [1])
    assert not alone.mean.any()


def test_a_scan_of_noise_is_refused() -> None:
    scan = noise_only(undersampled(), [0])
    for known in (scan, replace(scan, noise_samples=None)):
        with pytest.raises(CalibrationError) as caught:
            posteriors(known)
        assert caught.value.code == "no-signal"


@pytest.mark.parametrize("coils", [1, 4])
def test_signal_is_told_from_noise(coils: int) -> None:
    """At a signal-to-noise ratio of one per pixel the zero frequency still stands out."""
    full, _ = simulate(1, coils, SIZE, SIZE, snr=1)
    model, _ = noise_model(full)
    assert has_signal(model, full.kspace[0], full.mask)
    for seed in range(20):
        real, imaginary = np.random.default_rng(seed).standard_normal((2, coils, SIZE, SIZE))
        inverse = np.linalg.inv(model.whitening)
        noise = np.einsum("cv,vrk->crk", inverse, model.noise_std * (real + 1j * imaginary))
        assert not has_signal(model, noise.astype(np.complex64), full.mask)


def test_nothing_is_drawn_where_no_coil_sees() -> None:
    """Maps that are zero in a corner leave it to the prior, which would fill it with tissue."""
    scan = undersampled()
    model, _ = noise_model(scan)
    maps = np.einsum("cv,vrk->crk", model.unwhitening, calibrate(scan, 0, model).coil_maps)
    maps[:, 30:, 30:] = 0
    (posterior,) = posteriors(replace(scan, coil_maps=maps[None].astype(np.complex64)))
    for image in (posterior.mean, *posterior.samples, posterior.coarse, *posterior.quantiles):
        assert not image[30:, 30:].any()
        assert np.abs(image[:30, :30]).max() > 0
    assert not posterior.magnitude_std[30:, 30:].any()


@pytest.mark.parametrize(("millimetres", "said"), [(0.9, False), (1.7, True)])
def test_large_pixels_are_named(millimetres: float, said: bool) -> None:
    scan = undersampled()
    view = (SIZE * millimetres, SIZE * millimetres, 5.0)
    scan = replace(scan, geometry=replace(scan.geometry, field_of_view_mm=view))
    (posterior,) = posteriors(scan)
    assert any("1.70 x 1.70 mm" in text for text in posterior.warnings) == said
