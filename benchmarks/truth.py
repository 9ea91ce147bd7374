"""Scans whose truth is known without noise: none of a reference's own hides what is gained.

    python -m benchmarks truth
    python -m benchmarks.truth [--model NAME-OR-FOLDER ...] [--preset fast] [--only NAME]

Slices of patients that were kept apart, received by eight simulated coils with a noise of 0.002 and
of 0.01 per real component (the 99th percentile of the image is 1), R = 4 and 8.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from benchmarks.beside_wavelets import DATA, Subject, compare, simulated
from models.training_data import ImageFile, SliceSet

COILS, NOISE = 8, (0.002, 0.01)
SLICES = (("FLAIR", 60), ("T1", 110), ("FLAIR", 156), ("T1", 200))
"""Of validation/open_ms.h5, two of each patient."""


def subjects() -> Iterator[Subject]:
    """Every slice at both noise levels."""
    kept_apart = SliceSet([ImageFile(DATA / "validation" / "open_ms.h5")])
    for name, index in SLICES:
        for level in NOISE:
            image = kept_apart.slice(0, index)
            yield simulated(f"{name}, slice {index}, noise {level:g}", image, COILS, level, index)


def main(arguments: Sequence[str] = ()) -> bool:
    """Whether our mean is above both others on all of them."""
    return compare("truth", __doc__, subjects(), (4, 8), arguments)


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
