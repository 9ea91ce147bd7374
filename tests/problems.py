"""Small problems whose posteriors are known in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.operators import CartesianSense, MeasurementOperator, fft2c, ifft2c
from recon.phantom import receive, receiver_maps, simulate
from recon.prior import GaussianPrior
from recon.sampler import InverseProblem
from recon.scan import Scan
from recon.solve import ConjugateGradientSolver


@dataclass(frozen=True)
class Weighting(MeasurementOperator):
    """Real weights on the pixels: diagonal, so that posteriors factor pixel by pixel."""

    weights: Tensor

    def forward(self, image: Tensor) -> Tensor:
        return (self.weights * image).unsqueeze(-3)

    def adjoint(self, measurement: Tensor) -> Tensor:
        return self.weights * measurement.squeeze(-3)

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], 1, *image_shape[-2:])

    @property
    def measured_components(self) -> int:
        return 2 * int((self.weights != 0).sum())


@dataclass(frozen=True)
class RealPart(MeasurementOperator):
    """Only the first coordinate of each complex pixel is observed; linear over the reals."""

    def forward(self, image: Tensor) -> Tensor:
        return image.real.to(image.dtype).unsqueeze(-3)

    def adjoint(self, measurement: Tensor) -> Tensor:
        return measurement.squeeze(-3).real.to(measurement.dtype)

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], 1, *image_shape[-2:])

    @property
    def measured_components(self) -> int:
        return 1


def diagonal_problem(
    operator: MeasurementOperator, measurement: Tensor, noise: float
) -> InverseProblem:
    return InverseProblem(operator, ConjugateGradientSolver(operator, 1e-6), measurement, noise)


@dataclass(frozen=True)
class GaussianCase:
    """A Gaussian image under a multi-coil Fourier mask, with its exact posterior."""

    problem: InverseProblem
    prior: GaussianPrior
    mean: Tensor
    """(pixels,) complex128."""
    values: Tensor
    """Eigenvalues of the posterior precision, ascending: unmeasured directions first."""
    vectors: Tensor

    def scores(self, images: Tensor) -> Tensor:
        """(n, pixels) whitened deviations; unit variance per component for exact draws."""
        deviation = images.flatten(1).to(torch.complex128) - self.mean
        return (deviation @ self.vectors.conj()) * self.values.sqrt()

    @property
    def measured_share(self) -> Tensor:
        """(pixels,) share of each direction's precision that comes from the data."""
        pixels = len(self.mean)
        basis = self.vectors.T.reshape(pixels, *self.prior.spectrum.shape)
        prior = fft2c(basis).abs().square() / self.prior.spectrum
        return 1 - prior.sum(dim=(1, 2)) / self.values


def gaussian_case(mask: Tensor, noise: float = 0.03, coils: int = 4, seed: int = 0) -> GaussianCase:
    rows, columns = mask.shape
    generator = torch.Generator().manual_seed(seed)
    row = (torch.arange(rows) - rows // 2)[:, None].float()
    column = (torch.arange(columns) - columns // 2)[None, :].float()
    spectrum = 1 / (1 + (torch.hypot(row, column) / 2) ** 3)
    angles = 2 * math.pi * torch.arange(coils) / coils
    maps = torch.stack(
        [
            torch.exp(
                -(
                    (row / rows - 0.6 * math.sin(a)) ** 2
                    + (column / columns - 0.6 * math.cos(a)) ** 2
                )
                + 1j * (a + row / rows)
            )
            for a in angles.tolist()
        ]
    ).to(torch.complex64)
    maps = maps / maps.abs().square().sum(dim=0).sqrt()
    operator = CartesianSense(maps, mask)

    def white(*shape: int) -> Tensor:
        return torch.view_as_complex(torch.randn(*shape, 2, generator=generator))

    truth = ifft2c(spectrum.sqrt() * white(rows, columns))
    measurement = operator.forward(truth) + noise * mask * white(coils, rows, columns)
    pixels = rows * columns
    basis = torch.eye(pixels, dtype=torch.complex128).reshape(pixels, rows, columns)
    exact = CartesianSense(maps.to(torch.complex128), mask)
    data = exact.normal(basis).reshape(pixels, pixels).T / noise**2
    inverse = ifft2c(fft2c(basis) / spectrum.double()).reshape(pixels, pixels).T
    precision = data + inverse
    rhs = exact.adjoint(measurement.to(torch.complex128)).flatten() / noise**2
    values, vectors = torch.linalg.eigh(precision)
    return GaussianCase(
        InverseProblem(operator, operator.solver(), measurement, noise),
        GaussianPrior(torch.zeros(rows, columns, dtype=torch.complex64), spectrum),
        torch.linalg.solve(precision, rhs),
        values,
        vectors,
    )


def line_mask(rows: int, columns: int, spacing: int = 3, centre: int = 4) -> Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[:, ::spacing] = True
    mask[:, columns // 2 - centre // 2 : columns // 2 + centre // 2] = True
    return mask


def scattered_mask(rows: int, columns: int, share: float = 0.35, centre: int = 4) -> Tensor:
    rng = np.random.default_rng(0)
    mask = torch.from_numpy(rng.random((rows, columns)) < share)
    middle = (slice(rows // 2 - centre // 2, rows // 2 + centre // 2),)
    mask[middle[0], columns // 2 - centre // 2 : columns // 2 + centre // 2] = True
    return mask


@dataclass(frozen=True)
class Folded:
    """A fully sampled scan whose field of view is smaller than the head along the columns."""

    scan: Scan
    maps: NDArray[np.complex128]
    """(2, coils, rows, columns) sensitivities of the two places that fall on a voxel."""
    places: NDArray[np.complex64]
    """(2, rows, columns) the object at these places; the second is outside the field of view."""


def folded_scan(rows: int = 72, wide: int = 88, columns: int = 46, coils: int = 6) -> Folded:
    """The phantom on `wide` columns, received with a field of view of `columns` of them."""
    image = simulate(1, 1, rows, wide, math.inf)[1][0]
    maps = receiver_maps(coils, rows, wide)
    margin = (wide - columns) // 2
    near = slice(margin, margin + columns)
    # Beyond one edge continues at the other; in between nothing lies outside.
    order = np.r_[margin + columns : wide, [wide] * (columns - 2 * margin), 0:margin]
    beyond = np.concatenate([image, np.zeros((rows, 1), image.dtype)], axis=1)[:, order]
    maps_beyond = np.concatenate([maps, maps[..., :1]], axis=-1)[..., order]
    both = np.stack([maps[..., near], maps_beyond])
    scan = receive(image[None], coils, 0.01, seed=3, columns=columns)
    return Folded(scan, both.astype(np.complex128), np.stack([image[:, near], beyond]))


def power_law_prior(size: int = 64) -> GaussianPrior:
    """Images of unit scale whose spectrum falls like that of the phantom."""
    frequency = torch.arange(size).float() - size // 2
    radius = torch.hypot(frequency[:, None], frequency[None, :]).clamp_min(0.7)
    spectrum = 60.0 / radius**2.6
    return GaussianPrior(torch.zeros(size, size, dtype=torch.complex64), spectrum, (0.002, 100.0))
