"""Are the chains one distribution, and does it explain the data?"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from recon.posterior import MANY_DRAWS
from recon.sampler import InverseProblem

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


def independent_draws(draws: Tensor, inside: Tensor) -> float:
    """How many independent draws (chains, draws, rows, columns) are worth, over all of `inside`.

    With s^2 the variance of the pooled draws (over their number) and e^2 the squared error of
    their mean, s^2 falls short of the true variance by e^2, so that n = 1 + s^2 / e^2. A single
    chain is cut in half; of a single draw nothing is known: 1.
    """
    count = draws.shape[0] * draws.shape[1]
    if len(draws) == 1 and draws.shape[1] > 1:
        half = draws.shape[1] // 2
        draws = torch.cat([draws[:, :half], draws[:, -half:]])
    if len(draws) < 2 or not bool(inside.any()):
        return 1.0
    pooled = draws.flatten(0, 1).var(dim=0, correction=0)[inside].mean()
    error = mean_error(draws).square()[inside].mean().clamp_min(1e-30)
    return min(1 + float(pooled / error), float(count))


def spread_correction(independent: float) -> float:
    """Factor on the std of pooled draws (over their number) that makes its square unbiased."""
    return math.sqrt(independent / (independent - 1)) if independent > 1 else math.nan


def interval_ends(draws: Tensor, levels: Sequence[float], independent: float) -> Tensor:
    """Ends (levels, ...) of intervals of (n, ...) magnitudes that hold one more draw: the truth.

    Quantiles of few draws lie too far inside, and their middle is off by the error of the mean.
    Where the draws are worth less than 40 independent ones, the ends are those of Student's t for
    one more draw, exact for Gaussian magnitudes; from there on they are plain quantiles.
    """
    if independent >= MANY_DRAWS or len(draws) < 2 or independent <= 1:
        wanted = torch.tensor(levels, dtype=draws.dtype, device=draws.device)
        return torch.quantile(draws, wanted, dim=0)
    widths = stats.t.ppf(levels, independent - 1) * math.sqrt(1 + 1 / independent)
    std = spread_correction(independent) * draws.std(dim=0, correction=0)
    ends = [draws.mean(dim=0) + float(width) * std for width in widths]
    return torch.stack(ends).clamp_min(0)


def chi2_per_coil(problem: InverseProblem, images: Tensor) -> Tensor:
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
