from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from models.augment import (
    complex_patches,
    random_contrast,
    random_patches,
    random_phase,
    receiver_noise,
)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def slices() -> Tensor:
    row, column = torch.meshgrid(torch.arange(48.0), torch.arange(40.0), indexing="ij")
    disc = ((row - 24) ** 2 + (column - 20) ** 2 < 16**2).float()
    return torch.stack([disc * (0.5 + row / 96), disc * (0.5 + column / 80)])


def test_one_seed_gives_one_batch(slices: Tensor) -> None:
    first = complex_patches(slices, 32, seeded(3))
    assert torch.equal(first, complex_patches(slices, 32, seeded(3)))
    assert not torch.equal(first, complex_patches(slices, 32, seeded(4)))
    assert first.shape == (2, 32, 32)
    assert first.dtype == torch.complex64


def test_global_random_state_is_neither_read_nor_changed(slices: Tensor) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = complex_patches(slices, 32, seeded(3))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, complex_patches(slices, 32, seeded(3)))


@pytest.mark.parametrize("seed", range(8))
def test_patches_stay_in_the_range_of_the_slices(slices: Tensor, seed: int) -> None:
    patches = random_patches(slices, 32, seeded(seed))
    assert patches.shape == (2, 32, 32)
    assert patches.min() >= 0
    assert patches.max() <= 1.25 * slices.max()  # bicubic interpolation overshoots at edges
    assert patches.mean() > 0.05


def test_contrast_keeps_background_black_and_order_of_intensities(slices: Tensor) -> None:
    changed = random_contrast(slices, seeded())
    assert torch.equal(changed == 0, slices == 0)
    for before, after in zip(slices, changed, strict=True):
        order = before.flatten().argsort()
        assert after.flatten()[order].diff().min() >= -1e-6


def test_phase_leaves_the_magnitude_alone(slices: Tensor) -> None:
    torch.testing.assert_close(random_phase(slices, seeded()).abs(), slices, rtol=1e-5, atol=1e-6)


def test_phase_is_smooth_and_not_constant() -> None:
    image = random_phase(torch.ones(16, 128, 128), seeded())
    for axis in (1, 2):
        step = (image * image.roll(1, axis).conj()).narrow(axis, 1, 127).angle().abs()
        assert step.max() < 0.4
        assert step.mean() < 0.05
    spread = 1 - image.mean(dim=(1, 2)).abs()
    assert spread.median() > 0.02


def test_receiver_noise_is_small_white_and_sometimes_absent() -> None:
    image = torch.zeros(400, 32, 32, dtype=torch.complex64)
    noise = torch.view_as_real(receiver_noise(image, seeded()))
    levels = noise.std(dim=(1, 2, 3))
    noisy = levels > 0
    # Binomial(400, 0.35) has a standard deviation of 9.5.
    assert abs(int(noisy.sum()) - 140) < 4 * 9.5
    assert levels[noisy].min() > 0.002 * 0.9
    assert levels[noisy].max() < 0.015 * 1.1
