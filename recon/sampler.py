"""The sampling kernel: one preconditioned step that every annealing path is made of.

The target of a level is

    pi(x)  ~  p_sigma(x) * N(y + n; A x, eta^2) * N(anchor; x, anchor_sigma^2),

with the prior smoothed by `sigma`, the measurement re-noised by n with variance
eta^2 - noise_std^2, and an optional Gaussian anchor. The annealing paths of
both papers are sequences of levels:

* `measurement` path: prior fixed, eta falls through re-noised measurements, anchor kept and then
  released (Xun, Gupta and Price, Algorithms 1-3);
* `prior` path: exact likelihood, prior falls (Parulekar et al., annealed Langevin Monte Carlo).

One step of size h from level sigma to sigma' (its H and M = H^-1 taken at sigma'),
H = A^H A / eta^2 + (1/sigma'^2 + 1/anchor_sigma^2) I:

    x' = x + M [h grad log pi(x) + delta (D(x) - x) / sigma'^2] + sqrt(h/2) M^1/2 (w + w'),

* w is the white noise of the step before, w' is new. Sharing noise between neighbouring steps
  (Leimkuhler and Matthews 2013) makes the stationary variance of a Gaussian target exact for any
  h and any M, where Euler-Maruyama inflates it by 1 / (1 - h/2) in measured directions.
* delta = 1.2 (1 - sigma'/sigma) is the probability-flow step to the next level (Euler in sigma,
  as DDIM). With it the variance of unmeasured directions follows the falling target instead of
  lagging behind it. The factor makes up for the noise of the same step, which is not contracted:
  on Gaussian problems with eight or nine steps from six posterior stds down, whitened chi^2 was
  1.08 with 1.0, 1.05 with 1.15 and 1.02 with 1.3; learned priors lose a little with 1.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from recon.noise import NoiseStreams
from recon.operators import MeasurementOperator
from recon.prior import Prior
from recon.solve import GaussianSolver

PREDICTOR = 1.2
"""Strength of the probability-flow step; see the module's docstring."""


@dataclass(frozen=True)
class Level:
    """One step's target and size; sigma, eta and anchor are per real component."""

    sigma: float
    """Noise level at which the prior's score is taken."""
    next_sigma: float
    """Noise level of the next step; equal to `sigma` for a plain Langevin step."""
    step: float
    """Langevin step size h; stable below 2."""
    eta: float
    """Noise of the (re-noised) measurement, per real component."""
    anchor_sigma: float = math.inf
    """Width of the Gaussian anchor; infinity leaves it out."""


@dataclass(frozen=True)
class InverseProblem:
    """One slice, calibrated: everything the kernel needs to know of the measurement."""

    operator: MeasurementOperator
    solver: GaussianSolver
    measurement: Tensor
    """(coils, rows, columns), zero outside the mask."""
    noise_std: float

    @cached_property
    def backprojection(self) -> Tensor:
        """A^H y, (rows, columns)."""
        return self.operator.adjoint(self.measurement)

    def chi2(self, images: Tensor) -> Tensor:
        """(batch,) mean squared residual of images over the noise variance; 1 when consistent."""
        residual = self.measurement - self.operator.forward(images)
        power = residual.abs().square().flatten(1).sum(dim=1)
        return power / (self.operator.measured_components * self.noise_std**2)


class State(NamedTuple):
    """What the next step needs, for a batch of chains."""

    image: Tensor
    """(chains, rows, columns) complex64."""
    white: Tensor
    """White noise of the last step, half of which is in `image`."""
    anchor: Tensor
    """(chains, rows, columns): the noised coarse reconstruction x0'."""
    renoise: Tensor
    """(chains, rows, columns): A^H n of the re-noised measurement."""
    renoise_variance: float
    """Variance of n per component: eta^2 - noise_std^2 of the level it belongs to."""


def init(problem: InverseProblem, coarse: Tensor, sigma: float, noise: NoiseStreams) -> State:
    """Chains at x0' = coarse + sigma z, a fresh z for each (Xun et al., Algorithm 3)."""
    image = coarse + sigma * noise.image(coarse.shape, coarse.device)
    white = problem.solver.white(noise, image)
    return State(image, white, image, torch.zeros_like(image), 0.0)


