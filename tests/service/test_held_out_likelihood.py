"""Priors whose errors and spreads are known, compared by lines that they did not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from recon.noise import NoiseStreams
from recon.operators import CartesianSense
from recon.sampler import InverseProblem
from recon.selfcheck import log_densities
from recon.slice_draws import SPREADS, HeldOutLines
from recon.solve import ConjugateGradientSolver
from service.training.held_out_likelihood import Gain, Place, Predictions, gain, summary

NOISE, SIDE, COILS, DRAWS, SUBJECTS = 0.1, 64, 4, 8, 6
AS_DRAWN = SPREADS.index(1.0)


def predicted(error: float, spread: float) -> Predictions:
    """A few draws about a law's mean that is `error` off the truth, std per component and coil.

    In two calls the errors are the same but for their size, and so are the deviations.
    """
    shape = (SIDE, SIDE)
    held_out = torch.zeros(shape, dtype=torch.bool)
    held_out[:, ::4] = True
    maps = NoiseStreams.pooled(1, COILS).normal(shape)
    maps = maps / maps.abs().square().mean(dim=0).sqrt()
    operator = CartesianSense(maps, torch.ones_like(held_out))
    lines = {}
    for subject in range(SUBJECTS):
        noise = NoiseStreams.pooled(100 + subject, COILS).normal(shape)
        images = NoiseStreams.pooled(200 + subject, DRAWS + 1).normal(shape)
        problem = InverseProblem(operator, ConjugateGradientSolver(operator), NOISE * noise, NOISE)
        draws = error * images[0] + spread * images[1:]
        densities = log_densities(problem, draws, held_out, SPREADS)
        lines[Place(f"subject-{subject}", "scan", 0)] = HeldOutLines(densities, 0.9, SIDE // 4)
    return lines


def as_drawn(predictions: Predictions) -> float:
    return float(np.mean([each.log_densities[AS_DRAWN] for each in predictions.values()]))


def test_better_means_win_though_half_their_spread_is_missing() -> None:
    vague, bold = predicted(0.3, 0.3), predicted(0.25, 0.125)
    assert as_drawn(bold) < as_drawn(vague) - 0.1
    better = gain(bold, vague)
    expected = math.log((0.3**2 + NOISE**2) / (0.25**2 + NOISE**2)) / 2
    assert better.mean == pytest.approx(expected, abs=0.02)
    assert better.sure
    assert not gain(vague, bold).sure
    assert summary(bold).spread == pytest.approx(2, rel=0.05)
    assert summary(vague).spread == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("factor", [0.37, 0.5, 0.9, 1.2, 2.0, 3.1])
def test_no_spread_wins_where_the_means_are_the_same(factor: float) -> None:
    right, wrong = predicted(0.2, 0.2), predicted(0.2, 0.2 * factor)
    assert as_drawn(wrong) < as_drawn(right)
    assert not gain(wrong, right).sure
    assert -0.02 < gain(wrong, right).mean < 1e-3
    assert summary(wrong).spread == pytest.approx(summary(right).spread / factor, rel=0.05)


def test_a_gain_is_a_paired_mean_over_subjects() -> None:
    before, after = flat([-2.0, -3.0, -9.0, -4.0]), flat([-1.9, -2.8, -8.9, -3.8])
    found = gain(after, before)
    assert found.mean == pytest.approx(0.15)
    assert found.error == pytest.approx(np.std([0.1, 0.2, 0.1, 0.2], ddof=1) / 2)
    assert (found.units, found.unit, found.sure) == (4, "subject", True)
    assert not gain(before, after).sure
    several = {Place("one", f"scan-{k}", s): lines_of(float(s)) for k in range(3) for s in range(2)}
    none = {place: lines_of(0.0) for place in several}
    assert (gain(several, none).units, gain(several, none).unit) == (3, "scan")
    alone = {next(iter(none)): lines_of(0.0)}
    assert math.isnan(gain(alone, none).error)
    with pytest.raises(ValueError, match="both"):
        gain(alone, {})


def test_a_gain_that_nobody_would_notice_is_none() -> None:
    assert not Gain(5e-4, 1e-5, 40, "subject").sure
    assert Gain(5e-3, 1e-3, 40, "subject").sure


def flat(densities: list[float]) -> Predictions:
    return {Place(f"subject-{k}", f"scan-{k}", 0): lines_of(d) for k, d in enumerate(densities)}


def lines_of(density: float) -> HeldOutLines:
    """Lines that are as likely at any spread."""
    return HeldOutLines((density,) * len(SPREADS), 0.9, 2)
