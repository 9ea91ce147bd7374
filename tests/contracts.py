"""Laws that every implementation of an interface obeys, whatever it computes."""

from __future__ import annotations

import torch
from torch import Tensor

from recon.operators import MeasurementOperator


def complex_normal(
    shape: tuple[int, ...], seed: int, dtype: torch.dtype = torch.complex64
) -> Tensor:
    """Complex normal numbers, unit variance per real component."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.float64 if dtype == torch.complex128 else torch.float32
    return torch.view_as_complex(torch.randn((*shape, 2), generator=generator, dtype=real))


def inner(left: Tensor, right: Tensor) -> float:
    """Real part of the inner product, summed in double precision over everything."""
    return float((left.to(torch.complex128).conj() * right.to(torch.complex128)).real.sum())


def norm(tensor: Tensor) -> float:
    """Root of the sum of squares over everything."""
    return inner(tensor, tensor) ** 0.5


def assert_adjoint(
    operator: MeasurementOperator,
    image_shape: tuple[int, ...],
    seed: int = 0,
    dtype: torch.dtype = torch.complex64,
) -> None:
    """<A x, k> = <x, A^H k>, and both maps keep the shapes they state."""
    image = complex_normal(image_shape, seed, dtype)
    stated = tuple(operator.measurement_shape(image.shape))
    measurement = complex_normal(stated, seed + 1, dtype)
    forward, back = operator.forward(image), operator.adjoint(measurement)
    # Without these two lines broadcasting makes the inner products of wrong shapes agree.
    assert tuple(forward.shape) == stated
    assert tuple(back.shape) == image_shape
    assert forward.dtype == back.dtype == dtype
    size = norm(image) * norm(measurement)
    assert abs(inner(forward, measurement) - inner(image, back)) <= _tolerance(dtype) * size


def assert_normal(
    operator: MeasurementOperator,
    image_shape: tuple[int, ...],
    seed: int = 0,
    dtype: torch.dtype = torch.complex64,
) -> None:
    """`normal` is the adjoint of the forward map, one after the other."""
    image = complex_normal(image_shape, seed, dtype)
    normal, composed = operator.normal(image), operator.adjoint(operator.forward(image))
    assert normal.shape == composed.shape == image.shape
    assert norm(normal - composed) <= _tolerance(dtype) * norm(image)


def assert_norm_at_most_one(
    operator: MeasurementOperator,
    image_shape: tuple[int, ...],
    seed: int = 0,
    dtype: torch.dtype = torch.complex64,
) -> None:
    """|A x| <= |x|, for the worst image that thirty power iterations find."""
    image = complex_normal(image_shape, seed, dtype)
    for _ in range(30):
        gain = norm(operator.forward(image)) / norm(image)
        assert gain <= 1 + _tolerance(dtype)
        if gain == 0:
            return
        image = operator.normal(image)
        image = image / norm(image)


def assert_operator_laws(
    operator: MeasurementOperator,
    image_shape: tuple[int, ...],
    seed: int = 0,
    dtype: torch.dtype = torch.complex64,
) -> None:
    """All of the above."""
    assert_adjoint(operator, image_shape, seed, dtype)
    assert_normal(operator, image_shape, seed, dtype)
    assert_norm_at_most_one(operator, image_shape, seed, dtype)


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == torch.complex128 else 1e-5
