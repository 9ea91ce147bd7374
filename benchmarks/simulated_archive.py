"""An archive of undersampled scans that is simulated, and the images that are known of it.

Slices with larger pixels, random phases, eight coils, a noise of 0.01 and a random mask each, R = 3
and 5 in turn. What is made is kept in a folder and not made again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.beside_wavelets import DATA
from models.reduction import resized_complex
from recon.coarse import CoarseMethod
from recon.io.files import read_scan, write_scan
from recon.phantom import receive
from recon.settings import Settings
from recon.slice_draws import coarse_image
from recon.undersampling import undersample, undersampling_mask
from service.conformal_measurement import choose_slices, scaled_image, with_phase
from service.images.files import write_images

SIDE, COILS, NOISE = 128, 8, 0.01
CENTRE_LINES = 12
_ACCELERATIONS = (3.0, 5.0)

Image = NDArray[np.complex64]


class Source(NamedTuple):
    """Slices of a file whose label matches; the group is the patient."""

    file: str
    labels: str


OTHERS = {
    "cheng_1": 60,
    "cheng_2": 60,
    "cheng_3": 60,
    "studyforrest": 50,
    "more_adi_t1": 60,
    "more_child3y_t1": 50,
    "more_seg3d_t1": 50,
    "more_decubitus_t1": 30,
    "more_ptbp_children_t1": 60,
}
"""Slices of other people, T1 too, that the archive's prior may begin with."""


def images_of(source: Source, count: int) -> Iterator[tuple[str, Image]]:
    """Patient and image (side, side), of slices spread evenly over a source."""
    with h5py.File(DATA / source.file) as handle:
        labels = handle["label"].asstr()[()]
        found = [
            (k, match)
            for k, label in enumerate(labels)
            if (match := re.match(source.labels, label))
        ]
        for place in choose_slices(len(found), count):
            index, match = found[place]
            whole = scaled_image(np.asarray(handle["images"][index], np.float32), labels[index])
            small = resized_complex(torch.from_numpy(whole.astype(np.complex64)), (SIDE, SIDE))
            image = with_phase(scaled_image(np.abs(small.numpy()), labels[index]), index)
            yield match[1], image


def make_archive(out: Path, source: Source, count: int) -> None:
    """Scans below `out`/scans, a folder a patient, and the images that they are of."""
    if (out / "truth.h5").exists():
        return
    truth = []
    for number, (patient, image) in enumerate(images_of(source, count)):
        full = receive(image[None], COILS, NOISE, number)
        acceleration = _ACCELERATIONS[number % len(_ACCELERATIONS)]
        centre = CENTRE_LINES / SIDE
        mask = undersampling_mask((SIDE, SIDE), "random", acceleration, centre, number)
        (out / "scans" / patient).mkdir(parents=True, exist_ok=True)
        write_scan(out / "scans" / patient / f"{number:04d}.h5", undersample(full, mask))
        truth.append(image)
    write_images(out / "truth.h5", np.stack(truth), "several")


def full_images(out: Path, scans: Sequence[str]) -> Path:
    """The images that these scans are of."""

    def images() -> Iterator[Image]:
        with h5py.File(out / "truth.h5") as handle:
            for scan in scans:
                yield handle["images"][int(Path(scan).stem)]

    return _kept(out / "full.h5", images())


def coarse_images(out: Path, scans: Sequence[str]) -> Path:
    """L1-wavelet images of these scans, in the units of priors."""
    settings = Settings(coarse=CoarseMethod.L1_WAVELET)
    read = (read_scan(out / "scans" / name) for name in scans)
    return _kept(out / "coarse.h5", (coarse_image(scan, 0, settings) for scan in read))


def images_of_others(out: Path) -> Path:
    """Slices of people whom the archive has not, from scanners that it has not."""
    sources = ((Source(f"train/{name}.h5", "()"), count) for name, count in OTHERS.items())
    found = (image for source, count in sources for _, image in images_of(source, count))
    return _kept(out / "others.h5", found)


def _kept(file: Path, images: Iterator[Image]) -> Path:
    """A file of images, which are made where it is not there yet."""
    if not file.exists():
        write_images(file, np.stack(list(images)).astype(np.complex64), "several")
    return file
