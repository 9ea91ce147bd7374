"""Trained priors by name: which there are, and what is said of them. Loads no torch.

Folders are looked up among the shipped ones first, so a shipped name always means shipped weights,
and then in the user's.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from models.conformal_factors import FoundFactors, read_factors_file
from models.errors import ModelError as ModelError
from models.model_folder import (
    MAX_CARD_BYTES,
    NAME_PATTERN,
    ModelConfig,
    printable,
    read_capped,
    read_config_file,
)
from models.typical_scans import TypicalTable, read_typical_file

SHIPPED_FOLDER = Path(__file__).parent / "weights"
USER_FOLDER_VARIABLE = "MRI_POSTERIOR_MODELS"


def user_folder() -> Path:
    """Where the user's own models are: `$MRI_POSTERIOR_MODELS`, or the platform's data folder."""
    if chosen := os.environ.get(USER_FOLDER_VARIABLE):
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return base / "mri-posterior" / "models"


def list_models() -> tuple[str, ...]:
    """Names of all models that can be asked for, sorted; their files are not checked yet."""
    return tuple(
        sorted(
            {
                file.parent.name
                for folder in (SHIPPED_FOLDER, user_folder())
                for file in folder.glob("*/config.json")
                if re.fullmatch(NAME_PATTERN, file.parent.name)
            }
        )
    )


def is_shipped(name: str) -> bool:
    """Whether the model comes with the software; raises ModelError when there is none."""
    return find_model(name).parent == SHIPPED_FOLDER


def read_config(name: str) -> ModelConfig:
    """The checked configuration of a model; its weights are not read."""
    return read_config_file(find_model(name))


def read_card(name: str) -> str:
    """The model card (markdown) without control characters; empty when there is none."""
    file = find_model(name) / "README.md"
    if not file.exists():
        return ""
    return printable(read_capped(file, MAX_CARD_BYTES, "card-size").decode(errors="replace"))


def read_factors(name: str) -> FoundFactors | None:
    """The checked calibration of a model, or None where it has none. Raises ModelError."""
    folder = find_model(name)
    return read_factors_file(folder, read_config_file(folder))


def read_typical(name: str) -> TypicalTable | None:
    """The checked table of what a model makes of right scans, or None where it has none.

    Raises ModelError.
    """
    folder = find_model(name)
    return read_typical_file(folder, read_config_file(folder))


def check_name(name: str) -> None:
    """Raise ModelError unless `name` is a key: never a path."""
    if not re.fullmatch(NAME_PATTERN, name):
        raise ModelError(
            "bad-name",
            f"{name!r} is not a model name: use 1-64 lower-case letters, digits and hyphens "
            "(a name, not a path)",
        )


def find_model(name: str) -> Path:
    """The folder of an installed model. Raises ModelError; no file in it is checked yet."""
    check_name(name)
    for folder in (SHIPPED_FOLDER, user_folder()):
        if (folder / name / "config.json").is_file():
            return folder / name
    known = ", ".join(list_models()) or "none"
    raise ModelError("not-found", f"there is no model '{name}'; installed models: {known}")
