"""What a prior is learned from an archive of undersampled scans with: the training file's form."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from models.augment import Augmentation
from models.errors import ModelError
from models.model_folder import PlainText
from models.network_configs import ResidualUNetConfig
from models.train import TrainingConfig
from recon.choices import PresetName
from service.store.objects import is_url

UNSTATED = "not stated: that of the archive's owner, for whoever made it"

LAW_KEEPING = Augmentation(
    resampled=0.0,
    gamma=0.0,
    tissue=0.0,
    shading=0.1,
    phase=0.3,
    tissue_phase=0.0,
    asymmetry=0.0,
    noise=0.0,
    noisy=0.0,
)
"""Flips, a little phase, shading and intensity: what leaves the law of images as it is.

A round learns from draws of the round before. Blurred, recoloured or noisy images would be learned,
drawn and made so again.
"""

ARCHIVE_TRAINING = TrainingConfig(
    network=ResidualUNetConfig(),
    augmentation=LAW_KEEPING,
    optimizer="muon",
    learning_rate=1e-3,
    schedule="trapezoid",
    cooldown=1.0,
    steps=1500,
    large_patch_share=0.0,
    log_sigma_mean=-2.0,
    log_sigma_std=1.4,
    unmeasured=0.1,
)
"""Of every round. Patches are of the images' size where that is smaller."""

_FROM_RANDOM = 3
"""Steps of a first round that begins with random weights, over those of the others."""

_TRAINED_ALREADY = 2e-4
"""Learning rate where a run begins with a model: a few scans should not make it forget many."""


class ArchivePlan(BaseModel):
    """The content of a training file that names undersampled scans in place of images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    from_undersampled: str = Field(
        description="folder, pattern, manifest or address of the scans, as `batch` takes it"
    )
    out: Path = Field(description="folder of the run; resumed if begun")
    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]{0,50}$")] = Field(
        "archive", description="of the models: NAME-round-01 and so on"
    )
    start_from: str | None = Field(
        None,
        description="model that the run begins with; without one its first round learns from the "
        "scans' coarse images",
    )
    rounds: int = Field(8, ge=1, le=99, description="at most")
    rounds_of_means: int = Field(
        0,
        ge=0,
        description="rounds after that of coarse images that learn from the mean of a slice's "
        "draws, which comes nearer sooner but is too smooth to end with; none with `start_from`",
    )
    first_steps: int | None = Field(
        None,
        ge=1,
        description="steps of a first round that begins with random weights; three times those of "
        "the others, which learn at half its rate, if none. Not with `start_from`",
    )
    patience: int = Field(
        2,
        ge=1,
        description="rounds of draws in a row without a better prediction, after which it ends",
    )
    hold_out: float = Field(0.15, gt=0, lt=1, description="share of subjects that are held out")
    slices_per_scan: int | None = Field(
        None, ge=1, description="at most so many of a scan, spread evenly"
    )
    preset: PresetName = Field("fast", description="work of a draw")
    chains: int = Field(1, ge=1, le=16, description="of a slice in a round; each gives a few draws")
    compare_with: str | None = Field(
        None, description="installed model that the report compares with; the default one if none"
    )
    licence: PlainText = Field(UNSTATED, description="of the models, for their cards")
    attributions: tuple[PlainText, ...] = Field((), description="whose scans these are")
    training: TrainingConfig = ARCHIVE_TRAINING

    def steps_of(self, number: int) -> int:
        """Of the training in a round, from 1 on."""
        if number > 1 or self.start_from is not None:
            return self.training.steps
        return self.first_steps or _FROM_RANDOM * self.training.steps

    @model_validator(mode="before")
    @classmethod
    def _beside_the_defaults(cls, given: Any) -> Any:  # noqa: ANN401 - whatever a file holds
        """What a file's table leaves out is as in `ARCHIVE_TRAINING`, not as for images."""
        training = given.get("training", {}) if isinstance(given, dict) else None
        if not isinstance(training, dict):
            return given
        usual = ARCHIVE_TRAINING.model_dump()
        if given.get("start_from") is not None:
            usual["learning_rate"] = _TRAINED_ALREADY
        augmentation = training.get("augmentation", {})
        if isinstance(augmentation, dict):
            training = {**training, "augmentation": {**LAW_KEEPING.model_dump(), **augmentation}}
        return {**given, "training": {**usual, **training}}


def read_archive_plan(file: Path) -> ArchivePlan | None:
    """The plan in a TOML file, None where it trains on images. Raises ModelError.

    Paths are relative to its folder.
    """
    try:
        content = tomllib.loads(file.read_text())
        if "from_undersampled" not in content:
            return None
        plan = ArchivePlan.model_validate(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ModelError("bad-plan", f"{file} is not a training file: {error}") from error
    source = plan.from_undersampled
    if not is_url(source):
        source = str(file.parent / source)
    return plan.model_copy(update={"from_undersampled": source, "out": file.parent / plan.out})
