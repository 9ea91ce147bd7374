"""What speaks for and against the assumptions that a result rests on, and the verdict in words.

A posterior is one of a prior, coil maps, a noise level and a patient who lay still; `recon.alarm`
judges by the evidence whether all of that held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

SURPRISE_SIGMAS = (0.4, 0.8, 1.6, 3.2)
"""Noise levels, per real component, at which draws are denoised again: well above the noise that
is left in draws, up to where a prior knows little more than what kind of image it is."""
_UNKNOWN = (math.nan,) * len(SURPRISE_SIGMAS)


@dataclass(frozen=True)
class Evidence:
    """What was found in one slice; NaN where it cannot be known.

    All but `surprise` and `energy` are one, or zero, where all is as assumed.
    """

    noise: float = math.nan
    """Noise level that fits the residual over the one that a noise scan gave, or the edge of
    k-space; of the latter one at least, as signal may stand there."""
    centre: float = math.nan
    """Mean squared residual over the noise variance in the fully sampled centre of k-space, where
    the signal is strongest: what coil maps that do not belong to the scan leave over."""
    lines: float = math.nan
    """Variance of the residual's power from line to line, over that of white noise, outside the
    centre: what lines that contradict each other leave over."""
    outside: float = math.nan
    """Share of the energy of the coils that lies where the maps are zero, beyond the noise."""
    held_out: float = math.nan
    """Squared error of predicted lines over what was expected of it (`SelfCheck.ratio`)."""
    held_out_freedom: float = math.nan
    """Independent components that this rests on (`SelfCheck.freedom`)."""
    energy: float = math.nan
    """Mean squared magnitude of the draws inside the object, internal units."""
    coils_lost: float = 0.0
    """Coils that were left out, without a signal or drowned by their own noise."""
    surprise: tuple[float, ...] = _UNKNOWN
    """At each of `SURPRISE_SIGMAS`, squared error of the draws denoised again over what the prior
    itself expects of it; one where draws are what the prior is of."""


NOTHING_KNOWN = Evidence()


class Trust(StrEnum):
    """How far a result may be believed."""

    TRUSTED = "trusted"
    """Nothing speaks against what was assumed."""
    DOUBTFUL = "doubtful"
    """Something does: look at the classical image beside it."""
    REFUSED = "refused"
    """There is nothing to reconstruct, or the result contradicts the scan."""


class Cause(StrEnum):
    """What is not as it was assumed."""

    SIGNAL = "signal"
    RECEIVERS = "receivers"
    NOISE = "noise"
    MAPS = "maps"
    PATIENT = "patient"
    PRIOR = "prior"


@dataclass(frozen=True)
class Verdict:
    """Whether a slice may be trusted, and if not what to do."""

    trust: Trust
    sentence: str
    cause: Cause | None = None
    p_value: float = math.nan
    """How often chance alone finds as much against a right scan; NaN where nothing was tested."""
