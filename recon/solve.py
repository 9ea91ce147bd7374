"""Gaussian solves with H = A^H A / eta^2 + lambda I, and exact draws from N(0, H^-1).

Every solver answers one call, `precondition(rhs, white)`: H^-1 rhs + H^-1/2-coloured noise, linear
in both. White noise is drawn by the solver in the form it needs, once per step. An operator names
its solver (`MeasurementOperator.solver`): conjugate gradients unless it knows better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, final

import torch
from torch import Tensor

from recon.noise import NoiseStreams
from recon.overlap import Overlap


class Solution(NamedTuple):
    """Result of an iterative solve; every image has its own stopping point."""

    value: Tensor
    iterations: int
    relative_residual: Tensor
    """Per image: norm of the residual over norm of the right-hand side."""
    converged: Tensor


_CHECKED_EVERY = 8
"""Iterations between two looks at convergence on a GPU, where each waits for the device. An image
that has converged stays as it is meanwhile."""
_BATCHED_ON_GPU = 32
"""Largest matrices that torch decomposes together on a GPU; it takes larger ones one by one, where
the host is quicker (https://github.com/pytorch/pytorch/issues/175585: 1.8 ms each at 100 x 100)."""


_BYTES_AT_ONCE = 1 << 28
"""Of the matrices of lines that are decomposed together."""


def _dot(left: Tensor, right: Tensor) -> Tensor:
    product = torch.view_as_real(left) * torch.view_as_real(right)
    return product.flatten(-3).sum(dim=-1)[..., None, None]


def conjugate_gradient(
    apply: Callable[[Tensor], Tensor],
    rhs: Tensor,
    *,
    initial: Tensor | None = None,
    tolerance: float = 1e-5,
    max_iterations: int = 100,
) -> Solution:
    """Solve `apply(x) = rhs` for a positive definite map, each image (..., rows, columns) alone.

    Step sizes and the stopping rule belong to one image: an image that has converged is frozen
    while louder ones go on. Non-convergence is reported, not raised.
    """
    value = torch.zeros_like(rhs) if initial is None else initial.clone()
    residual = rhs.clone() if initial is None else rhs - apply(value)
    direction = residual.clone()
    energy = _dot(residual, residual)
    target = tolerance**2 * _dot(rhs, rhs)
    every = 1 if rhs.device.type == "cpu" else _CHECKED_EVERY
    iterations = 0
    while iterations < max_iterations:
        active = energy > target
        if iterations % every == 0 and not bool(active.any()):
            break
        image = apply(direction)
        curvature = _dot(direction, image)
        step = torch.where(active, energy / curvature.clamp_min(1e-38), 0.0)
        value += step * direction
        residual -= step * image
        new_energy = _dot(residual, residual)
        ratio = torch.where(active, new_energy / energy.clamp_min(1e-38), 0.0)
        direction.mul_(ratio).add_(residual)
        energy = torch.where(active, new_energy, energy)
        iterations += 1
    norm = _dot(rhs, rhs).sqrt()
    relative = (energy.sqrt() / norm.clamp_min(1e-38))[..., 0, 0]
    return Solution(value, iterations, relative, (energy <= target)[..., 0, 0])


class Measuring(Protocol):
    """What conjugate gradients need of an operator A."""

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x."""
        ...

    def adjoint(self, measurement: Tensor) -> Tensor:
        """A^H k."""
        ...

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        """Shape of A x."""
        ...


class GaussianSolver(ABC):
    """Exact Gaussian arithmetic for one operator; images are (batch, rows, columns)."""

    @abstractmethod
    def normal(self, image: Tensor) -> Tensor:
        """A^H A x, in the way that is cheapest for this solver."""

    @abstractmethod
    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        """H^-1 rhs + c, with c ~ N(0, H^-1) when `white` has unit variance.

        H = data_precision * A^H A + shift * I, per real component.
        """

    def white(self, noise: NoiseStreams, image: Tensor) -> Tensor:
        """White noise in the form that the solver needs, unit variance per real component.

        One for each of the noise's chains, for images of the shape and on the device of `image`.
        What stands for the image's noise neighbouring slices may share (`NoiseStreams.image`), what
        stands for the measurement's they do not.
        """
        return noise.image(image.shape[-2:], image.device)

    def relaxed(
        self,
        image: Tensor,
        drift: Tensor,
        pull: float,
        white: Tensor,
        data_precision: float,
        shift: float,
    ) -> Tensor:
        """The image + H^-1 (drift - pull A^H A image) + c: a sampler's step.

        H and c are those of `precondition`.
        """
        drift = drift - pull * self.normal(image)
        return image + self.precondition(drift, white, data_precision, shift)


@final
@dataclass(frozen=True)
class RowSolver(GaussianSolver):
    """Exact solves for a one-dimensional mask, by one eigendecomposition per line.

    With a mask that does not vary along an axis, the Fourier transform along it cancels and A^H A
    acts on each image line by itself: B = K * (S^H S), K the circulant of the mask. One batched
    Hermitian eigendecomposition per slice then serves every noise level, where Cholesky factors
    would have to be made anew for each.
    """

    values: Tensor
    """(lines, n) eigenvalues of A^H A, ascending."""
    vectors: Tensor
    """(lines, n, n) eigenvectors."""
    along_rows: bool
    """True when the mask varies along the rows axis, so that lines are image columns."""

    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        diagonal = data_precision * self.values + shift
        if white is not None:
            rhs = rhs + shift**0.5 * white[:, 1]
        coefficients = self._analyse(rhs)
        if white is not None:
            coefficients = coefficients + self._measured(white, data_precision)
        coefficients = coefficients / diagonal[..., None]
        return self._restore(self.vectors @ coefficients, rhs.shape)

    def white(self, noise: NoiseStreams, image: Tensor) -> Tensor:
        """(chains, 2, rows, columns): coefficients of the measurement's noise, image noise."""
        one = image.shape[-2:]
        measured = noise.normal(one, image.device)
        return torch.stack([measured, noise.image(one, image.device)], dim=1)

    def _measured(self, white: Tensor, data_precision: float) -> Tensor:
        """Noise of the measurement as it is in A^H y / eta^2, over the eigenvectors."""
        return self._lines(white[:, 0]) * (data_precision * self.values).sqrt()[..., None]

    def relaxed(
        self,
        image: Tensor,
        drift: Tensor,
        pull: float,
        white: Tensor,
        data_precision: float,
        shift: float,
    ) -> Tensor:
        """As for any solver, going through the vectors twice instead of four times."""
        diagonal = data_precision * self.values + shift
        drift = drift + shift**0.5 * white[:, 1]
        pulled, position = self._analyse(torch.cat([drift, image])).chunk(2, dim=-1)
        pulled = pulled + self._measured(white, data_precision)
        coefficients = (pulled - pull * self.values[..., None] * position) / diagonal[..., None]
        return image + self._restore(self.vectors @ coefficients, image.shape)

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x, from the same decomposition."""
        return self._restore(
            self.vectors @ (self.values[..., None] * self._analyse(image)), image.shape
        )

    def _analyse(self, image: Tensor) -> Tensor:
        # U^H x as (x^H U)^H: conjugating the image is cheaper than conjugating U.
        return (self._lines(image).mH.resolve_conj() @ self.vectors).mH.resolve_conj()

    def _lines(self, image: Tensor) -> Tensor:
        """(batch, rows, columns) → (lines, n, batch)."""
        flat = image.reshape(-1, *image.shape[-2:])
        return flat.permute(2, 1, 0) if self.along_rows else flat.permute(1, 2, 0)

    def _restore(self, lines: Tensor, shape: torch.Size) -> Tensor:
        order = (2, 1, 0) if self.along_rows else (2, 0, 1)
        return lines.permute(order).reshape(shape)


def row_solver(mask: Tensor, maps: Tensor, overlap: Overlap | None) -> RowSolver | None:
    """The exact solver of one slice's SENSE, or None when the mask is truly two-dimensional.

    `mask` is (rows, columns) bool, `maps` (coils, rows, columns). None, too, where the field of
    view folds across the lines, and where the eigenvectors do not fit into a GPU's memory.
    """
    if bool((mask == mask[:1]).all()):
        along_rows, pattern, lines = False, mask[0], maps.permute(1, 2, 0)
    elif bool((mask == mask[:, :1]).all()):
        along_rows, pattern, lines = True, mask[:, 0], maps.permute(2, 1, 0)
    else:
        return None
    # K[i, j] = kernel[(i - j) mod n]: the transform of the mask, seen from its centre.
    size = len(pattern)
    kernel = torch.fft.ifft(torch.fft.ifftshift(pattern).to(maps.dtype))
    index = torch.arange(size, device=maps.device)
    if overlap is not None:
        if overlap.axis != (-2 if along_rows else -1):
            return None
        index = torch.cat([index, overlap.positions])
    circulant = kernel[(index[:, None] - index[None, :]) % size]
    values, vectors = [], []
    try:
        for some in lines.split(lines_at_once(lines.shape[1])):
            found = hermitian_eigen(circulant * (some.conj() @ some.mT))
            values.append(found[0].clamp_min(0).to(maps.real.dtype))
            vectors.append(found[1])
        return RowSolver(_joined(values), _joined(vectors), along_rows)
    except torch.OutOfMemoryError:
        return None


def eigenvector_bytes(lines: int, size: int) -> int:
    """What a `RowSolver` keeps of `lines` lines of `size` voxels, in single precision."""
    return lines * size * size * torch.complex64.itemsize


def lines_at_once(size: int) -> int:
    """Lines that are decomposed together: what passes by is a few times their matrices."""
    return max(1, _BYTES_AT_ONCE // eigenvector_bytes(1, size))


def _joined(parts: list[Tensor]) -> Tensor:
    """The parts one after the other; each is let go of when it has been copied."""
    if len(parts) == 1:
        return parts[0]
    whole = parts[0].new_empty((sum(map(len, parts)), *parts[0].shape[1:]))
    place = 0
    while parts:
        part = parts.pop(0)
        whole[place : place + len(part)] = part
        place += len(part)
    return whole


def hermitian_eigen(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (ascending) and vectors of Hermitian blocks (n, size, size), all of them finite.

    In single precision LAPACK (MKL 2024.2, two threads) gave NaN for one line of a scan, without
    an error: such lines are done again in double precision. It gave up on another, which it does
    for all lines together: then all are.
    """
    if blocks.device.type != "cpu" and blocks.shape[-1] > _BATCHED_ON_GPU:
        values, vectors = hermitian_eigen(blocks.cpu())
        return values.to(blocks.device), vectors.to(blocks.device)
    try:
        values, vectors = torch.linalg.eigh(blocks)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        values, vectors = torch.linalg.eigh(blocks.to(torch.complex128))
        return values.to(blocks.real.dtype), vectors.to(blocks.dtype)
    wrong = ~(values.isfinite().all(-1) & torch.view_as_real(vectors).isfinite().all((-3, -2, -1)))
    if bool(wrong.any()):
        again = torch.linalg.eigh(blocks[wrong].to(torch.complex128))
        values[wrong], vectors[wrong] = again[0].to(values.dtype), again[1].to(vectors.dtype)
    return values, vectors


@final
@dataclass(frozen=True)
class ConjugateGradientSolver(GaussianSolver):
    """Solves for any operator; draws by perturbing the right-hand side (perturb and solve)."""

    operator: Measuring
    tolerance: float = 2e-5
    max_iterations: int = 200
    draw_tolerance: float = 1e-2
    """Of solves with noise: measured, it takes 0.05 % off the draws' variance at a condition of 20
    and 0.15 % at 60, which is more than a chain meets."""

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x."""
        return self.operator.normal(image)

    def white(self, noise: NoiseStreams, image: Tensor) -> Tensor:
        """(chains, numbers): measurement noise first, image noise after it."""
        one = image.shape[-2:]
        measured = torch.Size(self.operator.measurement_shape(one)).numel()
        parts = [
            noise.normal((measured,), image.device),
            noise.image(one, image.device).flatten(1),
        ]
        return torch.cat(parts, dim=1)

    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        if white is not None:
            pixels = rhs.shape[-2] * rhs.shape[-1]
            shape = self.operator.measurement_shape(rhs.shape)
            measured = white[:, :-pixels].reshape(shape)
            image = white[:, -pixels:].reshape(rhs.shape)
            rhs = rhs + data_precision**0.5 * self.operator.adjoint(measured) + shift**0.5 * image
        return conjugate_gradient(
            lambda x: data_precision * self.operator.normal(x) + shift * x,
            rhs,
            tolerance=self.tolerance if white is None else self.draw_tolerance,
            max_iterations=self.max_iterations,
        ).value
