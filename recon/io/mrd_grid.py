"""Which readouts of an ISMRMRD acquisition make an image, which image, and where they go in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io import mrd_readouts
from recon.io.conventions import CLEAR, strongest
from recon.io.mrd_header import Encoding
from recon.io.mrd_readouts import Readouts, flagged
from recon.io.read_limits import ReadLimits
from recon.planes import ImagePlane, Vector

IMAGES = ("set", "repetition", "phase", "contrast", "slice")
"""Counters that make an image of its own, the slowest first."""


@dataclass(frozen=True)
class Grid:
    """Places of Cartesian readouts in the three-dimensional k-space of all images."""

    start: int
    """Where readouts begin along x."""
    samples: int
    matrix: tuple[int, int, int]
    voxel_mm: Vector
    keep: tuple[int, int, int]
    """Voxels inside the field of view asked for."""
    y: NDArray[np.int64]
    """(readouts,)."""
    z: NDArray[np.int64]
    images: NDArray[np.int64]
    """(images, counters)."""
    which: NDArray[np.int64]
    """(readouts,) the image of each."""

    @property
    def counts(self) -> NDArray[np.int64]:
        """(images, y, z) readouts of each line."""
        counts = np.zeros((len(self.images), *self.matrix[1:]), np.int64)
        np.add.at(counts, (self.which, self.y, self.z), 1)
        return counts

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """(x, y, z), of the first image."""
        sampled = np.zeros(self.matrix, np.bool_)
        sampled[self.start : self.start + self.samples] = self.counts[0] > 0
        return sampled


def grid_of(
    heads: NDArray[np.void],
    encoding: Encoding,
    limits: ReadLimits,
    given_bytes: int,
    profile: NDArray[np.float64] | None = None,
) -> Grid:
    """Places of readouts of one pattern; `given_bytes` is what their samples take.

    Where headers can be read in two ways, `profile`, the energy of each sample of a readout,
    decides. Raises ScanError where they do not fit the header, or the header makes too much of
    them.
    """
    (matrix_x, matrix_y, matrix_z), voxel = encoding.encoded.matrix, encoding.encoded.voxel_mm
    coils, samples = int(heads["active_channels"][0]), kept_samples(heads)
    start, matrix_x, voxel_x = _readout_place(heads, samples, encoding, matrix_x, profile)
    y = matrix_y // 2 - encoding.centre[0] + heads["idx"]["kspace_encode_step_1"].astype(np.int64)
    z = matrix_z // 2 - encoding.centre[1] + heads["idx"]["kspace_encode_step_2"].astype(np.int64)
    if not ((y >= 0) & (y < matrix_y) & (z >= 0) & (z < matrix_z)).all():
        raise ScanError(
            "line-outside",
            "a readout lies outside the encoded matrix; correct encodingLimits in the header",
        )
    images, which = images_of(heads)
    dense = 8 * math.prod((len(images), coils, matrix_x, matrix_y, matrix_z))
    require_size(dense, given_bytes, limits)
    kept = (min(encoding.kept[0], matrix_x), *encoding.kept[1:])
    matrix = (matrix_x, matrix_y, matrix_z)
    return Grid(start, samples, matrix, (voxel_x, *voxel[1:]), kept, y, z, images, which)


def require_size(dense: int, given: int, limits: ReadLimits) -> None:
    """Refuse headers that make much k-space of few readouts. Raises ScanError."""
    if dense > limits.declared_bytes or dense > max(
        limits.expansion_floor_bytes, limits.expansion * given
    ):
        raise ScanError(
            "too-large",
            f"the header makes {dense} bytes of k-space from {given} bytes of readouts; "
            "correct the matrix size or split the scan",
        )


def kept_samples(heads: NDArray[np.void]) -> int:
    """Samples of a readout without its discards."""
    head = heads[0]
    return int(head["number_of_samples"]) - int(head["discard_pre"]) - int(head["discard_post"])


def imaging(heads: NDArray[np.void], encoding: Encoding) -> NDArray[np.bool_]:
    """Readouts of the first encoding that sample the image."""
    dropped = flagged(
        heads,
        mrd_readouts.NOISE,
        mrd_readouts.SURFACE_COIL_CORRECTION,
        *mrd_readouts.NOT_IMAGING,
    )
    only_calibration = flagged(heads, mrd_readouts.CALIBRATION) & ~flagged(
        heads, mrd_readouts.CALIBRATION_AND_IMAGING
    )
    if not encoding.embedded_calibration:
        dropped = dropped | only_calibration
    return np.asarray(~dropped & (heads["encoding_space_ref"] == 0))


def calibrating(heads: NDArray[np.void]) -> NDArray[np.bool_]:
    """Readouts that are flagged as lines for calibration, whether they sample the image or not."""
    dropped = flagged(
        heads,
        mrd_readouts.NOISE,
        mrd_readouts.SURFACE_COIL_CORRECTION,
        *mrd_readouts.NOT_IMAGING,
    )
    wanted = flagged(heads, mrd_readouts.CALIBRATION, mrd_readouts.CALIBRATION_AND_IMAGING)
    return np.asarray(wanted & ~dropped)


def selected(readouts: Readouts, select: Mapping[str, int]) -> NDArray[np.bool_]:
    """(readouts,), True for those of images with these counters. Raises ScanError."""
    unknown = set(select) - set(IMAGES)
    if unknown:
        raise ScanError(
            "selection", f"images are selected by {', '.join(IMAGES)}, not by {min(unknown)[:32]}"
        )
    chosen = np.ones(len(readouts.head), np.bool_)
    for name, value in select.items():
        chosen &= readouts.head["idx"][name] == value
    return chosen


def require_some(chosen: NDArray[np.bool_]) -> None:
    """Raise ScanError where nothing was chosen."""
    if not chosen.any():
        raise ScanError(
            "no-readouts", "the measurement holds no such imaging readouts; select others"
        )


def patterns_of(heads: NDArray[np.void]) -> NDArray[np.int64]:
    """(readouts,) which of the sampling patterns, numbered as they appear, its image has."""
    _, which = images_of(heads)
    lines = heads["idx"]["kspace_encode_step_1"].astype(np.int64) << 16
    lines += heads["idx"]["kspace_encode_step_2"]
    patterns = [np.unique(lines[which == image]).tobytes() for image in range(which.max() + 1)]
    return numbered(patterns)[which]


def selections_of(heads: NDArray[np.void]) -> list[dict[str, int]]:
    """Choices of images that have one sampling pattern each and are all images together.

    One empty choice where all have the same pattern, or no counter alone tells them apart.
    """
    patterns = patterns_of(heads)
    if not patterns.any():
        return [{}]
    for name in ("repetition", "set", "contrast", "phase", "slice"):
        values = heads["idx"][name]
        if all(len(set(patterns[values == value])) == 1 for value in np.unique(values)):
            return [{name: int(value)} for value in np.unique(values)]
    return [{}]


def numbered(keys: list[bytes]) -> NDArray[np.int64]:
    """The same number for equal keys, counted as they appear."""
    numbers: dict[bytes, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def images_of(heads: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counters (images, 5) of all images in order, and (readouts,) the image of each readout."""
    counters = np.stack([heads["idx"][name].astype(np.int64) for name in IMAGES], axis=1)
    images, which = np.unique(counters, axis=0, return_inverse=True)
    return images, which


