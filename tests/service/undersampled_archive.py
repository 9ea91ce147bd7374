"""Archives of undersampled scans of discs, small enough that a prior is learned in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.io.files import write_scan
from recon.phantom import receive
from recon.undersampling import undersample, undersampling_mask

ROWS, COLUMNS = 32, 64


def discs(seed: int) -> NDArray[np.complex64]:
    """(rows, columns): a bright disc with three others in it, real."""
    random = np.random.default_rng(seed)
    row, column = np.mgrid[:ROWS, :COLUMNS].astype(np.float64)
    image = np.zeros((ROWS, COLUMNS))
    places = [(16.0, 32.0, 13.0, 0.6)]
    places += [
        (16 + 5 * a, 32 + 5 * b, 2 + 3 * c, d)
        for a, b, c, d in zip(*random.uniform([-1, -1, 0, 0.1], 1, (3, 4)).T, strict=True)
    ]
    for y, x, radius, value in places:
        inside = 1 / (1 + np.exp(2 * (np.hypot(row - y, column - x) - radius)))
        image = image * (1 - inside) + value * inside
    return image.astype(np.complex64)


def write_archive(folder: Path, subjects: int = 8, noise: float = 0.01) -> Path:
    """A folder for each subject with a scan of one slice, each with a mask of its own."""
    for number in range(subjects):
        full = receive(discs(number)[None], 4, noise, number)
        mask = undersampling_mask((ROWS, COLUMNS), "random", 2.4, 12 / COLUMNS, number)
        (folder / f"person-{number}").mkdir(parents=True)
        write_scan(folder / f"person-{number}" / "scan.h5", undersample(full, mask))
    return folder
