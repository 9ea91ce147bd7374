"""Intervals from draws, and whether the draws explain the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats
from torch import Tensor

from recon.posterior import MANY_DRAWS
from recon.sampler import InverseProblem

Array = NDArray[np.float32]


def spread_correction(independent: Tensor) -> Tensor:
    """Factor on the std of pooled draws (over their number) that makes its square unbiased."""
    return torch.where(
        independent > 1, (independent / (independent - 1).clamp_min(1e-9)).sqrt(), torch.nan
    )


def interval_ends(draws: Tensor, levels: Sequence[float], independent: Tensor | float) -> Tensor:
    """Ends (levels, ...) of intervals of (n, ...) magnitudes that hold one more draw: the truth.

    `independent` is what the draws are worth, for all places or for each. One more draw lies below
    the k-th smallest of n others with probability k / (n + 1), whatever the distribution: from 40
    on the ends are order statistics at these levels, between two of them interpolated. Where the
    draws are worth less, they are those of Student's t for one more draw, exact for Gaussian
    magnitudes. A single draw is its own interval.
    """
    worth = torch.as_tensor(independent, dtype=draws.dtype, device=draws.device)
    worth = worth.expand(draws.shape[1:])
    if len(draws) < 2:
        return draws[0].expand(len(levels), *draws.shape[1:])
    ordered, freedom = draws.sort(dim=0).values, (worth - 1).clamp_min(1e-3).cpu().numpy()
    mean, std = draws.mean(dim=0), spread_correction(worth) * draws.std(dim=0, correction=0)
    ends = []
    for level in levels:
        reach = torch.as_tensor(stats.t.ppf(level, freedom), dtype=draws.dtype).to(draws.device)
        few = (mean + reach * (1 + 1 / worth).sqrt() * std).clamp_min(0)
        many = _order_statistic(ordered, (level * (worth + 1) - 1) / (worth - 1).clamp_min(1))
        few = torch.where(worth > 1, few, many)
        ends.append(torch.where(worth >= MANY_DRAWS, many, few))
    return torch.stack(ends)


def _order_statistic(ordered: Tensor, share: Tensor) -> Tensor:
    """The place `share` (...) of the way from the least to the largest of (n, ...)."""
    place = share.clamp(0, 1) * (len(ordered) - 1)
    below = place.floor().long().clamp_max(len(ordered) - 2)
    low, high = (ordered.gather(0, each[None])[0] for each in (below, below + 1))
    return low + (place - below) * (high - low)


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
