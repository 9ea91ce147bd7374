"""Honesty without ground truth: acquired samples that a second run did not see, predicted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from recon.calibration import Calibration
from recon.central_lines import calibration_width
from recon.posterior import SelfCheck
from recon.sampler import InverseProblem
from recon.scan import Scan

_SHARE = 0.12
_FEWEST_READOUTS = 16


def held_out_of(measured: Scan | Calibration, seed: int) -> NDArray[np.bool_]:
    """Acquired samples of a slice to leave out, of the mask's shape, on the grid or off it."""
    choose = hold_out if measured.trajectory is None else hold_out_readouts
    return choose(measured.mask, seed)


def hold_out(mask: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """(rows, columns) acquired samples to leave out: lines of a 1-D mask, else single samples.

    About an eighth of what lies outside the calibration region, at least two lines; all False
    where fewer than six lines lie there.
    """
    rng = np.random.default_rng(seed)
    width = max(calibration_width(mask), 1)
    held_out = np.zeros_like(mask)
    for axis in (0, 1):
        if (mask == mask.take([0], axis=axis)).all():
            pattern = np.asarray(mask.take(0, axis=axis))
            position = np.arange(len(pattern)) - len(pattern) // 2
            lines = np.flatnonzero(pattern & (np.abs(position) > width / 2))
            if len(lines) < 6:
                return held_out
            chosen = rng.choice(lines, max(2, round(_SHARE * len(lines))), replace=False)
            if axis == 0:
                held_out[:, chosen] = True
            else:
                held_out[chosen, :] = True
            return held_out & mask
    rows, columns = mask.shape
    outside = np.ones_like(mask)
    top, left = rows // 2 - width // 2, columns // 2 - width // 2
    outside[top : top + width, left : left + width] = False
    candidates = mask & outside
    if np.count_nonzero(candidates) < 100:
        return held_out
    return candidates & (rng.random(mask.shape) < _SHARE)


def hold_out_readouts(mask: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """(readouts, samples) whole readouts to leave out, about an eighth; none of fewer than 16.

    Every readout passes the centre, which the others still cover.
    """
    held_out = np.zeros_like(mask)
    if len(mask) >= _FEWEST_READOUTS:
        rng = np.random.default_rng(seed)
        held_out[rng.choice(len(mask), max(2, round(_SHARE * len(mask))), replace=False)] = True
    return held_out & mask


def judge(problem: InverseProblem, draws: Tensor, held_out: Tensor) -> SelfCheck:
    """Measured against predicted values of the held-out samples.

    `draws` are (n, rows, columns) posterior draws that did not see `held_out`; a prediction is
    their mean with the variance of one more draw plus the receiver noise.
    """
    predicted, total, error = _predicted(problem, draws, held_out)
    count, mean = len(draws), predicted.mean(dim=0)
    scores = torch.view_as_real(error / total).cpu().numpy()
    # Of each sample's place the coils share one weight: their spreads are alike, and few draws know
    # the spread of each alone too badly to divide by it.
    weight = total.square().mean(dim=0).rsqrt()
    return SelfCheck(
        lines=_count(held_out),
        residual_std=float(np.sqrt(np.mean(scores**2))),
        coverage_50=float(np.mean(np.abs(scores) < stats.norm.ppf(0.75))),
        coverage_90=float(np.mean(np.abs(scores) < stats.norm.ppf(0.95))),
        ratio=float((weight * error).abs().square().mean() / 2),
        freedom=independent_components(
            weight * (predicted - mean) * (1 + 1 / count) ** 0.5, weight * problem.noise_std
        ),
    )


def log_densities(
    problem: InverseProblem, draws: Tensor, held_out: Tensor, spreads: Sequence[float]
) -> tuple[float, ...]:
    """Log density of the held-out samples under the law of the draws, nats per real component.

    One for each of `spreads`, by which the draws' deviations from their mean are multiplied; the
    receiver noise stays what it is. Values are in its units, so that a perfect prediction of the
    image would give that of a standard normal number, -1.42 on average. The coils share the
    variance of a place.

    The mean of n draws is off by an n-th of their variance, the more the wider they are, which is
    no fault of their law: that much is taken off the squared error, here and not in `judge`.
    """
    count = len(draws)
    _, total, error = _predicted(problem, draws, held_out)
    of_draws = (total.square().mean(dim=0).double() / problem.noise_std**2 - 1).clamp(min=0)
    of_draws = of_draws / (1 + 1 / count)
    power = error.abs().square().mean(dim=0).double() / problem.noise_std**2
    power = power - 2 * of_draws / count
    factors = torch.tensor(spreads, dtype=torch.float64, device=power.device).square()
    variance = factors[:, None] * of_draws + 1
    density = -(2 * math.pi * variance).log() - power / (2 * variance)
    return tuple((density.mean(dim=1) / 2).tolist())


class _Predicted(NamedTuple):
    """Of the held-out samples (coils, samples)."""

    draws: Tensor
    """(n, coils, samples) without receiver noise."""
    total: Tensor
    """Predicted std per real component, receiver noise and all."""
    error: Tensor
    """Measured less mean of the draws."""


def _predicted(problem: InverseProblem, draws: Tensor, held_out: Tensor) -> _Predicted:
    inside = held_out.to(draws.device)
    predicted = problem.operator.forward(draws)[..., inside]
    count = len(draws)
    mean = predicted.mean(dim=0)
    variance = (predicted - mean).abs().square().sum(dim=0) / (2 * (count - 1))
    total = (variance * (1 + 1 / count) + problem.noise_std**2).sqrt()
    return _Predicted(predicted, total, problem.measurement[..., inside] - mean)


def independent_components(deviations: Tensor, noise_std: Tensor) -> float:
    """How many independent real components an error has that is one more such deviation, and noise.

    `deviations` (n, ...) are of n complex draws from their mean, `noise_std` (of the last axes) is
    that of white noise per real component. For a covariance C the mean square is distributed
    nearly as chi^2 / n with n = 2 (tr C)^2 / tr C^2 (Satterthwaite). Of few draws the square of the
    sample covariance S is too large: with m = n - 1, E tr S^2 = tr C^2 + (tr C)^2 / m and
    E (tr S)^2 = (tr C)^2 + tr C^2 / m, which gives both without bias. NaN of fewer than 3 draws.
    """
    freedom = len(deviations) - 1
    if freedom < 2:
        return math.nan
    flat = deviations.flatten(1).to(torch.complex128)
    noise = (2 * noise_std.double().square()).expand(deviations.shape[1:]).flatten()
    gram = flat @ flat.mH / freedom
    trace = float(gram.diagonal().real.sum())
    square = float(gram.abs().square().sum())
    unbias = freedom**2 / (freedom**2 - 1)
    squared_trace = unbias * (trace**2 - square / freedom)
    # No fewer components than one, no more than there are.
    trace_of_square = unbias * (square - trace**2 / freedom)
    trace_of_square = min(max(trace_of_square, squared_trace / flat.shape[1]), squared_trace)
    crossed = 2 * float((flat.abs().square().sum(dim=0) / freedom * noise).sum())
    white = float(noise.sum())
    total = squared_trace + 2 * trace * white + white**2
    return 2 * total / max(trace_of_square + crossed + float(noise.square().sum()), 1e-300)


def _count(held_out: Tensor) -> int:
    """Lines of a one-dimensional pattern, else samples."""
    for axis in (0, 1):
        if bool((held_out == held_out.select(axis, 0).unsqueeze(axis)).all()):
            return int(held_out.select(axis, 0).sum())
    return int(held_out.sum())