def renoise(problem: InverseProblem, state: State, eta: float, noise: NoiseStreams) -> State:
    """The state with its measurement noise moved to the level `eta`.

    Upwards the path is y_i = y_{i+1} + sqrt(eta_i^2 - eta_{i+1}^2) z; downwards the same path is
    drawn as a Brownian bridge to n = 0 at the true noise, so that only the present n is kept.
    """
    now, then = state.renoise_variance, max(eta**2 - problem.noise_std**2, 0.0)
    if then == now:
        return state
    keep, spread = (then / now, then * (now - then) / now) if then < now else (1.0, then - now)
    fresh = torch.zeros_like(state.renoise)
    if spread > 0:
        shape = problem.operator.measurement_shape(state.image.shape[-2:])
        sample = noise.normal(shape, problem.measurement.device)
        fresh = math.sqrt(spread) * problem.operator.adjoint(sample)
    return state._replace(renoise=keep * state.renoise + fresh, renoise_variance=then)


def step(
    problem: InverseProblem, prior: Prior, level: Level, state: State, noise: NoiseStreams
) -> tuple[State, Tensor]:
    """One step at `level`, and E[clean | image] (chains, rows, columns) where it started.

    It costs one evaluation of the prior and one Gaussian solve.
    """
    state = renoise(problem, state, level.eta, noise)
    image = state.image
    denoised = prior.denoise(image, level.sigma)
    towards = denoised - image
    prior_precision, anchor_precision = level.next_sigma**-2, level.anchor_sigma**-2
    shift = prior_precision + anchor_precision
    predictor = PREDICTOR * (1 - level.next_sigma / level.sigma)
    drift = (level.step / level.sigma**2 + predictor * prior_precision) * towards
    if anchor_precision:
        drift = drift + level.step * anchor_precision * (state.anchor - image)
    white = problem.solver.white(noise, image)
    shared = math.sqrt(level.step / 2) * (state.white + white)
    data_precision = level.eta**-2
    pull = level.step * data_precision
    drift = drift + pull * (problem.backprojection + state.renoise)
    updated = problem.solver.relaxed(image, drift, pull, shared, data_precision, shift)
    return state._replace(image=updated, white=white), denoised


def diffuse(
    prior: Prior, sigma: float, next_sigma: float, state: State, noise: NoiseStreams
) -> tuple[State, Tensor]:
    """One step of the reverse diffusion SDE from noise `sigma` to `next_sigma`, without data.

    x^ = x + alpha z, x' = x^ + (1 - r^2) (D(x^) - x^) + gamma z', r = sigma'/sigma,
    alpha^2 = sigma^2 (1 - r^2) / (1 + r^2), gamma = r alpha. For a Gaussian prior of any variance
    the mean is exact; the variance is exact where the prior is much wider or much narrower than
    sigma and right to second order between, where ancestral steps lose it to first order.
    """
    ratio = next_sigma / sigma
    alpha = sigma * math.sqrt((1 - ratio**2) / (1 + ratio**2))
    shape, device = state.image.shape[1:], state.image.device
    noisy = state.image + alpha * noise.image(shape, device)
    denoised = prior.denoise(noisy, sigma)
    updated = noisy + (1 - ratio**2) * (denoised - noisy)
    updated = updated + ratio * alpha * noise.image(shape, device)
    return state._replace(image=updated), denoised


def spread(
    problem: InverseProblem, state: State, low: float, high: float, noise: NoiseStreams
) -> State:
    """The chains moved from prior level `low` up to `high`, where they mix faster.

    Noise of covariance (high^2 - low^2) (I + high^2 A^H A / eta^2)^-1: all of the difference in
    directions that were not measured, next to none in those that were. Exact for a Gaussian
    prior in unmeasured directions; the steps that follow relax the others at once.
    """
    white = problem.solver.white(noise, state.image)
    gain = math.sqrt(high**2 - low**2) / high
    coloured = problem.solver.precondition(
        torch.zeros_like(state.image), white, problem.noise_std**-2, high**-2
    )
    return state._replace(
        image=state.image + gain * coloured,
        white=problem.solver.white(noise, state.image),
    )
