"""R-hat, effective samples and intervals, against their definitions and by simulation."""

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from recon.convergence import (
    effective_samples,
    independent_draws,
    mean_error,
    nearby,
    rank_normalised,
    rhat,
    split_rhat,
)
from recon.diagnostics import interval_ends, spread_correction
from recon.posterior import QUANTILE_LEVELS


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rhat_of_the_book(draws: NDArray[np.float64]) -> float:
    """BDA3 (11.1) to (11.4) for (chains, draws) of one scalar, letter by letter."""
    half = draws.shape[1] // 2
    halves = [part for chain in draws for part in (chain[:half], chain[len(chain) - half :])]
    if half < 4 and len(draws) > 1:  # too short to be cut
        halves = list(draws)
    m, n = len(halves), len(halves[0])
    means = [sum(part) / n for part in halves]
    overall = sum(means) / m
    between = n / (m - 1) * sum((mean - overall) ** 2 for mean in means)
    variances = [
        sum((value - mean) ** 2 for value in part) / (n - 1)
        for part, mean in zip(halves, means, strict=True)
    ]
    within = sum(variances) / m
    return math.sqrt(((n - 1) / n * within + between / n) / within)


@pytest.mark.parametrize(("chains", "draws"), [(2, 8), (3, 11), (8, 50), (1, 6), (8, 3), (4, 7)])
def test_rhat_is_the_formula_of_the_book(chains: int, draws: int) -> None:
    values = normal(chains, draws, 3, 2, seed=1) + normal(chains, 1, 3, 2, seed=2)
    found = split_rhat(values)
    assert found.shape == (3, 2)
    for pixel in np.ndindex(3, 2):
        expected = rhat_of_the_book(values[:, :, pixel[0], pixel[1]].numpy())
        assert float(found[pixel]) == pytest.approx(expected, rel=1e-10)


def test_rhat_of_one_distribution_is_near_one() -> None:
    """The mean of R^2 is 1 + (1 / n) (2 / W's relative spread): within 5 standard errors of it."""
    pixels, chains, draws = 2000, 4, 200
    rhat = split_rhat(normal(chains, draws, pixels, seed=3))
    # R^2 = (n - 1) / n + B / W with n B / W ~ F(m - 1, m (n - 1)).
    m, n = 2 * chains, draws // 2
    mean, variance = stats.f.stats(m - 1, m * (n - 1), moments="mv")
    expected = (n - 1) / n + mean / n
    standard_error = math.sqrt(variance / pixels) / n
    assert abs(float(rhat.square().mean()) - expected) < 5 * standard_error
    assert float(rhat.max()) < 1.05


def test_rhat_sees_chains_apart_and_chains_that_drift() -> None:
    draws = normal(4, 100, 50, seed=4)
    apart = draws + 10 * torch.arange(4)[:, None, None]
    # Means 0, 10, 20, 30, each twice: variance 1000 / 7 between, 1 within.
    torch.testing.assert_close(
        split_rhat(apart).mean(),
        torch.tensor(math.sqrt(1 + 1000 / 7), dtype=torch.float64),
        rtol=0.03,
        atol=0,
    )
    drifting = draws + torch.linspace(0, 10, 100)[None, :, None]
    assert float(split_rhat(drifting).min()) > 1.5


def test_rhat_of_few_or_constant_draws() -> None:
    assert split_rhat(normal(1, 3, 2, 2)).isnan().all()
    assert split_rhat(normal(3, 2, 2, 2)).isnan().all()
    assert rhat(normal(3, 2, 2, 2)).isnan().all()
    assert rhat(normal(3, 3, 2, 2)).isfinite().all()
    assert torch.equal(split_rhat(torch.ones(3, 8, 2)), torch.ones(2))
    draws = normal(2, 9, 5, seed=5)
    changed = draws.clone()
    changed[:, 4] = 1e6
    torch.testing.assert_close(split_rhat(changed), split_rhat(draws))


def test_mean_error_is_the_spread_of_the_mean() -> None:
    """Against the standard deviation over 4000 pixels, each an independent repetition."""
    pixels, chains, draws = 4000, 8, 10
    # Correlated within the chain: half of the variance is the chain's own.
    values = normal(chains, draws, pixels, seed=6) + normal(chains, 1, pixels, seed=7)
    error = mean_error(values)
    truth = math.sqrt((1 + 1 / draws) / chains)
    variance = float(error.square().mean()) / truth**2
    assert abs(variance - 1) < 5 * math.sqrt(2 / (chains - 1) / pixels)
    actual = float(values.mean(dim=(0, 1)).square().mean()) / truth**2
    assert abs(actual - 1) < 5 * math.sqrt(2 / pixels)


def scores_of_the_paper(draws: NDArray[np.float64]) -> NDArray[np.float64]:
    """Vehtari et al. (2021), equation 14."""
    ranks = stats.rankdata(draws.ravel()).reshape(draws.shape)
    return stats.norm.ppf((ranks - 3 / 8) / (draws.size + 1 / 4))


