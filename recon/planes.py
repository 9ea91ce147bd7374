"""Where the images of a scan lie in the patient: one plane per entry of the slice axis.

The half-voxel convention, stated once: images come from a centred discrete Fourier transform, whose
origin is voxel n // 2. That voxel's centre lies at the plane's `position`, for even and odd n, in
every direction; a centred crop keeps it there. Rows of an image run along `read_dir` (its first
index grows along it), columns along `phase_dir`. Coordinates are DICOM's and ISMRMRD's: millimetres
towards the patient's left, back and head.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError

ATTRIBUTE = "image_planes"
"""Name under which a scan's or a result's attributes carry the stack, as JSON."""

Vector = tuple[float, float, float]


@dataclass(frozen=True)
class ImagePlane:
    """One image: where voxel (rows // 2, columns // 2) lies, and which image it is."""

    position: Vector
    read_dir: Vector
    phase_dir: Vector
    slice_dir: Vector
    labels: dict[str, int]
    """Counters of the acquisition: slice, contrast, phase, repetition, set; and partition."""
    time_stamp: int = 0
    """Of the readout nearest to the centre of k-space, in the vendor's ticks."""


@dataclass(frozen=True)
class ImageStack:
    """All images of a scan. Raises ScanError for sizes and directions that mean nothing."""

    voxel_mm: Vector
    """Along rows, along columns, and from slice to slice."""
    keep: tuple[int, int]
    """Rows and columns that belong to the field of view asked for; the rest is cut off, centred."""
    planes: tuple[ImagePlane, ...]

    def __post_init__(self) -> None:
        vectors = [
            vector
            for plane in self.planes
            for vector in (plane.position, plane.read_dir, plane.phase_dir, plane.slice_dir)
        ]
        bad = not np.isfinite([self.voxel_mm, *vectors]).all() or min(self.voxel_mm) <= 0
        for plane in () if bad else self.planes:
            axes = np.array([plane.read_dir, plane.phase_dir, plane.slice_dir])
            bad = bad or not np.allclose(axes @ axes.T, np.eye(3), atol=1e-3)
        if bad or min(self.keep) < 1 or not self.planes:
            raise ScanError(
                "geometry",
                "voxel sizes must be positive and the read, phase and slice directions "
                "perpendicular unit vectors; correct the header of the scan",
            )

    def to_text(self) -> str:
        """JSON; `from_text` undoes it."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> ImageStack:
        """Raises ScanError on anything but the text of a stack."""
        try:
            values = json.loads(text)
            planes = tuple(_plane(plane) for plane in values["planes"])
            rows, columns = (int(value) for value in values["keep"])
            return cls(_vector(values["voxel_mm"]), (rows, columns), planes)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ScanError(
                "geometry", f"attribute '{ATTRIBUTE}' is damaged; reconstruct the scan again"
            ) from error

    def crop(self, images: NDArray[Any]) -> NDArray[Any]:
        """Images (..., rows, columns) cut to `keep` so that voxel n // 2 stays voxel n // 2."""
        rows, columns = (min(k, n) for k, n in zip(self.keep, images.shape[-2:], strict=True))
        top = images.shape[-2] // 2 - rows // 2
        left = images.shape[-1] // 2 - columns // 2
        return images[..., top : top + rows, left : left + columns]

    def first_voxel(self, index: int, shape: tuple[int, int]) -> NDArray[np.float64]:
        """(3,) centre of voxel (0, 0) of image `index` of `shape` (rows, columns), in mm."""
        plane = self.planes[index]
        along_rows = np.array(plane.read_dir) * self.voxel_mm[0] * (shape[0] // 2)
        along_columns = np.array(plane.phase_dir) * self.voxel_mm[1] * (shape[1] // 2)
        return np.asarray(np.array(plane.position) - along_rows - along_columns)


def upright(plane: ImagePlane) -> tuple[bool, bool, bool]:
    """How an image is turned so that people see it as they are used to, without resampling.

    Whether rows and columns are exchanged, and then whether rows and columns run backwards.
    Axial images have the front above and the patient's left on the right; coronal and sagittal ones
    the head above, and the patient's left, or the back, on the right.
    """
    normal = np.abs(np.cross(plane.read_dir, plane.phase_dir))
    left, back, head = np.eye(3)
    views = {0: (-head, back), 1: (-head, left), 2: (back, left)}
    down, right = views[int(np.argmax(normal))]
    first, second = np.array(plane.read_dir), np.array(plane.phase_dir)
    exchanged = bool(abs(first @ down) < abs(second @ down))
    if exchanged:
        first, second = second, first
    return exchanged, bool(first @ down < 0), bool(second @ right < 0)


def turned(image: NDArray[Any], turn: tuple[bool, bool, bool]) -> NDArray[Any]:
    """An image (…, rows, columns) turned as `upright` says."""
    exchanged, backward_rows, backward_columns = turn
    image = np.swapaxes(image, -2, -1) if exchanged else image
    image = image[..., ::-1, :] if backward_rows else image
    return image[..., ::-1] if backward_columns else image


def axial(count: int, shape: tuple[int, int], voxel_mm: Vector) -> ImageStack:
    """Axial images round the origin, for scans that do not say where they lie.

    Rows run from front to back, columns from right to left, as pictures of heads are drawn.
    """
    planes = tuple(
        ImagePlane(
            (0.0, 0.0, (k - count // 2) * voxel_mm[2]),
            (0, 1, 0),
            (1, 0, 0),
            (0, 0, 1),
            {"slice": k},
        )
        for k in range(count)
    )
    return ImageStack(voxel_mm, shape, planes)


def _plane(values: dict[str, Any]) -> ImagePlane:
    return ImagePlane(
        _vector(values["position"]),
        _vector(values["read_dir"]),
        _vector(values["phase_dir"]),
        _vector(values["slice_dir"]),
        {str(name)[:32]: int(label) for name, label in values["labels"].items()},
        int(values["time_stamp"]),
    )


def _vector(values: Any) -> Vector:  # noqa: ANN401  # parsed JSON
    x, y, z = (float(value) for value in values)
    return x, y, z
