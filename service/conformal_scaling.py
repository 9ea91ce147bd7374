"""Conformal factors on request: found for what is asked, and named in what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from models.conformal_factors import ConformalFactor, choose_factor
from models.errors import ModelError
from models.registry import read_factors
from recon.conformal import widened
from recon.posterior import SlicePosterior
from recon.scan import Scan, of_lines
from recon.settings import Settings
from service.report import AppliedFactor

REFUSALS = frozenset(
    {
        "no-calibration",
        "bad-calibration",
        "calibration-digest",
        "calibration-power",
        "calibration-size",
    }
)
"""Codes of the ModelErrors that are about a calibration, not about the model."""


def factor_for(model: str, settings: Settings, scan: Scan) -> ConformalFactor:
    """The entry that was made for such a reconstruction of such a scan.

    Raises ModelError("no-calibration") where there is none, and where settings that a factor
    depends on are not those it was computed with.
    """
    plain = Settings(
        settings.preset,
        settings.samples,
        settings.seed,
        self_check=settings.self_check,
        slice_coherence=settings.slice_coherence,  # a slice's law is the same whatever it is
    )
    if settings != plain or scan.trajectory is not None:
        raise ModelError(
            "no-calibration",
            "conformal factors are computed with the default coarse reconstruction, path, noise "
            "fit and coil compression, slice by slice on Cartesian scans; keep to these, or ask "
            "without `calibrated`",
        )
    return choose_factor(
        read_factors(model),
        model,
        settings.preset,
        settings.resolved.chains,
        settings.resolved.evaluations,
        scan.acceleration,
        lines=of_lines(scan.mask),
    )


def widen_all(
    posteriors: Sequence[SlicePosterior], entry: ConformalFactor | None
) -> list[SlicePosterior]:
    """Intervals and standard deviations times the factor; as they are without an entry."""
    if entry is None:
        return list(posteriors)
    return [widened(posterior, entry.factor) for posterior in posteriors]


def attributes_of(entry: ConformalFactor | None) -> dict[str, str | int | float]:
    """What a result file says of the factor that was applied to it; nothing without one."""
    if entry is None:
        return {}
    return {
        "conformal_factor": entry.factor,
        "conformal_level": entry.level,
        "conformal_confidence": entry.confidence,
        "conformal_unit": entry.unit,
        "conformal_units": entry.units,
        "conformal_scans": entry.scans,
        "conformal_data": entry.data,
        "conformal_date": entry.date.isoformat(),
    }


def applied_factor(entry: ConformalFactor | None) -> AppliedFactor | None:
    """The same for the report."""
    if entry is None:
        return None
    about = attributes_of(entry)
    return AppliedFactor.model_validate(
        {name.removeprefix("conformal_"): value for name, value in about.items()}
    )


def sentence_of(attributes: Mapping[str, str | int | float]) -> str | None:
    """What was applied to a result, in words, by its attributes; None for a plain result."""
    say = attributes.get
    if say("conformal_factor") is None:
        return None
    return (
        f"intervals and standard deviation times {float(say('conformal_factor', 1)):.3g}, "
        f"conformal factor of {say('conformal_date')} from {say('conformal_units')} "
        f"{say('conformal_unit')}s of {say('conformal_data')}"
    )
