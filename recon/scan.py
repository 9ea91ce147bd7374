"""One scan as the rest of the package accepts it: checked, immutable, free of file handles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.planes import ATTRIBUTE, ImageStack


@dataclass(frozen=True)
class Geometry:
    """What the header says about space; None where it is silent."""

    field_of_view_mm: tuple[float, float, float] | None = None
    recon_shape: tuple[int, int] | None = None
    """Rows and columns to keep, centred, in `reconstruction` (removes readout oversampling)."""


@dataclass(frozen=True)
class Trajectory:
    """Where the samples of a scan off the grid lie. Raises ScanError for shapes that mean nothing.

    A sample at k is the sum over all voxels of x(r) exp(-2 pi i k r), r counted from voxel n // 2,
    over the square root of their number.
    """

    points: NDArray[np.float32]
    """(readouts, samples, 2) cycles per voxel along rows and columns, from -0.5 to 0.5."""
    matrix: tuple[int, int]
    """Rows and columns of the image."""

    def __post_init__(self) -> None:
        if self.points.ndim != 3 or self.points.shape[2] != 2 or min(self.matrix) < 8:
            raise ScanError(
                "trajectory-shape",
                "a trajectory is (readouts, samples, 2) for a matrix of 8 x 8 or more, "
                f"not {self.points.shape} for {self.matrix}",
            )
        self.points.flags.writeable = False

    @property
    def covered(self) -> NDArray[np.bool_]:
        """(rows, columns) Fourier coefficients of the image with a sample in their cell."""
        covered = np.zeros(self.matrix, np.bool_)
        cells = np.rint(self.points.reshape(-1, 2) * self.matrix).astype(np.int64)
        row, column = (cells + np.array(self.matrix) // 2).T
        inside = (row >= 0) & (row < self.matrix[0]) & (column >= 0) & (column < self.matrix[1])
        covered[row[inside], column[inside]] = True
        return covered


@dataclass(frozen=True)
class Scan:
    """Undersampled (or full) k-space of a stack of slices, on the grid of the image or off it.

    Off the grid, with a `trajectory`, rows are readouts and columns their samples.

    Raises ScanError when shapes disagree, a value is not finite, or nothing was acquired.
    """

    kspace: NDArray[np.complex64]
    """(slices, coils, rows, columns), zero where `mask` is False."""
    mask: NDArray[np.bool_]
    """(rows, columns), True where acquired, the same for all slices and coils."""
    trajectory: Trajectory | None = None
    """Of the same rows and columns; None for a Cartesian scan."""
    noise_samples: NDArray[np.complex64] | None = None
    """(coils, samples) receiver noise without signal, when the file has a noise scan."""
    coil_maps: NDArray[np.complex64] | None = None
    """(slices, coils, *image_shape) when handed in; otherwise found by calibration."""
    calibration: NDArray[np.complex64] | None = None
    """(slices, coils, *image_shape) k-space round its centre from lines that are not the image's,
    zero where there are none; for the coil maps alone."""
    geometry: Geometry = field(default_factory=Geometry)
    header: str | None = None
    """ISMRMRD XML header as text."""
    attributes: dict[str, str | int | float] = field(default_factory=dict)
    sha256: str = ""
    """Digest of the file the scan was read from."""

    def __post_init__(self) -> None:
        if self.kspace.ndim != 4 or self.kspace.dtype != np.complex64:
            raise ScanError(
                "kspace-shape",
                "k-space must be complex64 (slices, coils, rows, columns), "
                f"not {self.kspace.dtype} {self.kspace.shape}",
            )
        if self.mask.shape != self.kspace.shape[-2:] or self.mask.dtype != np.bool_:
            raise ScanError(
                "mask-shape",
                f"the mask must be boolean {self.kspace.shape[-2:]}, "
                f"not {self.mask.dtype} {self.mask.shape}",
            )
        if not self.mask.any():
            raise ScanError("empty-mask", "the mask selects no sample; nothing was acquired")
        if not np.isfinite(self.kspace).all():
            raise ScanError("not-finite", "k-space holds NaN or infinite values")
        if not self.kspace.any():
            raise ScanError("empty-kspace", "all of k-space is zero")
        if self.trajectory is not None and self.trajectory.points.shape[:2] != self.mask.shape:
            raise ScanError(
                "trajectory-shape",
                f"the trajectory must have the shape of the readouts, {self.mask.shape}, "
                f"not {self.trajectory.points.shape[:2]}",
            )
        maps_shape = (*self.kspace.shape[:2], *self.image_shape)
        if self.coil_maps is not None and self.coil_maps.shape != maps_shape:
            raise ScanError(
                "maps-shape",
                f"coil maps must have the shape of k-space, {maps_shape}, "
                f"not {self.coil_maps.shape}",
            )
        if self.calibration is not None and self.calibration.shape != maps_shape:
            raise ScanError(
                "calibration-shape",
                f"calibration lines must lie on the grid of the image, {maps_shape}, "
                f"not {self.calibration.shape}",
            )
        for array in (
            self.kspace, self.mask, self.noise_samples, self.coil_maps, self.calibration
        ):  # fmt: skip
            if array is not None:
                array.flags.writeable = False

    def require_slice(self, index: int) -> None:
        """Raises ScanError where there is no slice of this number."""
        slices = self.kspace.shape[0]
        if not 0 <= index < slices:
            raise ScanError("no-such-slice", f"slice {index} of a scan with {slices} slices")

    @property
    def image_shape(self) -> tuple[int, int]:
        """Rows and columns of its images."""
        if self.trajectory is not None:
            return self.trajectory.matrix
        return self.mask.shape[0], self.mask.shape[1]

    @property
    def view_mm(self) -> tuple[float, float] | None:
        """Field of view of k-space along rows and columns, oversampling and all; None if unknown.

        One over the distance of its samples.
        """
        view, kept = self.geometry.field_of_view_mm, self.geometry.recon_shape
        if view is None or kept is None:
            return None
        rows, columns = self.image_shape
        return view[0] * rows / kept[0], view[1] * columns / kept[1]

    @property
    def sampled(self) -> NDArray[np.bool_]:
        """Of image_shape: which Fourier coefficients of the image were measured."""
        return self.mask if self.trajectory is None else self.trajectory.covered

    @property
    def acceleration(self) -> float:
        """Matrix size over number of coefficients that were measured."""
        return float(self.sampled.size / np.count_nonzero(self.sampled))


def two_phase_encodings(
    mask: NDArray[np.bool_], attributes: Mapping[str, str | int | float]
) -> bool | None:
    """Whether a scan of this mask (rows, columns) was encoded in two directions; None: unknown.

    Samples off whole lines tell it. So do partitions that were all acquired: a Fourier transform
    has separated them, as it does readouts. A full mask tells nothing. Raises ScanError.
    """
    text = attributes.get(ATTRIBUTE)
    planes = ImageStack.from_text(text).planes if isinstance(text, str) else ()
    if any("partition" in plane.labels for plane in planes) or not of_lines(mask):
        return True
    return None if mask.all() else False


def of_lines(mask: NDArray[np.bool_]) -> bool:
    """Whether a mask (rows, columns) is of whole lines, as where one direction is the readout."""
    return bool((mask == mask[:1]).all() or (mask == mask[:, :1]).all())


def centre_crop(images: NDArray[Any], shape: tuple[int, int] | None) -> NDArray[Any]:
    """(..., rows, columns) cut to the middle `shape`, or left where they are smaller.

    Offsets are those of fastMRI's `center_crop`.
    """
    if shape is None:
        return images
    rows, columns = (min(want, have) for want, have in zip(shape, images.shape[-2:], strict=True))
    top = (images.shape[-2] - rows) // 2
    left = (images.shape[-1] - columns) // 2
    return images[..., top : top + rows, left : left + columns]


def averaged(scans: Sequence[Scan]) -> Scan:
    """Repetitions of one scan as one: every sample is the mean of those that were acquired.

    What is not k-space is the first scan's; noise gets the variance that the mean of all has.
    Raises ScanError where the scans differ in shape or are not on the grid of the image.
    """
    first = scans[0]
    for scan in scans:
        if scan.kspace.shape != first.kspace.shape or scan.trajectory is not None:
            raise ScanError(
                "repetitions-differ",
                f"repetitions are averaged where they are Cartesian and of one shape; these have "
                f"{first.kspace.shape} and {scan.kspace.shape}",
            )
    counts = np.sum([scan.mask for scan in scans], axis=0)
    total = np.sum([scan.kspace for scan in scans], axis=0)
    several = int(np.median(counts[counts > 0]))
    noise = first.noise_samples
    own = int(first.attributes.get("averages", 1))
    return replace(
        first,
        kspace=(total / np.maximum(counts, 1)).astype(np.complex64),
        mask=counts > 0,
        noise_samples=None if noise is None else (noise / several**0.5).astype(np.complex64),
        attributes={**first.attributes, "averages": own * several},
        sha256=sha256("".join(scan.sha256 for scan in scans).encode()).hexdigest(),
    )
