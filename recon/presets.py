"""The presets: how much work a reconstruction may be; without torch, so that help texts can ask."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Preset:
    """How many network evaluations a chain spends, and on what."""

    chains: int
    localization: int
    annealing: int
    cycles: int
    """Draws beyond the first annealing's; each raises the chain and anneals it again."""
    cycle: int

    @property
    def draws(self) -> int:
        """Draws of a chain."""
        return self.cycles + 1

    @property
    def evaluations(self) -> int:
        """Network evaluations per chain."""
        return self.localization + self.annealing + self.cycles * self.cycle

    @property
    def work(self) -> int:
        """Network evaluations of all chains."""
        return self.chains * self.evaluations


PRESETS: dict[str, Preset] = {
    "fast": Preset(chains=4, localization=2, annealing=30, cycles=1, cycle=15),
    "standard": Preset(chains=8, localization=2, annealing=70, cycles=2, cycle=28),
    "thorough": Preset(chains=16, localization=6, annealing=210, cycles=2, cycle=60),
}
PILOT = Preset(chains=2, localization=2, annealing=10, cycles=0, cycle=6)
"""Before each of them: what the noise level and the width of the posterior are fitted to."""


def preset_of(name: str, samples: int | None) -> Preset:
    """A preset by its name, with another number of chains where one is given."""
    preset = PRESETS[name]
    return preset if samples is None else replace(preset, chains=samples)
