"""The sampler against closed-form posteriors, judged in standard errors of whitened draws."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from recon.chains import ChainPlan, Draws, run_chains
from recon.coarse import cg_sense
from recon.errors import ConvergenceError
from recon.noise import NoiseKey, NoiseStreams
from recon.paths import NARROW, PATHS, PriorPath
from recon.prior import GaussianMixturePrior, GaussianPrior, RingPrior
from recon.sampler import Level, State, diffuse, init, renoise, spread, step
from recon.schedule import (
    PRESETS,
    dense,
    geometric,
    lowest_sigma,
    measurement_path,
    prior_path,
)
from tests.problems import (
    GaussianCase,
    RealPart,
    Weighting,
    diagonal_problem,
    gaussian_case,
    line_mask,
    scattered_mask,
)


def finish(run: Generator[object, None, Draws]) -> tuple[int, Draws]:
    evaluations = 0
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return evaluations, stop.value
        evaluations += 1


def gaussian_draws(case: GaussianCase, preset: str, chains: int) -> torch.Tensor:
    plan = ChainPlan(
        preset=replace(PRESETS[preset], chains=chains),
        path=NARROW,
        localization_sigma=0.6,
        lowest_sigma=lowest_sigma(case.problem.noise_std, (0.0, math.inf)),
        highest_sigma=math.inf,
        posterior_std=0.095,
    )
    coarse = cg_sense(case.problem, case.prior.spectrum)
    evaluations, draws = finish(
        run_chains(case.problem, case.prior, plan, coarse, NoiseKey(3, "test"), range(chains))
    )
    assert evaluations == PRESETS[preset].evaluations
    return draws.images


MASKS = {"lines": line_mask(16, 18), "scattered": scattered_mask(16, 18)}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("preset", "bound"), [("fast", 0.10), ("standard", 0.10), ("thorough", 0.05)]
)
def test_gaussian_posterior_is_drawn_right(mask: str, preset: str, bound: float) -> None:
    case = gaussian_case(MASKS[mask])
    chains = 96
    draws = gaussian_draws(case, preset, chains)
    scores = case.scores(draws[:, -1])
    # Standard error of chi^2 over chains * pixels complex values is below 0.007.
    assert abs(float(scores.abs().square().mean()) / 2 - 1) < bound
    share = case.measured_share
    groups = {
        "unmeasured": share < 0.3,
        "half measured": (share >= 0.3) & (share < 0.9),
        "measured": share >= 0.9,
    }
    for name, group in groups.items():
        count = chains * int(group.sum())
        assert count > 1000, name
        inside = scores[:, group]
        variance = float((inside - inside.mean(dim=0)).abs().square().sum()) / (2 * count)
        variance *= chains / (chains - 1)
        assert abs(variance - 1) < bound + 4 / math.sqrt(count), name
        # Whitened means are N(0, 1/chains) per component when unbiased; a bias of 2 * bound
        # posterior standard deviations adds less than `bound` to chi^2.
        excess = float(inside.mean(dim=0).abs().square().mean()) / 2 - 1 / chains
        error = 1 / (chains * math.sqrt(int(group.sum())))
        assert excess < (2 * bound) ** 2 + 4 * error, name


def test_directions_that_were_hardly_measured_are_as_wide_as_the_prior_leaves_them() -> None:
    # From the localization's own noise, 0.13, the unmeasured ones would end with 16 % of it.
    weights = torch.tensor([[0.0, 0.05, 0.3, 1.0]]).expand(256, -1)
    noise_std, chains = 0.016, 16
    prior = GaussianPrior(torch.zeros(256, 4, dtype=torch.complex64), torch.ones(256, 4))
    problem = diagonal_problem(
        Weighting(weights), torch.zeros(1, 256, 4, dtype=torch.complex64), noise_std
    )
    plan = ChainPlan(PRESETS["fast"], PriorPath(), 0.13, noise_std / 2, 100.0, 0.13)
    coarse = torch.full((256, 4), 0.3 + 0j)
    _, draws = finish(run_chains(problem, prior, plan, coarse, NoiseKey(0, "wide"), range(chains)))
    expected = 1 / (1 / (1 + (noise_std / 2) ** 2) + weights[0] ** 2 / noise_std**2)
    ratio = draws.images[:, -1].abs().square().mean(dim=(0, 1)) / (2 * expected)
    # `fast` is right within 15 %; the standard error is below 2 %.
    assert torch.allclose(ratio, torch.ones(4), atol=0.15 + 4 * 0.016)


@pytest.mark.parametrize("size", [0.3, 1.0, 1.3])
def test_stationary_variance_is_exact_at_any_step(size: float) -> None:
    # Euler-Maruyama would give 1 / (1 - h/2) in measured pixels: 1.18, 2 and 2.9.
    weights = torch.tensor([[0.0, 0.03, 0.1, 1.0]]).expand(256, -1)
    noise_std, sigma = 0.02, 0.1
    prior = GaussianPrior(torch.zeros(256, 4, dtype=torch.complex64), torch.full((256, 4), 0.04))
    problem = diagonal_problem(
        Weighting(weights), torch.zeros(1, 256, 4, dtype=torch.complex64), noise_std
    )
    noise = NoiseStreams.pooled(0, 16)
    state = init(problem, torch.zeros(256, 4, dtype=torch.complex64), 0.2, noise)
    for _ in range(80):
        state, _ = step(problem, prior, Level(sigma, sigma, size, noise_std), state, noise)
    expected = 1 / (1 / (0.04 + sigma**2) + weights[0] ** 2 / noise_std**2)
    ratio = state.image.abs().square().mean(dim=(0, 1)) / (2 * expected)
    assert torch.allclose(ratio, torch.ones(4), atol=5 / math.sqrt(256 * 16))


@pytest.mark.parametrize(("count", "bound"), [(16, 0.06), (32, 0.03), (64, 0.015)])
def test_localization_draws_the_prior_near_its_start(count: int, bound: float) -> None:
    # Ancestral steps lose 29 % of the variance at 32 substeps from 0.5 to 0.001. Here the mean is
    # exact, and the variance second order: twice the steps, a quarter of the error.
    variance, sigma = 0.04, 0.5
    shape = (128, 128)
    prior = GaussianPrior(torch.zeros(shape, dtype=torch.complex64), torch.full(shape, variance))
    problem = diagonal_problem(Weighting(torch.zeros(shape)), torch.zeros(1, *shape) + 0j, 1.0)
    noise = NoiseStreams.pooled(1, 8)
    start = torch.full((8, *shape), 0.3 + 0j)
    state = State(start, problem.solver.white(noise, start), start, torch.zeros_like(start), 0)
    for high, low in pairwise(geometric(sigma, 0.001, count)):
        state, _ = diffuse(prior, high, low, state, noise)
    shrink = variance / (variance + sigma**2)
    exact = variance * (1 - shrink)
    found = state.image
    error = math.sqrt(1 / found.numel())
    assert float(found.real.mean()) == pytest.approx(0.3 * shrink, abs=4 * math.sqrt(exact) * error)
    measured = float((found - found.mean()).abs().square().mean()) / 2
    assert abs(measured / exact - 1) < bound + 4 * error


def mixture_weights(images: torch.Tensor) -> torch.Tensor:
    positive = torch.stack([images[:, 0, 0].real > 0, images[:, 0, 1].real > 0], dim=1)
    index = 2 * positive[:, 0].int() + positive[:, 1].int()
    return torch.bincount(index, minlength=4) / len(images)


def test_mixture_weights_are_found_from_one_measured_coordinate() -> None:
    # Reference test 8: components at (+-2.5, +-2.5), std 0.35; y = 2.5 on the first coordinate.
    corners = [(-2.5, -2.5), (-2.5, 2.5), (2.5, -2.5), (2.5, 2.5)]
    prior = GaussianMixturePrior(
        torch.tensor(corners).reshape(4, 1, 2) + 0j, torch.full((4,), 0.35), torch.full((4,), 0.25)
    )
    measurement = torch.tensor([[[2.5 + 0j, 0]]])
    problem = diagonal_problem(Weighting(torch.tensor([[1.0, 0.0]])), measurement, 0.3)
    noise = NoiseStreams.pooled(0, 20_000)
    state = init(problem, torch.zeros(1, 2, dtype=torch.complex64), 10.0, noise)
    for level in prior_path(10.0, 0.03, 100, 0.3, 1.0):
        state, _ = step(problem, prior, level, state, noise)
    weights = mixture_weights(state.image)
    # Standard error 0.0035.
    assert torch.allclose(weights, torch.tensor([0, 0, 0.5, 0.5]), atol=0.03)
    real = state.image.real[:, 0]
    assert real.mean(dim=0).tolist() == pytest.approx([2.5, 0], abs=0.08)
    assert real.var(dim=0).tolist() == pytest.approx([0.05188, 6.3725], rel=0.05)


def test_ring_by_algorithm_2() -> None:
    # Reference test 5: localization and annealed Langevin towards p(x | x0, y) on the noisy ring.
    chains, sigma, eta = 100_000, 0.05, 0.1
    lowest = 0.01
    prior = RingPrior(0.1)
    problem = diagonal_problem(RealPart(), torch.full((1, 1, 1), 0.7148 + 0j), eta)
    noise = NoiseStreams.pooled(0, chains)
    start = torch.full((chains, 1, 1), 0.8198 + 0.6542j)
    white = problem.solver.white(noise, start)
    state = State(start, white, start, torch.zeros_like(start), 0.0)
    for high, low in pairwise(geometric(sigma, 0.001, 60)):
        state, _ = diffuse(prior, high, low, state, noise)
    # The grid's p(x | x0): mean (.8113, .6474), covariance (.00219, -.00023, .00229).
    assert float(state.image.real.mean()) == pytest.approx(0.8113, abs=0.002)
    assert float(state.image.imag.mean()) == pytest.approx(0.6474, abs=0.002)
    assert float(state.image.real.var()) == pytest.approx(0.00219, rel=0.05)
    assert float(state.image.imag.var()) == pytest.approx(0.00229, rel=0.05)
    levels = [
        Level(lowest, lowest, 1.0, noise_level, anchor_sigma=sigma)
        for noise_level in geometric(0.114**0.5, eta, 6)[1:]
        for _ in range(50)
    ]
    for level in levels:
        state, _ = step(problem, prior, level, state, noise)
    found = torch.view_as_real(state.image[:, 0, 0].to(torch.complex128))
    covariance = torch.cov(found.T)
    # Standard errors: 1.4e-4 of the means, 0.5 % of the variances; smoothing adds 1 %.
    assert found.mean(dim=0).tolist() == pytest.approx([0.7940, 0.6492], abs=0.001)
    assert covariance.diag().tolist() == pytest.approx([0.00180, 0.00229], rel=0.03)
    assert float(covariance[0, 1]) == pytest.approx(-0.00019, abs=5e-5)


@pytest.mark.parametrize("renoised", [True, False])
def test_renoising_keeps_the_marginal(renoised: bool) -> None:
    # Reference test 2, the bug detector: at eta_i^2 = 1 with eta^2 = 0.1 the marginal over y stays
    # the prior's if y is re-noised, and contracts to 0.775 if only eta is raised.
    shape, noise_std, eta, sigma = (128, 128), math.sqrt(0.1), 1.0, 0.05
    generator = torch.Generator().manual_seed(5)
    truth, error = (
        torch.view_as_complex(torch.randn(*shape, 2, generator=generator)) for _ in "xy"
    )
    prior = GaussianPrior(torch.zeros(shape, dtype=torch.complex64), torch.ones(shape))
    measurement = (truth + noise_std * error)[None]
    problem = diagonal_problem(Weighting(torch.ones(shape)), measurement, noise_std)
    noise = NoiseStreams.pooled(2, 1)
    state = init(problem, torch.zeros(shape, dtype=torch.complex64), 0.0, noise)
    if renoised:
        state = renoise(problem, state, eta, noise)
        assert state.renoise_variance == pytest.approx(0.9)
    else:
        state = state._replace(renoise_variance=eta**2 - noise_std**2)
    # Exact draw of p(x | y_i): the kernel from sigma = 5 down, then at rest.
    for level in prior_path(5.0, sigma, 60, eta, 1.0):
        state, _ = step(problem, prior, level, state, noise)
    variance = float(state.image.abs().square().mean()) / 2
    expected = 1.0 if renoised else 0.775
    # Standard error 1/sqrt(128 * 128) = 0.008; smoothing and annealing add less than 0.01.
    assert variance == pytest.approx(expected, abs=0.035)


@pytest.mark.parametrize(("gamma", "minimum"), [(1.0, 0.962), (0.5, 0.980)])
def test_one_annealed_stage_dips_as_in_closed_form(gamma: float, minimum: float) -> None:
    # Reference test 2: Var = 1 - 2 (a - b) s (1 - s), smallest at s = 1/2.
    shape, noise_std, sigma = (192, 192), math.sqrt(0.1), 0.03
    generator = torch.Generator().manual_seed(6)
    truth, error = (
        torch.view_as_complex(torch.randn(*shape, 2, generator=generator)) for _ in "xy"
    )
    prior = GaussianPrior(torch.zeros(shape, dtype=torch.complex64), torch.ones(shape))
    problem = diagonal_problem(
        Weighting(torch.ones(shape)), (truth + noise_std * error)[None], noise_std
    )
    noise = NoiseStreams.pooled(3, 4)
    eta = noise_std * math.sqrt(1 + gamma)
    state = init(problem, torch.zeros(shape, dtype=torch.complex64), 0.0, noise)
    state = renoise(problem, state, eta, noise)
    backprojection = problem.backprojection + state.renoise
    mean, variance = backprojection / (eta**2 + 1), eta**2 / (eta**2 + 1)
    draw = mean + math.sqrt(variance) * noise.normal(shape)
    state = state._replace(image=draw)
    precision = 1 / noise_std**2 + 1 / sigma**2
    steps = round(math.log(2) / (1 + 1 / noise_std**2) * precision / 0.5)
    for _ in range(steps):
        state, _ = step(problem, prior, Level(sigma, sigma, 0.5, noise_std), state, noise)
    found = float(state.image.abs().square().mean()) / 2
    # Standard error below 1/192 (chains share y); the discretised flow is right to 0.002.
    assert found == pytest.approx(minimum, abs=0.012)


def test_noise_levels_are_dense_around_the_focus_and_end_where_they_should() -> None:
    levels = dense(3.0, 0.01, 60, focus=0.15)
    assert len(levels) == 61
    assert (levels[0], levels[-1]) == (3.0, 0.01)
    steps = [math.log(high / low) for high, low in pairwise(levels)]
    nearest = min(range(60), key=lambda k: abs(math.log(levels[k] / 0.15)))
    assert min(steps) == pytest.approx(steps[nearest], rel=0.01)
    # log 300 of plain length and 5 sqrt(2 pi) of the bump, all but its tails, in 60 steps.
    whole = math.log(300) + 5 * math.sqrt(2 * math.pi)
    assert min(steps) == pytest.approx(whole / 60 / 6, rel=0.02)
    assert dense(3.0, 0.01, 0, 0.15) == (3.0,)


def test_measurement_path_lets_its_noise_lead_and_its_anchor_go() -> None:
    levels = measurement_path(2.0, 0.01, 40, eta=0.02, step=1.0, anchor_sigma=3.0)
    prior = prior_path(2.0, 0.01, 40, eta=0.02, step=1.0)
    assert [level.sigma for level in levels] == [level.sigma for level in prior]
    etas = [level.eta for level in levels]
    assert 0.02 < etas[0] < 6
    assert etas == sorted(etas, reverse=True)
    assert all(eta == pytest.approx(0.02) for eta in etas[9:])
    assert [level.anchor_sigma for level in levels] == [3.0] * 10 + [math.inf] * 30


@dataclass(frozen=True)
class IndependentPixels:
    """Gaussian pixels, each with its own std."""

    stds: Tensor
    sigma_range: tuple[float, float] = (0.0, math.inf)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        return noisy * self.stds**2 / (self.stds**2 + sigma**2)


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("preset", ["fast", "standard"])
def test_both_paths_keep_the_variance_of_what_was_not_measured(name: str, preset: str) -> None:
    """Directions of every width, half of them unmeasured: each has its posterior's variance."""
    stds = torch.tensor([0.05, 0.1, 0.25, 0.5, 1.0]).repeat_interleave(40)
    weights = torch.tensor([0.0, 1.0]).repeat_interleave(20).repeat(5)
    size = (len(stds), 30)
    stds, weights = stds[:, None].expand(size), weights[:, None].expand(size)
    prior = IndependentPixels(stds)
    truth = stds * NoiseStreams.pooled(8, 1).normal(size)[0]
    data = (weights * (truth + 0.02 * NoiseStreams.pooled(9, 1).normal(size)[0]))[None]
    problem = diagonal_problem(Weighting(weights.contiguous()), data, 0.02)
    plan = ChainPlan(
        preset=replace(PRESETS[preset], chains=16, cycles=0),
        path=PATHS[name],
        localization_sigma=0.2,
        lowest_sigma=0.01,
        highest_sigma=math.inf,
        posterior_std=0.1,
    )
    coarse = torch.where(weights > 0, truth, 0)
    _, draws = finish(run_chains(problem, prior, plan, coarse, NoiseKey(3, "law"), range(16)))
    precision = stds**-2 + weights**2 / 0.02**2
    mean = weights * data[0] / 0.02**2 / precision
    found = (draws.images[:, 0] - mean).abs().square().mean(dim=(0, 2)) / 2 * precision[:, 0]
    groups = found.reshape(5, 2, 20).mean(dim=2)
    # 20 x 30 x 16 complex numbers each: half a per cent of doubt. Below twice the lowest level
    # (0.01) the smoothing of the prior shows.
    assert float(groups.min()) > 0.97
    assert float(groups.max()) < 1.12


