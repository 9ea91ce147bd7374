"""Networks that denoise the centre of k-space."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.denoiser import precondition
from models.network_configs import ResidualUNetConfig
from models.reduction import resized
from models.residual_unet import ResidualUNet

SIDES = st.integers(1, 40)


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(2, 2, *shape, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_what_was_filled_with_zeros_is_cut_out_again(
    rows: int, columns: int, more_rows: int, more_columns: int
) -> None:
    image = images(rows, columns)
    larger = resized(image, (rows + more_rows, columns + more_columns))
    torch.testing.assert_close(resized(larger, (rows, columns)), image, rtol=0, atol=1e-5)


@settings(deadline=None)
@given(SIDES, SIDES, SIDES, SIDES)
def test_cutting_is_the_adjoint_of_filling(
    rows: int, columns: int, other_rows: int, other_columns: int
) -> None:
    """Up to the number of pixels, as values keep their size."""
    first, second = images(rows, columns), images(other_rows, other_columns, seed=1)
    there = (resized(first, (other_rows, other_columns)) * second).mean()
    back = (first * resized(second, (rows, columns))).mean()
    assert float(there) == pytest.approx(float(back), abs=1e-5)


def test_a_constant_and_a_slow_wave_keep_their_values() -> None:
    row = torch.arange(48)[:, None] / 48
    wave = torch.stack([1 + torch.cos(2 * math.pi * row), torch.sin(2 * math.pi * row)])
    wave = wave.expand(2, 48, 36)[None]
    torch.testing.assert_close(resized(wave, (12, 9)), wave[:, :, ::4, ::4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(64, 48), (57, 45)])
def test_the_denoiser_is_that_of_smaller_images(shape: tuple[int, int]) -> None:
    """D(x; sigma) = U D_small(P x; sigma'): sigma' is the std that the noise of P x has."""
    torch.manual_seed(3)
    network = ResidualUNet(ResidualUNetConfig(channels=(8, 12), blocks=1, reduction=4))
    small = ResidualUNet(ResidualUNetConfig(channels=(8, 12), blocks=1))
    small.load_state_dict(network.state_dict())
    smaller = (-(-shape[0] // 4), -(-shape[1] // 4))
    left = float(resized(torch.randn(200, 2, *shape), smaller).std())
    sigma, noisy = torch.tensor([0.5, 20.0]), images(*shape)
    with torch.no_grad():
        found = precondition(network, noisy, sigma)
        ratio = math.sqrt(math.prod(smaller) / math.prod(shape))
        expected = precondition(small, resized(noisy, smaller), ratio * sigma)
    assert left == pytest.approx(ratio, rel=0.02)
    torch.testing.assert_close(found, resized(expected, shape), rtol=0, atol=1e-5)
