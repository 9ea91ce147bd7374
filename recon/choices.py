"""The names by which people choose: for files, requests and command lines, which load no torch."""

from __future__ import annotations

from typing import Literal

PresetName = Literal["fast", "standard", "thorough"]
"""How much work: `recon.presets.PRESETS`."""
CoarseName = Literal["cg-sense", "zero-filled", "l1-wavelet"]
"""The first reconstruction: `recon.coarse.CoarseMethod`."""
PathName = Literal["prior", "measurement"]
"""What annealed Langevin follows: `recon.paths.PATHS`."""
CombinationName = Literal["rss", "sense"]
"""How a reference's coils become one picture: `recon.reference.Combination`."""
COHERENCE = 1.5
"""Default of `recon.settings.Settings.slice_coherence`."""
PatternName = Literal["equispaced", "random", "poisson"]
"""Which samples an undersampled scan keeps: `recon.undersampling`."""
