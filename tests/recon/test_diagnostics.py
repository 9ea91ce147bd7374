import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage, stats

from recon.diagnostics import (
    chi2_per_coil,
    circular_std,
    effective_samples,
    independent_draws,
    interval_ends,
    mean_error,
    object_mask,
    split_rhat,
    spread_correction,
)
from recon.noise import NoiseStreams
from recon.operators import CartesianSense
from recon.phantom import simulate
from recon.posterior import QUANTILE_LEVELS
from recon.sampler import InverseProblem
from recon.solve import ConjugateGradientSolver


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rhat_of_the_book(draws: NDArray[np.float64]) -> float:
    """BDA3 (11.1) to (11.4) for (chains, draws) of one scalar, letter by letter."""
    half = draws.shape[1] // 2
    halves = [part for chain in draws for part in (chain[:half], chain[len(chain) - half :])]
    m, n = len(halves), half
    means = [sum(part) / n for part in halves]
    overall = sum(means) / m
    between = n / (m - 1) * sum((mean - overall) ** 2 for mean in means)
    variances = [
        sum((value - mean) ** 2 for value in part) / (n - 1)
        for part, mean in zip(halves, means, strict=True)
    ]
    within = sum(variances) / m
    return math.sqrt(((n - 1) / n * within + between / n) / within)


@pytest.mark.parametrize(("chains", "draws"), [(2, 4), (3, 11), (8, 50), (1, 6)])
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
    assert split_rhat(normal(3, 3, 2, 2)).isnan().all()
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


def test_effective_samples_of_independent_draws_are_near_their_number() -> None:
    pixels, chains, draws = 4000, 64, 50
    effective = effective_samples(normal(chains, draws, pixels, seed=8))
    count = chains * draws
    # Estimate = count / q where q is chi2 / dof over chains, cut at count: E min(1, 1 / q).
    freedom = chains - 1
    share = stats.chi2(freedom).expect(lambda x: min(1, freedom / x))
    spread = float(effective.std()) / math.sqrt(pixels)
    # The pooled variance, with 3199 degrees of freedom, moves it by 2 in 3199 at most.
    assert abs(float(effective.mean()) - share * count) < 5 * spread + 2e-3 * count
    assert 0.9 < share < 0.95
    assert float(effective.max()) <= count


def test_effective_samples_of_repeated_draws_are_the_chains() -> None:
    pixels, chains, draws = 4000, 64, 50
    effective = effective_samples(normal(chains, 1, pixels, seed=9).expand(-1, draws, -1))
    torch.testing.assert_close(effective, torch.full_like(effective, chains), rtol=0.03, atol=0)


def test_effective_samples_of_correlated_draws() -> None:
    """Autoregressive chains with coefficient 0.8 are worth (1 - 0.8) / (1 + 0.8) of their draws."""
    pixels, chains, draws = 1000, 64, 400
    noise = normal(chains, draws, pixels, seed=10)
    values = torch.empty_like(noise)
    values[:, 0] = noise[:, 0]
    for k in range(1, draws):
        values[:, k] = 0.8 * values[:, k - 1] + 0.6 * noise[:, k]
    found = 1 / float((1 / effective_samples(values)).mean())
    # Finite chains hold a little less correlation: the sum of (1 - lag / draws) 0.8^lag.
    lags = torch.arange(1, draws, dtype=torch.float64)
    factor = 1 + 2 * float(((1 - lags / draws) * 0.8**lags).sum())
    standard_error = math.sqrt(2 / (chains - 1) / pixels)
    assert abs(found * factor / (chains * draws) - 1) < 5 * standard_error + 5e-3


@pytest.mark.parametrize("spread", [0.05, 0.5, 1.2])
def test_circular_std_of_wrapped_normal_phases(spread: float) -> None:
    """A wrapped normal phase has the circular standard deviation of the unwrapped one."""
    draws = 40_000
    angle = spread * normal(draws, 2, 3, seed=11) + 3.0
    images = torch.polar(normal(draws, 2, 3, seed=12).abs() + 0.1, angle)
    found = circular_std(images)
    assert found.shape == (2, 3)
    # Var of R's estimate is (1 - R^2)^2 / 2n for a wrapped normal; d std = dR / (R std).
    length = math.exp(-(spread**2) / 2)
    standard_error = (1 - length**2) / math.sqrt(2 * draws) / (length * spread)
    assert (found - spread).abs().max() < 5 * standard_error


