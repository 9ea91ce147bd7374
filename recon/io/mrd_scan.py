"""From the readouts of an ISMRMRD acquisition to a `Scan`.

Every combination of slice, contrast, phase, repetition and set is an image of its own on the slice
axis, slices fastest. Readouts that are not imaging (navigators, feedback, phase correction) are
dropped; noise readouts become `noise_samples` in the scale of the imaging ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.mrd_grid import (
    grid_of,
    images_of,
    imaging,
    noise_of,
    patterns_of,
    planes_of,
    require_some,
    selected,
    selections_of,
    vector_of,
)
from recon.io.mrd_header import Encoding, encoding_of, parse_header
from recon.io.mrd_readouts import Readouts
from recon.io.mrd_trajectory import require_trajectories, scans_along_trajectories
from recon.io.read_limits import ReadLimits
from recon.io.scan_layout import expand_mask
from recon.planes import ATTRIBUTE, ImagePlane, ImageStack, Vector
from recon.scan import Geometry, Scan


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
    chosen = imaging(readouts.head, encoding) & selected(readouts, select or {})
    require_some(chosen)
    if not encoding.cartesian:
        if mask is not None:
            raise ScanError("mask-trajectory", "a mask is for Cartesian scans; leave it out")
        return scans_along_trajectories(xml, encoding, readouts, chosen, sha256, limits)
    stacked, heads = readouts.stack(chosen), readouts.head[chosen]
    patterns = patterns_of(heads)
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
                noise_samples=noise_of(readouts, heads, encoding, averages),
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
        raise _patterns_differ()
    return scans[0]


def selections_in(xml: str, heads: NDArray[np.void]) -> list[dict[str, int]]:
    """Values of `select` with which `scan_from_readouts` reads all images of these headers."""
    encoding = encoding_of(parse_header(xml))
    chosen = imaging(heads, encoding)
    return selections_of(heads[chosen]) if encoding.cartesian and chosen.any() else [{}]


def _patterns_differ() -> ScanError:
    return ScanError(
        "patterns-differ",
        "the images of this measurement were sampled on different lines, as interleaved "
        "repetitions are; choose those of one pattern, for example --select repetition=0",
    )


def shape_of_readouts(
    xml: str, heads: NDArray[np.void], limits: ReadLimits
) -> tuple[int, int, int, int]:
    """(slices, coils, rows, columns) of the scan in readouts with these headers.

    Slices of all sampling patterns count, where there are several. Raises ScanError as
    `scan_from_readouts` does for all else that headers can be wrong in.
    """
    encoding = encoding_of(parse_header(xml))
    chosen = imaging(heads, encoding)
    require_some(chosen)
    heads = heads[chosen]
    coils = int(heads["active_channels"][0])
    if not encoding.cartesian:
        require_trajectories(encoding, heads)
        return len(images_of(heads)[0]), coils, *encoding.encoded.matrix[:2]
    images = len(images_of(heads)[0])
    heads = heads[patterns_of(heads) == 0]
    samples = heads["active_channels"].astype(np.int64) * heads["number_of_samples"]
    grid = grid_of(heads, encoding, limits, 8 * int(samples.sum()))
    sampled = grid.sampled
    if bool(sampled.any(axis=(1, 2)).all()):
        sampled = sampled[: grid.keep[0]]
    x, y, z = sampled.shape
    way = _way(sampled)
    if way is _Way.PLANES:
        return images, coils, x, y
    if way is _Way.PARTITIONS:
        return images * grid.keep[2], coils, x, y
    return images * grid.keep[0], coils, y, z


class _Way(Enum):
    """How a volume becomes slices."""

    PLANES = auto()
    """It is two-dimensional."""
    PARTITIONS = auto()
    READOUT = auto()


def _way(mask: NDArray[np.bool_]) -> _Way:
    """Along which direction a volume of this mask (x, y, z) is cut. Raises ScanError."""
    if mask.shape[2] == 1:
        return _Way.PLANES
    lines: NDArray[np.bool_] = np.any(mask, axis=0)
    if (np.all(lines, axis=1) == np.any(lines, axis=1)).all():
        return _Way.PARTITIONS
    if not mask.any(axis=(1, 2)).all():
        raise ScanError(
            "no-full-direction",
            "no direction of this three-dimensional scan is fully sampled; it cannot be cut "
            "into slices",
        )
    return _Way.READOUT


def _gridded(
    stacked: NDArray[np.complex64],
    heads: NDArray[np.void],
    encoding: Encoding,
    limits: ReadLimits,
) -> tuple[_Volumes, int]:
    """Readouts in their places, averages averaged; and how many there are of most lines."""
    grid = grid_of(heads, encoding, limits, stacked.nbytes)
    kspace = np.zeros((len(grid.images), stacked.shape[1], *grid.matrix), np.complex64)
    counts = grid.counts
    along = slice(grid.start, grid.start + grid.samples)
    for line, image, y, z in zip(stacked, grid.which, grid.y, grid.z, strict=True):
        kspace[image, :, along, y, z] += line
    kspace /= np.maximum(counts, 1)[:, np.newaxis, np.newaxis]
    distance = (grid.y - grid.matrix[1] // 2) ** 2 + (grid.z - grid.matrix[2] // 2) ** 2
    planes = planes_of(heads, grid.images, grid.which, distance)
    averages = int(np.median(counts[counts > 0]))
    return _Volumes(kspace, grid.sampled, planes, grid.voxel_mm, grid.keep), averages


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
    way = _way(volumes.mask)
    dx, dy, dz = volumes.voxel_mm
    keep_x, keep_y, keep_z = volumes.keep
    if way is _Way.PLANES:
        stack = ImageStack((dx, dy, dz), (keep_x, keep_y), volumes.planes)
        return volumes.kspace[..., 0], volumes.mask[..., 0], stack
    if way is _Way.PARTITIONS:
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
    return _merged(np.moveaxis(images, 2, 1)), np.any(volumes.mask, axis=0), stack


def _moved(plane: ImagePlane, direction: Vector, distance: float, partition: int) -> ImagePlane:
    position = np.array(plane.position) + distance * np.array(direction)
    return replace(
        plane, position=vector_of(position), labels={**plane.labels, "partition": partition}
    )


def _merged(slices: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """(images, slices, coils, rows, columns) with the first two axes made one."""
    return slices.reshape(-1, *slices.shape[2:])


def _to_image(kspace: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    """Centred, orthonormal inverse transform along one axis."""
    shifted = np.fft.ifftshift(kspace, axes=axis)
    return np.fft.fftshift(np.fft.ifft(shifted, axis=axis, norm="ortho"), axes=axis)


def _to_kspace(image: NDArray[np.complex64], axis: int) -> NDArray[np.complex64]:
    shifted = np.fft.ifftshift(image, axes=axis)
    return np.fft.fftshift(np.fft.fft(shifted, axis=axis, norm="ortho"), axes=axis)
