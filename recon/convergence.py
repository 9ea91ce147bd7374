"""Do the chains agree, and how many independent draws are they worth?

Definitions of Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), "Rank-normalization,
folding, and localization: an improved R-hat for assessing convergence of MCMC": draws are replaced
by normal scores of their ranks, and R-hat is the larger one of these and of their folded distances
from the median. A chain has few draws here, and a pixel many neighbours that mix alike: variances
may be averaged over them (`nearby`) before they are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Pool = Callable[[Tensor], Tensor]
"""Averages a map (...) of variances over places that mix alike."""
_REACH = 4
"""Pixels to each side that are taken to mix like the one between them."""
_LEAST = 1e-30


def alone(variance: Tensor) -> Tensor:
    """Every place for itself."""
    return variance


def nearby(variance: Tensor) -> Tensor:
    """Mean of a map (rows, columns) over a square of neighbours, as far as there are any."""
    size = 2 * _REACH + 1
    pooled = functional.avg_pool2d(
        variance[None, None], size, stride=1, padding=_REACH, count_include_pad=False
    )
    return pooled[0, 0]


def rank_normalised(draws: Tensor) -> Tensor:
    """Normal scores of the ranks among all of (chains, draws, ...), place by place."""
    pooled = draws.flatten(0, 1)
    ranks = pooled.argsort(dim=0).argsort(dim=0).to(torch.float64) + 1
    scores = torch.special.ndtri((ranks - 3 / 8) / (len(pooled) + 1 / 4))
    return scores.reshape(draws.shape)


def rhat(draws: Tensor, pool: Pool = alone) -> Tensor:
    """Rank-normalised, folded split R-hat of (chains, draws, ...): bulk or tail, what is larger.

    NaN for chains of fewer than three draws; 1 where nothing varies.
    """
    folded = (draws - draws.flatten(0, 1).median(dim=0).values).abs()
    both = (split_rhat(rank_normalised(values), pool) for values in (draws, folded))
    found = torch.maximum(*both)
    still = draws.flatten(0, 1).std(dim=0) == 0
    return torch.where(still & found.isfinite(), torch.ones_like(found), found).to(draws.dtype)


def split_rhat(draws: Tensor, pool: Pool = alone) -> Tensor:
    """R-hat of (chains, draws, ...) as it is, with every chain of eight draws or more cut in half.

    An odd draw in the middle is left out. Halves of two draws would say more of the likeness of
    neighbours in a chain than of the chains. Constant places give 1; a single chain of fewer than
    four draws, and others of fewer than three, tell nothing: NaN.
    """
    halves = _halves(draws)
    chains, length = halves.shape[:2]
    if draws.shape[1] < 3 or chains < 2 or length < 2:
        return torch.full(draws.shape[2:], torch.nan, dtype=draws.dtype, device=draws.device)
    within = pool(halves.var(dim=1).mean(dim=0))
    between = pool(halves.mean(dim=1).var(dim=0))
    ratio = (length - 1) / length + between / within.clamp_min(_LEAST)
    return torch.where(within > 0, ratio, torch.ones_like(ratio)).sqrt()


def effective_samples(draws: Tensor, pool: Pool = alone) -> Tensor:
    """Bulk effective sample size of (chains, draws, ...): of the mean of rank-normalised draws.

    Autocorrelations of split chains, summed in pairs as far as they are positive, each pair no
    larger than the one before (Geyer). Between one and the number of draws; of anticorrelated
    draws, which are worth more, no more is claimed.
    """
    count = draws.shape[0] * draws.shape[1]
    halves = _halves(rank_normalised(draws))
    chains, length = halves.shape[:2]
    if length < 2:
        return torch.full(draws.shape[2:], float(count), dtype=draws.dtype, device=draws.device)
    deviation = halves - halves.mean(dim=1, keepdim=True)

    def covariance(lag: int) -> Tensor:
        product = deviation[:, : length - lag] * deviation[:, lag:]
        return pool(product.sum(dim=1).mean(dim=0) / length)

    within = covariance(0) * length / (length - 1)
    total = covariance(0)
    if chains > 1:
        total = total + pool(halves.mean(dim=1).var(dim=0))
    total = total.clamp_min(_LEAST)
    doubled = torch.zeros_like(total)
    last = torch.full_like(total, torch.inf)
    for lag in range(0, length - 1, 2):
        first = torch.ones_like(total) if lag == 0 else 1 - (within - covariance(lag)) / total
        pair = torch.minimum(first + 1 - (within - covariance(lag + 1)) / total, last)
        last = pair.clamp_min(0)
        doubled = doubled + 2 * last
    time = (doubled - 1).clamp_min(1.0)
    return (count / time).clamp(1, count).to(draws.dtype)


def mean_error(draws: Tensor) -> Tensor:
    """Monte Carlo standard error of the mean of (chains, draws, ...), from independent chains.

    A single chain is cut in half; NaN for a single draw.
    """
    if len(draws) == 1:
        draws = _halves(draws)
    if len(draws) == 1:
        return torch.full(draws.shape[2:], torch.nan, dtype=draws.dtype, device=draws.device)
    return draws.mean(dim=1).std(dim=0) / len(draws) ** 0.5


def independent_draws(draws: Tensor, pool: Pool = alone) -> Tensor:
    """How many independent draws (chains, draws, ...) are worth to their mean, place by place.

    With s^2 the variance of the pooled draws (over their number) and e^2 the squared error of
    their mean, s^2 falls short of the true variance by e^2, so that n = 1 + s^2 / e^2. Chains are
    independent, so that e is known without a word on correlation within them. A single chain is
    cut in half; of a single draw nothing is known: 1. Where nothing varies every draw counts.
    """
    count = draws.shape[0] * draws.shape[1]
    if len(draws) == 1:
        draws = _halves(draws)
    if len(draws) < 2:
        return torch.ones(draws.shape[2:], dtype=draws.dtype, device=draws.device)
    spread = pool(draws.flatten(0, 1).var(dim=0, correction=0))
    error = pool(mean_error(draws).square()).clamp_min(_LEAST)
    worth = (1 + spread / error).clamp_max(count)
    return torch.where(spread > 0, worth, torch.full_like(worth, count))


def _halves(draws: Tensor) -> Tensor:
    """Chains of eight draws or more, or a single one of two, cut in half; others as they are."""
    half = draws.shape[1] // 2
    if half < (4 if len(draws) > 1 else 1):
        return draws
    return torch.cat([draws[:, :half], draws[:, -half:]])
