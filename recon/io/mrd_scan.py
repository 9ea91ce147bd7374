"""From the readouts of a Cartesian ISMRMRD acquisition to a `Scan`.

Every combination of slice, contrast, phase, repetition and set is an image of its own on the slice
axis, slices fastest. Readouts that are not imaging (navigators, feedback, phase correction) are
dropped; noise readouts become `noise_samples` in the scale of the imaging ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io import mrd_readouts
from recon.io.mrd_header import Encoding, encoding_of, parse_header
from recon.io.mrd_readouts import Readouts
from recon.io.read_limits import ReadLimits
from recon.io.scan_layout import expand_mask
from recon.planes import ATTRIBUTE, ImagePlane, ImageStack, Vector
from recon.scan import Geometry, Scan

_IMAGES = ("set", "repetition", "phase", "contrast", "slice")
"""Counters that make an image of its own, the slowest first."""


@dataclass(frozen=True)
class _Volumes:
    """Gridded k-space of all images, still three-dimensional."""

    kspace: NDArray[np.complex64]
    """(images, coils, x, y, z)."""
    mask: NDArray[np.bool_]
    """(x, y, z)."""
    planes: tuple[ImagePlane, ...]
    voxel_mm: Vector
    keep: tuple[int, int, int]


def scans_from_readouts(
    xml: str,
    readouts: Readouts,
    sha256: str,
    limits: ReadLimits,
    *,
    mask: NDArray[Any] | None = None,
    select: Mapping[str, int] | None = None,
) -> tuple[Scan, ...]:
    """The images in the readouts of one measurement: one scan for every sampling pattern.

    Interleaved repetitions have several patterns; most measurements have one.

    Oversampling is removed from complete readouts; incomplete ones (asymmetric echo) keep it in
    k-space, where the mask says what is missing, and lose it in the cropped image. Averages are
    averaged. A three-dimensional scan becomes slices along its partitions when these are all
    acquired, else along the readout.

    Args:
        xml: Header of the measurement.
        readouts: In the order of acquisition.
        sha256: Digest of where they came from.
        limits: `declared_bytes` and `expansion` bound the gridded k-space.
        mask: Of 0 and 1, as `read_scan` takes it: what to use of the acquired samples.
        select: Counters (slice, contrast, phase, repetition, set) that images must have.

    Raises:
        ScanError: The measurement is refused; its code says why.
    """
    encoding = encoding_of(parse_header(xml))
    chosen = _imaging(readouts, encoding) & _selected(readouts, select or {})
    _require_some(chosen)
    stacked, heads = readouts.stack(chosen), readouts.head[chosen]
    patterns = _patterns(heads)
    scans = []
    for pattern in range(patterns.max() + 1):
        of_pattern = patterns == pattern
        volumes, averages = _gridded(stacked[of_pattern], heads[of_pattern], encoding, limits)
        slices, sampled, stack = _slices(_without_oversampling(volumes))
        if mask is not None:
            sampled = sampled & expand_mask(mask, *sampled.shape)
            slices = slices * sampled
        rows, columns = stack.keep
        view = (rows * stack.voxel_mm[0], columns * stack.voxel_mm[1], stack.voxel_mm[2])
        scans.append(
            Scan(
                kspace=np.ascontiguousarray(slices, np.complex64),
                mask=np.ascontiguousarray(sampled),
                noise_samples=_noise(readouts, heads, encoding, averages),
                geometry=Geometry(field_of_view_mm=view, recon_shape=(rows, columns)),
                header=xml,
                attributes={ATTRIBUTE: stack.to_text(), "averages": averages},
                sha256=sha256,
            )
        )
    return tuple(scans)


def scan_from_readouts(
    xml: str,
    readouts: Readouts,
    sha256: str,
    limits: ReadLimits,
    *,
    mask: NDArray[Any] | None = None,
    select: Mapping[str, int] | None = None,
) -> Scan:
    """The only scan in the readouts; ScanError when images were sampled on different lines."""
    scans = scans_from_readouts(xml, readouts, sha256, limits, mask=mask, select=select)
    if len(scans) > 1:
        raise ScanError(
            "patterns-differ",
            "the images of this measurement were sampled on different lines, as interleaved "
            "repetitions are; choose those of one pattern, for example --select repetition=0",
        )
    return scans[0]


def _imaging(readouts: Readouts, encoding: Encoding) -> NDArray[np.bool_]:
    """Readouts of the first encoding that sample the image."""
    dropped = readouts.flagged(
        mrd_readouts.NOISE, mrd_readouts.SURFACE_COIL_CORRECTION, *mrd_readouts.NOT_IMAGING
    )
    only_calibration = readouts.flagged(mrd_readouts.CALIBRATION) & ~readouts.flagged(
        mrd_readouts.CALIBRATION_AND_IMAGING
    )
    if not encoding.embedded_calibration:
        dropped = dropped | only_calibration
    return np.asarray(~dropped & (readouts.head["encoding_space_ref"] == 0))


def _selected(readouts: Readouts, select: Mapping[str, int]) -> NDArray[np.bool_]:
    unknown = set(select) - set(_IMAGES)
    if unknown:
        raise ScanError(
            "selection", f"images are selected by {', '.join(_IMAGES)}, not by {min(unknown)[:32]}"
        )
    chosen = np.ones(len(readouts.head), np.bool_)
    for name, value in select.items():
        chosen &= readouts.head["idx"][name] == value
    return chosen


def _require_some(chosen: NDArray[np.bool_]) -> None:
    if not chosen.any():
        raise ScanError(
            "no-readouts", "the measurement holds no such imaging readouts; select others"
        )


def _patterns(heads: NDArray[np.void]) -> NDArray[np.int64]:
    """(readouts,) which of the sampling patterns, numbered as they appear, its image has."""
    _, which = _images(heads)
    lines = heads["idx"]["kspace_encode_step_1"].astype(np.int64) << 16
    lines += heads["idx"]["kspace_encode_step_2"]
    numbers: dict[bytes, int] = {}
    patterns = np.empty(len(heads), np.int64)
    for image in range(which.max() + 1):
        of_image = which == image
        pattern = np.unique(lines[of_image]).tobytes()
        patterns[of_image] = numbers.setdefault(pattern, len(numbers))
    return patterns


def _images(heads: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Counters (images, 5) of all images in order, and (readouts,) the image of each readout."""
    counters = np.stack([heads["idx"][name].astype(np.int64) for name in _IMAGES], axis=1)
    images, which = np.unique(counters, axis=0, return_inverse=True)
    return images, which


