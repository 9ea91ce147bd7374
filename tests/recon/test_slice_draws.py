from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.coarse import cg_sense, radial_spectrum
from recon.errors import ScanError
from recon.noise import NoiseStreams
from recon.operators import ifft2c
from recon.phantom import receive, receiver_maps
from recon.prior import StationaryPrior
from recon.scan import Scan
from recon.selfcheck import hold_out
from recon.settings import Settings
from recon.slice_draws import (
    SPREADS,
    coarse_image,
    draw_images,
    predict_held_out,
    slice_problem,
    slices_with_signal,
)
from recon.spectrum import ring_radii
from recon.undersampling import undersample, undersampling_mask

SHAPE = (32, 64)
RADII = ring_radii(max(SHAPE))
TRUE = StationaryPrior(RADII, tuple(5.0 / (1 + (r / 0.06) ** 3) for r in RADII))
ONE = Settings("fast", 1, fit_noise=False)
FOUR = replace(ONE, samples=4)


def scan(seed: int = 0, acceleration: float = 2.4, slices: int = 1) -> Scan:
    """Of images of the true spectrum."""
    noise = NoiseStreams.keyed(seed, "truth", range(slices))
    size = torch.Size(SHAPE)
    images = ifft2c(TRUE.spectrum(size).sqrt() * noise.normal(size))
    full = receive(images.numpy().astype(np.complex64), 4, 0.01, seed)
    # Images without edges would be taken for folded ones.
    maps = np.repeat(receiver_maps(4, *SHAPE)[None], slices, axis=0)
    full = replace(full, coil_maps=maps)
    mask = undersampling_mask(SHAPE, "random", acceleration, 12 / SHAPE[1], seed)
    return undersample(full, mask)


def powers(factor: float) -> StationaryPrior:
    return StationaryPrior(RADII, tuple(factor * power for power in TRUE.powers))


def test_held_out_lines_are_likeliest_under_the_prior_that_they_came_from() -> None:
    """And are as wide as it says; the units of a slice are those of its brightest pixels."""
    shown = scan()
    unit = slice_problem(shown, 0, ONE).noise_std / 0.01
    right, narrow, wide = (
        predict_held_out(shown, 0, powers(unit**2 * factor), FOUR) for factor in (1, 1 / 30, 30)
    )
    assert right is not None
    assert narrow is not None
    assert wide is not None
    assert max(right.log_densities) > max(narrow.log_densities) + 0.1
    assert max(right.log_densities) > max(wide.log_densities) + 0.1
    assert 0.8 < right.coverage_90 < 0.97
    assert 0.7 < SPREADS[np.argmax(right.log_densities)] < 1.4
    assert narrow.coverage_90 < 0.75


def test_a_prediction_has_not_seen_the_lines_that_it_is_held_to() -> None:
    """Other values there change how well it fits and nothing that it says."""
    shown = scan()
    lines = hold_out(shown.mask, ONE.seed)
    other = replace(shown, kspace=np.where(lines, -shown.kspace, shown.kspace))
    before, after = (predict_held_out(each, 0, TRUE, FOUR) for each in (shown, other))
    assert before is not None
    assert after is not None
    assert max(after.log_densities) < max(before.log_densities) - 1
    assert after.lines == before.lines == np.count_nonzero(lines[0])


def test_draws_are_in_the_units_of_priors_and_explain_what_was_measured() -> None:
    shown = scan()
    images = draw_images(shown, 0, TRUE, FOUR)
    assert images.shape == (8, *SHAPE)
    assert images.dtype == np.complex64
    assert 0.8 < np.percentile(np.abs(images), 99) < 1.25
    problem = slice_problem(shown, 0, FOUR)
    chi2 = problem.chi2(torch.from_numpy(images))
    assert ((chi2 > 0.7) & (chi2 < 1.4)).all()
    assert (images[0] != images[1]).any()
    np.testing.assert_array_equal(images, draw_images(shown, 0, TRUE, FOUR))


def test_the_coarse_image_is_in_the_units_of_priors_and_no_prior_was_asked() -> None:
    shown = scan()
    image = coarse_image(shown, 0, FOUR)
    assert image.shape == SHAPE
    assert np.percentile(np.abs(image), 99) == pytest.approx(1, abs=1e-4)
    problem = slice_problem(shown, 0, FOUR)
    expected = cg_sense(problem, radial_spectrum(problem)).numpy()
    np.testing.assert_allclose(image, expected, atol=0.02)


def test_too_few_lines_and_empty_slices_are_told() -> None:
    few = scan(acceleration=3.9)
    assert predict_held_out(few, 0, TRUE, ONE) is None
    two = scan(slices=2)
    empty = two.kspace.copy()
    random = np.random.default_rng(0).standard_normal((2, *empty[1].shape))
    empty[1] = 0.01 * two.mask * (random[0] + 1j * random[1])
    half = replace(two, kspace=empty)
    assert slices_with_signal(half, ONE) == (0,)
    with pytest.raises(ScanError, match="nothing but noise"):
        draw_images(half, 1, TRUE, ONE)
    with pytest.raises(ScanError, match="slice 2 of a scan with 2"):
        draw_images(two, 2, TRUE, ONE)
