"""A trained network as a `Prior`: complex images of any matrix size, as many as memory holds."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from models.memory_fitting import FittingParts
from models.noise_experts import NoiseExperts
from models.parameterizations import (
    TRAINED_HERE,
    EdmParameterization,
    VariancePreservingParameterization,
)
from models.replay import Replayed, record_graph, wanted


def precondition(network: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
    """E[clean | noisy] from a raw network as `models.train` trains it.

    `noisy` is (batch, 2, rows, columns) float; `sigma` (batch,) is the noise std per component.
    """
    return TRAINED_HERE.denoise(network, noisy, sigma)


class NetworkPrior:
    """A `recon.prior.Prior` around a trained network.

    Images are in units where the 99th percentile of the magnitude is about 1; the network sees
    them times `scale`. It runs in `compute_dtype`; input and output are complex64. The first axis
    of the image is the batch; it is split where it does not fit into the free memory. `symmetric`
    is what it answers to `recon.symmetry.is_symmetric`, `power` what it answers to
    `recon.power.power_of`; it denoises as it comes.
    """

    def __init__(
        self,
        network: nn.Module,
        sigma_range: tuple[float, float],
        compute_dtype: torch.dtype = torch.float32,
        parameterization: EdmParameterization | VariancePreservingParameterization = TRAINED_HERE,
        scale: float = 1.0,
        *,
        symmetric: bool = False,
        power: float = 1.0,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.symmetric = symmetric
        self.power = power
        self.sigma_range = sigma_range
        self.compute_dtype = compute_dtype
        self.parameterization = parameterization
        self.scale = scale
        parts = network.parts if isinstance(network, NoiseExperts) else (network,)
        self._batches = {part: FittingParts(part) for part in parts}
        self._replayed = {
            part: Replayed(partial(self._denoise, part), record_graph) for part in parts
        }

    @torch.inference_mode()
    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        """E[clean | noisy] for complex `noisy` (batch, rows, columns), noise std per component."""
        level = self.scale * sigma
        network = self.network.at(level) if isinstance(self.network, NoiseExperts) else self.network
        levels = torch.full((noisy.shape[0],), level, device=noisy.device)
        return self._run(network, noisy, levels)

    @torch.inference_mode()
    def denoise_each(self, noisy: Tensor, sigmas: Tensor) -> Tensor:
        """`denoise` with a noise level for each image, `sigmas` (batch,)."""
        levels = (self.scale * sigmas).to(noisy.device, torch.float32)
        if not isinstance(self.network, NoiseExperts):
            return self._run(self.network, noisy, levels)
        clean = torch.empty_like(noisy)
        for network, chosen in self.network.split(levels):
            clean[chosen] = self._run(network, noisy[chosen], levels[chosen])
        return clean

    def _run(self, network: nn.Module, noisy: Tensor, levels: Tensor) -> Tensor:
        replayed = wanted(noisy.device)
        function = self._replayed[network] if replayed else partial(self._denoise, network)
        return self._batches[network].run(function, noisy, levels)

    def _denoise(self, network: nn.Module, noisy: Tensor, levels: Tensor) -> Tensor:
        channels = self.scale * torch.view_as_real(noisy).movedim(-1, 1)
        with torch.autocast(
            noisy.device.type, self.compute_dtype, enabled=self.compute_dtype != torch.float32
        ):
            clean = self.parameterization.denoise(network, channels, levels)
        return torch.view_as_complex(clean.movedim(1, -1).contiguous()) / self.scale
