"""Other people's posterior samplers, small and from their formulas, for comparison only.

All of them take an `InverseProblem` (the same whitened measurement, maps and noise that our sampler
gets) and our denoiser, and give one image per noise stream. Images are complex, `sigma` is the
noise std of one real component and x_t = clean + sigma z (variance exploding); the papers that
scale x_t to unit variance are rewritten. Where a paper takes many gradient steps to draw from a
Gaussian, the problem's solver can draw exactly instead.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from models.denoiser import NetworkPrior
from recon.noise import NoiseStreams
from recon.overlap import Overlap
from recon.prior import OverlapPrior, Prior
from recon.sampler import InverseProblem
from recon.schedule import geometric


class Denoiser:
    """A prior as the peers need it: at every noise level, with gradients, and counted.

    Below the lowest trained level the score of that level is used, and above the highest the
    noisy image is shrunk until its noise has that level: peers ask for levels from 0.007 to 230.
    """

    def __init__(self, prior: Prior, overlap: Overlap | None = None) -> None:
        self.prior = prior
        image = _Differentiable(prior)
        self._trained = (image if overlap is None else OverlapPrior(image, overlap)).denoise
        self.images = 0
        """Images denoised so far: network evaluations."""

    def __call__(self, noisy: Tensor, sigma: float) -> Tensor:
        """E[clean | noisy] of (batch, rows, columns), differentiable where `noisy` is."""
        self.images += len(noisy)
        low, high = self.prior.sigma_range
        if sigma > high:
            return self._trained(noisy * (high / sigma), high)
        if sigma < low:
            return noisy + (sigma / low) ** 2 * (self._trained(noisy, low) - noisy)
        return self._trained(noisy, sigma)


@dataclass(frozen=True)
class _Differentiable:
    """A prior within its trained levels, through which gradients pass where it is a network."""

    prior: Prior

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.prior.sigma_range

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        prior = self.prior
        if not (noisy.requires_grad and isinstance(prior, NetworkPrior)):
            # The network's answer is an inference tensor, which no later gradient could pass.
            return self.prior.denoise(noisy, sigma).clone()
        levels = torch.full((len(noisy),), prior.scale * sigma, device=noisy.device)
        channels = prior.scale * torch.view_as_real(noisy).movedim(-1, 1)
        reduced = prior.compute_dtype != torch.float32
        with torch.autocast(noisy.device.type, prior.compute_dtype, enabled=reduced):
            clean = prior.parameterization.denoise(prior.network, channels, levels)
        return torch.view_as_complex(clean.movedim(1, -1).contiguous()) / prior.scale


def power_levels(high: float, low: float, count: int) -> tuple[float, ...]:
    """`count` noise levels from `high` to `low`, even in the 7th root (Karras et al. 2022)."""
    ends = np.linspace(high ** (1 / 7), low ** (1 / 7), count)
    return tuple(float(level) ** 7 for level in ends)


def plain_annealed_langevin(
    problem: InverseProblem,
    denoiser: Denoiser,
    noise: NoiseStreams,
    *,
    levels: int = 1155,
    steps: int = 3,
    weight: float = 5.0,
    step: float = 1.148,
) -> Tensor:
    """Annealed Langevin with a norm-matched data step (Jalal et al. 2021, csgm-mri-langevin).

    x <- x + a (s - g) + sqrt(2 a) z with a = step sigma^2 and g the data gradient, rescaled to
    `weight` times the norm of the score s. Their 2311 levels from 232 to 0.0066 are used from the
    1157th on, 3 steps each: 3465 evaluations; fewer `levels` keep both ends. Norms are of each
    image, as in runs of one image. The last image is returned as it is, not denoised.
    """
    first, last = 232 * (0.0066 / 232) ** (1156 / 2310), 0.0066
    shape = problem.backprojection.shape
    # Uniform as published, by the normal distribution's quantile function from the chain's own
    # stream, but centred: coil maps are zero outside the head here, and nothing would take the
    # published start's mean of a half away there.
    drawn = torch.view_as_real(noise.normal(shape))
    image = torch.view_as_complex((torch.special.ndtr(drawn) - 0.5).contiguous())
    for sigma in geometric(first, last, levels - 1):
        size = step * sigma**2
        for _ in range(steps):
            score = (denoiser(image, sigma) - image) / sigma**2
            gradient = problem.solver.normal(image) - problem.backprojection
            matched = weight * _norm(score) / _norm(gradient).clamp_min(1e-30)
            image = image + size * (score - matched * gradient)
            image = image + math.sqrt(2 * size) * noise.normal(shape)
    return image


def preconditioned_langevin(
    problem: InverseProblem,
    denoiser: Denoiser,
    noise: NoiseStreams,
    *,
    levels: int = 100,
    steps: int = 1,
    step: float = 0.5,
    highest: float = 10.0,
    lowest: float = 0.01,
) -> Tensor:
    """Preconditioned unadjusted Langevin, pULA (Blumenthal et al. 2025), as BART's `sample` is.

    The likelihood is exact at every level and the prior's noise falls in equal ratios, with

        x <- x + step M g + sqrt(2 step) M^1/2 z,  M = (A^H A / eta^2 + I / sigma^2)^-1,
        g = A^H (y - A x) / eta^2 + (D(x) - x) / sigma^2,

    from an exact draw of the Gaussian of the data and of width `highest`. Theirs is in units where
    the noise is one per *complex* sample, which makes the same step. M is applied by ten warm
    conjugate gradients there, exactly here. The last image is returned as it is, not denoised.
    """
    zeros = problem.backprojection.new_zeros(noise.chains, *problem.backprojection.shape)
    image = gaussian_draw(problem, noise, zeros, highest, problem.noise_std)
    data = problem.noise_std**-2
    for sigma in geometric(highest, lowest, levels)[1:]:
        shift = sigma**-2
        for _ in range(steps):
            gradient = data * (problem.backprojection - problem.solver.normal(image))
            gradient = gradient + shift * (denoiser(image, sigma) - image)
            white = math.sqrt(2 * step) * problem.solver.white(noise, image)
            moved = problem.solver.precondition(step * gradient, white, data, shift)
            image = image + moved
    return image


def dps(
    problem: InverseProblem,
    denoiser: Denoiser,
    noise: NoiseStreams,
    *,
    steps: int = 500,
    scale: float = 2.0,
) -> Tensor:
    """Diffusion posterior sampling (Chung et al. 2023) on the levels of its MRI version.

    An ancestral step, then x moves by -scale times the gradient of |y - A D(x)| through the
    denoiser. Levels and scale are those of EDM-FastMRI (Aali et al.): 500 from 10 to 0.004, and
    1 / |r| times the gradient of |r|^2, which is 2 times that of |r|. The paper's own schedule of
    1000 steps spends nearly all of them above the range of an MR image.
    """
    sigmas = power_levels(10.0, 0.004, steps)
    image = sigmas[0] * noise.normal(problem.backprojection.shape)
    for sigma, below in pairwise((*sigmas, 0.0)):
        state = image.detach().requires_grad_(True)
        clean = denoiser(state, sigma)
        residual = problem.measurement - problem.operator.forward(clean)
        misfit = residual.abs().square().flatten(1).sum(dim=1).sqrt().sum()
        (gradient,) = torch.autograd.grad(misfit, state)
        image = _ancestral(image, clean.detach(), sigma, below, noise) - scale * gradient
    return image.detach()


def daps(
    problem: InverseProblem,
    denoiser: Denoiser,
    noise: NoiseStreams,
    *,
    levels: int = 200,
    highest: float = 100.0,
    lowest: float = 0.1,
    flow_steps: int = 5,
    langevin_steps: int = 100,
    data_std: float | None = 0.01,
    rate: float = 1e-4,
    width: float = 1.0,
) -> Tensor:
    """Decoupled annealing posterior sampling (Zhang et al. 2025).

    At each level: the probability flow from x_t to a clean image; a draw of the Gaussian round it,
    of std `width` sigma, given the data; noise of the next level. The draw is made by
    `langevin_steps` of a rate that falls to a hundredth, or exactly where that is 0. The published
    steps are too few to reach the published width of 1, so that an exact draw needs a smaller one.
    `data_std` None takes the measured noise. `lowest` is where levels end.
    """
    std = problem.noise_std if data_std is None else data_std
    sigmas = power_levels(highest, lowest, levels)
    shape = problem.backprojection.shape
    image = sigmas[0] * noise.normal(shape)
    for place, (sigma, below) in enumerate(pairwise((*sigmas, 0.0))):
        centre = _probability_flow(image, denoiser, sigma, flow_steps)
        if langevin_steps == 0:
            clean = gaussian_draw(problem, noise, centre, width * sigma, std)
        else:
            size = rate * (1 - 0.99 * place / max(levels - 1, 1))
            clean = centre
            for _ in range(langevin_steps):
                pull = (problem.backprojection - problem.solver.normal(clean)) / std**2
                clean = clean + size * (pull + (centre - clean) / (width * sigma) ** 2)
                clean = clean + math.sqrt(2 * size) * noise.normal(shape)
        image = clean + below * noise.normal(shape)
    return image


def split_gibbs(
    problem: InverseProblem,
    denoiser: Denoiser,
    noise: NoiseStreams,
    *,
    iterations: int = 100,
    widest: float = 10.0,
    narrowest: float = 0.02,
    decay: float = 0.93,
    grid: int = 100,
    steps: int | None = None,
) -> Tensor:
    """Split Gibbs sampling, PnP-DM (Wu et al. 2024): data and prior in turn, coupled by rho.

    z is drawn exactly from the Gaussian of the data and of width rho round x; x from the reverse
    diffusion started at z with noise rho. rho falls by `decay` from `widest` to `narrowest`. The
    diffusion takes the levels below rho of one `grid` as published, or `steps` of its own.
    """
    known = power_levels(10.0, max(denoiser.prior.sigma_range[0], 2e-3), grid)
    image = widest * noise.normal(problem.backprojection.shape)
    for k in range(iterations):
        rho = max(narrowest, widest * decay**k)
        image = gaussian_draw(problem, noise, image, rho, problem.noise_std)
        if steps is None:
            sigmas = (rho, *(level for level in known if level < 0.999 * rho))
        else:
            sigmas = power_levels(rho, rho / 10, steps)
        for sigma, below in pairwise((*sigmas, 0.0)):
            image = _ancestral(image, denoiser(image, sigma), sigma, below, noise)
    return image


def gaussian_draw(
    problem: InverseProblem, noise: NoiseStreams, centre: Tensor, width: float, noise_std: float
) -> Tensor:
    """Exact draws of N(centre, width^2) times the likelihood with noise `noise_std`."""
    data, shift = noise_std**-2, width**-2
    white = problem.solver.white(noise, centre)
    right = data * problem.backprojection + shift * centre
    return problem.solver.precondition(right, white, data, shift)


def _ancestral(
    image: Tensor, clean: Tensor, sigma: float, below: float, noise: NoiseStreams
) -> Tensor:
    """X at noise `below` given x at `sigma` and the clean image."""
    keep = (below / sigma) ** 2
    mean = clean + keep * (image - clean)
    return mean + below * math.sqrt(1 - keep) * noise.normal(image.shape[1:])


def _probability_flow(image: Tensor, denoiser: Denoiser, sigma: float, steps: int) -> Tensor:
    """Euler steps of the probability-flow ODE from `sigma` down, then the clean estimate."""
    low = min(0.01, sigma / 10)
    for high, below in pairwise((*power_levels(sigma, low, steps), 0.0)):
        clean = denoiser(image, high)
        image = clean + (below / high) * (image - clean)
    return image


def _norm(image: Tensor) -> Tensor:
    return image.abs().square().sum(dim=(-2, -1), keepdim=True).sqrt()