def test_renoise_is_a_path_down_to_no_noise() -> None:
    case = gaussian_case(line_mask(8, 8))
    noise = NoiseStreams.pooled(0, 3)
    state = init(case.problem, torch.zeros(8, 8, dtype=torch.complex64), 0.1, noise)
    up = renoise(case.problem, state, 0.3, noise)
    assert up.renoise_variance == pytest.approx(0.3**2 - case.problem.noise_std**2)
    down = renoise(case.problem, up, case.problem.noise_std, noise)
    assert down.renoise_variance == 0
    assert float(down.renoise.abs().max()) == 0


def test_spread_adds_the_difference_of_variances_where_nothing_was_measured() -> None:
    shape = (200, 200)
    weights = torch.zeros(shape)
    weights[100:] = 1
    problem = diagonal_problem(Weighting(weights), torch.zeros(1, *shape) + 0j, 0.01)
    noise = NoiseStreams.pooled(0, 2)
    state = init(problem, torch.zeros(shape, dtype=torch.complex64), 0.0, noise)
    moved = spread(problem, state, 0.1, 0.5, noise).image.abs().square().mean(dim=(0, 2)) / 2
    assert float(moved[:100].mean()) == pytest.approx(0.24, rel=0.03)
    assert float(moved[100:].mean()) < 2e-4


