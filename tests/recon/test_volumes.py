"""Volumes with one posterior: exact likelihood, planes of three directions, closed-form laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon.chains import ChainPlan, finished, run_chains
from recon.noise import NoiseKey
from recon.operators import CartesianSense
from recon.paths import PriorPath
from recon.prior import DenseGaussianPrior
from recon.sampler import InverseProblem
from recon.schedule import Preset
from recon.volume_size import memory_bytes
from recon.volumes import (
    POWER,
    AlternatingPlanes,
    StackedOperator,
    plane_directions,
    stacked_problem,
)
from tests.contracts import assert_operator_laws, complex_normal
from tests.problems import line_mask, scattered_mask

SHAPE = (6, 6, 6)
NOISE = 0.1


def maps_of(index: int, shape: tuple[int, int]) -> torch.Tensor:
    maps = complex_normal((2, *shape), 20 + index) + 2
    return maps / maps.abs().square().sum(dim=0).sqrt()


def problem_of(mask: torch.Tensor, truth: torch.Tensor) -> InverseProblem:
    slices = []
    for index, image in enumerate(truth):
        operator = CartesianSense(maps_of(index, (6, 6)), mask)
        noise = NOISE * mask * complex_normal((2, 6, 6), 40 + index)
        measured = operator.forward(image) + noise
        slices.append(InverseProblem(operator, operator.solver(), measured, NOISE))
    return stacked_problem(slices)


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 6, 6)])
def test_a_stack_is_the_operators_of_its_slices(shape: tuple[int, int, int]) -> None:
    for mask in (line_mask(*shape[1:], centre=2), scattered_mask(*shape[1:], centre=2)):
        own = tuple(CartesianSense(maps_of(k, shape[1:]), mask) for k in range(shape[0]))
        stack = StackedOperator(own)
        assert_operator_laws(stack, (2, *shape))
        image = complex_normal((2, *shape), 3)
        for k, one in enumerate(own):
            torch.testing.assert_close(stack.forward(image)[:, k], one.forward(image[:, k]))
        assert stack.measured_components == sum(one.measured_components for one in own)
        solved = stack.solver().precondition(image, None, 9.0, 0.7)
        back = 9 * stack.normal(solved) + 0.7 * solved
        torch.testing.assert_close(back, image, atol=1e-3, rtol=1e-3)


class Counting:
    """A prior that says which planes it was asked about."""

    sigma_range = (0.0, math.inf)

    def __init__(self) -> None:
        self.asked: list[torch.Tensor] = []

    def denoise(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        self.asked.append(noisy)
        return noisy + 1


def test_planes_of_one_direction_after_the_other_are_asked_about() -> None:
    volume, counting = complex_normal((2, 3, 4, 5), 1), Counting()
    prior = AlternatingPlanes(counting, (0, 1, 2))
    for _ in range(4):
        torch.testing.assert_close(prior.denoise(volume, 0.1), volume + 1)
    first, second, third, again = counting.asked
    assert [asked.shape[1:] for asked in counting.asked] == [(4, 5), (3, 5), (3, 4), (4, 5)]
    torch.testing.assert_close(first[4], volume[1, 1])
    torch.testing.assert_close(second[5], volume[1, :, 1])
    torch.testing.assert_close(third[6], volume[1, :, :, 1])
    torch.testing.assert_close(again, first)


def test_planes_of_voxels_that_are_no_squares_are_left_out() -> None:
    assert plane_directions((1, 1, 1.1)) == (0, 1, 2)
    assert plane_directions((2, 1, 1)) == (0,)
    assert plane_directions((1, 1, 2)) == (0, 2)
    assert plane_directions((2, 1, 2)) == (0, 1)


def test_memory_grows_with_the_volume_and_the_chains() -> None:
    one = memory_bytes((128, 128, 128), 8, 1)
    assert 0.5e9 < one < 2e9
    assert memory_bytes((128, 128, 128), 8, 4) > 2 * one
    assert memory_bytes((256, 128, 128), 8, 1) == pytest.approx(2 * one, rel=0.01)


def correlated(size: int, near: float) -> torch.Tensor:
    distance = (torch.arange(size)[:, None] - torch.arange(size)).abs().double()
    return torch.as_tensor(near, dtype=torch.double) ** distance


@pytest.mark.parametrize("pattern", ["lines", "scattered"])
def test_a_separable_gaussian_volume_is_drawn_right_in_every_direction(pattern: str) -> None:
    """Draws, whitened by the exact posterior under the power of the three planes' mean.

    Volumes of covariance C (x) C (x) C: the planes of a direction have C (x) C each, divided by the
    power, which a step at the lowest level sees with sigma^2 added.
    """
    near, size, chains = 0.8, SHAPE[0], 192
    own = correlated(size, near)
    plane = torch.kron(own, own).to(torch.complex64)
    prior2 = DenseGaussianPrior(torch.zeros(size, size, dtype=torch.complex64), plane)
    root = torch.linalg.cholesky(own).to(torch.complex64)
    truth = torch.einsum("ai,bj,ck,ijk->abc", root, root, root, complex_normal(SHAPE, 5))
    mask = line_mask(6, 6, 3, 2) if pattern == "lines" else scattered_mask(6, 6, 0.4, 2)
    problem = problem_of(mask, truth)
    lowest = NOISE / 2
    plan = ChainPlan(Preset(chains, 4, 60, 1, 24), PriorPath(), 1.0, lowest, 100.0, 0.5)
    prior = AlternatingPlanes(prior2, (0, 1, 2))
    run = run_chains(
        problem, prior, plan, torch.zeros(SHAPE, dtype=torch.complex64), NoiseKey(3, "volume"),
        range(chains),
    )  # fmt: skip
    draws = finished(run).images[:, -1].flatten(1).to(torch.complex128)
    voxels = size**3
    inverse = torch.linalg.inv(
        torch.kron(own, own) / POWER[2] + lowest**2 * torch.eye(size**2).double()
    )
    six = torch.eye(size).double()
    along = torch.kron(six, inverse.contiguous())
    precisions = [
        along,
        along.reshape([size] * 6).permute(1, 0, 2, 4, 3, 5).reshape(voxels, voxels),
        along.reshape([size] * 6).permute(1, 2, 0, 4, 5, 3).reshape(voxels, voxels),
    ]
    basis = torch.eye(voxels, dtype=torch.complex64).reshape(voxels, *SHAPE)
    data = problem.operator.normal(basis).reshape(voxels, voxels).T.to(torch.complex128)
    precision = sum(precisions) / 3 + data / NOISE**2
    mean = torch.linalg.solve(precision, problem.backprojection.flatten().to(torch.complex128))
    values, vectors = torch.linalg.eigh(precision)
    scores = ((draws - mean / NOISE**2) @ vectors.conj()) * values.sqrt()
    assert abs(float(scores.abs().square().mean()) / 2 - 1) < 0.15
    # Directions by where the prior's planes see them: waves along slices, rows or columns.
    field = vectors.T.reshape(voxels, *SHAPE)
    power = torch.fft.fftn(field, dim=(1, 2, 3)).abs().square()
    frequency = torch.fft.fftfreq(size).abs().double()
    shares = [
        (power * frequency.reshape([-1 if a == axis else 1 for a in range(3)])).sum(dim=(1, 2, 3))
        for axis in range(3)
    ]
    steepest = torch.stack(shares).argmax(dim=0)
    for axis in range(3):
        group = scores[:, steepest == axis]
        assert group.shape[1] > 20
        assert abs(float(group.abs().square().mean()) / 2 - 1) < 0.15, axis


def test_a_volume_is_nearer_the_truth_than_its_slices() -> None:
    """The same measurement: planes across the slices know what a slice cannot."""
    own = correlated(6, 0.9)
    plane = torch.kron(own, own).to(torch.complex64)
    prior2 = DenseGaussianPrior(torch.zeros(6, 6, dtype=torch.complex64), plane)
    root = torch.linalg.cholesky(own).to(torch.complex64)
    errors: dict[str, list[float]] = {"volume": [], "slices": []}
    for trial in range(3):
        truth = torch.einsum("ai,bj,ck,ijk->abc", root, root, root, complex_normal(SHAPE, trial))
        problem = problem_of(scattered_mask(6, 6, 0.3, 2), truth)
        plan = ChainPlan(Preset(16, 4, 30, 2, 10), PriorPath(), 1.0, NOISE / 2, 100.0, 0.5)
        for name, directions in (("volume", (0, 1, 2)), ("slices", (0,))):
            run = run_chains(
                problem, AlternatingPlanes(prior2, directions), plan, torch.zeros_like(truth),
                NoiseKey(trial, name), range(16),
            )  # fmt: skip
            mean = finished(run).images.flatten(0, 1).mean(dim=0)
            errors[name].append(float((mean - truth).abs().square().mean()))
    assert np.mean(errors["volume"]) < 0.8 * np.mean(errors["slices"])
