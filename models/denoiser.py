"""A trained network as a `Prior`: EDM preconditioning, complex images, any matrix size.

Source: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
Table 1 (column "Ours") and Eq. 7.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIGMA_DATA = 0.25
"""RMS of one component of a training image whose 99th percentile is 1."""


def precondition(network: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
    """E[clean | noisy] from the raw network.

    `noisy` is (batch, 2, rows, columns) float; `sigma` (batch,) is the noise std per component.
    """
    sigma = sigma.to(torch.float32)
    total = sigma**2 + SIGMA_DATA**2
    skip = SIGMA_DATA**2 / total
    out = sigma * SIGMA_DATA * total.rsqrt()
    # Sinusoidal embeddings resolve labels of 0 to 1000: 100 labels per e-fold from sigma = 0.001.
    label = 100 * (sigma.log() + 7)
    shape = (-1, 1, 1, 1)
    raw = network(noisy * total.rsqrt().view(shape), label).to(torch.float32)
    return skip.view(shape) * noisy + out.view(shape) * raw


class NetworkPrior:
    """A `recon.prior.Prior` around a trained network.

    Images are in units where the 99th percentile of the magnitude is about 1. The network runs in
    `compute_dtype`; input and output are complex64. The first axis of the image is the batch.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_range: tuple[float, float],
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.sigma_range = sigma_range
        self.compute_dtype = compute_dtype

    @torch.inference_mode()
    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """E[clean | noisy] for complex `noisy` (batch, rows, columns), noise std per component."""
        channels = torch.view_as_real(noisy).movedim(-1, 1)
        levels = torch.full((noisy.shape[0],), sigma, device=noisy.device)
        with torch.autocast(
            noisy.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32
        ):
            clean = precondition(self.network, channels, levels)
        return torch.view_as_complex(clean.movedim(1, -1).contiguous())
