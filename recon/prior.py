"""What a prior must offer, and analytic priors whose posteriors are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, final

import torch
from torch import Tensor

from recon.operators import fft2c, grid_radius, ifft2c
from recon.overlap import Overlap


class Prior(Protocol):
    """A distribution of complex images known through its denoiser.

    Images are (batch, rows, columns) complex64, scaled so that the 99th percentile of the
    magnitude is about 1. `sigma` is the noise std of one real component.
    """

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Lowest and highest noise level at which `denoise` may be trusted."""
        ...

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """E[clean | clean + sigma * noise = noisy], the shape of `noisy`."""
        ...


def score(prior: Prior, noisy: Tensor, sigma: float) -> Tensor:
    """Gradient of the log density of the prior smoothed by `sigma` (Tweedie's formula)."""
    return (prior.denoise(noisy, sigma) - noisy) / sigma**2


@final
@dataclass(frozen=True)
class OverlapPrior:
    """The field of view and the strip beyond it, each an image of its own under `prior`.

    Where no second place was found the strip is zero.
    """

    prior: Prior
    overlap: Overlap

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.prior.sigma_range

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        inside, strip = self.overlap.split(noisy)
        clean = self.prior.denoise(inside.contiguous(), sigma)
        beyond = self.overlap.support * self.prior.denoise(strip.contiguous(), sigma)
        return torch.cat([clean, beyond], dim=self.overlap.axis)


@final
@dataclass(frozen=True)
class GaussianPrior:
    """Circular Gaussian images with a covariance that is diagonal in Fourier space."""

    mean: Tensor
    """(rows, columns) complex."""
    spectrum: Tensor
    """(rows, columns) variance per real component of each centred Fourier coefficient."""
    sigma_range: tuple[float, float] = (0.0, math.inf)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        gain = self.spectrum / (self.spectrum + sigma**2)
        return self.mean + ifft2c(gain * fft2c(noisy - self.mean))


@final
@dataclass(frozen=True)
class StationaryPrior:
    """Circular Gaussian images of any size; their power depends on the spatial frequency alone."""

    radii: tuple[float, ...]
    """Of rings round the centre of k-space, rising, cycles per voxel; a ring reaches to the
    geometric mean of its radius and the next."""
    powers: tuple[float, ...]
    """Variance per real component of a Fourier coefficient in each ring."""
    sigma_range: tuple[float, float] = (1e-3, 10.0)
    symmetric = True

    def rings(self, shape: torch.Size) -> Tensor:
        """(rows, columns) number of the ring of every centred Fourier coefficient."""
        radius = grid_radius(shape, torch.device("cpu")).clamp_min(self.radii[0])
        middles = torch.tensor(self.radii).log()
        return torch.bucketize(radius.log(), (middles[1:] + middles[:-1]) / 2)

    def spectrum(self, shape: torch.Size, device: torch.device | str = "cpu") -> Tensor:
        """(rows, columns) float32 variance of each centred Fourier coefficient."""
        return torch.tensor(self.powers, dtype=torch.float32)[self.rings(shape)].to(device)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        spectrum = self.spectrum(noisy.shape[-2:], noisy.device)
        return ifft2c(spectrum / (spectrum + sigma**2) * fft2c(noisy))


@final
@dataclass(frozen=True)
class DenseGaussianPrior:
    """Circular Gaussian images with any covariance, for small cases."""

    mean: Tensor
    """(rows, columns) complex."""
    covariance: Tensor
    """(pixels, pixels) Hermitian, variance per real component, row-major pixels."""
    sigma_range: tuple[float, float] = (0.0, math.inf)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        total = self.covariance + sigma**2 * torch.eye(len(self.covariance))
        centred = (noisy - self.mean).flatten(-2)
        # Rows of `centred` are vectors: x^T (C (C + s^2)^-1)^T.
        gain = torch.linalg.solve(total, self.covariance.to(total.dtype))
        return self.mean + (centred @ gain.mH.conj()).reshape(noisy.shape)


