"""What every volume must become, and which are no MR images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from recon.errors import ScanError
from service.images.volumes import ImageSettings, Volume, first_identity, standardised
from tests.service.image_sources import blob

SETTINGS = ImageSettings()
VOLUME = Volume(blob(), (1.0, 1.0), "p")


def refusal(volume: Volume) -> str:
    with pytest.raises(ScanError) as caught:
        standardised(volume, SETTINGS)
    return caught.value.code


@pytest.mark.parametrize("factor", [1e-7, 1, 4000, 300j])
def test_the_scale_does_not_matter(factor):
    images = standardised(replace(VOLUME, images=factor * VOLUME.images), SETTINGS).images
    assert images.dtype == (np.complex64 if isinstance(factor, complex) else np.float16)
    assert np.percentile(np.abs(images).astype(float), 99) == pytest.approx(1, rel=2e-3)
    expected = VOLUME.images / np.percentile(VOLUME.images, 99)
    np.testing.assert_allclose(np.abs(images), expected, rtol=2e-3, atol=1e-6)


def test_slices_without_tissue_are_left_out_with_a_note():
    images = VOLUME.images.copy()
    images[[0, 2]] = 0
    images[2, :3, :3] = 1
    done = standardised(replace(VOLUME, images=images), SETTINGS)
    assert len(done.images) == 2
    assert done.notes == ("2 nearly empty slices left out",)


def disc(rows_mm: float, columns_mm: float) -> np.ndarray:
    """A disc of 50 mm radius whose centre lies 10 mm below and 5 mm left of a 130 mm square's."""
    y = (np.arange(round(130 / rows_mm)) + 0.5) * rows_mm - 75
    x = (np.arange(round(130 / columns_mm)) + 0.5) * columns_mm - 60
    inside = np.hypot(y[:, None], x[None, :]) < 50
    texture = 1 + 0.1 * np.sin(y[:, None] / 15) * np.cos(x[None, :] / 10)
    return (inside * texture)[np.newaxis]


@pytest.mark.parametrize("pixel_mm", [(0.8, 1.3), (1.3, 0.8), (0.4, 0.4), (0.3, 1.0)])
@pytest.mark.parametrize("factor", [1, np.exp(2j)])
def test_round_things_stay_round_and_where_they_are(pixel_mm, factor):
    volume = Volume(factor * disc(*pixel_mm), pixel_mm, "p")
    done = standardised(volume, SETTINGS)
    assert done.pixel_mm == pytest.approx((max(min(pixel_mm), 0.6),) * 2, rel=0.01)
    assert "resampled" in done.notes[0]
    inside = np.abs(done.images[0]) > 0.5
    area = np.count_nonzero(inside) * done.pixel_mm[0] * done.pixel_mm[1]
    assert area == pytest.approx(np.pi * 50**2, rel=0.02)
    for axis, place in ((0, 75), (1, 60)):
        lines = np.flatnonzero(inside.any(axis=1 - axis)) + 0.5
        assert lines.mean() * done.pixel_mm[axis] == pytest.approx(place, abs=0.7)
        assert np.ptp(lines) * done.pixel_mm[axis] == pytest.approx(100, abs=2.6)
    if isinstance(factor, complex):
        np.testing.assert_allclose(np.angle(done.images[0][inside]), 2, atol=1e-3)


@pytest.mark.parametrize("pixel_mm", [(1.0, 1.0), (0.6, 0.6), (1.4, 1.4), (1.0, 1.01), None])
def test_pixels_in_the_range_are_kept_as_they_are(pixel_mm):
    done = standardised(replace(VOLUME, pixel_mm=pixel_mm), SETTINGS)
    assert done.images.shape == VOLUME.images.shape
    assert done.pixel_mm == pixel_mm


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"pixel_mm": (1.0, 1.5)}, "pixels-too-coarse"),
        ({"images": VOLUME.images - 0.2}, "negative-values"),
        ({"images": np.round(3 * VOLUME.images)}, "few-values"),
        ({"images": 0 * VOLUME.images}, "empty-images"),
        ({"images": np.where(VOLUME.images > 0.999, np.nan, VOLUME.images)}, "not-finite"),
        ({"images": 1e300 * VOLUME.images}, "not-finite"),
        ({"images": VOLUME.images + 1e5 * (VOLUME.images == VOLUME.images.max())}, "outlier"),
        ({"images": VOLUME.images[:, :60]}, "matrix-size"),
        ({"images": np.tile(VOLUME.images, (1, 1, 15))}, "matrix-size"),
    ],
)
def test_what_would_teach_a_prior_wrong_is_refused(change, code):
    assert refusal(replace(VOLUME, **change)) == code


def test_small_negative_values_of_an_interpolation_are_taken_as_zero():
    images = np.where(VOLUME.images == 0, -0.01, VOLUME.images)
    assert standardised(replace(VOLUME, images=images), SETTINGS).images.min() == 0


@pytest.mark.parametrize(
    ("names", "chosen"),
    [((None, "", " ", "a"), "a"), (("Anonymous", "b"), "b"), (("0", None), None), ((" c ",), "c")],
)
def test_a_placeholder_is_no_identity(names, chosen):
    assert first_identity(*names) == chosen


def test_detail_that_coarser_pixels_cannot_hold_is_no_pattern_in_them():
    fine = disc(0.3, 0.3)
    stripes = fine * (1 + 0.3 * np.cos(2 * np.pi / 3 * np.arange(fine.shape[1])[:, None]))
    plain, striped = (
        standardised(Volume(images, (0.3, 0.3), "p"), SETTINGS).images[0, 80:170, 70:130]
        for images in (fine, stripes)
    )
    assert np.ptp(striped / plain) < 0.15  # 0.6 before
