"""Weights in pieces that are small enough to travel, and the run that they become again.

A run's averaged weights in bfloat16 are cut into files of at most `PIECE_BYTES`; beside them lies
`NAME.json` with their digest, number and the run's configuration. `join_pieces` makes a folder of
them that `mri-posterior models package` takes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors.torch import load_file, save

from models.errors import ModelError
from models.model_folder import MAX_CONFIG_BYTES, MAX_WEIGHTS_BYTES, read_capped
from models.train import TrainingConfig

PIECE_BYTES = 15 * 2**20


class Pieces(BaseModel):
    """The content of `NAME.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str
    count: int = Field(ge=1, le=64)
    training: TrainingConfig

    def name(self, stem: str, place: int) -> str:
        """File of a piece, from 0; the digest keeps pieces of two checkpoints apart."""
        return f"{stem}.{self.sha256[:8]}.{place + 1}-of-{self.count}"


def write_pieces(folder: Path, stem: str, weights: Path, training: TrainingConfig) -> None:
    """Cut the weights of a file; older pieces of the same name go when the new ones are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.to(torch.bfloat16) for key, value in load_file(weights).items()}
    content = save(tensors)
    found = Pieces(
        sha256=hashlib.sha256(content).hexdigest(),
        count=-(-len(content) // PIECE_BYTES),
        training=training,
    )
    names = [found.name(stem, place) for place in range(found.count)]
    for place, name in enumerate(names):
        (folder / name).write_bytes(content[place * PIECE_BYTES : (place + 1) * PIECE_BYTES])
    (folder / f"{stem}.tmp").write_text(found.model_dump_json(indent=2) + "\n")
    (folder / f"{stem}.tmp").replace(folder / f"{stem}.json")
    for old in folder.glob(f"{stem}.????????.*-of-*"):
        if old.name not in names:
            old.unlink()


def join_pieces(folder: Path, stem: str, out: Path) -> Path:
    """The run `out` of the pieces in a folder. Raises ModelError where they do not fit together."""
    text = read_capped(folder / f"{stem}.json", MAX_CONFIG_BYTES, "config-size")
    try:
        found = Pieces.model_validate_json(text)
    except ValidationError as error:
        raise ModelError("bad-pieces", f"{stem}.json does not describe pieces: {error}") from error
    content = b"".join(
        read_capped(folder / found.name(stem, place), MAX_WEIGHTS_BYTES, "weights-size")
        for place in range(found.count)
    )
    if hashlib.sha256(content).hexdigest() != found.sha256:
        raise ModelError(
            "pieces-digest", f"the pieces of {stem} are not those that {stem}.json describes"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.json").write_text(found.training.model_dump_json(indent=2) + "\n")
    (out / "weights.safetensors").write_bytes(content)
    return out
