"""Contrasts that a prior was never taught, beside CG-SENSE and L1-wavelet.

    python -m benchmarks contrast
    python -m benchmarks.contrast [--model NAME-OR-FOLDER ...] [--preset fast] [--only NAME]

Slices of patients that were kept apart, their intensities turned round inside the head, and a
proton density scan, received by eight simulated coils with noise of 0.01; the truth has no noise.
The proton density scan is in the training folder: `brain-base.toml` teaches it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from benchmarks.beside_wavelets import DATA, Subject, compare, simulated
from models.training_data import ImageFile, SliceSet

COILS, NOISE_STD = 8, 0.01
TURNED = (("T1", 110), ("T1", 200), ("FLAIR", 62))
"""Slices of validation/open_ms.h5."""
DENSITY = 10
"""Slice of train/more_papaya_pd.h5."""
_AIR = 0.06


def head_of(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, columns) 1 inside the head and 0 in air, with an edge as soft as a pixel's."""
    bright = ndimage.gaussian_filter(image, 1) > _AIR
    labels, count = ndimage.label(bright)
    if count == 0:
        return np.zeros_like(image)
    sizes = ndimage.sum_labels(bright, labels, range(1, count + 1))
    solid = ndimage.binary_fill_holes(labels == 1 + int(np.argmax(sizes)))
    return np.asarray(ndimage.gaussian_filter(solid.astype(np.float32), 0.7))


def inverted(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Bright tissue dark and dark tissue bright; air stays dark."""
    return head_of(image) * (1.1 - np.clip(image, 0, 1.1))


def folded(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Tissue in the middle of the scale dark, at both of its ends bright."""
    return head_of(image) * np.abs(2 * np.clip(image, 0, 1.1) - 1.1)


def subjects() -> Iterator[Subject]:
    """Every turned slice twice, then the proton density."""
    kept_apart = SliceSet([ImageFile(DATA / "validation" / "open_ms.h5")])
    for name, index in TURNED:
        image = kept_apart.slice(0, index)
        yield simulated(f"inverted {name}, slice {index}", inverted(image), COILS, NOISE_STD, index)
        yield simulated(f"folded {name}, slice {index}", folded(image), COILS, NOISE_STD, index)
    density = SliceSet([ImageFile(DATA / "train" / "more_papaya_pd.h5")]).slice(0, DENSITY)
    yield simulated("proton density", density, COILS, NOISE_STD, DENSITY)


def main(arguments: Sequence[str] = ()) -> bool:
    """Whether our mean is above both others on all of them."""
    return compare("contrast", __doc__, subjects(), (4,), arguments)


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