def _gridded(
    stacked: NDArray[np.complex64],
    heads: NDArray[np.void],
    encoding: Encoding,
    limits: ReadLimits,
) -> tuple[_Volumes, int]:
    """Readouts in their places, averages averaged; and how many there are of most lines."""
    (matrix_x, matrix_y, matrix_z), voxel = encoding.encoded.matrix, encoding.encoded.voxel_mm
    coils, samples = stacked.shape[1:]
    start, matrix_x, voxel_x = _readout_place(heads, samples, encoding, matrix_x, voxel[0])
    y = matrix_y // 2 - encoding.centre[0] + heads["idx"]["kspace_encode_step_1"].astype(int)
    z = matrix_z // 2 - encoding.centre[1] + heads["idx"]["kspace_encode_step_2"].astype(int)
    if not ((y >= 0) & (y < matrix_y) & (z >= 0) & (z < matrix_z)).all():
        raise ScanError(
            "line-outside",
            "a readout lies outside the encoded matrix; correct encodingLimits in the header",
        )
    images, which = _images(heads)
    shape = (len(images), coils, matrix_x, matrix_y, matrix_z)
    dense, given = 8 * math.prod(shape), stacked.nbytes
    if dense > limits.declared_bytes or dense > max(
        limits.expansion_floor_bytes, limits.expansion * given
    ):
        raise ScanError(
            "too-large",
            f"the header makes {dense} bytes of k-space from {given} bytes of readouts; "
            "correct the matrix size or split the scan",
        )
    kspace = np.zeros(shape, np.complex64)
    counts = np.zeros((len(images), matrix_y, matrix_z), np.int64)
    np.add.at(counts, (which, y, z), 1)
    for line, image, row, partition in zip(stacked, which, y, z, strict=True):
        kspace[image, :, start : start + samples, row, partition] += line
    kspace /= np.maximum(counts, 1)[:, np.newaxis, np.newaxis]
    sampled = np.zeros(shape[2:], np.bool_)
    sampled[start : start + samples] = counts[0] > 0
    planes = tuple(
        _plane(
            heads, which == image, y, z, encoding, dict(zip(_IMAGES, map(int, key), strict=True))
        )
        for image, key in enumerate(images)
    )
    kept = (min(encoding.kept[0], matrix_x), *encoding.kept[1:])
    averages = int(np.median(counts[counts > 0]))
    return _Volumes(kspace, sampled, planes, (voxel_x, *voxel[1:]), kept), averages


