"""Null distributions against their closed forms and against chance; what verdicts say."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from recon.alarm import (
    FALSE_ALARMS,
    TypicalScans,
    distance_tail,
    ratio_tail,
    scan_verdict,
    verdict_of,
)
from recon.evidence import surprise
from recon.noise import NoiseStreams
from recon.prior import GaussianPrior
from recon.selfcheck import independent_components
from recon.verdict import SURPRISE_SIGMAS, Cause, Evidence, Trust, Verdict

LEVELS = len(SURPRISE_SIGMAS)


def typical(images: int = 60, scans: int = 30, seed: int = 0) -> TypicalScans:
    rng = np.random.default_rng(seed)
    surprises = rng.normal(0.2, 0.1, (images, 1 + LEVELS)) - [1.5, *[0] * LEVELS]
    held_out = np.stack([rng.normal(0.05, 0.1, scans), np.full(scans, 1000.0)], axis=1)
    return TypicalScans(surprises, held_out)


RIGHT = Evidence(
    noise=1.05,
    centre=1.0,
    lines=1.5,
    outside=0.0,
    held_out=1.1,
    held_out_freedom=500.0,
    energy=math.exp(-1.3),
    surprise=(1.2,) * LEVELS,
)


def test_the_distance_of_one_more_row_has_a_uniform_tail() -> None:
    rng = np.random.default_rng(1)
    mixing = rng.normal(size=(4, 4))
    rows = rng.normal(size=(2000, 16, 4)) @ mixing
    tails = [distance_tail(each[1:], each[0]) for each in rows]
    # Kolmogorov-Smirnov: five standard errors.
    assert stats.kstest(tails, "uniform").statistic < 2.2 / math.sqrt(len(tails))


def test_the_distance_of_a_single_value_is_students_t() -> None:
    rows = np.random.default_rng(2).normal(3, 2, (12, 1))
    value = 7.0
    score = (value - rows.mean()) / (rows.std(ddof=1) * math.sqrt(1 + 1 / 12))
    assert distance_tail(rows, [value]) == pytest.approx(2 * stats.t.sf(abs(score), 11))


def test_the_ratio_of_theory_is_chi_squared() -> None:
    assert ratio_tail(1.5, 20) == pytest.approx(stats.chi2.sf(30, 20))


@pytest.mark.parametrize("beyond", [0.0, 0.3])
def test_a_ratio_of_few_components_may_scatter_more(beyond: float) -> None:
    """The tail is right for a check that rests on fewer components than those that are known."""
    rng = np.random.default_rng(3)
    known, freedom, tails = 40, 30, []
    for _ in range(1500):
        logs = np.log(rng.chisquare(200, known) / 200) + 0.1 + beyond * rng.normal(size=known)
        one = math.log(rng.chisquare(freedom) / freedom) + 0.1 + beyond * rng.normal()
        table = np.stack([logs, np.full(known, 200.0)], axis=1)
        tails.append(ratio_tail(math.exp(one), freedom, table))
    share = np.mean(np.array(tails) < 0.05)
    assert share == pytest.approx(0.05, abs=5 * math.sqrt(0.05 * 0.95 / len(tails)))


def test_independent_components_are_counted_in_closed_forms() -> None:
    count, draws = 400, 9
    white = NoiseStreams.pooled(0, draws).normal((count,))
    quiet = torch.zeros(count)
    found = independent_components(white - white.mean(dim=0), quiet)
    assert found == pytest.approx(2 * count, rel=0.3)
    one = NoiseStreams.pooled(1, draws).normal((1,)) * torch.ones(count)
    found = independent_components(one - one.mean(dim=0), quiet)
    assert found == pytest.approx(2, rel=0.01)
    loud = torch.full((count,), 100.0)
    assert independent_components(one - one.mean(dim=0), loud) == pytest.approx(2 * count, rel=0.05)
    assert math.isnan(independent_components(white[:2], quiet))


def test_the_number_of_components_is_without_bias_for_few_draws() -> None:
    """Over many repetitions tr C^2 = (tr C)^2 2 / n comes out right, where tr S^2 would not."""
    spread = torch.linspace(0.2, 2, 24)
    exact = 2 * float(spread.square().sum() ** 2 / (spread**4).sum())
    inverse = []
    for seed in range(800):
        draws = spread * NoiseStreams.pooled(seed, 5).normal((24,))
        inverse.append(1 / independent_components(draws - draws.mean(dim=0), torch.zeros(24)))
    error = float(np.std(inverse)) / math.sqrt(len(inverse))
    # A ratio of two estimates: right to first order in the number of draws.
    assert np.mean(inverse) == pytest.approx(1 / exact, abs=5 * error + 0.1 / exact)


def images_of(spectrum: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    white = NoiseStreams.pooled(seed, count).normal(spectrum.shape)
    kspace = torch.fft.ifftshift(spectrum.sqrt() * white, dim=(-2, -1))
    images = torch.fft.ifft2(kspace, norm="ortho")
    return torch.fft.fftshift(images, dim=(-2, -1))


def test_draws_of_the_prior_do_not_surprise_it_and_others_do() -> None:
    size = 48
    frequency = torch.arange(size).float() - size // 2
    radius = torch.hypot(frequency[:, None], frequency[None, :]).clamp_min(0.7)
    spectrum = 60 / radius**2.6
    prior = GaussianPrior(torch.zeros(size, size, dtype=torch.complex64), spectrum)
    for sigma in SURPRISE_SIGMAS:
        streams = NoiseStreams.pooled(5, 64)
        own, denoised = surprise(prior, images_of(spectrum, 64, 1), streams, sigma)
        assert denoised.shape == (64, size, size)
        assert own == pytest.approx(1, abs=0.1)
        rough, _ = surprise(prior, images_of(spectrum * radius, 64, 2), streams, sigma)
        assert rough > 1.5
        large, _ = surprise(prior, 2 * images_of(spectrum, 64, 3), streams, sigma)
        assert large > 1.5


def test_a_right_slice_is_trusted_and_says_what_was_not_tested() -> None:
    found = verdict_of(RIGHT, typical())
    assert (found.trust, found.cause) == (Trust.TRUSTED, None)
    assert FALSE_ALARMS <= found.p_value <= 1
    blind = verdict_of(RIGHT)
    assert "no table" in blind.sentence
    assert "no table" not in found.sentence


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"noise": 2.0}, Cause.NOISE),
        ({"noise": 0.5}, Cause.NOISE),
        ({"centre": 3.0}, Cause.MAPS),
        ({"outside": 0.2}, Cause.MAPS),
        ({"lines": 60.0}, Cause.PATIENT),
        ({"coils_lost": 1.0}, Cause.RECEIVERS),
        ({"held_out": 4.0}, Cause.PRIOR),
        ({"energy": 3.0}, Cause.PRIOR),
        ({"surprise": (1.2, 1.2, 4.0, 1.2)}, Cause.PRIOR),
    ],
)
def test_each_kind_of_evidence_makes_doubt_and_is_named(
    change: dict[str, Any], cause: Cause
) -> None:
    found = verdict_of(Evidence(**vars(RIGHT) | change), typical())
    assert (found.trust, found.cause) == (Trust.DOUBTFUL, cause)
    assert found.sentence.startswith("The ")
    assert ";" in found.sentence or "," in found.sentence


def test_without_a_table_errors_must_be_well_beyond_what_was_said() -> None:
    """No prior is perfect: theory alone would doubt right scans that rest on many components."""
    assert verdict_of(replace(RIGHT, held_out=2.5)).trust is Trust.TRUSTED
    assert verdict_of(replace(RIGHT, held_out=4.0)).trust is Trust.DOUBTFUL
    assert verdict_of(replace(RIGHT, held_out=4.0, held_out_freedom=4.0)).trust is Trust.TRUSTED


def test_what_could_not_be_known_is_no_evidence() -> None:
    found = verdict_of(Evidence(), typical())
    assert found.trust is Trust.TRUSTED
    assert math.isnan(found.p_value)


def test_a_result_that_contradicts_its_scan_is_refused() -> None:
    assert verdict_of(replace(RIGHT, held_out=40.0), typical()).trust is Trust.REFUSED


def test_right_evidence_is_called_doubtful_as_rarely_as_promised() -> None:
    """Both tests of the prior together, on scans of the table's own kind."""
    rng = np.random.default_rng(9)
    table, alarms = typical(), 0
    trials = 1000
    for _ in range(trials):
        values = np.exp(rng.normal(0.2, 0.1, 1 + LEVELS) - [1.5, *[0] * LEVELS])
        evidence = replace(
            RIGHT,
            held_out=math.exp(rng.normal(0.05, 0.1)),
            held_out_freedom=1000.0,
            energy=float(values[0]),
            surprise=tuple(float(value) for value in values[1:]),
        )
        alarms += verdict_of(evidence, table).trust is not Trust.TRUSTED
    # The table is one draw itself: its own error is twice that of the trials.
    assert alarms / trials < FALSE_ALARMS + 0.035


