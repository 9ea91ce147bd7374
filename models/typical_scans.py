"""`typical.json` beside the weights: what a prior makes of scans that are right.

It is the null distribution of the alarm (`recon.alarm`): a scan that these weights make something
else of is not one that they know. The file is read like the rest of a model: size capped, strict
schema, and refused when it was written for other weights.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from models.errors import ModelError
from models.model_folder import (
    TYPICAL_FILE,
    ModelConfig,
    PlainText,
    printable,
    read_beside,
    write_beside,
)

MAX_TYPICAL_BYTES = 256 * 1024

Row = Annotated[tuple[float, ...], Field(min_length=2, max_length=32)]


class TypicalTable(BaseModel):
    """The whole `typical.json`. Values are logarithms but for the last column of `held_out`."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    power: float = Field(1.0, gt=0, description="to which the prior was raised (`config.json`)")
    data: Annotated[PlainText, StringConstraints(max_length=500)] = Field(
        description="what the scans were of"
    )
    date: date
    software_version: Annotated[PlainText, StringConstraints(max_length=100)]
    sigmas: tuple[float, ...] = Field(
        min_length=1, max_length=31, description="noise levels of the surprises"
    )
    surprises: tuple[Row, ...] = Field(
        min_length=1, max_length=2000, description="of a scan each: energy, then one a level"
    )
    held_out: tuple[tuple[float, float], ...] = Field(
        min_length=1,
        max_length=2000,
        description="of a scan each: ratio of the self-check, freedom",
    )


def parse_typical(text: bytes, model: ModelConfig, origin: str) -> TypicalTable:
    """The checked content of a `typical.json` for a model; `origin` names it.

    Raises ModelError.
    """
    try:
        found = TypicalTable.model_validate_json(text)
    except ValidationError as error:
        raise ModelError("bad-typical", printable(f"{origin} is not valid: {error}")) from error
    if found.weights_sha256 != model.weights_sha256:
        raise ModelError(
            "typical-digest",
            f"{origin} was made with other weights (SHA-256 differs); make it again with "
            "`models typical`, or delete it",
        )
    if found.power != model.power:
        raise ModelError(
            "typical-power",
            f"{origin} was made with the prior raised to {found.power:g}, and the model asks for "
            f"{model.power:g}; make it again with `models typical`, or delete it",
        )
    return found


def read_typical_file(
    folder: Path, model: ModelConfig, *, follow_links: bool = True
) -> TypicalTable | None:
    """The checked table in a model's folder, or None where there is none; or ModelError."""
    file = folder / TYPICAL_FILE
    text = read_beside(file, MAX_TYPICAL_BYTES, "typical-size", follow_links=follow_links)
    return None if text is None else parse_typical(text, model, str(file))


def write_typical(file: Path, table: TypicalTable) -> None:
    """Write the file whole, or leave what was there. Raises ModelError where it cannot be."""
    write_beside(file, table.model_dump_json(indent=1) + "\n")
