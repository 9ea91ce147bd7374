"""Posterior sampling for Cartesian MRI: tensors in, tensors out; no network, clock or global state.

Conventions, stated once:

* Images are complex64 (..., rows, columns); k-space is complex64 (..., coils, rows, columns) with
  zero frequency at index n // 2 of both axes.
* The Fourier transform is centred and orthonormal, for odd sizes too (`recon.operators.fft2c`).
* Coil maps satisfy sum |S|^2 = 1 inside the object, so the measurement operator has norm <= 1.
* `sigma` and `noise_std` are standard deviations of one real component of white complex noise.
* Everything between calibration and output is in units where the 99th percentile of the coarse
  reconstruction's magnitude is 1; `PreparedSlice.scale` undoes it.
* Randomness is an argument: one generator per (seed, slice, chain).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recon.arrays import Posterior, open_result, reconstruct_array
    from recon.calibration import CalibrationSettings
    from recon.errors import CalibrationError, ConvergenceError, ReconError, ScanError
    from recon.io.files import read_scan, write_scan
    from recon.pipeline import reconstruct
    from recon.posterior import SelfCheck, SlicePosterior
    from recon.prior import Prior
    from recon.regions import Region
    from recon.scan import Scan
    from recon.settings import Settings

__all__ = [
    "CalibrationError",
    "CalibrationSettings",
    "ConvergenceError",
    "Posterior",
    "Prior",
    "ReconError",
    "Region",
    "Scan",
    "ScanError",
    "SelfCheck",
    "Settings",
    "SlicePosterior",
    "open_result",
    "read_scan",
    "reconstruct",
    "reconstruct_array",
    "write_scan",
]
_HOMES = {
    ".arrays": ("Posterior", "open_result", "reconstruct_array"),
    ".calibration": ("CalibrationSettings",),
    ".errors": ("CalibrationError", "ConvergenceError", "ReconError", "ScanError"),
    ".io.files": ("read_scan", "write_scan"),
    ".pipeline": ("reconstruct",),
    ".posterior": ("SelfCheck", "SlicePosterior"),
    ".prior": ("Prior",),
    ".regions": ("Region",),
    ".scan": ("Scan",),
    ".settings": ("Settings",),
}


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """The public names, loaded when they are asked for: most of this package needs no torch."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
