"""Are the chains one distribution, and does it explain the data?"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from recon.sampler import Problem

Array = NDArray[np.float32]


def split_rhat(draws: Tensor) -> Tensor:
    """Split R-hat of (chains, draws, ...): every chain is cut in half (Gelman et al., BDA3, 11.4).

    An odd draw in the middle is left out. Constant pixels give 1.
    """
    half = draws.shape[1] // 2
    if half < 2:
        return torch.full(draws.shape[2:], torch.nan)
    halves = torch.cat([draws[:, :half], draws[:, -half:]])
    within = halves.var(dim=1).mean(dim=0)
    between = halves.mean(dim=1).var(dim=0)
    ratio = (half - 1) / half + between / within.clamp_min(1e-30)
    return torch.where(within > 0, ratio, torch.ones_like(ratio)).sqrt()


def mean_error(draws: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean of (chains, draws, ...), from independent chains."""
    return draws.mean(dim=1).std(dim=0) / len(draws) ** 0.5


def effective_samples(draws: Tensor) -> Tensor:
    """Independent draws worth as much as (chains, draws, ...), between chains and their product."""
    variance = draws.flatten(0, 1).var(dim=0)
    count = draws.shape[0] * draws.shape[1]
    error = mean_error(draws).square().clamp_min(1e-30)
    return (variance / error).clamp(1, count)


def chi2_per_coil(problem: Problem, images: Tensor) -> Tensor:
    """(coils,) mean squared residual over the noise variance, averaged over images."""
    residual = problem.measurement - problem.operator.forward(images)
    power = residual.abs().square().sum(dim=(-2, -1)).mean(dim=0)
    components = problem.operator.measured_components / len(problem.measurement)
    return power / (components * problem.noise_std**2)


def circular_std(images: Tensor) -> Tensor:
    """Circular standard deviation of the phase over the first axis, radians."""
    units = images / images.abs().clamp_min(1e-30)
    length = units.mean(dim=0).abs().clamp(1e-6, 1)
    return (-2 * length.log()).sqrt()


def object_mask(magnitude: Array) -> NDArray[np.bool_]:
    """Where there is signal: above 8 % of the 99th percentile, smoothed, holes filled."""
    smooth = ndimage.gaussian_filter(magnitude, 2)
    inside = ndimage.binary_opening(smooth > 0.08 * np.percentile(magnitude, 99), iterations=2)
    return np.asarray(ndimage.binary_fill_holes(inside), dtype=np.bool_)