def test_circular_std_of_zeros_and_equal_phases() -> None:
    equal = torch.full((5, 2), 3 * torch.exp(torch.tensor(2j)).item())
    assert float(circular_std(equal).max()) < 1e-3
    assert torch.isfinite(circular_std(torch.zeros(5, 2, dtype=torch.complex64))).all()


def noise_problem(stds: tuple[float, ...], shape: tuple[int, int]) -> InverseProblem:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(13)) < 0.4
    maps = torch.full((len(stds), *shape), len(stds) ** -0.5, dtype=torch.complex64)
    operator = CartesianSense(maps, mask)
    noise = NoiseStreams.pooled(14, 1).normal((len(stds), *shape))[0]
    measurement = 0.2 * torch.tensor(stds)[:, None, None] * noise * mask
    return InverseProblem(operator, ConjugateGradientSolver(operator), measurement, 0.2)


def test_chi2_of_pure_noise_is_one() -> None:
    """Per coil within 5 standard errors, sqrt(2 / components of the coil)."""
    stds, shape = (1.0, 1.0, 3.0), (80, 75)
    problem = noise_problem(stds, shape)
    images = torch.zeros(2, *shape, dtype=torch.complex64)
    chi2 = chi2_per_coil(problem, images)
    assert chi2.shape == (3,)
    components = problem.operator.measured_components / 3
    relative = chi2 / torch.tensor(stds).square()
    assert (relative - 1).abs().max() < 5 * math.sqrt(2 / components)
    # The mean over coils is the kernel's own value, image by image.
    assert float(problem.chi2(images)[0]) == pytest.approx(float(chi2.mean()), rel=1e-5)


def test_chi2_is_averaged_over_images() -> None:
    problem = noise_problem((1.0, 1.0), (20, 21))
    images = NoiseStreams.pooled(15, 3).normal((20, 21))
    each = torch.stack([chi2_per_coil(problem, image[None]) for image in images])
    torch.testing.assert_close(chi2_per_coil(problem, images), each.mean(dim=0))
    assert each.std(dim=0).min() > 0


def test_object_mask_is_the_filled_object() -> None:
    rows, columns = np.indices((90, 81))
    distance = np.hypot(rows - 44, columns - 40)
    magnitude = np.where(distance < 30, 1.0, 0.01).astype(np.float32)
    magnitude[distance < 10] = 0.01
    magnitude[3, 3] = 1
    mask = object_mask(magnitude)
    assert mask.dtype == np.bool_
    assert mask.shape == (90, 81)
    # Smoothing by 2 pixels moves the edge at 8 % outwards by 2.8 of them.
    assert mask[distance < 29].all()
    assert not mask[distance > 35].any()


def test_object_mask_of_the_phantom() -> None:
    _, truth = simulate(1, 1, 96, 96, snr=math.inf)
    head = ndimage.binary_fill_holes(np.abs(truth[0]) > 0)
    found = object_mask(np.abs(truth[0]).astype(np.float32))
    assert np.count_nonzero(head & ~found) < 0.01 * np.count_nonzero(head)
    assert not (found & ~ndimage.binary_dilation(head, iterations=4)).any()
    # Units do not matter.
    scaled = object_mask((1e6 * np.abs(truth[0])).astype(np.float32))
    np.testing.assert_array_equal(scaled, found)


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
    inside = torch.ones(20_000, dtype=torch.bool)
    assert independent_draws(values, inside) == pytest.approx(expected, rel=0.04)
    std = spread_correction(expected) * values.flatten(0, 1).std(dim=0, correction=0)
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
    worth = independent_draws(values, torch.ones(pixels, dtype=torch.bool))
    low, middle_low, middle_high, high = interval_ends(values.flatten(0, 1), QUANTILE_LEVELS, worth)
    assert float(((low <= truth) & (truth <= high)).double().mean()) == pytest.approx(
        0.9, abs=0.025
    )
    inner = (middle_low <= truth) & (truth <= middle_high)
    assert float(inner.double().mean()) == pytest.approx(0.5, abs=0.03)


def test_intervals_of_one_draw_and_of_air() -> None:
    one = normal(1, 1, 5).abs()
    assert independent_draws(one, torch.ones(5, dtype=torch.bool)) == 1
    assert torch.equal(interval_ends(one[0], (0.05, 0.95), 1.0), one[0].expand(2, 5))
    air = 0.1 * normal(4, 6, 500).abs()
    assert (interval_ends(air.flatten(0, 1), (0.05, 0.95), 10.0) >= 0).all()