@pytest.mark.parametrize("shape", [(10, 1 + LEVELS), (60, LEVELS)])
def test_tables_that_no_distribution_can_be_made_of_are_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="rows of"):
        TypicalScans(np.zeros(shape), typical().held_out)
    broken: NDArray[np.float64] = np.full((60, 1 + LEVELS), np.nan)
    with pytest.raises(ValueError, match="finite"):
        TypicalScans(broken, typical().held_out)


GOOD = Verdict(Trust.TRUSTED, "Nothing.", None, 0.5)
EMPTY = Verdict(Trust.REFUSED, "There is no signal.", Cause.SIGNAL)
ODD = Verdict(Trust.DOUBTFUL, "The prior: odd.", Cause.PRIOR, 0.03)
LOUD = Verdict(Trust.DOUBTFUL, "The noise: loud.", Cause.NOISE, 0.5)
WRONG = Verdict(Trust.REFUSED, "The prior: wrong.", Cause.PRIOR, 0.0)


@pytest.mark.parametrize(
    ("slices", "trust", "cause"),
    [
        ([GOOD], Trust.TRUSTED, None),
        ([GOOD, EMPTY], Trust.TRUSTED, None),
        ([EMPTY, EMPTY], Trust.REFUSED, Cause.SIGNAL),
        ([ODD], Trust.DOUBTFUL, Cause.PRIOR),
        ([ODD] + 19 * [GOOD], Trust.TRUSTED, None),
        (4 * [ODD] + 16 * [GOOD], Trust.DOUBTFUL, Cause.PRIOR),
        ([LOUD] + 19 * [GOOD], Trust.DOUBTFUL, Cause.NOISE),
        ([WRONG] + 19 * [GOOD], Trust.DOUBTFUL, Cause.PRIOR),
        ([WRONG, EMPTY], Trust.REFUSED, Cause.PRIOR),
        ([GOOD, None], Trust.TRUSTED, None),
    ],
)
def test_a_scan_is_judged_by_more_slices_than_chance_would_call_doubtful(
    slices: list[Verdict | None], trust: Trust, cause: Cause | None
) -> None:
    found = scan_verdict(slices)
    assert found is not None
    assert (found.trust, found.cause) == (trust, cause)
    assert scan_verdict([None]) is None
