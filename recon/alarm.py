"""Whether a result may be trusted: what speaks against the assumptions it rests on, and how likely.

A posterior is one of a prior, coil maps, a noise level and a patient who lay still. Each number of
an `Evidence` has a distribution over scans of which all of that holds: in theory, or measured on
scans that are known to be right (`TypicalScans`). A number that such scans hardly ever have is a
reason for doubt. Every kind of evidence has an equal part of the false alarms that are allowed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from recon.verdict import SURPRISE_SIGMAS, Cause, Evidence, Trust, Verdict

FALSE_ALARMS = 0.05
"""Share of right scans that may be called doubtful."""
_FEWEST = 12
"""Scans that a null distribution is made of at least."""
NO_SIGNAL = (
    "There is no signal in this slice, only noise; its picture is left empty, check what was "
    "exported."
)
_NOISE = 1.5
"""Factor by which a noise level, and with it every interval, may be off."""
_CENTRE = 2.0
"""Residual in the centre of k-space, over the noise variance, from which on maps are not right."""
_LINES = 12.0
"""Variance of the residual's power from line to line, over that of noise alone."""
_OUTSIDE = 0.01
"""Share of the energy that may lie where no map is."""
_TOLERATED = 3.0
"""Squared error over what was expected of it that does not count against a prior, whose intervals
are then too narrow by 1.7 in the outer k-space. Of right scans with large matrices and little noise
it was up to 2.3, while 90 % intervals of pixels held 87 %."""
_CONTRADICTED = 25.0
"""Squared error over what was expected of it from which on a result contradicts its scan."""


@dataclass(frozen=True)
class TypicalScans:
    """What a prior makes of right scans: the null distributions of its evidence.

    Raises ValueError for tables that no distribution can be taken from.
    """

    surprises: NDArray[np.float64]
    """(scans, 1 + levels) logarithms of `Evidence.energy` and `Evidence.surprise`."""
    held_out: NDArray[np.float64]
    """(scans, 2) logarithm of `Evidence.held_out`, and its freedom."""

    def __post_init__(self) -> None:
        levels = 1 + len(SURPRISE_SIGMAS)
        for rows, columns, fewest in (
            (self.surprises, levels, 4 * levels),
            (self.held_out, 2, _FEWEST),
        ):
            if rows.ndim != 2 or rows.shape[1] != columns or len(rows) < fewest:
                raise ValueError(f"{fewest} rows of {columns} values or more are needed")
            if not np.isfinite(rows).all():
                raise ValueError("a distribution is made of finite values")


def distance_tail(rows: NDArray[np.float64], values: Sequence[float]) -> float:
    """How often one more row lies as far from the others (n, p) as `values` (p,) do.

    For Gaussian rows (d^2 n (n - p)) / (p (n^2 - 1)) of the squared Mahalanobis distance d^2, with
    mean and covariance of the n rows, follows Fisher's F(p, n - p) exactly (Hotelling).
    """
    count, size = rows.shape
    away = np.asarray(values, np.float64) - rows.mean(axis=0)
    covariance = np.atleast_2d(np.cov(rows, rowvar=False))
    squared = float(away @ np.linalg.solve(covariance, away))
    scaled = squared * count * (count - size) / (size * (count**2 - 1))
    return float(special.fdtrc(size, count - size, scaled))


def ratio_tail(ratio: float, freedom: float, known: NDArray[np.float64] | None = None) -> float:
    """How often a ratio of squared errors with so many degrees of freedom is as large as this.

    In theory it is chi^2 over them. No prior is perfect, so that right scans scatter more, and
    about another mean: `known` (n, 2) are logarithms of their ratios, and their freedom. What they
    scatter beyond theory is the prior's; one more then follows Student's t.
    """
    if known is None:
        return float(special.chdtrc(freedom, ratio * freedom))
    count = len(known)
    logs, theory = known[:, 0], 2 / known[:, 1]
    beyond = max(float(logs.var(ddof=1)) - float(theory.mean()), 0.0)
    variance = (beyond + 2 / freedom) * (1 + 1 / count)
    score = (math.log(ratio) - float(logs.mean())) / math.sqrt(variance)
    return float(special.stdtr(count - 1, -score))


class _Finding(NamedTuple):
    """One kind of evidence against what was assumed."""

    p_value: float
    """NaN where it could not be tested."""
    cause: Cause
    sentence: str


