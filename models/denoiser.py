"""A trained network as a `Prior`: preconditioning, complex images, any matrix size.

Sources: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
Table 1 (column "Ours") and Eq. 7; Ho et al. 2020, "Denoising Diffusion Probabilistic Models"
(epsilon prediction, linear schedule); Salimans and Ho 2022 (v prediction); Nichol and Dhariwal
2021 (cosine schedule).
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Annotated, Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from models.memory_fitting import FittingParts
from models.noise_experts import NoiseExperts
from models.reduction import SIGMA_DATA, edm_scales
from models.replay import Replayed, record_graph, wanted

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


class EdmParameterization(BaseModel):
    """Karras et al.: input, output and skip scaled to unit variance at every noise level."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["edm"] = "edm"
    sigma_data: float = Field(
        SIGMA_DATA, gt=0, allow_inf_nan=False, description="assumed RMS of one component"
    )
    noise_label: Literal["scaled-log", "quarter-log"] = Field(
        "scaled-log", description="what the network is told: 100 (ln sigma + 7), or ln(sigma) / 4"
    )

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels that the formulas allow, in the network's units."""
        return 0.0, math.inf

    def denoise(self, network: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
        """E[clean | noisy] in the network's units; shapes as in `precondition`."""
        sigma = sigma.to(torch.float32)
        skip, out, into = edm_scales(sigma, self.sigma_data)
        # MONAI's embedding resolves labels of 0 to 1000: 100 per e-fold from sigma = 0.001.
        scaled = self.noise_label == "scaled-log"
        label = 100 * (sigma.log() + 7) if scaled else sigma.log() / 4
        raw = network(noisy * into, label).to(torch.float32)
        return skip * noisy + out * raw


class VariancePreservingParameterization(BaseModel):
    """A network trained on a discrete variance-preserving diffusion, at any noise level.

    Timestep t adds noise of `noise_levels[t]` to an image and then scales it to unit variance.
    Between two timesteps the network is told a fraction, linear in the logarithm of sigma.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["vp-epsilon", "vp-v"]
    beta_schedule: BetaSchedule = "linear"
    beta_start: float = Field(1e-4, gt=0, lt=1)
    beta_end: float = Field(0.02, gt=0, lt=1)
    timesteps: int = Field(1000, ge=2, le=10_000)

    @model_validator(mode="after")
    def _rising(self) -> Self:
        levels = self.noise_levels
        if not bool(levels.isfinite().all() and (levels.diff() > 0).all()):
            raise ValueError("the noise levels of the timesteps must be finite and rise")
        return self

    @property
    def noise_levels(self) -> Tensor:
        """(timesteps,) float64: the std, relative to the image, of the noise of each timestep."""
        return _noise_levels(self.beta_schedule, self.beta_start, self.beta_end, self.timesteps)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels of the first and the last timestep, in the network's units."""
        return float(self.noise_levels[0]), float(self.noise_levels[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The (fractional) timestep of each noise level, float32; clamped to the known ones."""
        known = _log_levels(self, sigma.device)
        wanted = sigma.to(torch.float64).log().clamp(known[0], known[-1])
        above = torch.searchsorted(known, wanted).clamp(1, self.timesteps - 1)
        low, high = known[above - 1], known[above]
        return (above - 1 + (wanted - low) / (high - low)).to(torch.float32)

    def denoise(self, network: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
        """E[clean | noisy] in the network's units; shapes as in `precondition`."""
        level = sigma.to(torch.float32).view(-1, 1, 1, 1)
        shrink = (1 + level**2).rsqrt()
        raw = network(noisy * shrink, self.timestep(sigma)).to(torch.float32)
        if self.kind == "vp-epsilon":
            return noisy - level * raw
        return shrink**2 * noisy - level * shrink * raw


@lru_cache(maxsize=16)
def _log_levels(of: VariancePreservingParameterization, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # kept, it may be needed outside, too
        return of.noise_levels.log().to(device)


Parameterization = Annotated[
    EdmParameterization | VariancePreservingParameterization, Field(discriminator="kind")
]


@lru_cache(maxsize=16)
def _noise_levels(schedule: BetaSchedule, start: float, end: float, count: int) -> Tensor:
    # In float32 up to the product, as the networks were trained.
    if schedule == "linear":
        beta = torch.linspace(start, end, count, dtype=torch.float32)
    elif schedule == "scaled_linear":
        beta = torch.linspace(start**0.5, end**0.5, count, dtype=torch.float32) ** 2
    else:
        share = torch.arange(count + 1, dtype=torch.float64) / count
        kept = torch.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = (1 - kept[1:] / kept[:-1]).clamp(max=0.999).to(torch.float32)
    kept = torch.cumprod(1 - beta, dim=0).to(torch.float64)
    return ((1 - kept) / kept).sqrt()


TRAINED_HERE = EdmParameterization()
"""The parameterization of networks that `models.train` trains."""


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
    is what it answers to `recon.symmetry.is_symmetric`.
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
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.symmetric = symmetric
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