def test_a_chain_does_not_depend_on_its_batch() -> None:
    case = gaussian_case(line_mask(10, 12))
    plan = ChainPlan(PRESETS["fast"], NARROW, 0.4, 0.02, 100.0, 0.1)
    coarse = torch.zeros(10, 12, dtype=torch.complex64)

    def chains(numbers: range) -> torch.Tensor:
        return finish(
            run_chains(case.problem, case.prior, plan, coarse, NoiseKey(1, "a"), numbers)
        )[1].images

    together = chains(range(4))
    assert torch.allclose(chains(range(2, 4)), together[2:], atol=1e-4)
    assert not torch.allclose(together[0], together[1], atol=1e-2)


class _Breaking:
    """A prior whose score turns not-a-number while the step is a given one."""

    sigma_range = (0.0, math.inf)

    def __init__(self, calls_that_break: int) -> None:
        self.left = calls_that_break

    def denoise(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        self.left -= 1
        return 0.5 * noisy if self.left < 0 else noisy * math.nan


def test_one_divergence_halves_the_step_and_a_second_is_an_error() -> None:
    case = gaussian_case(line_mask(8, 8))
    plan = ChainPlan(PRESETS["fast"], NARROW, 0.4, 0.02, 100.0, 0.1)
    coarse = torch.zeros(8, 8, dtype=torch.complex64)
    arguments = (plan, coarse, NoiseKey(0, "a"), range(2))
    assert finish(run_chains(case.problem, _Breaking(1), *arguments))[1].step == plan.step / 2
    # It is noticed at the end of a stage.
    stage = plan.preset.localization + plan.preset.annealing
    with pytest.raises(ConvergenceError) as caught:
        finish(run_chains(case.problem, _Breaking(stage + 1), *arguments))
    assert caught.value.code == "diverged"


@pytest.mark.parametrize("name", PATHS)
def test_a_hundred_cycles_keep_the_variance_of_the_first_annealing(name: str) -> None:
    """Directions as wide as the prior or measured: cycles leave the posterior where it is."""
    stds = torch.tensor([0.25, 0.5, 1.0]).repeat_interleave(40)
    weights = torch.tensor([0.0, 1.0]).repeat_interleave(20).repeat(3)
    size = (len(stds), 30)
    stds, weights = stds[:, None].expand(size), weights[:, None].expand(size)
    problem = diagonal_problem(
        Weighting(weights.contiguous()), torch.zeros(1, *size, dtype=torch.complex64), 0.02
    )
    plan = ChainPlan(
        preset=replace(PRESETS["standard"], chains=4, cycles=100),
        path=PATHS[name],
        localization_sigma=0.2,
        lowest_sigma=0.01,
        highest_sigma=math.inf,
        posterior_std=0.1,
    )
    coarse = torch.zeros(size, dtype=torch.complex64)
    run = run_chains(problem, IndependentPixels(stds), plan, coarse, NoiseKey(4, "law"), range(4))
    _, draws = finish(run)
    precision = (stds**-2 + weights**2 / 0.02**2)[:, 0]
    squares = draws.images.abs().square().mean(dim=(0, 3)) / 2 * precision
    late = squares[-20:].mean(dim=0).reshape(3, 2, 20).mean(dim=2)
    # Twenty draws of four chains; neighbours resemble each other, 600 pixels do not: 2 % of doubt.
    assert torch.allclose(late, torch.ones(3, 2), atol=0.1)
