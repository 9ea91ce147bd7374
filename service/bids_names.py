"""Names of anatomical images in BIDS datasets: entities, and the suffix that names the contrast."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from recon.errors import ScanError

BIDS_NAME = r"^sub-[A-Za-z0-9]{1,64}(_[a-z]{2,5}-[A-Za-z0-9]{1,64}){0,8}_[A-Za-z0-9]{2,12}$"
_ORDER = (
    "sub", "ses", "acq", "ce", "rec", "run", "echo", "part", "chunk",
)  # fmt: skip
"""Entities of anatomical images in the standard's order; `desc` comes last and is ours."""
_SUFFIXES = (
    "T1w", "T2w", "PDw", "T2starw", "FLAIR", "inplaneT1", "inplaneT2", "angio", "MEGRE",
    "MESE",
)  # fmt: skip


@dataclass(frozen=True)
class BidsName:
    """Name of a raw image of a BIDS dataset, taken apart. Raises ScanError."""

    entities: dict[str, str]
    suffix: str

    @classmethod
    def of(cls, text: str) -> BidsName:
        """From `sub-01_ses-pre_T1w`. Raises ScanError."""
        text = re.sub(r"\.(nii(\.gz)?|json)$", "", text)
        if not re.fullmatch(BIDS_NAME, text):
            raise _wrong("it runs like sub-01_T1w or sub-01_ses-pre_run-2_FLAIR")
        *pairs, suffix = text.split("_")
        entities = dict(pair.split("-") for pair in pairs)
        unknown = [name for name in entities if name not in _ORDER]
        if unknown or len(entities) < len(pairs):
            raise _wrong(f"its entities are of {', '.join(_ORDER)}, each once")
        if suffix not in _SUFFIXES:
            raise _wrong(f"it ends with one of {', '.join(_SUFFIXES)}")
        return cls(entities, suffix)

    def folder(self) -> Path:
        """Where its files lie in the dataset."""
        levels = [
            f"{name}-{self.entities[name]}" for name in ("sub", "ses") if name in self.entities
        ]
        return Path(*levels, "anat")

    def derivative(self, description: str, more: dict[str, int]) -> str:
        """Name of a derivative, without extension; `more` entities are its own."""
        entities = self.entities | {name: str(number) for name, number in more.items()}
        pairs = [f"{name}-{entities[name]}" for name in _ORDER if name in entities]
        return "_".join([*pairs, f"desc-{description}", self.suffix])


def _wrong(what: str) -> ScanError:
    return ScanError("bids-name", f"give the BIDS name of the raw image: {what}")
