"""Volumes of any origin, brought to the one form that training reads, or refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from skimage.transform import resize

from recon.errors import ScanError

Plane = Literal["auto", "axial", "coronal", "sagittal"]

SIDES = (64, 1024)
"""Pixels that a slice may have along each axis."""
_TISSUE_LEVEL = 0.1
_BRIGHTEST = 1000
_SQUARE = 1.02
_LEAST_VALUES = 17
_LEAST_NEGATIVE = -0.05
_PLACEHOLDERS = {"anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "0"}


class ImageSettings(BaseModel):
    """How images become training slices; a change converts anew."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    plane: Plane = Field("auto", description="slices of NIfTI volumes; auto: the thick direction")
    pixel_range_mm: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = Field(
        (0.6, 1.4), description="finer pixels are resampled, coarser ones refused"
    )
    least_tissue: float = Field(
        0.05, ge=0, lt=1, description="share of bright pixels below which a slice counts as empty"
    )
    patient_from: Literal["name", "folder"] = Field(
        "name", description="what tells patients apart where a file does not say"
    )
    volume_bytes: int = Field(2 << 30, ge=1, description="what one file may declare")


@dataclass(frozen=True)
class Working:
    """A sign of life from a conversion."""

    detail: str
    share: float
    """Of the file's or folder's work, 0 to 1."""


@dataclass(frozen=True)
class Volume:
    """Slices of one patient."""

    images: NDArray[Any]
    """(slices, rows, columns) real or complex."""
    pixel_mm: tuple[float, float] | None
    """Row and column spacing."""
    patient: str
    """A pseudonym."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Item:
    """Something to convert: all that one training file is made of."""

    inputs: tuple[int, ...]
    """Numbers of the files it is read from; the first one names it."""
    read: Callable[[], Iterator[Working | Volume]]
    """Raises ReconError."""
    variant: str = ""
    """Tells items of the same inputs apart."""


@dataclass(frozen=True)
class LeftOut:
    """Files that are not converted, and why."""

    inputs: tuple[int, ...]
    code: str
    reason: str


Pseudonym = Callable[[str], str]


def first_identity(*names: str | None) -> str | None:
    """The first that tells a person from others; de-identified files repeat a placeholder."""
    stripped = (name.strip() for name in names if name)
    return next((name for name in stripped if name and name.lower() not in _PLACEHOLDERS), None)


@np.errstate(all="ignore")  # what becomes infinite or NaN is refused
def standardised(volume: Volume, settings: ImageSettings) -> Volume:
    """float16 or complex64 with square pixels, tissue in every slice, 99th percentile 1.

    Raises ScanError where the values are no MR image, or pixels and matrix are out of range.
    """
    images, notes = _checked(volume.images), volume.notes
    magnitude = np.abs(images)
    bright = magnitude > _TISSUE_LEVEL * _percentile(magnitude)
    full = bright.mean(axis=(1, 2)) >= settings.least_tissue
    if not full.any():
        raise ScanError("empty-images", "no slice holds enough tissue; leave this file out")
    if not full.all():
        notes = (*notes, f"{np.count_nonzero(~full)} nearly empty slices left out")
    images, pixel_mm, remarks = _with_square_pixels(
        images[full], volume.pixel_mm, settings.pixel_range_mm
    )
    rows, columns = images.shape[1:]
    if min(rows, columns) < SIDES[0] or max(rows, columns) > SIDES[1]:
        raise ScanError(
            "matrix-size",
            f"slices must have {SIDES[0]} to {SIDES[1]} pixels a side, not {rows} x {columns}",
        )
    images = images / np.float32(_percentile(np.abs(images)))
    if np.abs(images).max() > _BRIGHTEST:
        raise ScanError(
            "outlier",
            f"a voxel is more than {_BRIGHTEST} times as bright as the tissue; export the images "
            "again",
        )
    kind = np.complex64 if images.dtype.kind == "c" else np.float16
    return replace(volume, images=images.astype(kind), pixel_mm=pixel_mm, notes=(*notes, *remarks))


def _checked(images: NDArray[Any]) -> NDArray[Any]:
    """complex64, or float32 without negative values."""
    images = images.astype(np.complex64 if images.dtype.kind == "c" else np.float32)
    if not np.isfinite(images).all():
        raise ScanError("not-finite", "the images hold NaN or infinite values; export them again")
    if images.dtype.kind == "c":
        return images
    if images.min() < _LEAST_NEGATIVE * _percentile(np.abs(images)):
        raise ScanError(
            "negative-values",
            "the images hold negative values: a phase, a map or a difference; "
            "give magnitude or complex images",
        )
    middle = images[len(images) // 2]
    if len(np.unique(middle)) < _LEAST_VALUES and len(np.unique(images)) < _LEAST_VALUES:
        raise ScanError(
            "few-values",
            f"the images hold fewer than {_LEAST_VALUES} different values: a segmentation or a "
            "mask; leave this file out",
        )
    return np.maximum(images, 0)


def _percentile(magnitude: NDArray[Any]) -> float:
    level = float(np.percentile(magnitude, 99))
    if level <= 0:
        raise ScanError("empty-images", "nearly all values are zero; leave this file out")
    return level


def _with_square_pixels(
    images: NDArray[Any],
    pixel_mm: tuple[float, float] | None,
    allowed: tuple[float, float],
) -> tuple[NDArray[Any], tuple[float, float] | None, tuple[str, ...]]:
    if pixel_mm is None:
        return images, None, ("pixel size unknown: taken as it is",)
    finest, coarsest = min(pixel_mm), max(pixel_mm)
    if coarsest > 1.001 * allowed[1]:
        raise ScanError(
            "pixels-too-coarse",
            f"pixels of {pixel_mm[0]:.2f} x {pixel_mm[1]:.2f} mm are coarser than "
            f"{allowed[1]:g} mm: finer detail cannot be made up; leave this file out",
        )
    if finest >= allowed[0] and coarsest <= _SQUARE * finest:
        return images, pixel_mm, ()
    wanted = max(finest, allowed[0])
    before = images.shape[1:]
    after = tuple(
        max(1, round(size * mm / wanted)) for size, mm in zip(before, pixel_mm, strict=True)
    )
    if after == before:
        return images, pixel_mm, ()
    spacing = tuple(old * mm / new for old, mm, new in zip(before, pixel_mm, after, strict=True))
    remark = (
        f"resampled from {pixel_mm[0]:.2f} x {pixel_mm[1]:.2f} mm to {wanted:.2f} mm pixels: "
        "less noise and detail than a scan of this resolution has"
    )
    return _resampled(images, (after[0], after[1])), (spacing[0], spacing[1]), (remark,)


def _resampled(images: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Cubic splines over the same field of view.

    Thinning blurs first by what a coarse pixel blurs more than a fine one, taking a pixel for a
    Gaussian whose standard deviation is half its size.
    """
    if images.dtype.kind == "c":
        real, imaginary = (_resampled(part, shape) for part in (images.real, images.imag))
        return (real + 1j * imaginary).astype(np.complex64)
    factors = (old / new for old, new in zip(images.shape[1:], shape, strict=True))
    blur = [math.sqrt(max(factor**2 - 1, 0)) / 2 for factor in factors]
    slices = [
        resize(each, shape, order=3, mode="edge", anti_aliasing=True, anti_aliasing_sigma=blur)
        for each in images
    ]
    return np.stack(slices).astype(np.float32)
