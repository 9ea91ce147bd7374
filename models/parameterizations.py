"""How a trained network becomes a denoiser: what it is given, told and taken for. Loads no torch.

Sources: Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
Table 1 (column "Ours") and Eq. 7; Ho et al. 2020, "Denoising Diffusion Probabilistic Models"
(epsilon prediction, linear schedule); Salimans and Ho 2022 (v prediction); Nichol and Dhariwal
2021 (cosine schedule).
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SIGMA_DATA = 0.25
"""RMS of one component of a training image whose 99th percentile is 1."""

BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]


def edm_scales(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor]:
    """Factors of the skip, the output and the input, each (batch, 1, 1, 1), for `sigma` (batch,).

    Karras et al. 2022, Table 1 (column "Ours").
    """
    level = sigma.float().view(-1, 1, 1, 1)
    total = level**2 + sigma_data**2
    return sigma_data**2 / total, level * sigma_data * total.rsqrt(), total.rsqrt()


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
        sigma = sigma.float()
        skip, out, into = edm_scales(sigma, self.sigma_data)
        # MONAI's embedding resolves labels of 0 to 1000: 100 per e-fold from sigma = 0.001.
        scaled = self.noise_label == "scaled-log"
        label = 100 * (sigma.log() + 7) if scaled else sigma.log() / 4
        raw = network(noisy * into, label).float()
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
        if not bool(np.isfinite(levels).all() and (np.diff(levels) > 0).all()):
            raise ValueError("the noise levels of the timesteps must be finite and rise")
        return self

    @property
    def noise_levels(self) -> NDArray[np.float64]:
        """(timesteps,): the std, relative to the image, of the noise of each timestep."""
        return _noise_levels(self.beta_schedule, self.beta_start, self.beta_end, self.timesteps)

    @property
    def sigma_range(self) -> tuple[float, float]:
        """Noise levels of the first and the last timestep, in the network's units."""
        return float(self.noise_levels[0]), float(self.noise_levels[-1])

    def timestep(self, sigma: Tensor) -> Tensor:
        """The (fractional) timestep of each noise level, float32; clamped to the known ones."""
        import torch  # lazy: configurations are read without it

        known = _log_levels(self, sigma.device)
        wanted = sigma.double().log().clamp(known[0], known[-1])
        above = torch.searchsorted(known, wanted).clamp(1, self.timesteps - 1)
        low, high = known[above - 1], known[above]
        return (above - 1 + (wanted - low) / (high - low)).float()

    def denoise(self, network: nn.Module, noisy: Tensor, sigma: Tensor) -> Tensor:
        """E[clean | noisy] in the network's units; shapes as in `precondition`."""
        level = sigma.float().view(-1, 1, 1, 1)
        shrink = (1 + level**2).rsqrt()
        raw = network(noisy * shrink, self.timestep(sigma)).float()
        if self.kind == "vp-epsilon":
            return noisy - level * raw
        return shrink**2 * noisy - level * shrink * raw


@lru_cache(maxsize=16)
def _log_levels(of: VariancePreservingParameterization, device: torch.device) -> Tensor:
    import torch  # lazy: configurations are read without it

    with torch.inference_mode(False):  # kept, it may be needed outside, too
        return torch.from_numpy(np.log(of.noise_levels)).to(device)


Parameterization = Annotated[
    EdmParameterization | VariancePreservingParameterization, Field(discriminator="kind")
]


@lru_cache(maxsize=16)
def _noise_levels(
    schedule: BetaSchedule, start: float, end: float, count: int
) -> NDArray[np.float64]:
    # In single precision up to the product, as the networks were trained.
    if schedule == "linear":
        beta = np.linspace(start, end, count, dtype=np.float32)
    elif schedule == "scaled_linear":
        beta = np.linspace(start**0.5, end**0.5, count, dtype=np.float32) ** 2
    else:
        share = np.arange(count + 1) / count
        kept = np.cos((share + 0.008) / 1.008 * math.pi / 2) ** 2
        beta = np.minimum(1 - kept[1:] / kept[:-1], 0.999).astype(np.float32)
    kept = np.cumprod(1 - beta, dtype=np.float32).astype(np.float64)
    with np.errstate(divide="ignore"):  # nothing of the image left: refused by its reader
        return np.sqrt((1 - kept) / kept)


TRAINED_HERE = EdmParameterization()
"""The parameterization of networks that `models.train` trains."""
