"""`calibration.json` beside the weights: by what factor intervals must be wider, and since when.

Each entry is of one way to reconstruct (preset, samples, undersampling) and says on what it was
computed. The file is read like the rest of a model: size capped, strict schema, and refused when it
was written for other weights. Nothing applies a factor unless it is asked to.
"""

from __future__ import annotations

import hashlib
import math
from datetime import date
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)

from models.errors import ModelError
from models.model_folder import (
    FACTORS_FILE,
    ModelConfig,
    PlainText,
    printable,
    read_beside,
    write_beside,
)
from recon.choices import PatternName, PresetName

MAX_FACTORS_BYTES = 256 * 1024
NEARNESS = 0.1
"""Relative difference of accelerations up to which an entry counts as made for a scan."""

Share = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Text = Annotated[PlainText, StringConstraints(max_length=500)]


class HeldShares(BaseModel):
    """Mean over scans of the share of true values that an interval held."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    as_read_off: Share = Field(description="without allowing for the noise of the true values")
    before: Share = Field(description="allowing for it")
    after: Share = Field(description="with the factor by the other scans, on the one left out")


class ConformalFactor(BaseModel):
    """One factor: what it is for, what it was computed on, what it changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    preset: PresetName
    samples: int = Field(ge=2, le=256)
    evaluations: int = Field(
        ge=1, le=1_000_000, description="network evaluations per sample: what the preset was then"
    )
    acceleration: float = Field(ge=1, le=1000, description="matrix size over samples, as measured")
    pattern: PatternName
    center_fraction: Annotated[float, Field(ge=0, le=1)]
    factor: float = Field(gt=0, le=100, description="on half-widths and standard deviations")
    level: Fraction = Field(0.9, description="share of true values that are to be held")
    confidence: Fraction = Field(description="share of further scans for which that is promised")
    unit: Literal["scan", "slice"] = Field(description="what was counted as exchangeable")
    units: int = Field(ge=1, le=1_000_000)
    scans: int = Field(ge=1, le=1_000_000, description="files they came from")
    data: Text = Field(description="what they were")
    date: date
    software_version: Text
    standardized_error: float = Field(ge=0, description="before; 1 when right")
    coverage_50: HeldShares
    coverage_90: HeldShares

    def serves(
        self, preset: str, samples: int, evaluations: int, acceleration: float, *, lines: bool
    ) -> bool:
        """Whether it was made for such a reconstruction; `lines`: of whole k-space lines."""
        return (
            (self.preset, self.samples, self.evaluations) == (preset, samples, evaluations)
            and lines == (self.pattern != "poisson")
            and self.distance(acceleration) <= math.log1p(NEARNESS) + 1e-9
        )

    def distance(self, acceleration: float) -> float:
        """How far an acceleration is from its own, as the logarithm of their ratio."""
        return abs(math.log(acceleration / self.acceleration))

    @property
    def purpose(self) -> str:
        """What it is for, in a few words."""
        return (
            f"{self.preset} ({self.evaluations} evaluations), {self.samples} samples, "
            f"{self.acceleration:.3g} times {self.pattern}"
        )


class ConformalFactors(BaseModel):
    """The whole `calibration.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    power: float = Field(1.0, gt=0, description="to which the prior was raised (`config.json`)")
    entries: tuple[ConformalFactor, ...] = Field(min_length=1, max_length=256)

    def with_entries(self, entries: tuple[ConformalFactor, ...]) -> ConformalFactors:
        """New entries in the place of those for the same, and of all others none lost."""
        kept = [old for old in self.entries if not any(_same(old, new) for new in entries)]
        both = sorted(
            (*kept, *entries), key=lambda one: (one.preset, one.samples, one.acceleration)
        )
        return self.model_copy(update={"entries": tuple(both)})


class FoundFactors(NamedTuple):
    """A checked file, and the digest of its bytes."""

    factors: ConformalFactors
    sha256: str


def check_description(text: str) -> None:
    """Raise ModelError unless `text` may stand in a calibration as what its data were."""
    try:
        TypeAdapter(Text).validate_python(text)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise ModelError(
            "bad-calibration", f"the data cannot be described so ({reason}); change --about"
        ) from error


def parse_factors(text: bytes, model: ModelConfig, origin: str) -> ConformalFactors:
    """The checked content of a `calibration.json` for a model; `origin` names it.

    Raises ModelError.
    """
    try:
        found = ConformalFactors.model_validate_json(text)
    except ValidationError as error:
        raise ModelError("bad-calibration", printable(f"{origin} is not valid: {error}")) from error
    if found.weights_sha256 != model.weights_sha256:
        raise ModelError(
            "calibration-digest",
            f"{origin} was computed for other weights (SHA-256 differs); compute it again with "
            "`calibrate`, or delete it",
        )
    if found.power != model.power:
        raise ModelError(
            "calibration-power",
            f"{origin} was computed with the prior raised to {found.power:g}, and the model asks "
            f"for {model.power:g}; compute it again with `calibrate`, or delete it",
        )
    return found


def read_factors_file(
    folder: Path, model: ModelConfig, *, follow_links: bool = True
) -> FoundFactors | None:
    """The checked calibration in a model's folder, or None where there is none; or ModelError."""
    file = folder / FACTORS_FILE
    text = read_beside(file, MAX_FACTORS_BYTES, "calibration-size", follow_links=follow_links)
    if text is None:
        return None
    checked = parse_factors(text, model, str(file))
    return FoundFactors(checked, hashlib.sha256(text).hexdigest())


def choose_factor(
    found: FoundFactors | None,
    name: str,
    preset: str,
    samples: int,
    evaluations: int,
    acceleration: float,
    *,
    lines: bool,
) -> ConformalFactor:
    """The entry of the model `name` that was made for such a reconstruction.

    A preset that has changed since has another number of network `evaluations` per sample.

    Raises ModelError("no-calibration") where there is none: a factor is never carried over.
    """
    entries = () if found is None else found.factors.entries
    serving = [
        each
        for each in entries
        if each.serves(preset, samples, evaluations, acceleration, lines=lines)
    ]
    if serving:
        return min(serving, key=lambda entry: entry.distance(acceleration))
    known = "; ".join(entry.purpose for entry in entries) or "nothing at all"
    kind = "lines" if lines else "scattered samples"
    raise ModelError(
        "no-calibration",
        f"model '{name}' has no conformal factor for {preset} ({evaluations} evaluations), "
        f"{samples} samples, {acceleration:.3g} times undersampled in {kind}; it has: {known}. "
        "Compute one with `calibrate`, or ask without `calibrated`",
    )


def write_factors(file: Path, factors: ConformalFactors) -> None:
    """Write the file whole, or leave what was there. Raises ModelError where it cannot be."""
    write_beside(file, factors.model_dump_json(indent=2) + "\n")


def _same(one: ConformalFactor, other: ConformalFactor) -> bool:
    def kind(entry: ConformalFactor) -> tuple[object, ...]:
        return entry.preset, entry.samples, entry.pattern, entry.center_fraction

    return kind(one) == kind(other) and one.distance(other.acceleration) <= math.log1p(NEARNESS)
