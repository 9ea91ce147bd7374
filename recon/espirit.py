"""Coil maps as eigenvectors of the calibration data: ESPIRiT (Uecker et al. 2014).

Patches of k-space as wide as the kernel span a subspace of all such patches. In image space the
projection onto it is one Hermitian coils x coils matrix per voxel, whose eigenvectors of
eigenvalue one are the coil sensitivities there: one where a single place of the object falls on the
voxel, two where the field of view is smaller than the object and folds another place onto it.

The matrices are trigonometric polynomials of at most `kernel_width - 1` cycles. Their few
coefficients are summed up once from the projection, instead of transforming every kernel on the
full grid; eigenvalues are found directly, all of them at once.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from recon.solve import hermitian_eigen

_SINGULAR_CUT = 0.02
"""Share of the largest singular value below which a patch counts as noise (as in BART and sigpy:
0.001 and 0.02; below it maps follow the noise)."""
_AT_ONCE = 1 << 23
"""Complex numbers of the voxels' matrices that are held at a time."""


class EigenMaps(NamedTuple):
    """Leading eigenvectors of every voxel."""

    maps: Tensor
    """(sets, coils, rows, columns) complex64, sum |S|^2 = 1 in every voxel and set; the phase is
    that of the strongest virtual coil, which the maps see as real."""
    eigenvalues: Tensor
    """(sets, rows, columns), largest first: near one where the set is needed."""


def eigen_maps(
    centre: Tensor, shape: tuple[int, int], kernel_width: int = 6, sets: int = 1
) -> EigenMaps:
    """Maps of an image of `shape` from fully sampled k-space round the centre.

    `centre` is (coils, rows, columns), at least as wide as the kernel along both axes.
    """
    correlations = _correlations(centre, kernel_width)
    positions = torch.arange(correlations.shape[-1], device=centre.device) - (kernel_width - 1)
    across = _waves(positions, shape[1])
    along = _waves(positions, shape[0])
    partly = correlations @ across  # (coils, coils, row coefficients, columns)
    coils = len(centre)
    reference = _strongest_coil(centre)
    maps, eigenvalues = [], []
    for waves in along.split(max(1, _AT_ONCE // (coils**2 * shape[1])), dim=1):
        matrices = torch.einsum("ijac,ar->rcij", partly, waves)
        values, vectors = hermitian_eigen(matrices.flatten(0, 1))
        leading = vectors[..., -sets:].flip(-1)  # (voxels, coils, sets)
        seen = (reference.conj()[:, None] * leading).sum(dim=-2, keepdim=True)
        leading = leading * torch.exp(-1j * seen.angle())
        maps.append(leading.unflatten(0, matrices.shape[:2]))
        eigenvalues.append(values[..., -sets:].flip(-1).unflatten(0, matrices.shape[:2]))
    return EigenMaps(torch.cat(maps).permute(3, 2, 0, 1), torch.cat(eigenvalues).permute(2, 0, 1))


def drowned(centre: Tensor, kernel_width: int, noise_std: float) -> bool:
    """Whether white noise of `noise_std` per real component passes for signal in `eigen_maps`.

    Its largest singular value (Marchenko and Pastur) grows with the number of patches, the image's
    hardly once its centre is there. Above the cut noise fills the subspace: every voxel seems to
    hold an object, and two places of it.
    """
    rows = _patches(centre, kernel_width)
    largest = float(torch.linalg.eigvalsh(rows.mH @ rows)[-1]) ** 0.5
    noise = noise_std * math.sqrt(2) * (math.sqrt(rows.shape[0]) + math.sqrt(rows.shape[1]))
    return noise > _SINGULAR_CUT * largest


def _patches(centre: Tensor, width: int) -> Tensor:
    """(places, coils * width^2): every patch of the calibration data."""
    patches = centre.unfold(1, width, 1).unfold(2, width, 1)
    return patches.permute(1, 2, 0, 3, 4).reshape(-1, len(centre) * width**2)


def _correlations(centre: Tensor, width: int) -> Tensor:
    """(coils, coils, 2 width - 1, 2 width - 1) coefficients of the voxels' matrices.

    With V the orthonormal patches (coil i, offset p): R_ij(d) = sum_{p - q = d} (V V^H)_{ip, jq}.
    """
    coils = len(centre)
    _, strengths, basis = torch.linalg.svd(_patches(centre, width), full_matrices=False)
    basis = basis[strengths > _SINGULAR_CUT * strengths[0]]
    projection = (basis.mT @ basis.conj()).reshape(coils, width, width, coils, width, width)
    found = centre.new_zeros((coils, coils, 2 * width - 1, 2 * width - 1))
    last = width - 1
    for row in range(width):
        for column in range(width):
            part = projection[..., row, column].permute(0, 3, 1, 2)
            found[..., last - row : last - row + width, last - column : last - column + width] += (
                part
            )
    return found / width**2


def _waves(positions: Tensor, size: int) -> Tensor:
    """(coefficients, voxels): exp(2 pi i d r / size), voxel size // 2 at r = 0."""
    voxels = (torch.arange(size, device=positions.device) - size // 2) / size
    angle = 2 * math.pi * positions[:, None] * voxels[None, :]
    return torch.polar(torch.ones_like(angle), angle)


def _strongest_coil(centre: Tensor) -> Tensor:
    """(coils,) the combination of coils that sees most of the signal."""
    samples = centre.flatten(1)
    _, vectors = hermitian_eigen((samples @ samples.mH)[None])
    return vectors[0, :, -1]
