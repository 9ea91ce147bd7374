from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from models.augment import (
    Augmentation,
    complex_patches,
    random_contrast,
    random_patches,
    random_phase,
    receiver_noise,
    tissue_phase,
    uneven_kspace,
)

ALL = Augmentation()
NOTHING = Augmentation(
    flips=False,
    resampled=0,
    gamma=0,
    intensity=0,
    tissue=0,
    shading=0,
    phase=0,
    tissue_phase=0,
    asymmetry=0,
    noisy=0,
)


def seeded(seed: int = 0) -> Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def slices() -> Tensor:
    row, column = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    disc = ((row - 24) ** 2 + (column - 20) ** 2 < 16**2).float()
    return torch.stack([disc * (0.5 + row / 96), disc * (0.5 + column / 80)])[:, None]


def changed(**options: float) -> Augmentation:
    return Augmentation.model_validate({**NOTHING.model_dump(), **options})


def test_one_seed_gives_one_batch(slices: Tensor) -> None:
    first = complex_patches(slices, 32, ALL, seeded(3)).images
    assert torch.equal(first, complex_patches(slices, 32, ALL, seeded(3)).images)
    assert not torch.equal(first, complex_patches(slices, 32, ALL, seeded(4)).images)
    assert first.shape == (2, 32, 32)
    assert first.dtype == torch.complex64


def test_global_random_state_is_neither_read_nor_changed(slices: Tensor) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = complex_patches(slices, 32, ALL, seeded(3)).images
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, complex_patches(slices, 32, ALL, seeded(3)).images)


@pytest.mark.parametrize("size", [16, 17, 32, 47, 48])
def test_patches_on_the_grid_are_pixels_of_the_slice_that_turn_and_flip_only(size: int) -> None:
    # Every pixel has a value of its own, so that each patch says where it was cut.
    slices = torch.arange(48.0 * 48).view(1, 1, 48, 48).expand(12, 1, 48, 48) + 1
    patches = random_patches(slices, size, changed(flips=1), seeded(1))[0][:, 0]
    orientations = set()
    for patch in patches:
        values = patch.round()
        inside = values > 0
        torch.testing.assert_close(patch[inside], values[inside], rtol=1e-4, atol=0.02)
        assert values[inside].unique().numel() == inside.sum()
        orientations.add(int(values.diff(dim=1).median()))
    # Along rows or columns, forwards or backwards.
    assert orientations == {1, -1, 48, -48}


def test_resampled_patches_stay_in_the_range_of_the_slices(slices: Tensor) -> None:
    for seed in range(8):
        patches, _ = random_patches(slices, 32, changed(resampled=1), seeded(seed))
        assert patches.shape == (2, 1, 32, 32)
        assert patches.max() <= 1.25 * slices.max()  # bicubic interpolation overshoots at edges
        assert patches.mean() > 0.05


def test_zoom_changes_the_size_of_things(slices: Tensor) -> None:
    wide = slices[:1].expand(60, 1, 48, 48)
    patches, _ = random_patches(wide, 48, changed(resampled=1, zoom=1.4), seeded())
    area = (patches > 0.3).sum((1, 2, 3))
    original = (slices[0] > 0.3).sum()
    # Areas go with the square of the zoom; the largest discs are cut by the patch's edge.
    assert (area / original).min() < 0.62
    assert (area / original).max() > 1.4


def test_gamma_and_intensity_keep_black_and_the_order_of_intensities(slices: Tensor) -> None:
    magnitude = slices[:, 0]
    after = magnitude * random_contrast(magnitude, changed(gamma=0.25, intensity=0.15), seeded())
    assert torch.equal(after == 0, magnitude == 0)
    for image, result in zip(magnitude, after, strict=True):
        order = image.flatten().argsort()
        assert result.flatten()[order].diff().min() >= -1e-6


def test_tissue_maps_turn_bright_tissue_dark_but_keep_air() -> None:
    ramp = torch.linspace(0, 1.2, 200).view(1, 1, 200).expand(50, 1, 200)
    after = ramp * random_contrast(ramp, changed(tissue=1), seeded())
    assert (after[:, 0, 0] == 0).all()
    assert (after >= 0).all()
    assert after.max() <= 1.1 + 1e-6
    # A map without a descent has probability 1/720 for six knots.
    assert ((after.diff(dim=2) < 0).any(dim=2)).float().mean() > 0.9
    steepest = 1.1 / 0.25 * (1.2 / 199)
    assert after.diff(dim=2).abs().max() < 1.01 * steepest


def test_the_phase_is_smooth_and_not_constant() -> None:
    phase = random_phase(torch.ones(16, 128, 128), ALL, seeded())
    image = torch.polar(torch.ones_like(phase), phase)
    for axis in (1, 2):
        step = (image * image.roll(1, axis).conj()).narrow(axis, 1, 127).angle().abs()
        assert step.max() < 0.4
        assert step.mean() < 0.05
    spread = 1 - image.mean(dim=(1, 2)).abs()
    assert spread.median() > 0.02


def test_without_strength_only_a_constant_phase_remains() -> None:
    phase = random_phase(torch.ones(64, 16, 16), NOTHING, seeded())
    assert (phase == phase[:, :1, :1]).all()
    assert phase[:, 0, 0].std() > 1.4  # uniform over a circle: 1.81


