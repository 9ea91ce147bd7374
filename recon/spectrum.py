"""The Gaussian prior that undersampled scans themselves ask for, by expectation maximisation.

Images are taken for stationary, circular and Gaussian: all that there is to learn is the power at
every distance from the centre of k-space. E: exact posterior draws of every slice under the present
power (perturb and solve, `recon.coarse.gaussian_model_draws`). M: the mean power of the draws in
every ring, which is where the expected log likelihood has its maximum. With one coil the posterior
is diagonal in k-space and both steps have a closed form, against which the tests hold this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from recon.coarse import gaussian_model_draws, radial_spectrum
from recon.noise import NoiseStreams
from recon.operators import fft2c, ifft2c
from recon.prior import StationaryPrior
from recon.sampler import InverseProblem

_RINGS = 28
_DRAWS = 2
_FURTHEST = math.sqrt(0.5)
_LOWEST = 1e-9
"""Power that a ring keeps at least, where 1 is that of a bright image: its logarithm is taken."""


def fit_spectrum(
    problems: Callable[[], Iterator[InverseProblem]], longest: int, rounds: int, seed: int
) -> Iterator[StationaryPrior]:
    """The prior to begin with, and after each round over all `problems`, made anew for each.

    Problems are in the units of priors (`recon.slice_draws.slice_problem`), of any sizes up to the
    `longest` side, which the innermost ring is for. The first prior is the mean of the power laws
    that fit what each scan measured.
    """
    current = StationaryPrior(radii := ring_radii(longest), (1.0,) * len(radii))
    current = _mean_of(current, (_law(problem, current) for problem in problems()))
    yield current
    for number in range(rounds):
        current = _mean_of(
            current,
            (
                _drawn(problem, current, NoiseStreams.keyed(seed, f"{number}-{k}", range(_DRAWS)))
                for k, problem in enumerate(problems())
            ),
        )
        yield current


def ring_radii(longest: int) -> tuple[float, ...]:
    """Radii in equal ratios, cycles per voxel: from inside the first sample to the corners."""
    lowest = 0.5 / longest
    ratio = (_FURTHEST / lowest) ** (1 / (_RINGS - 1))
    return tuple(lowest * ratio**k for k in range(_RINGS))


def ring_powers(images: Tensor, prior: StationaryPrior) -> tuple[Tensor, Tensor]:
    """Power per real component of images (n, rows, columns), summed ring by ring, and how many."""
    power = fft2c(images).abs().square().mean(dim=0).flatten().cpu() / 2
    ring = prior.rings(images.shape[-2:]).flatten()
    zeros = torch.zeros(len(prior.radii))
    return zeros.scatter_add(0, ring, power), zeros.scatter_add(0, ring, torch.ones_like(power))


def _law(problem: InverseProblem, prior: StationaryPrior) -> tuple[Tensor, Tensor]:
    """The power law that fits a slice's samples, ring by ring."""
    return ring_powers(ifft2c((2 * radial_spectrum(problem)).sqrt() + 0j)[None], prior)


def _drawn(
    problem: InverseProblem, prior: StationaryPrior, noise: NoiseStreams
) -> tuple[Tensor, Tensor]:
    spectrum = prior.spectrum(problem.backprojection.shape, problem.measurement.device)
    return ring_powers(gaussian_model_draws(problem, spectrum, noise), prior)


def _mean_of(prior: StationaryPrior, found: Iterable[tuple[Tensor, Tensor]]) -> StationaryPrior:
    """Mean power of every ring; one that no image has a coefficient in takes its neighbour's."""
    power, count = torch.zeros(len(prior.radii)), torch.zeros(len(prior.radii))
    for total, number in found:
        power, count = power + total, count + number
    known = torch.nonzero(count).flatten().tolist()
    nearest = [min(known, key=lambda k: abs(k - here)) for here in range(len(prior.radii))]
    means = (power / count).clamp_min(_LOWEST)
    return replace(prior, powers=tuple(float(means[k]) for k in nearest))