def _readout_place(
    heads: NDArray[np.void], samples: int, encoding: Encoding, matrix: int, voxel: float
) -> tuple[int, int, float]:
    """Where readouts start, the matrix along them, and its voxel size in mm."""
    centres = {int(h["center_sample"]) - int(h["discard_pre"]) for h in heads}
    if samples == matrix:
        return 0, matrix, voxel
    centred = centres <= {samples // 2} or min(centres) >= samples
    recon = encoding.recon
    if samples == recon.matrix[0] < matrix and centred:
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


def _plane(
    heads: NDArray[np.void],
    of_image: NDArray[np.bool_],
    y: NDArray[np.int64],
    z: NDArray[np.int64],
    encoding: Encoding,
    labels: dict[str, int],
) -> ImagePlane:
    """Position as the readout nearest to the centre of k-space has it."""
    _, matrix_y, matrix_z = encoding.encoded.matrix
    distance = (y - matrix_y // 2) ** 2 + (z - matrix_z // 2) ** 2
    head = heads[np.flatnonzero(of_image)[np.argmin(distance[of_image])]]
    return ImagePlane(
        position=_vector(head["position"]),
        read_dir=_direction(head["read_dir"], 0),
        phase_dir=_direction(head["phase_dir"], 1),
        slice_dir=_direction(head["slice_dir"], 2),
        labels=labels,
        time_stamp=int(head["acquisition_time_stamp"]),
    )


def _direction(values: NDArray[np.float32], axis: int) -> Vector:
    """Phantoms and simulations leave the directions zero: then the patient's own axes."""
    return _vector(values) if np.any(values) else _vector(np.eye(3)[axis])


def _vector(values: NDArray[Any]) -> Vector:
    x, y, z = (float(value) for value in values)
    return x, y, z


def _without_oversampling(volumes: _Volumes) -> _Volumes:
    """Complete readouts are cut to the field of view in image space."""
    have, want = volumes.kspace.shape[2], volumes.keep[0]
    complete = volumes.mask.any(axis=(1, 2)).all()
    if want == have or not complete:
        return volumes
    first = have // 2 - want // 2
    image = _to_image(volumes.kspace, axis=2)[:, :, first : first + want]
    mask = np.ascontiguousarray(volumes.mask[:want])  # complete: every row has the same lines
    return replace(volumes, kspace=_to_kspace(image, axis=2) * mask, mask=mask)


def _slices(
    volumes: _Volumes,
) -> tuple[NDArray[np.complex64], NDArray[np.bool_], ImageStack]:
    """Two-dimensional k-space (slices, coils, rows, columns), its mask, and where slices lie."""
    x, _, z = volumes.mask.shape
    dx, dy, dz = volumes.voxel_mm
    keep_x, keep_y, keep_z = volumes.keep
    if z == 1:
        stack = ImageStack((dx, dy, dz), (keep_x, keep_y), volumes.planes)
        return volumes.kspace[..., 0], volumes.mask[..., 0], stack
    lines: NDArray[np.bool_] = np.any(volumes.mask, axis=0)
    if (np.all(lines, axis=1) == np.any(lines, axis=1)).all():
        images = _to_image(volumes.kspace, axis=4)
        first = z // 2 - keep_z // 2
        slices = np.moveaxis(images[..., first : first + keep_z], -1, 1)
        stack = ImageStack(
            (dx, dy, dz),
            (keep_x, keep_y),
            tuple(
                _moved(plane, plane.slice_dir, (k - keep_z // 2) * dz, k)
                for plane in volumes.planes
                for k in range(keep_z)
            ),
        )
        return _merged(slices), np.any(volumes.mask, axis=2), stack
    if not volumes.mask.any(axis=(1, 2)).all():
        raise ScanError(
            "no-full-direction",
            "no direction of this three-dimensional scan is fully sampled; it cannot be cut "
            "into slices",
        )
    first = x // 2 - keep_x // 2
    images = _to_image(volumes.kspace, axis=2)[:, :, first : first + keep_x]
    planes = tuple(
        replace(
            _moved(plane, plane.read_dir, (k - keep_x // 2) * dx, k),
            read_dir=plane.phase_dir,
            phase_dir=plane.slice_dir,
            slice_dir=plane.read_dir,
        )
        for plane in volumes.planes
        for k in range(keep_x)
    )
    stack = ImageStack((dy, dz, dx), (keep_y, keep_z), planes)
    return _merged(np.moveaxis(images, 2, 1)), lines, stack


def _moved(plane: ImagePlane, direction: Vector, distance: float, partition: int) -> ImagePlane:
    position = np.array(plane.position) + distance * np.array(direction)
    return replace(
        plane, position=_vector(position), labels={**plane.labels, "partition": partition}
    )


def _merged(slices: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """(images, slices, coils, rows, columns) with the first two axes made one."""
    return slices.reshape(-1, *slices.shape[2:])


def _noise(
    readouts: Readouts, heads: NDArray[np.void], encoding: Encoding, averages: int
) -> NDArray[np.complex64] | None:
    """(coils, samples) noise with the variance that the imaging samples have.

    The variance grows with the bandwidth, one over the sampling time; a receiver filter takes a
    known share of it away from the noise readouts; averaging divides it.
    """
    chosen = readouts.flagged(mrd_readouts.NOISE)
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


def _to_image(kspace: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    """Centred, orthonormal inverse transform along one axis."""
    shifted = np.fft.ifftshift(kspace, axes=axis)
    return np.fft.fftshift(scipy.fft.ifft(shifted, axis=axis, norm="ortho"), axes=axis)


def _to_kspace(image: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    shifted = np.fft.ifftshift(image, axes=axis)
    return np.fft.fftshift(scipy.fft.fft(shifted, axis=axis, norm="ortho"), axes=axis)
