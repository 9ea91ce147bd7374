"""Names of configs that scanners send, and what they stand for; nothing else is looked up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import get_args

from recon.choices import PresetName


class Mode(StrEnum):
    """When the images come."""

    INLINE = "inline"
    """In the same session, which waits for them."""
    TRIGGER = "trigger"
    """In a later session; this one ends when the raw data are safe."""
    RETRIEVE = "retrieve"
    """Those of an earlier session, if they are ready."""


@dataclass(frozen=True)
class Choice:
    """What the name of a config stands for."""

    preset: PresetName = "standard"
    mode: Mode | None = None
    """None: the server's default."""


UNCHOSEN = ("", "openrecon")
"""What clients send that choose no config: nothing, or the one name that OpenRecon always sends."""


def configs_of(names: Mapping[str, str]) -> dict[str, Choice]:
    """Our own names and the site's, which are `preset`, `mode` or `preset:mode`.

    Raises ValueError, with what is wrong.
    """
    presets: tuple[PresetName, ...] = get_args(PresetName)
    known: dict[str, Choice] = {preset: Choice(preset) for preset in presets}
    known |= dict.fromkeys(UNCHOSEN, Choice())
    known |= {mode.value: Choice(mode=mode) for mode in Mode}
    for name, meaning in names.items():
        first, _, second = meaning.partition(":")
        preset = next((preset for preset in presets if preset == first), None)
        wanted = second if preset else first
        if (wanted and wanted not in list(Mode)) or (not preset and second):
            raise ValueError(
                f"'{name}={meaning}': a config is {', '.join(presets)}, one of "
                f"{', '.join(Mode)}, or both as standard:trigger"
            )
        known[name] = Choice(preset or "standard", Mode(wanted) if wanted else None)
    return known
