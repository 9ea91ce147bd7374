"""The presets: how much work a reconstruction may be; without torch, so that help texts can ask."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """How many network evaluations a chain spends, and on what."""

    chains: int
    localization: int
    annealing: int
    cycles: int
    """Draws; each re-noises the chain and anneals it again. 0 keeps the first annealing's end."""
    cycle: int

    @property
    def evaluations(self) -> int:
        """Network evaluations per chain."""
        return self.localization + self.annealing + self.cycles * self.cycle


PRESETS: dict[str, Preset] = {
    "fast": Preset(chains=4, localization=2, annealing=24, cycles=3, cycle=7),
    "standard": Preset(chains=8, localization=2, annealing=40, cycles=10, cycle=6),
    "thorough": Preset(chains=16, localization=6, annealing=44, cycles=10, cycle=20),
}