def effective_samples_of_the_paper(draws: NDArray[np.float64]) -> float:
    """Their equations 10 and 11 for (chains, draws), with pairs summed as Geyer says."""
    scores = scores_of_the_paper(draws)
    half = scores.shape[1] // 2
    halves = np.concatenate([scores[:, :half], scores[:, -half:]])
    n = halves.shape[1]
    centred = halves - halves.mean(axis=1, keepdims=True)
    covariance = [
        float(np.mean([(row[: n - lag] * row[lag:]).sum() / n for row in centred]))
        for lag in range(n)
    ]
    within = covariance[0] * n / (n - 1)
    total = within * (n - 1) / n + halves.mean(axis=1).var(ddof=1)
    rho = [1.0] + [1 - (within - covariance[lag]) / total for lag in range(1, n)]
    pairs: list[float] = []
    for lag in range(0, n - 1, 2):
        pair = rho[lag] + rho[lag + 1]
        if pair < 0:
            break
        pairs.append(min([pair, *pairs[-1:]]))
    time = max(-1 + 2 * sum(pairs), 1.0)
    return min(max(draws.size / time, 1.0), draws.size)


@pytest.mark.parametrize(("chains", "draws"), [(8, 8), (4, 10), (3, 25)])
def test_rank_normalised_folded_rhat_is_the_papers(chains: int, draws: int) -> None:
    values = normal(chains, draws, 5, seed=21).exp() * (1 + torch.arange(chains))[:, None, None]
    found = rhat(values)
    for place in range(5):
        one = values[:, :, place].numpy()
        folded = np.abs(one - float(torch.median(values[:, :, place])))
        bulk, tail = (
            float(split_rhat(torch.from_numpy(scores_of_the_paper(each)))) for each in (one, folded)
        )
        assert float(found[place]) == pytest.approx(max(bulk, tail), rel=1e-10)


def test_rhat_sees_chains_of_different_widths_and_does_not_need_a_variance() -> None:
    # Four chains with the same middle, one three times as wide: only folding tells.
    draws = normal(4, 200, 30, seed=22)
    draws[0] *= 3
    assert float(split_rhat(rank_normalised(draws)).max()) < 1.05
    assert float(rhat(draws).min()) > 1.05
    # Cauchy draws: the plain definition is blind where one draw is huge.
    cauchy = normal(4, 200, 30, seed=23) / normal(4, 200, 30, seed=24)
    cauchy[0] += 4
    assert float(rhat(cauchy).min()) > 1.05
    assert float(split_rhat(cauchy).median()) < 1.05


def test_rhat_of_what_does_not_vary_is_one() -> None:
    assert torch.equal(rhat(torch.ones(4, 6, 3)), torch.ones(3))


def test_neighbours_make_rhat_of_few_draws_sure() -> None:
    # Eight chains of four independent draws: alone a fifth of the pixels look apart.
    draws = normal(8, 4, 40, 40, seed=25)
    assert float((rhat(draws) > 1.1).double().mean()) > 0.2
    assert float((rhat(draws, nearby) < 1.1).double().mean()) > 0.99
    # Where chains really differ, neighbours say so too.
    draws[:, :, :20] += 2 * normal(8, 1, 20, 40, seed=26)
    pooled = rhat(draws, nearby)
    assert float(pooled[:14].min()) > 1.3
    assert float(pooled[26:].max()) < 1.1


@pytest.mark.parametrize(("chains", "draws"), [(8, 8), (4, 10), (3, 25)])
def test_effective_samples_are_the_papers(chains: int, draws: int) -> None:
    values = normal(chains, draws, 6, seed=27).cumsum(dim=1) + normal(chains, draws, 6, seed=28)
    found = effective_samples(values)
    for place in range(6):
        expected = effective_samples_of_the_paper(values[:, :, place].numpy())
        assert float(found[place]) == pytest.approx(expected, rel=1e-10)


def test_effective_samples_of_independent_repeated_and_correlated_draws() -> None:
    pixels, chains, draws = 1000, 16, 100
    count = chains * draws
    independent = effective_samples(normal(chains, draws, pixels, seed=8))
    assert float(independent.mean()) > 0.9 * count
    assert float(independent.max()) <= count
    repeated = effective_samples(normal(chains, 1, pixels, seed=9).expand(-1, draws, -1))
    assert float(repeated.mean()) == pytest.approx(chains, rel=0.1)
    # Autoregression with coefficient 0.5: (1 - 0.5) / (1 + 0.5) of the draws.
    noise = normal(chains, draws, pixels, seed=10)
    values = noise.clone()
    for k in range(1, draws):
        values[:, k] = 0.5 * values[:, k - 1] + math.sqrt(0.75) * noise[:, k]
    assert float(effective_samples(values).mean()) == pytest.approx(count / 3, rel=0.1)


def chains_of(chains: int, draws: int, correlation: float, pixels: int) -> torch.Tensor:
    """Magnitudes (chains, draws, pixels): 10 + stationary autoregression of unit variance."""
    fresh = normal(chains, draws, pixels, seed=11)
    values = [fresh[:, 0]]
    for k in range(1, draws):
        kept = math.sqrt(1 - correlation**2)
        values.append(correlation * values[-1] + kept * fresh[:, k])
    return 10 + torch.stack(values, dim=1)


