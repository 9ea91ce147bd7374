"""The file that fastMRI's leaderboard and `fastmri.evaluate` take for a volume."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from recon.errors import ScanError
from recon.io.scan_layout import parse_geometry
from recon.posterior import SlicePosterior
from recon.scan import centre_crop
from service.store.durable import beside


def write_fastmri(posteriors: Sequence[SlicePosterior], xml: str | None, path: Path) -> list[Path]:
    """Write `path` (.h5): `reconstruction`, float32 (slices, rows, columns), the mean's magnitude.

    It has the units of `reconstruction_rss` and the size that the header (`xml`) reconstructs to.
    fastMRI's tools find the truth by the name of the file, which is the scan's own.

    Raises:
        ScanError: Slices are missing, so that others would be compared with the truth.
    """
    ordered = sorted(posteriors, key=lambda posterior: posterior.index)
    if [posterior.index for posterior in ordered] != list(range(len(ordered))):
        raise ScanError(
            "slices-missing",
            "fastMRI's tools want every slice of a volume; reconstruct without --slices",
        )
    shape = None if xml is None else parse_geometry(xml).recon_shape
    mean = centre_crop(np.abs(np.stack([posterior.mean for posterior in ordered])), shape)
    with beside(path, durable=False) as aside, h5py.File(aside, "w") as file:
        file.create_dataset("reconstruction", data=np.ascontiguousarray(mean, np.float32))
    return [path]
