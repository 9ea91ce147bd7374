"""From the readouts of an ISMRMRD acquisition to a `Scan`.

Every combination of slice, contrast, phase, repetition and set is an image of its own on the slice
axis, slices fastest. Readouts that are not imaging (navigators, feedback, phase correction) are
dropped; noise readouts become `noise_samples` in the scale of the imaging ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.conventions import centred, require_centred
from recon.io.mrd_calibration import calibration_of
from recon.io.mrd_grid import (
    calibrating,
    grid_of,
    images_of,
    imaging,
    noise_of,
    patterns_of,
    require_some,
    selected,
    selections_of,
)
from recon.io.mrd_header import encoding_of, parse_header
from recon.io.mrd_readouts import Readouts
from recon.io.mrd_trajectory import require_trajectories, scans_along_trajectories
from recon.io.mrd_volumes import Way, gridded, slices_of, way_of, without_oversampling
from recon.io.read_limits import ReadLimits
from recon.io.scan_layout import expand_mask
from recon.planes import ATTRIBUTE
from recon.scan import Geometry, Scan

_CURE = (
    "correct center_sample or encodingLimits in the header, or give --fftshift to move the "
    "centre, --no-fftshift to leave it"
)


def scans_from_readouts(
    xml: str,
    readouts: Readouts,
    sha256: str,
    limits: ReadLimits,
    *,
    mask: NDArray[Any] | None = None,
    select: Mapping[str, int] | None = None,
    fftshift: bool | None = None,
    for_calibration: bool = False,
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
        fftshift: As `read_scan` takes it.
        for_calibration: Lines flagged for calibration only are read as lines of the image.

    Raises:
        ScanError: The measurement is refused; its code says why.
    """
    header = parse_header(xml)
    encoding = encoding_of(header)
    chosen = imaging(readouts.head, encoding)
    if for_calibration:
        chosen |= calibrating(readouts.head) & (readouts.head["encoding_space_ref"] == 0)
    chosen &= selected(readouts, select or {})
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
        volumes, averages = gridded(stacked[of_pattern], heads[of_pattern], encoding, limits)
        volumes = without_oversampling(volumes)
        way = way_of(volumes.mask)
        slices, sampled, stack = slices_of(volumes, way)
        images, _ = images_of(heads[of_pattern])
        lines = calibration_of(readouts, header, images, volumes, way, limits)
        if mask is not None:
            sampled = sampled & expand_mask(mask, *sampled.shape)
            slices = slices * sampled
        if fftshift:
            slices, sampled = centred(slices, sampled)
        elif fftshift is None:
            require_centred(slices, sampled, _CURE)
        rows, columns = stack.keep
        view = (rows * stack.voxel_mm[0], columns * stack.voxel_mm[1], stack.voxel_mm[2])
        scans.append(
            Scan(
                kspace=np.ascontiguousarray(slices, np.complex64),
                mask=np.ascontiguousarray(sampled),
                noise_samples=noise_of(readouts, heads, encoding, averages),
                calibration=None if lines is None or not (lines * ~sampled).any() else lines,
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
    fftshift: bool | None = None,
    for_calibration: bool = False,
) -> Scan:
    """The only scan in the readouts; ScanError when images were sampled on different lines."""
    scans = scans_from_readouts(
        xml, readouts, sha256, limits,
        mask=mask, select=select, fftshift=fftshift, for_calibration=for_calibration,
    )  # fmt: skip
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


def outline_of_readouts(
    xml: str, heads: NDArray[np.void], limits: ReadLimits
) -> tuple[tuple[int, int, int, int], bool]:
    """(slices, coils, rows, columns) of the scan in readouts with these headers.

    And whether it has two phase encodings. Slices of all sampling patterns count, where there are
    several. Raises ScanError as `scan_from_readouts` does for all else that headers can be wrong
    in.
    """
    encoding = encoding_of(parse_header(xml))
    chosen = imaging(heads, encoding)
    require_some(chosen)
    heads = heads[chosen]
    coils = int(heads["active_channels"][0])
    if not encoding.cartesian:
        require_trajectories(encoding, heads)
        return (len(images_of(heads)[0]), coils, *encoding.encoded.matrix[:2]), False
    images = len(images_of(heads)[0])
    heads = heads[patterns_of(heads) == 0]
    samples = heads["active_channels"].astype(np.int64) * heads["number_of_samples"]
    grid = grid_of(heads, encoding, limits, 8 * int(samples.sum()))
    sampled = grid.sampled
    if bool(sampled.any(axis=(1, 2)).all()):
        sampled = sampled[: grid.keep[0]]
    x, y, z = sampled.shape
    way = way_of(sampled)
    if way is Way.PLANES:
        return (images, coils, x, y), False
    if way is Way.PARTITIONS:
        return (images * grid.keep[2], coils, x, y), True
    return (images * grid.keep[0], coils, y, z), True
