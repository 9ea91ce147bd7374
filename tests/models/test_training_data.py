from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.errors import ModelError
from models.synthetic_heads import SyntheticHeads
from models.training_data import MAX_SIDE, BatchStream, ImageFile, Mixture, SliceSet


def write(path: Path, images: NDArray) -> ImageFile:
    with h5py.File(path, "w") as file:
        file["images"] = images
    return ImageFile(path)


@pytest.fixture
def discs(tmp_path: Path) -> list[ImageFile]:
    generator = np.random.default_rng(0)
    row, column = np.mgrid[:32, :32]
    disc = (row - 16) ** 2 + (column - 16) ** 2 < 12**2
    files = []
    for name, count in (("a", 5), ("b", 2)):
        noise = generator.integers(500, 1000, (count, 32, 32))
        files.append(write(tmp_path / f"{name}.h5", (disc * noise).astype(np.uint16)))
    return files


def test_a_batch_depends_on_seed_and_step_alone(discs: list[ImageFile]) -> None:
    slices = SliceSet(discs)
    stream = BatchStream(slices, [3, 3, 4], (7, 0))
    later = stream[2]
    assert later.shape == (4, 1, 32, 32)
    assert torch.equal(BatchStream(slices, [1, 1, 4], (7, 0))[2], later)
    assert not torch.equal(BatchStream(slices, [3, 3, 4], (7, 1))[2], later)
    assert not torch.equal(stream[0], stream[1])


def test_slices_are_scaled_by_their_99th_percentile(discs: list[ImageFile]) -> None:
    drawn = BatchStream(SliceSet(discs), [20], (0,))[0].float()
    top = torch.quantile(drawn.flatten(1), 0.99, dim=1)
    torch.testing.assert_close(top, torch.ones(20), rtol=0.02, atol=0)


def test_a_nearly_empty_slice_is_not_blown_up(tmp_path: Path) -> None:
    images = np.zeros((2, 20, 20), np.float32)
    images[0] = 1000
    images[1, 3, 3] = 10
    assert abs(SliceSet([write(tmp_path / "a.h5", images)]).slice(0, 1)).max() < 5


def test_small_files_are_heard(discs: list[ImageFile]) -> None:
    weights = BatchStream(SliceSet(discs), [1], (0,)).weights
    np.testing.assert_allclose(weights[0] / weights[1], 2.5**0.5)


def test_complex_slices_travel_as_two_channels_and_real_ones_with_them(tmp_path: Path) -> None:
    ramp = np.linspace(0.1, 1, 30 * 20).reshape(1, 30, 20)
    files = [
        write(tmp_path / "a.h5", (ramp * np.exp(0.5j)).astype(np.complex64)),
        write(tmp_path / "b.h5", ramp.astype(np.float32)),
    ]
    batch = BatchStream(SliceSet(files), [16], (0,))[0].float()
    assert batch.shape == (16, 2, 30, 30)
    turned = batch[:, 1].abs().sum((1, 2)) > 0
    assert 0 < turned.sum() < 16
    # Twenty columns in the middle of thirty.
    assert (batch[..., :5] == 0).all()
    assert (batch[..., 25:] == 0).all()
    angle = torch.atan2(batch[turned][:, 1, :, 5:25], batch[turned][:, 0, :, 5:25])
    torch.testing.assert_close(angle, torch.full_like(angle, 0.5), rtol=0, atol=0.02)


def test_large_slices_are_cropped_at_random(tmp_path: Path) -> None:
    side = MAX_SIDE + 40
    images = np.broadcast_to(np.linspace(0.5, 1, side, dtype=np.float32), (1, side, side))
    stream = BatchStream(SliceSet([write(tmp_path / "a.h5", images)]), [1] * 6, (0,))
    firsts = {float(stream[step][0, 0, 0, 0]) for step in range(6)}
    assert stream[0].shape == (1, 1, MAX_SIDE, MAX_SIDE)
    assert len(firsts) > 1


def test_only_the_chosen_slices_are_read(tmp_path: Path) -> None:
    images = np.arange(1, 6, dtype=np.float32)[:, None, None] * np.ones((1, 8, 8), np.float32)
    file = write(tmp_path / "a.h5", images)
    chosen = SliceSet([ImageFile(file.path, (3, 1))])
    assert len(chosen) == 2
    assert [float(image[0, 0, 0]) for image in chosen.images[0][:, None]] == [2, 4]


def test_validation_slices_are_spread_over_all_files(discs: list[ImageFile]) -> None:
    slices = SliceSet(discs)
    assert len(slices.evenly(100)) == 7
    first, last = slices.evenly(2)
    np.testing.assert_array_equal(first, slices.slice(0, 0).astype(np.complex64))
    np.testing.assert_array_equal(last, slices.slice(1, 1).astype(np.complex64))


@pytest.mark.parametrize("images", [np.zeros((4, 4)), np.zeros((0, 4, 4)), np.array(["a"], "S3")])
def test_a_file_without_slices_is_named(tmp_path: Path, images: NDArray) -> None:
    with pytest.raises(ModelError, match=r"a\.h5 must hold"):
        SliceSet([write(tmp_path / "a.h5", images)])


