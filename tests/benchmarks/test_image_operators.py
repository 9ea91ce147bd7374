"""Operators on the image itself: laws, dense definitions, and solves against a dense matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from benchmarks.image_operators import (
    BlockAverage,
    GaussianBlur,
    ImageOperator,
    Inpainting,
    image_problem,
)
from recon.noise import NoiseStreams
from recon.prior import GaussianPrior
from recon.sampler import init, step
from recon.schedule import prior_path
from recon.solve import ConjugateGradientSolver
from tests.contracts import assert_operator_laws, complex_normal


def operators(rows: int, columns: int, seed: int) -> list[ImageOperator]:
    mask = torch.rand((rows, columns), generator=torch.Generator().manual_seed(seed)) < 0.5
    factor = math.gcd(rows, columns)
    return [
        Inpainting(mask),
        BlockAverage(factor, rows, columns),
        GaussianBlur(0.5 + seed % 4, 2 * (seed % 5) + 1, rows, columns),
    ]


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    rows=st.integers(1, 9),
    columns=st.integers(1, 9),
    batch=st.lists(st.integers(1, 3), max_size=2),
    dtype=st.sampled_from([torch.complex64, torch.complex128]),
    seed=st.integers(0, 1000),
)
def test_laws(rows: int, columns: int, batch: list[int], dtype: torch.dtype, seed: int) -> None:
    for operator in operators(rows, columns, seed):
        assert_operator_laws(operator, (*batch, rows, columns), seed, dtype)


def test_block_average_of_a_known_image() -> None:
    image = torch.arange(16.0).reshape(4, 4) + 0j
    found = BlockAverage(2, 4, 4).forward(image)
    assert torch.equal(found.real, torch.tensor([[[2.5, 4.5], [10.5, 12.5]]]))


def test_blur_is_scipys_gaussian_filter_that_wraps() -> None:
    image = complex_normal((64, 71), 0, torch.complex128)
    blurred = GaussianBlur(3.0, 61, 64, 71).forward(image)[0].numpy()
    expected = ndimage.gaussian_filter(image.numpy(), 3.0, mode="wrap", radius=30)
    assert np.abs(blurred - expected).max() < 1e-12


@pytest.mark.parametrize("index", [0, 1, 2])
def test_exact_solver_is_conjugate_gradients(index: int) -> None:
    operator = operators(12, 8, 3)[index]
    shape = operator.measurement_shape(torch.Size((12, 8)))
    problem = image_problem(operator, torch.zeros(shape, dtype=torch.complex64), 0.1)
    rhs = complex_normal((3, 12, 8), 1)
    iterative = ConjugateGradientSolver(operator, 1e-7)
    exact = problem.solver.precondition(rhs, None, 50.0, 3.0)
    assert torch.allclose(exact, iterative.precondition(rhs, None, 50.0, 3.0), atol=1e-4)
    assert torch.allclose(problem.solver.normal(rhs), operator.normal(rhs), atol=1e-6)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_coloured_noise_has_the_inverse_as_its_covariance(index: int) -> None:
    # Applied to each unit vector the colouring is a root R of H^-1: R R^H = H^-1.
    operator = operators(6, 4, 3)[index]
    shape = operator.measurement_shape(torch.Size((6, 4)))
    solver = image_problem(operator, torch.zeros(shape, dtype=torch.complex64), 0.1).solver
    units = torch.eye(24, dtype=torch.complex64).reshape(24, 6, 4)
    nothing = torch.zeros_like(units)
    root = solver.precondition(nothing, units, 50.0, 3.0).reshape(24, 24).T
    inverse = solver.precondition(units, None, 50.0, 3.0).reshape(24, 24).T
    assert torch.allclose(root @ root.mH, inverse, atol=1e-5)


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_kernel_draws_the_posterior(index: int) -> None:
    # White prior: the posterior's precision is 1 + A^H A / eta^2, its mean H^-1 A^H y / eta^2.
    noise_std, chains = 0.1, 128
    operator = operators(12, 8, 3)[index]
    truth = complex_normal((12, 8), 4)
    clean = operator.forward(truth)
    measurement = clean + noise_std * complex_normal(tuple(clean.shape), 5)
    if isinstance(operator, Inpainting):
        measurement = measurement * operator.mask
    problem = image_problem(operator, measurement, noise_std)
    prior = GaussianPrior(torch.zeros(12, 8, dtype=torch.complex64), torch.ones(12, 8))
    noise = NoiseStreams.pooled(0, chains)
    state = init(problem, torch.zeros(12, 8, dtype=torch.complex64), 6.0, noise)
    for level in prior_path(6.0, noise_std / 3, 60, noise_std, 1.3):
        state, _ = step(problem, prior, level, state, noise)
    rhs = problem.backprojection[None] / noise_std**2
    mean = problem.solver.precondition(rhs, None, noise_std**-2, 1.0)[0]
    deviation = state.image - mean
    energy = (deviation.conj() * (deviation + operator.normal(deviation) / noise_std**2)).real
    # Chi^2 of 128 * 96 complex numbers: standard error 0.009; smoothing and annealing 0.03.
    assert float(energy.mean()) / 2 == pytest.approx(1, abs=0.06)


def test_refusals() -> None:
    with pytest.raises(ValueError, match="do not tile"):
        BlockAverage(4, 10, 8)
    with pytest.raises(ValueError, match="odd size"):
        GaussianBlur(3.0, 60, 64, 64)
    with pytest.raises(ValueError, match="must have shape"):
        image_problem(BlockAverage(4, 8, 8), torch.zeros(1, 8, 8, dtype=torch.complex64), 0.1)
