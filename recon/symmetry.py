"""A prior asked about random mirror images: free averaging over what its law should not tell apart.

The law of images of heads in any plane, with any receiver phase, does not change when they are
flipped, transposed or conjugated. A network learns that only nearly, from flipped training images;
asked about another of the sixteen variants at every step, its errors average out along a chain and
over chains, at no cost (equivariant plug-and-play: Terris et al. 2024, "Equivariant plug-and-play
image reconstruction"). Where the denoiser commutes with them exactly nothing changes.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from recon.noise import NoiseStreams
from recon.prior import Prior


def is_symmetric(prior: Prior) -> bool:
    """Whether a prior says that flips, transposes and conjugates of its images are as likely.

    It says so with an attribute `symmetric`; one without it is asked about images as they are.
    """
    return bool(getattr(prior, "symmetric", False))


@final
class RandomSymmetry:
    """A `recon.prior.Prior` that asks another one about random variants of the images.

    Row k of a batch is chain k. What is done to it depends on (seed, purpose, call, k) alone:
    flips and the conjugate are each chain's own; the transpose is that of the call, so that a batch
    of images that are not square stays one batch.
    """

    def __init__(self, prior: Prior, seed: int, purpose: str) -> None:
        self._prior = prior
        self._key = (seed, f"{purpose}-symmetry")
        self._calls = 0
        self._transposes = NoiseStreams.keyed(seed, f"{purpose}-symmetry-transpose", (0,))
        self._chains: NoiseStreams | None = None

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self._prior.sigma_range

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """As the other prior does, of (batch, rows, columns), up to how symmetric it is."""
        # Decided on the CPU: it decides the shape.
        transposed = float(self._transposes.normal((1,)).real) > 0
        if self._chains is None or self._chains.chains != len(noisy):
            self._chains = NoiseStreams.keyed(*self._key, range(len(noisy)))
            self._chains.skip(2 * self._calls)
        signs = torch.view_as_real(self._chains.normal((2,), noisy.device))[..., None, None] > 0
        self._calls += 1
        choices = (signs[:, 0, 0], signs[:, 0, 1], signs[:, 1, 0])
        asked = _flipped(noisy, *choices)
        if transposed:
            return _flipped(self._prior.denoise(asked.mT.contiguous(), sigma).mT, *choices)
        return _flipped(self._prior.denoise(asked, sigma), *choices)


def _flipped(images: Tensor, rows: Tensor, columns: Tensor, conjugate: Tensor) -> Tensor:
    """The images (batch, rows, columns) where (batch, 1, 1) says so; its own inverse."""
    images = torch.where(rows, images.flip(-2), images)
    images = torch.where(columns, images.flip(-1), images)
    return torch.where(conjugate, images.conj().resolve_conj(), images)
