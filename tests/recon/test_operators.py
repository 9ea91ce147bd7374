import fastmri
import numpy as np
import pytest
import sigpy.mri.linop
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recon.operators import CartesianSense, MeasurementOperator, fft2c, ifft2c
from tests.contracts import (
    assert_adjoint,
    assert_norm_at_most_one,
    assert_normal,
    assert_operator_laws,
    complex_normal,
    norm,
)

SHAPES = [(8, 8), (7, 9), (8, 5), (1, 6), (5, 1), (1, 1)]
DTYPES = [torch.complex64, torch.complex128]


def unit_maps(shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.complex64) -> Tensor:
    """Random maps (..., coils, rows, columns) with sum |S|^2 = 1."""
    maps = complex_normal(shape, seed, dtype)
    return maps / maps.abs().square().sum(dim=-3, keepdim=True).sqrt()


def random_mask(shape: tuple[int, int], seed: int) -> Tensor:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.6
    mask[shape[0] // 2, shape[1] // 2] = True
    return mask


def dft_matrix(size: int) -> Tensor:
    """The definition: exp(-2 pi i (k - c)(n - c) / N) / sqrt(N) with c = N // 2."""
    place = torch.arange(size, dtype=torch.float64) - size // 2
    return torch.exp(-2j * torch.pi * torch.outer(place, place) / size) / size**0.5


@settings(deadline=None, derandomize=True, max_examples=60)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    coils=st.integers(1, 4),
    batch=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 1000),
)
def test_laws(
    rows: int, columns: int, coils: int, batch: list[int], dtype: torch.dtype, seed: int
) -> None:
    operator = CartesianSense(
        unit_maps((coils, rows, columns), seed, dtype), random_mask((rows, columns), seed)
    )
    assert_operator_laws(operator, (*batch, rows, columns), seed, dtype)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    rows=st.integers(1, 7),
    columns=st.integers(1, 7),
    coils=st.integers(1, 3),
    slices=st.integers(1, 3),
    chains=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
def test_laws_with_maps_of_several_slices(
    rows: int, columns: int, coils: int, slices: int, chains: int, seed: int
) -> None:
    maps, mask = unit_maps((slices, coils, rows, columns), seed), random_mask((rows, columns), seed)
    operator = CartesianSense(maps, mask)
    shape = (chains, slices, rows, columns)
    assert_operator_laws(operator, shape, seed)
    # Batched = one by one.
    images = complex_normal(shape, seed)
    for k in range(slices):
        alone = CartesianSense(maps[k], mask)
        for chain in range(chains):
            torch.testing.assert_close(
                operator.forward(images)[chain, k], alone.forward(images[chain, k])
            )
            torch.testing.assert_close(
                operator.normal(images)[chain, k], alone.normal(images[chain, k])
            )


class Broken(MeasurementOperator):
    """Operators with one law broken each."""

    def __init__(self, fault: str) -> None:
        self.inner = CartesianSense(unit_maps((2, 5, 4), 0), random_mask((5, 4), 0))
        self.fault = fault

    def measurement_shape(self, shape: torch.Size) -> tuple[int, ...]:
        return self.inner.measurement_shape(shape)

    def forward(self, image: Tensor) -> Tensor:
        return self.inner.forward(image) * (1.2 if self.fault == "norm" else 1)

    def adjoint(self, measurement: Tensor) -> Tensor:
        back = self.inner.adjoint(measurement)
        broken = {"shape": back.unsqueeze(0), "conjugate": back.conj(), "norm": 1.2 * back}
        return broken[self.fault]

    def normal(self, image: Tensor) -> Tensor:
        return self.inner.normal(image)

    @property
    def measured_components(self) -> int:
        return self.inner.measured_components


def test_broken_laws_are_noticed() -> None:
    for fault in ("conjugate", "shape"):
        with pytest.raises(AssertionError):
            assert_adjoint(Broken(fault), (5, 4))
    with pytest.raises(AssertionError):
        assert_normal(Broken("norm"), (5, 4))
    with pytest.raises(AssertionError):
        assert_norm_at_most_one(Broken("norm"), (5, 4))
    assert_adjoint(Broken("norm"), (5, 4))


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_is_its_definition(shape: tuple[int, int]) -> None:
    image = complex_normal((2, *shape), 1, torch.complex128)
    expected = dft_matrix(shape[0]) @ image @ dft_matrix(shape[1]).mT
    torch.testing.assert_close(fft2c(image), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_transform_agrees_with_fastmri(shape: tuple[int, int]) -> None:
    image = complex_normal((3, *shape), 2)
    pairs = torch.view_as_real(image)
    torch.testing.assert_close(torch.view_as_real(fft2c(image)), fastmri.fft2c(pairs))
    torch.testing.assert_close(torch.view_as_real(ifft2c(image)), fastmri.ifft2c(pairs))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(rows=st.integers(1, 16), columns=st.integers(1, 16), seed=st.integers(0, 1000))
def test_transform_is_unitary(rows: int, columns: int, seed: int) -> None:
    image = complex_normal((rows, columns), seed, torch.complex128)
    assert norm(fft2c(image)) == pytest.approx(norm(image), rel=1e-12)
    torch.testing.assert_close(ifft2c(fft2c(image)), image)
    torch.testing.assert_close(fft2c(ifft2c(image)), image)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("coils", [1, 3])
def test_agrees_with_sigpy(shape: tuple[int, int], coils: int) -> None:
    maps, mask = unit_maps((coils, *shape), 3), random_mask(shape, 4)
    ours = CartesianSense(maps, mask)
    theirs = sigpy.mri.linop.Sense(maps.numpy(), weights=mask.numpy().astype(np.float32))
    image, kspace = complex_normal(shape, 5), complex_normal((coils, *shape), 6)
    np.testing.assert_allclose(ours.forward(image), theirs(image.numpy()), atol=2e-6)
    np.testing.assert_allclose(ours.adjoint(kspace), theirs.H(kspace.numpy()), atol=2e-6)
    np.testing.assert_allclose(ours.normal(image), theirs.N(image.numpy()), atol=2e-6)


def test_nothing_is_measured_outside_the_mask() -> None:
    mask = random_mask((7, 6), 7)
    operator = CartesianSense(unit_maps((3, 7, 6), 8), mask)
    image, kspace = complex_normal((2, 7, 6), 9), complex_normal((2, 3, 7, 6), 10)
    assert not operator.forward(image)[..., ~mask].any()
    assert operator.forward(image)[..., mask].abs().min() > 0
    torch.testing.assert_close(operator.adjoint(kspace), operator.adjoint(kspace * mask))


def test_measured_components_counts_real_numbers() -> None:
    mask = torch.zeros(5, 4, dtype=torch.bool)
    mask[:, 1] = True
    assert CartesianSense(unit_maps((3, 5, 4), 0), mask).measured_components == 2 * 3 * 5
