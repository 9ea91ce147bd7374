"""A problem whose prior is sparse, and its posterior by long Gibbs sampling.

The prior is a scale mixture of Gaussians in the Haar basis, so that given the scale of every
coefficient the posterior is Gaussian, and given the coefficients their scales are independent. The
two conditionals are drawn exactly in turn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recon.operators import CartesianSense
from recon.prior import HaarMixturePrior
from recon.sampler import InverseProblem
from tests.problems import gaussian_case

ROWS, COLUMNS, COILS, NOISE_STD = 8, 16, 4, 0.02
REFERENCE = Path(__file__).parent / "recon" / "sparse_posterior.npz"
"""What `python -m tests.sparse` writes: mean and variance of the posteriors of 24 truths."""
TRUTHS = 24


@dataclass(frozen=True)
class SparseCase:
    """Truths drawn from the prior, each measured with four coils and six of sixteen lines."""

    prior: HaarMixturePrior
    operator: CartesianSense
    truth: Tensor
    """(truths, rows, columns) complex64."""
    measurement: Tensor
    """(truths, coils, rows, columns)."""

    def problem(self, chains: int) -> InverseProblem:
        """Every truth's measurement, `chains` times."""
        return InverseProblem(
            self.operator,
            self.operator.solver(),
            self.measurement.repeat_interleave(chains, dim=0),
            NOISE_STD,
        )


def sparse_prior(mean: float = 0.0) -> HaarMixturePrior:
    """Coarse coefficients wide and never absent, fine ones mostly as small as 0.03."""

    def scale(size: int) -> Tensor:
        return torch.tensor([0.0] + [1.0 + int(math.log2(k)) for k in range(1, size)])

    level = torch.maximum(scale(ROWS)[:, None], scale(COLUMNS)[None, :])
    wide = 2.0 * 2.0 ** (-0.8 * level)
    weights = torch.tensor([0.75, 0.15, 0.10])[:, None, None].repeat(1, ROWS, COLUMNS)
    weights[:, level == 2] = torch.tensor([0.4, 0.3, 0.3])[:, None]
    weights[:, level <= 1] = torch.tensor([0.02, 0.08, 0.9])[:, None]
    stds = torch.stack([torch.full_like(wide, 0.03), 0.3 * wide, wide])
    return HaarMixturePrior(mean * _white(ROWS, COLUMNS, seed=1), stds, weights)


def sparse_case(truths: int = TRUTHS, mean: float = 0.0, seed: int = 5) -> SparseCase:
    prior = sparse_prior(mean)
    mask = torch.zeros(ROWS, COLUMNS, dtype=torch.bool)
    mask[:, ::4] = True
    mask[:, COLUMNS // 2 - 1 : COLUMNS // 2 + 1] = True
    operator = gaussian_case(mask, noise=NOISE_STD, coils=COILS).problem.operator
    assert isinstance(operator, CartesianSense)
    generator = torch.Generator().manual_seed(seed)
    shares = prior.weights.flatten(1).T.repeat(truths, 1)
    label = torch.multinomial(shares, 1, generator=generator).reshape(truths, 1, ROWS, COLUMNS)
    std = prior.stds.expand(truths, -1, -1, -1).gather(1, label)[:, 0]
    truth = prior.mean + prior.images(std * _white(truths, ROWS, COLUMNS, seed=seed + 1))
    error = _white(truths, COILS, ROWS, COLUMNS, seed=seed + 2)
    return SparseCase(prior, operator, truth, operator.forward(truth) + NOISE_STD * mask * error)


def gibbs(case: SparseCase, sweeps: int, chains: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (truths, chains, pixels) and variance per component (truths, pixels) of coefficients.

    The third is the variance of the mean over all chains, from their differences. The first fifth
    of the sweeps is left out.
    """
    prior, count = case.prior, ROWS * COLUMNS
    generator = torch.Generator().manual_seed(seed)
    unit = torch.eye(count, dtype=torch.complex128).reshape(count, ROWS, COLUMNS)
    exact = CartesianSense(case.operator.coil_maps.to(torch.complex128), case.operator.mask)
    synthesis = prior.images(unit)
    data = prior.coefficients(exact.normal(synthesis)).reshape(count, count).T / NOISE_STD**2
    residual = case.measurement - case.operator.forward(prior.mean)
    pulled = prior.coefficients(exact.adjoint(residual.to(torch.complex128)))
    rhs = (pulled.flatten(1) / NOISE_STD**2).repeat_interleave(chains, dim=0)
    variance, share = prior.stds.double().flatten(1).square(), prior.weights.double().flatten(1)
    runs = len(rhs)
    label = torch.multinomial(share.T.repeat(runs, 1), 1, generator=generator).reshape(runs, count)
    total = torch.zeros(runs, count, dtype=torch.complex128)
    squares, kept = torch.zeros(runs, count, dtype=torch.float64), 0
    for sweep in range(sweeps):
        chosen = variance.expand(runs, -1, -1).gather(1, label[:, None])[:, 0]
        precision = data.repeat(runs, 1, 1)
        precision.diagonal(dim1=1, dim2=2).add_(1 / chosen)
        factor = torch.linalg.cholesky(precision)
        white = torch.randn(runs, count, 2, generator=generator, dtype=torch.float64)
        half = torch.linalg.solve_triangular(factor, rhs[..., None], upper=False)
        half = half + torch.view_as_complex(white)[..., None]
        drawn = torch.linalg.solve_triangular(factor.mH, half, upper=True)[..., 0]
        energy = drawn.abs().square()[:, None]
        log_share = share.log() - energy / (2 * variance) - variance.log()
        odds = torch.softmax(log_share, dim=1).transpose(1, 2).reshape(-1, len(share))
        label = torch.multinomial(odds, 1, generator=generator).reshape(runs, count)
        if sweep >= sweeps // 5:
            total, squares, kept = total + drawn, squares + drawn.abs().square(), kept + 1
    mean = (total / kept).reshape(-1, chains, count)
    second = (squares / kept).reshape(-1, chains, count).mean(dim=1)
    middle = mean.mean(dim=1)
    doubt = (mean - middle[:, None]).abs().square().sum(dim=1) / (chains * (chains - 1)) / 2
    return mean, (second - middle.abs().square()) / 2, doubt


def _white(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.view_as_complex(torch.randn(*shape, 2, generator=generator))


if __name__ == "__main__":
    torch.set_num_threads(1)
    arrays = {}
    for name, offset in (("zero", 0.0), ("mean", 0.5)):
        means, variances, doubts = gibbs(sparse_case(mean=offset), 900, 4, 3)
        arrays[f"{name}_mean"] = means.mean(dim=1).to(torch.complex64).numpy()
        arrays[f"{name}_variance"] = variances.float().numpy()
        arrays[f"{name}_doubt"] = doubts.float().numpy()
    np.savez_compressed(REFERENCE, **arrays)
