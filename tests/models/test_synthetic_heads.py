from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.synthetic_heads import SyntheticHeads

WHITE, WHITE_RIGHT, CORTEX, FLUID, SOFT = 2, 41, 3, 24, 507


def head(size: int = 96) -> NDArray[np.int32]:
    """Shells round the middle: soft tissue, fluid, cortex, white matter, its halves told apart."""
    place = np.indices((size,) * 3) - (size - 1) / 2
    radius = np.sqrt((place**2).sum(0))
    labels = np.zeros((size,) * 3, np.int32)
    for outer, label in ((46, SOFT), (38, FLUID), (34, CORTEX), (26, WHITE)):
        labels[radius < outer] = label
    labels[(labels == WHITE) & (place[0] > 0)] = WHITE_RIGHT
    return labels


@pytest.fixture(scope="module")
def heads() -> SyntheticHeads:
    return SyntheticHeads([head()])


def drawn(heads: SyntheticHeads, count: int) -> list[NDArray[np.float32]]:
    return [heads.draw(96, np.random.default_rng(seed)) for seed in range(count)]


def test_a_seed_decides_the_image(heads: SyntheticHeads) -> None:
    first, again, other = (heads.draw(96, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_images_are_scaled_filled_and_dark_in_air(heads: SyntheticHeads) -> None:
    for image in drawn(heads, 20):
        assert image.shape == (96, 96)
        assert image.dtype == np.float32
        inside = image[image > 0.02 * image.max()]
        assert inside.size > 0.02 * image.size
        assert 0.8 < np.percentile(inside, 99) < 1.2
        assert image.min() >= 0
    corners = [image[0, 0] for image in drawn(heads, 40)]
    assert np.median(corners) == 0


def test_contrast_is_random_and_both_halves_of_a_brain_look_alike(heads: SyntheticHeads) -> None:
    looks = [heads._look(np.random.default_rng(seed))["own"] for seed in range(200)]
    index = {int(label): place for place, label in enumerate(heads.labels)}
    white = np.array([look[index[WHITE]] for look in looks])
    cortex = np.array([look[index[CORTEX]] for look in looks])
    np.testing.assert_array_equal(white, [look[index[WHITE_RIGHT]] for look in looks])
    assert 0.3 < (white > cortex).mean() < 0.7
    assert abs(np.corrcoef(white, cortex)[0, 1]) < 0.3
    assert all(look[index[0]] == 0 for look in looks)


def test_planes_lie_in_all_directions() -> None:
    """A volume whose three axes are told apart by stripes shows all of them."""
    labels = np.zeros((90, 90, 90), np.int32)
    labels[5:85, 5:85, 5:85] = CORTEX
    labels[5:85, 5:85, 5:85][::8] = FLUID
    striped = 0
    for seed in range(12):
        image = SyntheticHeads([labels]).draw(90, np.random.default_rng(seed))
        inside = image > 0.05
        # Cut across the stripes an image has strong edges, along them hardly any.
        edges = np.abs(np.diff(image, axis=0))[inside[1:]].mean()
        edges += np.abs(np.diff(image, axis=1))[inside[:, 1:]].mean()
        striped += edges > 0.06
    assert 2 < striped < 12


def test_numbers_without_kin_and_volumes_of_other_sizes_are_drawn_too() -> None:
    one, other = head(64), head(80)[:, :70]
    heads = SyntheticHeads([np.where(one == CORTEX, 9001, one), other])
    assert all(np.isfinite(image).all() and image.max() > 0.5 for image in drawn(heads, 6))
