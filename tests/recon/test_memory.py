"""What solvers keep of a GPU's memory, planned by arithmetic, and what they do when it is full."""

from __future__ import annotations

import pytest
import torch

from recon import operators, solve
from recon.operators import CartesianSense
from recon.solve import (
    ConjugateGradientSolver,
    RowSolver,
    eigenvector_bytes,
    hermitian_eigen,
    lines_at_once,
    row_solver,
)
from tests.contracts import complex_normal
from tests.problems import gaussian_case, line_mask

CLINICAL = (640, 368)
"""Rows and columns of the largest matrix of usual scans."""


def operator() -> CartesianSense:
    made = gaussian_case(line_mask(10, 12)).problem.operator
    assert isinstance(made, CartesianSense)
    return made


def test_eigenvectors_of_a_clinical_matrix_are_as_large_as_planned() -> None:
    rows, columns = CLINICAL
    assert eigenvector_bytes(rows, columns) == 693_370_880
    assert eigenvector_bytes(columns, rows) == 1_205_862_400
    for size in (180, 320, columns, rows):
        assert 1 << 26 < eigenvector_bytes(lines_at_once(size), size) <= 1 << 28
    found = operator().solver()
    assert isinstance(found, RowSolver)
    assert found.vectors.nbytes == eigenvector_bytes(10, 12)


def test_lines_that_are_decomposed_in_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    measuring = operator()
    whole = measuring.solver()
    sizes = []

    def noted(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        sizes.append(len(blocks))
        return hermitian_eigen(blocks)

    monkeypatch.setattr(solve, "_BYTES_AT_ONCE", 3 * eigenvector_bytes(1, 12))
    monkeypatch.setattr(solve, "hermitian_eigen", noted)
    parts = row_solver(measuring.mask, measuring.coil_maps, None)
    assert sizes == [3, 3, 3, 1]
    assert parts is not None
    image = complex_normal((2, 10, 12), 5)
    assert torch.allclose(parts.normal(image), whole.normal(image), atol=1e-5)


def test_without_room_for_eigenvectors_there_are_conjugate_gradients(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(solve, "hermitian_eigen", full)
    assert isinstance(operator().solver(), ConjugateGradientSolver)


def test_full_memory_is_not_taken_for_a_failed_decomposition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not tried again with twice as much."""
    asked = []

    def full(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(blocks.dtype)
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch.linalg, "eigh", full)
    with pytest.raises(torch.OutOfMemoryError):
        hermitian_eigen(torch.eye(3, dtype=torch.complex64)[None])
    assert asked == [torch.complex64]


def test_coils_of_many_chains_are_worked_on_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 chains of 16 coils at 640 x 368 would be 1.9 GB for every array of coil images."""
    rows, columns = CLINICAL
    assert operators._AT_ONCE // (16 * rows * columns) == 35
    measuring = operator()
    images = complex_normal((5, 10, 12), 1)
    expected = measuring.normal(images)
    monkeypatch.setattr(operators, "_CACHED", 2 * measuring.coil_maps.numel())
    assert torch.allclose(measuring.normal(images), expected, atol=1e-6)
