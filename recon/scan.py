"""One scan as the rest of the package accepts it: checked, immutable, free of file handles."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError


@dataclass(frozen=True)
class Geometry:
    """What the header says about space; None where it is silent."""

    field_of_view_mm: tuple[float, float, float] | None = None
    recon_shape: tuple[int, int] | None = None
    """Rows and columns to keep, centred, in `reconstruction` (removes readout oversampling)."""


@dataclass(frozen=True)
class Scan:
    """Undersampled (or full) Cartesian k-space of a stack of slices.

    Raises ScanError when shapes disagree, a value is not finite, or nothing was acquired.
    """

    kspace: NDArray[np.complex64]
    """(slices, coils, rows, columns), zero where `mask` is False."""
    mask: NDArray[np.bool_]
    """(rows, columns), True where acquired, the same for all slices and coils."""
    noise_samples: NDArray[np.complex64] | None = None
    """(coils, samples) receiver noise without signal, when the file has a noise scan."""
    coil_maps: NDArray[np.complex64] | None = None
    """(slices, coils, rows, columns) when handed in; otherwise found by calibration."""
    geometry: Geometry = field(default_factory=Geometry)
    header: str | None = None
    """ISMRMRD XML header as text."""
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    sha256: str = ""
    """Digest of the file the scan was read from."""

    def __post_init__(self) -> None:
        if self.kspace.ndim != 4 or self.kspace.dtype != np.complex64:
            raise ScanError(
                "kspace-shape",
                "k-space must be complex64 (slices, coils, rows, columns), "
                f"not {self.kspace.dtype} {self.kspace.shape}",
            )
        if self.mask.shape != self.kspace.shape[-2:] or self.mask.dtype != np.bool_:
            raise ScanError(
                "mask-shape",
                f"the mask must be boolean {self.kspace.shape[-2:]}, "
                f"not {self.mask.dtype} {self.mask.shape}",
            )
        if not self.mask.any():
            raise ScanError("empty-mask", "the mask selects no sample; nothing was acquired")
        if not np.isfinite(self.kspace).all():
            raise ScanError("not-finite", "k-space holds NaN or infinite values")
        if not self.kspace.any():
            raise ScanError("empty-kspace", "all of k-space is zero")
        if self.coil_maps is not None and self.coil_maps.shape != self.kspace.shape:
            raise ScanError(
                "maps-shape",
                f"coil maps must have the shape of k-space, {self.kspace.shape}, "
                f"not {self.coil_maps.shape}",
            )
        for array in (self.kspace, self.mask, self.noise_samples, self.coil_maps):
            if array is not None:
                array.flags.writeable = False

    @property
    def acceleration(self) -> float:
        """Matrix size over number of acquired samples."""
        return float(self.mask.size / np.count_nonzero(self.mask))