@final
@dataclass(frozen=True)
class GaussianMixturePrior:
    """Mixture of isotropic circular Gaussians."""

    means: Tensor
    """(components, rows, columns) complex."""
    stds: Tensor
    """(components,) std per real component."""
    weights: Tensor
    """(components,) positive, summing to one."""
    sigma_range: tuple[float, float] = (0.0, math.inf)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        total = self.stds**2 + sigma**2
        offset = noisy.unsqueeze(1) - self.means
        energy = offset.abs().square().sum(dim=(-2, -1))
        count = noisy.shape[-2] * noisy.shape[-1]
        log_weight = self.weights.log() - energy / (2 * total) - count * total.log()
        share = torch.softmax(log_weight, dim=1)[..., None, None]
        gain = (self.stds**2 / total)[:, None, None]
        return (share * (self.means + gain * offset)).sum(dim=1)


@final
@dataclass(frozen=True)
class RingPrior:
    """The noisy ring of Xun, Gupta and Price (their Fig. 1), one in every complex pixel.

    Uniform on the unit circle of the complex plane, convolved with N(0, width^2) per component.
    """

    width: float
    sigma_range: tuple[float, float] = (0.0, math.inf)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        total = self.width**2 + sigma**2
        radius = noisy.abs().to(torch.float64).clamp_min(1e-12)
        argument = radius / total
        ratio = torch.special.i1e(argument) / torch.special.i0e(argument)
        shrink = (sigma**2 / total) * (ratio / radius - 1)
        return noisy + noisy * shrink.to(noisy.real.dtype)


@final
@dataclass(frozen=True)
class HaarMixturePrior:
    """Images that are sparse in the orthonormal 2-D Haar basis: scale mixtures of Gaussians.

    Every coefficient of the image minus its mean is circular Gaussian with one of several stds,
    independently of the others. Sides are powers of two.
    """

    mean: Tensor
    """(rows, columns) complex."""
    stds: Tensor
    """(scales, rows, columns) stds per real component of each coefficient."""
    weights: Tensor
    """(scales, rows, columns) positive, summing to one over the scales."""
    sigma_range: tuple[float, float] = (0.0, math.inf)

    def coefficients(self, images: Tensor) -> Tensor:
        """Haar coefficients of images (..., rows, columns)."""
        down, across = (basis.to(images.dtype) for basis in self._bases)
        return down @ images @ across.mT

    def images(self, coefficients: Tensor) -> Tensor:
        """Inverse and adjoint of `coefficients`."""
        down, across = (basis.to(coefficients.dtype) for basis in self._bases)
        return down.mT @ coefficients @ across

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        total = self.stds**2 + sigma**2
        found = self.coefficients(noisy - self.mean)
        energy = torch.view_as_real(found).square().sum(dim=-1)[:, None]
        share = torch.softmax(self.weights.log() - energy / (2 * total) - total.log(), dim=1)
        gain = (share * (self.stds**2 / total)).sum(dim=1)
        return self.mean + self.images(gain * found)

    @cached_property
    def _bases(self) -> tuple[Tensor, Tensor]:
        rows, columns = self.mean.shape
        return haar_basis(rows), haar_basis(columns)


def haar_basis(size: int) -> Tensor:
    """(size, size) float64 orthonormal; the coarsest function first, `size` a power of two."""
    if size < 1 or size & (size - 1):
        raise ValueError(f"a Haar basis has a power of two of functions, not {size}")
    basis = torch.ones(1, 1, dtype=torch.float64)
    while len(basis) < size:
        coarse = torch.kron(basis, torch.ones(1, 2, dtype=torch.float64))
        step = torch.tensor([[1.0, -1.0]], dtype=torch.float64)
        fine = torch.kron(torch.eye(len(basis), dtype=torch.float64), step)
        basis = torch.cat([coarse, fine]) / math.sqrt(2)
    return basis