def test_files_are_drawn_in_proportion_to_their_weights(discs: list[ImageFile]) -> None:
    weighted = [replace(discs[0], weight=1.0), replace(discs[1], weight=3.0)]
    batch = BatchStream(SliceSet(weighted), [1], (0,))
    np.testing.assert_allclose(batch.weights, [0.25, 0.75])


def test_coarsened_slices_keep_field_of_view_and_intensity(discs: list[ImageFile]) -> None:
    slices = SliceSet(discs)
    mixture = Mixture(coarsened=1.0, largest_pixel=2.0)
    coarse = BatchStream(slices, [40], (0,), mixture)[0][:, 0].float()
    sides = torch.stack([(image > 0.3).any(0).sum() for image in coarse]).float()
    # The disc of 24 pixels takes 12 to 24 of larger ones.
    assert 11 <= sides.min() < 15
    assert 20 < sides.max() <= 25
    inside = coarse[:, 14:18, 14:18].mean()
    plain = BatchStream(slices, [40], (0,))[0][:, 0].float()[:, 14:18, 14:18].mean()
    assert abs(inside / plain - 1) < 0.05


def test_synthetic_heads_take_their_share(discs: list[ImageFile]) -> None:
    class Marked(SyntheticHeads):
        def __init__(self) -> None:
            pass

        def draw(self, side: int, random: np.random.Generator) -> NDArray[np.float32]:
            return np.full((side, side), 7 + random.random(), np.float32)

    batch = BatchStream(SliceSet(discs), [400], (0,), Mixture(Marked(), synthetic=0.3))[0]
    share = (batch[:, 0, 0, 0] > 6).float().mean()
    assert 0.2 < share < 0.4


def _with_measured(path: Path, images: NDArray, measured: NDArray) -> ImageFile:
    with h5py.File(path, "w") as file:
        file["images"], file["measured"] = images, measured
    return ImageFile(path)


def _lines(generator: np.random.Generator, rows: int, columns: int) -> NDArray[np.bool_]:
    return np.broadcast_to(generator.random(columns) < 0.4, (rows, columns))


def test_what_was_measured_comes_with_the_images(tmp_path: Path) -> None:
    """As samples of the canvas on which the image stands; whole for files that do not say."""
    generator = np.random.default_rng(2)
    known = _lines(generator, 24, 32)
    images = np.ones((1, 24, 32), np.complex64)
    files = [
        _with_measured(tmp_path / "known.h5", images, known[None]),
        write(tmp_path / "unknown.h5", 2j * np.ones((1, 32, 32), np.complex64)),
    ]
    slices = SliceSet(files)
    assert slices.channels == 3
    for canvas in BatchStream(slices, [20], (0,))[0]:
        of_known = bool(canvas[0].any())
        expected = np.broadcast_to(known[:1], (32, 32)) if of_known else np.ones((32, 32))
        np.testing.assert_array_equal(canvas[2], expected)
    assert SliceSet(files[1:]).channels == 2


@pytest.mark.parametrize("side", [32, 33])
def test_larger_pixels_keep_the_centre_of_what_was_measured(tmp_path: Path, side: int) -> None:
    """An image without signal outside it is one without signal outside what is left of it."""
    generator = np.random.default_rng(3)
    known = _lines(generator, side, side)
    parts = generator.standard_normal((2, side, side))
    kspace = np.fft.ifftshift((parts[0] + 1j * parts[1]) * known)
    image = np.fft.fftshift(np.fft.ifft2(kspace)).astype(np.complex64)
    slices = SliceSet([_with_measured(tmp_path / "a.h5", image[None], known[None])])
    stream = BatchStream(slices, [6], (1,), Mixture(coarsened=1.0, largest_pixel=2.0))
    for canvas in stream[0].double().numpy():
        picture = canvas[0] + 1j * canvas[1]
        inside = np.abs(picture) > 0
        rows, columns = (np.flatnonzero(inside.any(axis=axis)) for axis in (1, 0))
        small = picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        power = np.abs(np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(small)))) ** 2
        frequency = (np.arange(len(small)) - len(small) // 2) / len(small)
        nearest = np.clip(np.round(frequency * side).astype(int) + side // 2, 0, side - 1)
        seen = canvas[2][:, nearest][nearest]
        assert 0.1 < seen.mean() < 0.9
        assert (power * (seen == 0)).sum() < 0.001 * power.sum()


@pytest.mark.parametrize(
    ("images", "measured"),
    [
        (np.ones((2, 8, 8), np.complex64), np.ones((2, 8, 8), np.float32)),
        (np.ones((2, 8, 8), np.complex64), np.ones((2, 8, 9), bool)),
        (np.ones((2, 8, 8), np.float32), np.ones((2, 8, 8), bool)),
    ],
)
def test_what_was_measured_must_fit(tmp_path: Path, images: NDArray, measured: NDArray) -> None:
    with pytest.raises(ModelError, match=r"'measured' of a\.h5 must be boolean"):
        SliceSet([_with_measured(tmp_path / "a.h5", images, measured)])