def test_tissues_have_phases_of_their_own_that_a_smooth_phase_has_not() -> None:
    bright = torch.zeros(32, 128, 128)
    bright[:, :, 48:] = 0.25
    bright[:, :, 80:] = 0.9
    own = tissue_phase(bright, changed(tissue_phase=1), seeded())
    smooth = random_phase(bright, ALL, seeded())
    for column in (48, 80):
        edge, beside = (own[:, :, k] - own[:, :, k - 1] for k in (column, column - 10))
        assert edge.std() > 5 * beside.std()
        step = smooth[:, :, column] - smooth[:, :, column - 1]
        assert edge.std() > 5 * step.std()
    # Small places of a sharp phase, few of them.
    flat = tissue_phase(torch.full((64, 128, 128), 0.5), changed(tissue_phase=1), seeded(1))
    steps = flat.diff(dim=2).abs()
    assert 0.001 < (steps > 0.1).float().mean() < 0.1
    flat = torch.full((4, 1, 64, 64), 0.5)
    images = complex_patches(flat, 32, changed(tissue_phase=1), seeded()).images
    torch.testing.assert_close(images.abs(), torch.full((4, 32, 32), 0.5))


def test_uneven_kspace_weighs_frequencies_by_a_sine_and_knows_no_edge() -> None:
    place = torch.arange(64.0)
    wave = torch.polar(torch.ones(64), 2 * torch.pi * 5 / 64 * place)
    along = wave.expand(200, 64, 64)
    after = uneven_kspace(along, changed(asymmetry=0.5), seeded())
    inside = (after / along)[:, 1:-1, 1:-1]
    weight = inside.mean(dim=(1, 2))
    torch.testing.assert_close(inside, weight[:, None, None].expand_as(inside))
    assert weight.imag.abs().max() < 1e-5
    sines = (weight.real - 1) / torch.tensor(2 * torch.pi * 5 / 64).sin()
    # U(0, 0.5) times N(0, 1): a mean square of 1/12.
    assert abs(float(sines.square().mean()) - 1 / 12) < 0.04
    flat = torch.full((8, 16, 16), 0.3 + 0.4j)
    torch.testing.assert_close(uneven_kspace(flat, changed(asymmetry=0.5), seeded()), flat)


def test_receiver_noise_is_white_and_sometimes_absent() -> None:
    image = torch.zeros(400, 32, 32, dtype=torch.complex64)
    options = changed(noisy=0.35, noise=0.015)
    noise = torch.view_as_real(receiver_noise(image, options, seeded()))
    levels = noise.std(dim=(1, 2, 3))
    noisy = levels > 0
    # Binomial(400, 0.35) has a standard deviation of 9.5.
    assert abs(int(noisy.sum()) - 140) < 4 * 9.5
    assert levels[noisy].min() > 0.001 * 0.9
    assert levels[noisy].max() < 0.015 * 1.1


def test_complex_slices_keep_their_own_phase(slices: Tensor) -> None:
    own = torch.linspace(0, 3, 48).expand(2, 48, 48)
    image = torch.polar(slices[:, 0], own)
    channels = torch.stack([image.real, image.imag], 1)
    patches = complex_patches(channels, 48, NOTHING, seeded()).images
    real = complex_patches(slices, 48, NOTHING, seeded()).images
    torch.testing.assert_close(patches.abs(), real.abs(), rtol=0, atol=1e-4)
    middle = (slice(None), 24, slice(10, 30))
    slope = (patches[middle] / real[middle]).angle()
    expected = torch.linspace(0, 3, 48)[10:30].expand(2, 20)
    shift = (slope - expected)[:, :1]
    torch.testing.assert_close(slope - expected, shift.expand(2, 20), rtol=0, atol=1e-3)


def _spectra(images: Tensor) -> Tensor:
    return torch.fft.fftshift(torch.fft.fft2(torch.fft.ifftshift(images, dim=(1, 2))), dim=(1, 2))


@pytest.mark.parametrize("size", [32, 33])
def test_what_was_measured_turns_and_flips_with_the_image(size: int) -> None:
    """An image whose k-space is empty wherever nothing was measured stays one."""
    random = seeded(5)
    measured = torch.rand(40, size, size, generator=random) < 0.3
    parts = torch.randn(40, size, size, 2, generator=random)
    kspace = torch.fft.ifftshift(torch.view_as_complex(parts) * measured, dim=(1, 2))
    images = torch.fft.fftshift(torch.fft.ifft2(kspace), dim=(1, 2))
    channels = torch.stack([images.real, images.imag, measured.float()], 1)
    found = complex_patches(channels, size, changed(flips=1), seeded(6))
    assert found.measured is not None
    whole = _unmoved(found.images)
    power = _spectra(found.images[whole]).abs().square()
    inside = (power * found.measured[whole]).sum() / power.sum()
    assert len(power) > 3
    assert inside > 0.999


def _unmoved(images: Tensor) -> Tensor:
    """Which patches are whole: those without a line of air at their edges."""
    lines = [images[:, 0], images[:, -1], images[:, :, 0], images[:, :, -1]]
    return torch.stack([line.abs().amax(dim=1) > 1e-3 for line in lines]).all(dim=0)