CHAINS = [(4, 3, 0.0), (4, 3, 0.6), (8, 11, 0.8), (2, 2, 0.0), (8, 1, 0.0), (64, 4, 0.0)]


@pytest.mark.parametrize(("chains", "draws", "correlation"), CHAINS)
def test_draws_are_worth_the_variance_of_their_mean(
    chains: int, draws: int, correlation: float
) -> None:
    """n = variance of a draw over variance of the mean; 20,000 pixels leave 2 % of doubt."""
    values = chains_of(chains, draws, correlation, 20_000)
    lags = np.arange(draws)
    weights = np.where(lags > 0, 2, 1) * (draws - lags) / draws**2
    expected = chains / float((weights * correlation**lags).sum())
    worth = independent_draws(values, lambda each: each.mean().expand(each.shape))
    assert float(worth[0]) == pytest.approx(expected, rel=0.04)
    std = spread_correction(worth) * values.flatten(0, 1).std(dim=0, correction=0)
    assert float(std.square().mean()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize(("chains", "draws", "correlation"), CHAINS)
def test_intervals_hold_the_truth_however_few_the_draws(
    chains: int, draws: int, correlation: float
) -> None:
    """Truth and draws are exchangeable. Plain quantiles of 4 x 3 draws hold 79 % instead of 90 %.

    20,000 pixels: standard error 0.4 %. Of correlated chains the degrees of freedom are only known
    roughly; the intervals hold at most 2.5 % too much.
    """
    pixels = 20_000
    values = chains_of(chains, draws, correlation, pixels)
    truth = 10 + normal(pixels, seed=12)
    worth = independent_draws(values, lambda each: each.mean().expand(each.shape))
    low, middle_low, middle_high, high = interval_ends(values.flatten(0, 1), QUANTILE_LEVELS, worth)
    assert float(((low <= truth) & (truth <= high)).double().mean()) == pytest.approx(
        0.9, abs=0.025
    )
    inner = (middle_low <= truth) & (truth <= middle_high)
    assert float(inner.double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("count", [12, 39, 40, 80])
def test_intervals_of_independent_draws_hold_what_they_say(count: int) -> None:
    """Within 0.5 %; 200,000 places leave 0.07 % of doubt. Plain quantiles hold 85.6 % at 40."""
    pixels = 200_000
    draws = 10 + normal(count + 1, pixels, seed=31)
    ends = interval_ends(draws[1:], QUANTILE_LEVELS, float(count))
    for low, high, level in ((0, 3, 0.9), (1, 2, 0.5)):
        held = (ends[low] <= draws[0]) & (draws[0] <= ends[high])
        assert float(held.double().mean()) == pytest.approx(level, abs=0.005)


@pytest.mark.parametrize("count", [40, 80])
def test_intervals_of_many_draws_hold_whatever_the_distribution(count: int) -> None:
    draws = normal(count + 1, 100_000, seed=32).exp()
    low, _, _, high = interval_ends(draws[1:], QUANTILE_LEVELS, float(count))
    held = (low <= draws[0]) & (draws[0] <= high)
    assert float(held.double().mean()) == pytest.approx(0.9, abs=0.006)


def test_regions_that_mix_differently_hold_alike() -> None:
    """The left half of a slice mixes at once, the right half hardly: one n for both fails both."""
    chains, draws, side = 8, 6, 120
    values = chains_of(chains, draws, 0.0, side * side).reshape(chains, draws, side, side)
    slow = chains_of(chains, draws, 0.95, side * side).reshape(chains, draws, side, side)
    values[..., side // 2 :] = slow[..., side // 2 :]
    truth = 10 + normal(side, side, seed=33)
    one = independent_draws(values, lambda each: each.mean().expand(each.shape))
    halves = {}
    for name, worth in (("one", one), ("nearby", independent_draws(values, nearby))):
        low, _, _, high = interval_ends(values.flatten(0, 1), QUANTILE_LEVELS, worth)
        held = ((low <= truth) & (truth <= high)).double()
        halves[name] = (float(held[:, :50].mean()), float(held[:, 70:].mean()))
    # Standard error 0.4 %; of 80 neighbours eight chains tell n to a tenth.
    assert halves["nearby"] == pytest.approx((0.9, 0.9), abs=0.02)
    assert halves["one"][0] > 0.905
    assert halves["one"][1] < 0.885


def test_intervals_of_one_draw_and_of_air() -> None:
    one = normal(1, 1, 5).abs()
    assert torch.equal(independent_draws(one), torch.ones(5, dtype=torch.float64))
    assert torch.equal(independent_draws(torch.zeros(4, 6, 3)), torch.full((3,), 24.0))
    assert torch.equal(interval_ends(one[0], (0.05, 0.95), 1.0), one[0].expand(2, 5))
    air = 0.1 * normal(4, 6, 500).abs()
    assert (interval_ends(air.flatten(0, 1), (0.05, 0.95), 10.0) >= 0).all()
