"""What the tests of the pretended GPU compare with the CPU, and how little they sample for it."""

from __future__ import annotations

import numpy as np

from recon.posterior import SlicePosterior
from recon.presets import Preset

TINY = Preset(chains=2, localization=2, annealing=6, cycles=2, cycle=3)


def assert_alike(there: SlicePosterior, here: SlicePosterior) -> None:
    for name in ("mean", "coarse", "samples", "magnitude_std", "quantiles", "sensitivity"):
        expected = getattr(here, name)
        error = np.abs(getattr(there, name) - expected).max() / np.abs(expected).max()
        assert error < 2e-3, name
    assert there.warnings == here.warnings
    assert there.converged == here.converged
    if here.self_check is not None:
        assert there.self_check is not None
        assert there.self_check.lines == here.self_check.lines
        assert abs(there.self_check.residual_std - here.self_check.residual_std) < 1e-2