def planes_of(
    heads: NDArray[np.void],
    images: NDArray[np.int64],
    which: NDArray[np.int64],
    distance: NDArray[np.int64],
) -> tuple[ImagePlane, ...]:
    """Positions as the readout of least `distance` to the centre of k-space has them."""
    planes = []
    for image, key in enumerate(images):
        of_image = np.flatnonzero(which == image)
        head = heads[of_image[np.argmin(distance[of_image])]]
        planes.append(
            ImagePlane(
                position=vector_of(head["position"]),
                read_dir=_direction(head["read_dir"], 0),
                phase_dir=_direction(head["phase_dir"], 1),
                slice_dir=_direction(head["slice_dir"], 2),
                labels=dict(zip(IMAGES, map(int, key), strict=True)),
                time_stamp=int(head["acquisition_time_stamp"]),
            )
        )
    return tuple(planes)


def _readout_place(
    heads: NDArray[np.void],
    samples: int,
    encoding: Encoding,
    matrix: int,
    profile: NDArray[np.float64] | None,
) -> tuple[int, int, float]:
    """Where readouts start, the matrix along them, and its voxel size in mm."""
    voxel, recon = encoding.encoded.voxel_mm[0], encoding.recon
    centres = {int(h["center_sample"]) - int(h["discard_pre"]) for h in heads}
    if samples == matrix:
        return 0, matrix, voxel
    symmetric = centres <= {samples // 2} or min(centres) >= samples
    if not symmetric and len(centres) == 1 and samples == recon.matrix[0]:
        symmetric = _is_symmetric(profile, min(centres))
    if samples == recon.matrix[0] < matrix and symmetric:
        # The vendor has removed the oversampling and left the header as it was.
        return 0, samples, recon.voxel_mm[0]
    if len(centres) == 1:
        start = matrix // 2 - centres.pop()
        if 0 <= start <= matrix - samples:
            return start, matrix, voxel
    raise ScanError(
        "readout-outside",
        f"readouts of {samples} samples do not fit the encoded matrix of {matrix}; "
        "correct the header",
    )


def _is_symmetric(profile: NDArray[np.float64] | None, centre: int) -> bool:
    """Whether the echo is in the middle of the readouts although they say it is at `centre`.

    As many samples as the image has voxels are half an echo, or a readout whose oversampling the
    vendor removed without correcting `center_sample`, which converters often leave at 0.
    """
    if profile is None:
        return centre == 0
    _, ratio = strongest(np.roll(profile, len(profile) // 2 - centre), np.ones(len(profile)))
    return ratio > CLEAR and abs(int(profile.argmax()) - len(profile) // 2) <= len(profile) // 8


def _direction(values: NDArray[np.float32], axis: int) -> Vector:
    """Phantoms and simulations leave the directions zero: then the patient's own axes."""
    return vector_of(values) if np.any(values) else vector_of(np.eye(3)[axis])


def vector_of(values: NDArray[Any]) -> Vector:
    """Three plain numbers."""
    x, y, z = (float(value) for value in values)
    return x, y, z


def noise_of(
    readouts: Readouts, heads: NDArray[np.void], encoding: Encoding, averages: int
) -> NDArray[np.complex64] | None:
    """(coils, samples) noise with the variance that the imaging samples have.

    The variance grows with the bandwidth, one over the sampling time; a receiver filter takes a
    known share of it away from the noise readouts; averaging divides it.
    """
    chosen = flagged(readouts.head, mrd_readouts.NOISE)
    if not chosen.any():
        return None
    noise = np.moveaxis(readouts.stack(chosen), 1, 0)
    if noise.shape[0] != int(heads["active_channels"][0]):
        raise ScanError(
            "noise-shape",
            "the noise readouts have other channels than the imaging ones; remove them",
        )
    own = float(readouts.head["sample_time_us"][chosen][0])
    imaging = float(heads["sample_time_us"][0])
    if not (0 < own < 1e6 and 0 < imaging < 1e6):
        own = imaging = 1.0  # files that do not say: simulations, mostly
    factor = math.sqrt(own / imaging / encoding.noise_bandwidth / averages)
    return np.ascontiguousarray(factor * noise.reshape(noise.shape[0], -1), np.complex64)
