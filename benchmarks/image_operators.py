"""Measurements made of the image itself: missing pixels, a coarser grid, a blur.

They are linear maps like the Fourier mask, so that a `Problem` of any of them is sampled by the
same kernel. Each is diagonal in pixels, in blocks of pixels or in Fourier space, so that its own
solver is exact and costs no iterations.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recon.operators import MeasurementOperator
from recon.sampler import InverseProblem
from recon.solve import GaussianSolver


class ImageOperator(MeasurementOperator):
    """One that knows the size of its images."""

    @property
    @abstractmethod
    def image_shape(self) -> torch.Size:
        """(rows, columns)."""


@final
@dataclass(frozen=True)
class Inpainting(ImageOperator):
    """Some pixels measured one by one; measurements (..., 1, rows, columns), zero elsewhere."""

    mask: Tensor
    """(rows, columns) bool: the pixels that are measured."""

    def forward(self, image: Tensor) -> Tensor:
        return (image * self.mask).unsqueeze(-3)

    def adjoint(self, measurement: Tensor) -> Tensor:
        return measurement.squeeze(-3) * self.mask

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], 1, *image_shape[-2:])

    def solver(self) -> GaussianSolver:
        return PixelSolver(self)

    @property
    def image_shape(self) -> torch.Size:
        return self.mask.shape

    @cached_property
    def measured_components(self) -> int:
        return 2 * int(self.mask.sum())


@final
@dataclass(frozen=True)
class BlockAverage(ImageOperator):
    """Means of `factor` x `factor` blocks; measurements (..., 1, rows/factor, columns/factor).

    Raises ValueError unless the block divides rows and columns.
    """

    factor: int
    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.factor < 1 or self.rows % self.factor or self.columns % self.factor:
            raise ValueError(
                f"blocks of {self.factor} do not tile {self.rows} x {self.columns} pixels; "
                "crop the image to a multiple"
            )

    def forward(self, image: Tensor) -> Tensor:
        blocks = (self.rows // self.factor, self.factor, self.columns // self.factor, self.factor)
        return image.reshape(*image.shape[:-2], *blocks).mean(dim=(-3, -1)).unsqueeze(-3)

    def adjoint(self, measurement: Tensor) -> Tensor:
        wide = measurement.squeeze(-3).repeat_interleave(self.factor, dim=-1)
        return wide.repeat_interleave(self.factor, dim=-2) / self.factor**2

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], 1, self.rows // self.factor, self.columns // self.factor)

    def solver(self) -> GaussianSolver:
        return BlockSolver(self)

    @property
    def image_shape(self) -> torch.Size:
        return torch.Size((self.rows, self.columns))

    @property
    def measured_components(self) -> int:
        return 2 * (self.rows // self.factor) * (self.columns // self.factor)


@final
@dataclass(frozen=True)
class GaussianBlur(ImageOperator):
    """Circular convolution with a truncated Gaussian; measurements (..., 1, rows, columns).

    The image wraps at its edges. The kernel sums to one, so that the norm of A is 1.
    """

    std: float
    """In pixels."""
    size: int
    """Rows and columns of the kernel, odd."""
    rows: int
    columns: int
    device: torch.device | str = "cpu"
    """Of the images."""

    def __post_init__(self) -> None:
        if self.std <= 0 or self.size < 1 or self.size % 2 == 0:
            raise ValueError("a blur needs a positive std and a kernel of odd size")

    def forward(self, image: Tensor) -> Tensor:
        return self._filter(image, self.transfer).unsqueeze(-3)

    def adjoint(self, measurement: Tensor) -> Tensor:
        return self._filter(measurement.squeeze(-3), self.transfer)

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], 1, *image_shape[-2:])

    def solver(self) -> GaussianSolver:
        return FourierSolver(self)

    @property
    def image_shape(self) -> torch.Size:
        return torch.Size((self.rows, self.columns))

    @property
    def measured_components(self) -> int:
        return 2 * self.rows * self.columns

    @cached_property
    def transfer(self) -> Tensor:
        """(rows, columns) float64, real as the kernel is symmetric; zero frequency first."""
        both = torch.outer(self._along(self.rows), self._along(self.columns))
        return both.to(self.device)

    def _along(self, length: int) -> Tensor:
        place = torch.arange(self.size, dtype=torch.float64) - self.size // 2
        kernel = torch.exp(-(place**2) / (2 * self.std**2))
        kernel = kernel / kernel.sum()
        frequency = torch.arange(length, dtype=torch.float64) / length
        return torch.cos(2 * torch.pi * torch.outer(frequency, place)) @ kernel

    @staticmethod
    def _filter(image: Tensor, gain: Tensor) -> Tensor:
        return torch.fft.ifft2(torch.fft.fft2(image) * gain.to(image.real.dtype))


@final
@dataclass(frozen=True)
class PixelSolver(GaussianSolver):
    """Exact solves for `Inpainting`."""

    operator: Inpainting

    def normal(self, image: Tensor) -> Tensor:
        return self.operator.normal(image)

    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        diagonal = data_precision * self.operator.mask + shift
        return rhs / diagonal if white is None else rhs / diagonal + white * diagonal.rsqrt()


@final
@dataclass(frozen=True)
class BlockSolver(GaussianSolver):
    """Exact solves for `BlockAverage`: A^H A is 1 / factor^2 times the projection on blocks."""

    operator: BlockAverage

    def normal(self, image: Tensor) -> Tensor:
        return self.operator.normal(image)

    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        within, along = shift, shift + data_precision / self.operator.factor**2
        solved = self._apply(rhs, 1 / within, 1 / along)
        if white is None:
            return solved
        return solved + self._apply(white, within**-0.5, along**-0.5)

    def _apply(self, image: Tensor, within: float, along: float) -> Tensor:
        """`along` times the part that is constant on blocks, `within` times the rest."""
        means = self.operator.factor**2 * self.operator.normal(image)
        return within * image + (along - within) * means


@final
@dataclass(frozen=True)
class FourierSolver(GaussianSolver):
    """Exact solves for `GaussianBlur`."""

    operator: GaussianBlur

    def normal(self, image: Tensor) -> Tensor:
        return self.operator.normal(image)

    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        diagonal = data_precision * self.operator.transfer**2 + shift
        diagonal = diagonal.to(rhs.real.dtype)
        coefficients = torch.fft.fft2(rhs, norm="ortho") / diagonal
        if white is not None:
            coefficients = coefficients + white * diagonal.rsqrt()
        return torch.fft.ifft2(coefficients, norm="ortho")


def image_problem(operator: ImageOperator, measurement: Tensor, noise_std: float) -> InverseProblem:
    """The problem of an image operator, with the exact solver that it allows.

    `measurement` is complex, of the shape that the operator states for one image.

    Raises:
        ValueError: a measurement of another shape, or a noise level that is not positive.
    """
    expected = operator.measurement_shape(operator.image_shape)
    if tuple(measurement.shape) != expected or not noise_std > 0:
        raise ValueError(
            f"the measurement must have shape {expected}, not {tuple(measurement.shape)}, and its "
            "noise a positive std"
        )
    return InverseProblem(operator, operator.solver(), measurement, noise_std)
