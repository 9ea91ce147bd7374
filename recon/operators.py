"""Measurement operators: what the scanner does to an image, and its exact adjoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from recon.overlap import Overlap
from recon.solve import ConjugateGradientSolver, GaussianSolver, row_solver

_AXES = (-2, -1)
_CACHED = 1 << 19
"""Complex numbers worked on at a time on a CPU: measured, 2.4 times faster than 8 times as many."""

_AT_ONCE = 1 << 27
"""The same on a GPU, for its memory: 1 GiB, of which a transform holds up to four."""


def fft2c(image: Tensor) -> Tensor:
    """Centred orthonormal 2-D Fourier transform over the last two axes, for odd sizes too."""
    shifted = torch.fft.ifftshift(image, dim=_AXES)
    return torch.fft.fftshift(torch.fft.fft2(shifted, norm="ortho"), dim=_AXES)


def ifft2c(kspace: Tensor) -> Tensor:
    """Inverse and adjoint of `fft2c`."""
    shifted = torch.fft.ifftshift(kspace, dim=_AXES)
    return torch.fft.fftshift(torch.fft.ifft2(shifted, norm="ortho"), dim=_AXES)


def grid_radius(shape: torch.Size, device: torch.device) -> Tensor:
    """(rows, columns) distance of every grid point from the centre of k-space, cycles per voxel."""
    rows, columns = shape
    row = (torch.arange(rows, device=device) - rows // 2) / rows
    column = (torch.arange(columns, device=device) - columns // 2) / columns
    return torch.hypot(row[:, None], column[None, :])


class MeasurementOperator(ABC):
    """A linear map A from images (..., rows, columns) to measurements, with its adjoint.

    Leading axes of the image (chains, slices) are batch axes. A may be linear over the reals
    only; the inner product is then the real part of the complex one.
    """

    overlap: Overlap | None = None
    """Where images hold a second place per voxel."""

    @abstractmethod
    def forward(self, image: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, measurement: Tensor) -> Tensor:
        """A^H k, exact: <A x, k> = <x, A^H k>."""

    def normal(self, image: Tensor) -> Tensor:
        """A^H A x."""
        return self.adjoint(self.forward(image))

    def solver(self) -> GaussianSolver:
        """What solves with A^H A; to be overridden where something exact is cheaper."""
        return ConjugateGradientSolver(self)

    def picture(self, images: Tensor) -> Tensor:
        """Images as they are shown, (..., rows, columns): the same, unless they hold more."""
        return images if self.overlap is None else self.overlap.joined(images)

    @abstractmethod
    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        """Shape of `forward` of an image of this shape."""

    @property
    @abstractmethod
    def measured_components(self) -> int:
        """Number of real numbers measured of one image (two per complex sample)."""


class FourierOperator(MeasurementOperator):
    """A multi-coil Fourier measurement, on the grid of the image or off it.

    Measurements are (..., coils, *mask.shape), zero outside the mask.
    """

    coil_maps: Tensor
    """(..., coils, rows, columns) complex."""
    mask: Tensor
    """Of two axes, bool: the samples that count."""

    @property
    @abstractmethod
    def sampled(self) -> Tensor:
        """(rows, columns) bool: the Fourier coefficients of the image that were measured."""

    @property
    @abstractmethod
    def radius(self) -> Tensor:
        """Of the mask's shape: distance from the centre of k-space, cycles per voxel."""

    @abstractmethod
    def rough_inverse(self, measurement: Tensor) -> Tensor:
        """An image as a quick look gives it: missing samples taken to be zero."""


@final
@dataclass(frozen=True)
class CartesianSense(FourierOperator):
    """Multi-coil Fourier mask (SENSE): (A x)_c = M F (S_c x).

    Measurements are (..., coils, rows, columns), zero outside the mask. With an overlap images and
    maps are longer than the mask along one axis (`recon.overlap`), and the sum over both places of
    a voxel is transformed.
    """

    coil_maps: Tensor
    """(..., coils, rows, columns) complex; leading axes broadcast against the image's."""
    mask: Tensor
    """(rows, columns) bool."""
    overlap: Overlap | None = None

    def forward(self, image: Tensor) -> Tensor:
        coil_images = self.coil_maps * image.unsqueeze(-3)
        if self.overlap is not None:
            coil_images = self.overlap.folded(coil_images)
        return fft2c(coil_images) * self.mask

    def adjoint(self, measurement: Tensor) -> Tensor:
        return self._in_parts(self._adjoint, measurement, measurement.shape[-3:])

    def _adjoint(self, measurement: Tensor) -> Tensor:
        coil_images = ifft2c(measurement * self.mask)
        if self.overlap is not None:
            coil_images = self.overlap.unfolded(coil_images)
        return (self.coil_maps.conj() * coil_images).sum(dim=-3)

    def normal(self, image: Tensor) -> Tensor:
        if self.overlap is not None:
            return self._in_parts(lambda x: self._adjoint(self.forward(x)), image, image.shape[-2:])
        # The shifts commute with everything once maps and mask are shifted beforehand.
        shifted = torch.fft.ifftshift(image, dim=_AXES)
        combined = self._in_parts(self._normal_shifted, shifted, shifted.shape[-2:])
        return torch.fft.fftshift(combined, dim=_AXES)

    def _in_parts(self, act: Callable[[Tensor], Tensor], batch: Tensor, one: torch.Size) -> Tensor:
        """`act` on a batch of things of shape `one`, whose results are images.

        As many at a time as fit with all of their coils: the processor's cache on a CPU, a small
        part of the memory on a GPU.
        """
        leading = batch.shape[: -len(one)]
        if self.coil_maps.dim() != 3 or not leading:
            return act(batch)
        most = _CACHED if batch.device.type == "cpu" else _AT_ONCE
        size = max(1, most // self.coil_maps.numel())
        if size >= leading.numel():
            return act(batch)
        parts = batch.reshape(-1, *one).split(size)
        return torch.cat([act(part) for part in parts]).unflatten(0, leading)

    def _normal_shifted(self, image: Tensor) -> Tensor:
        maps, conjugate, mask = self._shifted
        kspace = torch.fft.fft2(maps * image.unsqueeze(-3)).mul_(mask)
        return (conjugate * torch.fft.ifft2(kspace)).sum(dim=-3)

    def rough_inverse(self, measurement: Tensor) -> Tensor:
        return self.adjoint(measurement)

    def solver(self) -> GaussianSolver:
        """Exact where the mask is made of lines."""
        rows = row_solver(self.mask, self.coil_maps, self.overlap)
        return super().solver() if rows is None else rows

    @property
    def sampled(self) -> Tensor:
        return self.mask

    @property
    def radius(self) -> Tensor:
        return grid_radius(self.mask.shape, self.mask.device)

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], self.coil_maps.shape[-3], *self.mask.shape)

    @cached_property
    def measured_components(self) -> int:
        return 2 * self.coil_maps.shape[-3] * int(self.mask.sum())

    @cached_property
    def _shifted(self) -> tuple[Tensor, Tensor, Tensor]:
        """Maps, their conjugates and the mask with the zero frequency and the centre first."""
        maps = torch.fft.ifftshift(self.coil_maps, dim=_AXES)
        mask = torch.fft.ifftshift(self.mask).to(maps.real.dtype)
        return maps, maps.conj().resolve_conj(), mask