def verdict_of(evidence: Evidence, typical: TypicalScans | None = None) -> Verdict:
    """The verdict on a slice that holds a signal.

    What was measured of the scan itself counts where it is large enough to matter, whatever chance
    does; what the prior is asked about, where right scans hardly ever have as much: the two tests
    share their level equally (Bonferroni). Without `typical` the prior's draws are not judged.
    """
    tested = _of_prior(evidence, typical)
    p_value = min((one.p_value for one in tested), default=math.nan) * max(len(tested), 1)
    p_value = min(p_value, 1.0)
    found = _of_scan(evidence)
    if p_value < FALSE_ALARMS:
        found.append(min(tested, key=lambda one: one.p_value))
    if not found:
        told = "Nothing speaks against the prior, the maps, the noise or the patient"
        if typical is None:
            told = (
                "Nothing speaks against the maps, the noise or the patient; the model has no table "
                "of typical scans, so whether its prior is one of this scan was not tested"
            )
        return Verdict(Trust.TRUSTED, f"{told}.", None, p_value)
    contradicted = evidence.held_out > _CONTRADICTED or evidence.noise > math.sqrt(_CONTRADICTED)
    trust = Trust.REFUSED if contradicted else Trust.DOUBTFUL
    return Verdict(trust, found[0].sentence, found[0].cause, p_value)


def _of_prior(evidence: Evidence, typical: TypicalScans | None) -> list[_Finding]:
    """What was tested against chance."""
    found = []
    if evidence.held_out > 0 and math.isfinite(evidence.held_out_freedom):
        # Beyond what is tolerated, and, where that is known, beyond what right scans have.
        tail = ratio_tail(evidence.held_out / _TOLERATED, evidence.held_out_freedom)
        if typical is not None:
            known = ratio_tail(evidence.held_out, evidence.held_out_freedom, typical.held_out)
            tail = max(tail, known)
        found.append(
            _Finding(
                tail,
                Cause.PRIOR,
                "The prior: it predicts acquired lines that it did not see "
                f"{math.sqrt(evidence.held_out):.1f} times as badly as it says; use a model of "
                "this anatomy and contrast, or the classical image.",
            )
        )
    values = (evidence.energy, *evidence.surprise)
    if typical is not None and all(value > 0 for value in values):
        found.append(
            _Finding(
                distance_tail(typical.surprises, np.log(values).tolist()),
                Cause.PRIOR,
                "The prior: this is not like the images that it knows; use a model of this "
                "anatomy and contrast, or the classical image.",
            )
        )
    return found


def _of_scan(evidence: Evidence) -> list[_Finding]:
    """What is not as it should be by more than matters; what is to be mended first comes first."""
    found = []

    def add(cause: Cause, sentence: str) -> None:
        found.append(_Finding(math.nan, cause, sentence))

    if evidence.coils_lost > 0:
        several = evidence.coils_lost > 1
        add(
            Cause.RECEIVERS,
            f"The receivers: {evidence.coils_lost:.0f} coil{'s' * several} had to be left out; the "
            "picture is that of the others, have the array checked.",
        )
    if evidence.lines > _LINES:
        add(
            Cause.PATIENT,
            "The patient: acquired lines contradict each other as those of somebody who moved do; "
            "acquire again, or take the classical image for a look.",
        )
    if evidence.centre > _CENTRE or evidence.outside > _OUTSIDE:
        add(
            Cause.MAPS,
            "The coil maps: they do not explain the strongest samples, as if the patient had moved "
            "since or something lay outside them; if maps were given leave them out, else acquire "
            "more central lines.",
        )
    if evidence.noise > 0 and abs(math.log(evidence.noise)) > math.log(_NOISE):
        cure = "acquire the noise again, or leave it out."
        if evidence.noise > 1:
            cure = f"look for motion and spikes first, else {cure}"
        add(
            Cause.NOISE,
            f"The noise: the residual is that of {evidence.noise:.2g} times the level that was "
            f"measured, which was taken in its place; {cure}",
        )
    return found


def scan_verdict(verdicts: Sequence[Verdict | None]) -> Verdict | None:
    """The verdict on a scan, of those on its slices; None where no slice has one.

    Slices without a signal say nothing of the others. Of right slices `FALSE_ALARMS` are called
    doubtful for what the prior makes of them; a scan is, where more of its slices are than chance
    leaves that often.
    """
    known = [one for one in verdicts if one is not None]
    full = [one for one in known if one.cause is not Cause.SIGNAL]
    against = [one for one in full if one.trust is not Trust.TRUSTED]
    if not against:
        return next(iter(full or known), None)
    certain = [one for one in against if one.cause is not Cause.PRIOR or one.trust is Trust.REFUSED]
    by_chance = float(special.bdtrc(len(against) - 1, len(full), FALSE_ALARMS))
    if not certain and by_chance > FALSE_ALARMS + 1e-9:
        sentence = (
            f"{len(against)} of {len(full)} slices are doubtful, which chance alone leaves in "
            f"{by_chance:.0%} of right scans of so many; look at the verdicts on slices."
        )
        return Verdict(Trust.TRUSTED, sentence, None, by_chance)
    worst = [one for one in against if one.trust is Trust.REFUSED] or certain or against
    told = worst[0]
    all_refused = all(one.trust is Trust.REFUSED for one in full)
    sentence = told.sentence
    if len(full) > 1:
        sentence = f"In {len(against)} of {len(full)} slices: {sentence[0].lower()}{sentence[1:]}"
    trust = Trust.REFUSED if all_refused else Trust.DOUBTFUL
    return Verdict(trust, sentence, told.cause, told.p_value)
