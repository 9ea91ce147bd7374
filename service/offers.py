"""What workers offer: known without loading what they need for it."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

_STORED = ConfigDict(frozen=True, extra="ignore", json_schema_serialization_defaults_required=True)


class Model(BaseModel):
    """A prior that a reconstruction may name."""

    model_config = _STORED

    id: str
    sha256: str
    licence: str
    training: str
    data_attributions: tuple[str, ...]
    calibrated_for: tuple[str, ...] = Field(
        (), description="what it has a conformal factor for (`calibrated`); empty: nothing"
    )


class ModelWithCard(Model):
    """A prior, and what its makers say of it."""

    card: str = Field("", description="model card, Markdown; empty where there is none")


class OfferedModel(ModelWithCard):
    """A prior as a worker keeps it."""

    calibration_sha256: str | None = None
    """Of its conformal factors."""


class Preset(BaseModel):
    """How much work a reconstruction may be."""

    model_config = _STORED

    samples: int
    evaluations_per_sample: int


class Offers(BaseModel):
    """Of one worker."""

    model_config = _STORED

    models: tuple[OfferedModel, ...]
    default_model: str
    presets: dict[str, Preset]
    versions: dict[str, str]
    storage: str | None = None
    """Digest of where it keeps its files."""
