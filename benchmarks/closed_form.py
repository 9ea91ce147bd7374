"""Operators and solvers that act on every pixel alone, so that posteriors are known exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from recon.operators import MeasurementOperator
from recon.sampler import InverseProblem
from recon.solve import GaussianSolver


@final
@dataclass(frozen=True)
class Weighting(MeasurementOperator):
    """A weight on each pixel, alike for its real and imaginary part or one for each."""

    real: Tensor
    """(rows, columns)."""
    imaginary: Tensor

    def forward(self, image: Tensor) -> Tensor:
        return self._weigh(image).unsqueeze(-3)

    def adjoint(self, measurement: Tensor) -> Tensor:
        return self._weigh(measurement.squeeze(-3))

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], 1, *image_shape[-2:])

    @property
    def measured_components(self) -> int:
        return int((self.real != 0).sum() + (self.imaginary != 0).sum())

    def _weigh(self, image: Tensor) -> Tensor:
        return torch.complex(self.real * image.real, self.imaginary * image.imag)


@final
@dataclass(frozen=True)
class WeightingSolver(GaussianSolver):
    """Exact solves for `Weighting`."""

    operator: Weighting

    def normal(self, image: Tensor) -> Tensor:
        return self.operator.normal(image)

    def precondition(
        self, rhs: Tensor, white: Tensor | None, data_precision: float, shift: float
    ) -> Tensor:
        real = data_precision * self.operator.real**2 + shift
        imaginary = data_precision * self.operator.imaginary**2 + shift
        solved = torch.complex(rhs.real / real, rhs.imag / imaginary)
        if white is None:
            return solved
        return solved + torch.complex(white.real * real.rsqrt(), white.imag * imaginary.rsqrt())


def weighted_problem(
    real: Tensor, measurement: Tensor, noise_std: float, imaginary: Tensor | None = None
) -> InverseProblem:
    """`measurement` (1, rows, columns) of an image whose pixels were weighted, plus noise."""
    operator = Weighting(real, real if imaginary is None else imaginary)
    return InverseProblem(operator, WeightingSolver(operator), measurement, noise_std)


def white_image(*shape: int, seed: int) -> Tensor:
    """Complex normal numbers, unit variance per real component."""
    generator = torch.Generator().manual_seed(seed)
    return torch.view_as_complex(torch.randn(*shape, 2, generator=generator))
