"""Small matrices and large pixels: real scans cut in k-space, beside CG-SENSE and L1-wavelet.

    python -m benchmarks small
    python -m benchmarks.small [--model NAME-OR-FOLDER ...] [--preset fast] [--only NAME]

A scan whose k-space is cut is the scan that would have been made with larger pixels. The natives
are of about 1 mm, so that the factors, 1.4 to 2.2, are about millimetres.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.beside_wavelets import DATA, Subject, compare
from benchmarks.scans import full_scan
from recon.scan import Scan, centre_crop

CUTS = (
    ("brain_t1_8ch", 160, 128),
    ("brain_t1_8ch", 128, 100),
    ("head_t1_sagittal_1ch", 160, 160),
    ("head_t1_sagittal_1ch", 128, 128),
    ("complex_t2", 160, 160),
    ("complex_t2", 116, 116),
    ("brain_wrap_8ch", 160, 112),
)


def cut(scan: Scan, rows: int, columns: int) -> Scan:
    """The scan with the centre of its k-space alone: same field of view, larger pixels."""
    geometry = scan.geometry
    if geometry.recon_shape is not None:
        kept = zip(geometry.recon_shape, scan.image_shape, (rows, columns), strict=True)
        shape = [round(wanted * new / old) for wanted, old, new in kept]
        geometry = replace(geometry, recon_shape=(shape[0], shape[1]))
    return replace(
        scan,
        kspace=centre_crop(scan.kspace, (rows, columns)),
        mask=centre_crop(scan.mask, (rows, columns)),
        geometry=geometry,
        header=None,
    )


def subjects() -> Iterator[Subject]:
    """All cuts, one scan after the other."""
    for name, rows, columns in CUTS:
        full = full_scan(name, DATA / "scans")
        native = full.image_shape
        small = cut(full, rows, columns)
        factors = np.array(native) / (rows, columns)
        yield Subject(f"{name}, pixels x {factors[0]:.1f}, {factors[1]:.1f}", small)


def main(arguments: Sequence[str] = ()) -> bool:
    """Whether our mean is above both others on all of them."""
    return compare("small", __doc__, subjects(), (3, 4), arguments)


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
