"""A batch that does not fit is taken in parts, and comes out as if it had fitted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.memory_fitting import FittingParts

IMAGES = torch.randn(7, 2, 16, 16, generator=torch.Generator().manual_seed(0))
LEVELS = torch.arange(7.0)


class Recorder:
    """A function of images that runs out of memory beyond `most` of them."""

    def __init__(self, most: int = 99, error: type[Exception] = torch.OutOfMemoryError) -> None:
        self.network = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1))
        self.most, self.error = most, error
        self.sizes: list[int] = []

    def __call__(self, images: Tensor, levels: Tensor) -> Tensor:
        self.sizes.append(len(images))
        if len(images) > self.most:
            raise self.error("DefaultCPUAllocator: can't allocate memory")
        with torch.no_grad():
            result: Tensor = self.network(images) + levels.view(-1, 1, 1, 1)
        return result

    @property
    def expected(self) -> Tensor:
        with torch.no_grad():
            result: Tensor = self.network(IMAGES) + LEVELS.view(-1, 1, 1, 1)
        return result


ONE = 2 * 4 * (4 + 2) * 16 * 16
"""Twice the bytes that both layers put out for an image."""


@pytest.mark.parametrize(("free", "parts"), [(100 * ONE, [7]), (6 * ONE, [3, 3, 1]), (0, [1] * 7)])
def test_parts_are_as_large_as_half_of_the_free_memory(free: int, parts: list[int]) -> None:
    function = Recorder()
    found = FittingParts(function.network, lambda _device: free).run(function, IMAGES, LEVELS)
    assert function.sizes == [1, *parts]  # the first one counts
    assert torch.allclose(found, function.expected, atol=1e-5)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
def test_out_of_memory_halves_the_batch_and_is_remembered(error: type[Exception]) -> None:
    function = Recorder(2, error)
    batches = FittingParts(function.network, lambda _device: 1 << 40)
    found = batches.run(function, IMAGES, LEVELS)
    assert function.sizes == [1, 7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert torch.allclose(found, function.expected, atol=1e-5)
    function.sizes.clear()
    batches.run(function, IMAGES, LEVELS)
    assert function.sizes == [1] * 7


def test_an_image_that_alone_does_not_fit_is_an_error() -> None:
    function = Recorder(0)
    with pytest.raises(torch.OutOfMemoryError):
        FittingParts(function.network).run(function, IMAGES[:1], LEVELS[:1])


def test_one_image_that_does_not_fit_is_the_same_error_after_larger_batches() -> None:
    function = Recorder(3)
    batches = FittingParts(function.network, lambda _device: 1 << 40)
    batches.run(function, IMAGES, LEVELS)
    function.most = 0
    with pytest.raises(torch.OutOfMemoryError):
        batches.run(function, IMAGES[:1], LEVELS[:1])


def test_other_errors_are_not_taken_for_it() -> None:
    function = Recorder(2, ValueError)
    with pytest.raises(ValueError, match="allocate"):
        FittingParts(function.network, lambda _device: 1 << 40).run(function, IMAGES, LEVELS)
    assert function.sizes == [1, 7]
