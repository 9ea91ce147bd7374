"""Multi-coil Fourier measurements off the grid (radial, spiral), by FINUFFT.

A^H A is a convolution with the point spread function, which a grid of twice the size holds
exactly (Toeplitz embedding). The loop of the sampler therefore costs two ordinary transforms per
coil, on any device; the non-uniform transform itself runs on the CPU, unless its images are on a
GPU and cufinufft is installed, whose calls are the same.
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import finufft
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.operators import FourierOperator, fft2c
from recon.solve import conjugate_gradient

_PRECISION = {torch.complex64: 1e-6, torch.complex128: 1e-13}
_KERNEL_PRECISION = 1e-12
_GRIDDING_ITERATIONS = 12
_GRIDDING_RIDGE = 1e-3


@final
@dataclass(frozen=True)
class NonCartesianSense(FourierOperator):
    """(A x)_cj = mask_j sum_r S_c(r) x(r) exp(-2 pi i k_j r) / sqrt(voxels).

    Measurements are (..., coils, readouts, samples), zero outside the mask. Voxel n // 2 is r = 0.
    Unlike a mask on the grid, the norm of A exceeds 1 where samples are denser than the grid.
    """

    coil_maps: Tensor
    """(coils, rows, columns) complex."""
    points: Tensor
    """(readouts, samples, 2) float32 cycles per voxel along rows and columns, on the CPU."""
    mask: Tensor
    """(readouts, samples) bool: the samples that count."""

    def forward(self, image: Tensor) -> Tensor:
        coil_images = self.coil_maps * image.unsqueeze(-3)
        return to_samples(coil_images, self.points) * self.mask

    def adjoint(self, measurement: Tensor) -> Tensor:
        shape = (self.coil_maps.shape[-2], self.coil_maps.shape[-1])
        coil_images = from_samples(measurement * self.mask, self.points, shape)
        return (self.coil_maps.conj() * coil_images).sum(dim=-3)

    def normal(self, image: Tensor) -> Tensor:
        filtered = toeplitz(self._kernel, self.coil_maps * image.unsqueeze(-3))
        return (self.coil_maps.conj() * filtered).sum(dim=-3)

    def rough_inverse(self, measurement: Tensor) -> Tensor:
        """Gridding: the adjoint of density-compensated samples."""
        return self.adjoint(measurement * self.density_compensation)

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], self.coil_maps.shape[-3], *self.mask.shape)

    @cached_property
    def measured_components(self) -> int:
        return 2 * self.coil_maps.shape[-3] * int(self.mask.sum())

    @cached_property
    def sampled(self) -> Tensor:
        rows, columns = self.coil_maps.shape[-2:]
        size = torch.tensor([rows, columns])
        cells = (self.points[self.mask.cpu()] * size).round().long() + size // 2
        cells = cells[((cells >= 0) & (cells < size)).all(dim=-1)]
        covered = torch.zeros((rows, columns), dtype=torch.bool)
        covered[cells[:, 0], cells[:, 1]] = True
        return covered.to(self.coil_maps.device)

    @cached_property
    def radius(self) -> Tensor:
        return torch.linalg.vector_norm(self.points, dim=-1).to(self.coil_maps.device)

    @cached_property
    def density_compensation(self) -> Tensor:
        """(readouts, samples) weights of the acquired samples, zero elsewhere."""
        shape = (self.coil_maps.shape[-2], self.coil_maps.shape[-1])
        weights = density_compensation(self.points.numpy(), self.mask.cpu().numpy(), shape)
        return torch.from_numpy(weights).to(self.coil_maps.device)

    @cached_property
    def _kernel(self) -> Tensor:
        shape = (self.coil_maps.shape[-2], self.coil_maps.shape[-1])
        kernel = toeplitz_kernel(self.points, self.mask.cpu().double(), shape)
        return kernel.to(self.coil_maps.device, self.coil_maps.real.dtype)


def to_samples(images: Tensor, points: Tensor) -> Tensor:
    """Orthonormal Fourier transform of images (..., rows, columns) at points (..., 2)."""
    rows, columns = images.shape[-2:]
    if _on_gpu(images):
        row, column = _angles_on(points, images)
        stack = images.reshape(-1, rows, columns).contiguous()
        library = importlib.import_module("cufinufft")
        found = library.nufft2d2(row, column, stack, eps=_PRECISION[images.dtype], isign=-1)
        return found.reshape(*images.shape[:-2], *points.shape[:-1]) / math.sqrt(rows * columns)
    angles = _angles(points, images.dtype)
    samples = np.ascontiguousarray(images.detach().cpu().reshape(-1, rows, columns).numpy())
    values = finufft.nufft2d2(
        *angles, samples, eps=_PRECISION[images.dtype], isign=-1, nthreads=_threads()
    )
    shaped = np.asarray(values).reshape(*images.shape[:-2], *points.shape[:-1])
    return torch.from_numpy(shaped).to(images.device) / math.sqrt(rows * columns)


def from_samples(values: Tensor, points: Tensor, shape: tuple[int, int]) -> Tensor:
    """Adjoint of `to_samples`: images (..., rows, columns)."""
    lead = values.shape[: values.ndim - points.ndim + 1]
    if _on_gpu(values):
        row, column = _angles_on(points, values)
        stack = values.reshape(-1, len(row)).contiguous()
        library = importlib.import_module("cufinufft")
        found = library.nufft2d1(row, column, stack, shape, eps=_PRECISION[values.dtype], isign=1)
        return found.reshape(*lead, *shape) / math.sqrt(shape[0] * shape[1])
    angles = _angles(points, values.dtype)
    samples = np.ascontiguousarray(values.detach().cpu().reshape(-1, len(angles[0])).numpy())
    images = finufft.nufft2d1(
        *angles, samples, shape, eps=_PRECISION[values.dtype], isign=1, nthreads=_threads()
    )
    shaped = np.asarray(images).reshape(*lead, *shape)
    return torch.from_numpy(shaped).to(values.device) / math.sqrt(shape[0] * shape[1])


def toeplitz_kernel(points: Tensor, weights: Tensor, shape: tuple[int, int]) -> Tensor:
    """(2 rows, 2 columns) float64 transform of sum_j w_j exp(2 pi i k_j r) / voxels."""
    row, column = _angles(points, torch.complex128)
    modes = (2 * shape[0], 2 * shape[1])
    strengths = weights.reshape(-1).to(torch.complex128).numpy()
    spread = finufft.nufft2d1(
        row, column, strengths, modes, eps=_KERNEL_PRECISION, isign=1, nthreads=_threads()
    )
    spread = torch.fft.ifftshift(torch.from_numpy(np.asarray(spread))) / (shape[0] * shape[1])
    spread[shape[0]] = 0  # a distance that no two voxels have; without it the kernel is Hermitian
    spread[:, shape[1]] = 0
    return torch.fft.fft2(spread).real


def toeplitz(kernel: Tensor, images: Tensor) -> Tensor:
    """F^H W F of images (..., rows, columns), by the kernel of W."""
    rows, columns = images.shape[-2:]
    wide = torch.fft.ifft2(kernel * torch.fft.fft2(images, s=kernel.shape[-2:]))
    return wide[..., :rows, :columns]


def density_compensation(
    points: NDArray[np.float32], mask: NDArray[np.bool_], shape: tuple[int, int]
) -> NDArray[np.float32]:
    """(readouts, samples) weights of Pipe and Menon (1999), by sigpy; zero outside the mask.

    Scaled so that the point spread is 1 at its centre.
    """
    import sigpy  # lazy: a second, for one step
    import sigpy.mri  # lazy: a second, for one step

    coordinates = points[mask].astype(np.float32) * np.array(shape, np.float32)
    found = sigpy.mri.pipe_menon_dcf(
        coordinates, shape, device=sigpy.cpu_device, max_iter=30, show_pbar=False
    )
    weights = np.zeros(mask.shape, np.float32)
    weights[mask] = np.abs(found)
    return weights * (shape[0] * shape[1] / weights.sum())


def gridded(
    kspace: NDArray[np.complex64],
    points: NDArray[np.float32],
    mask: NDArray[np.bool_],
    shape: tuple[int, int],
) -> NDArray[np.complex64]:
    """(coils, rows, columns) k-space on the grid from samples (coils, readouts, samples).

    Weighted least squares for each coil alone: true where the samples are dense enough, which the
    centre is.
    """
    place = torch.from_numpy(points.copy())
    weights = torch.from_numpy(density_compensation(points, mask, shape))
    kernel = toeplitz_kernel(place, weights.double(), shape).float()
    rhs = from_samples(torch.from_numpy(kspace.copy()) * weights, place, shape)
    solution = conjugate_gradient(
        lambda x: toeplitz(kernel, x) + _GRIDDING_RIDGE * x,
        rhs,
        tolerance=1e-4,
        max_iterations=_GRIDDING_ITERATIONS,
    )
    return np.asarray(fft2c(solution.value).numpy(), np.complex64)


def _angles(points: Tensor, dtype: torch.dtype) -> tuple[NDArray[np.floating], ...]:
    real = np.float32 if dtype == torch.complex64 else np.float64
    flat = points.reshape(-1, 2).numpy().astype(np.float64) * (2 * np.pi)
    return tuple(np.ascontiguousarray(flat[:, axis].astype(real)) for axis in (0, 1))


def _on_gpu(tensor: Tensor) -> bool:
    """Whether it can be transformed where it is."""
    return tensor.is_cuda and importlib.util.find_spec("cufinufft") is not None


def _angles_on(points: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    row, column = (torch.from_numpy(each) for each in _angles(points, like.dtype))
    return row.to(like.device), column.to(like.device)


def _threads() -> int:
    return torch.get_num_threads()
