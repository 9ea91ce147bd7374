"""Masks of regions from files, on the grid of a result: arrays, and labels drawn on its volume."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from recon.errors import ScanError
from service.exports.images import ResultImages
from service.exports.nifti import affine_of

_APART_MM = 0.05


def read_array_mask(
    path: Path, shape: tuple[int, int, int], label: int | None
) -> NDArray[np.bool_]:
    """(slices, rows, columns) from a .npy file of that shape, or of one slice's, taken in each.

    `label` is the value that counts; None takes all but zero. Raises ScanError.
    """
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ScanError("mask-file", f"{path} is not a NumPy array: {error}") from error
    if values.shape not in {shape, shape[1:]} or values.dtype.kind not in "biuf":
        raise ScanError(
            "mask-shape",
            f"{path} is {values.dtype} {values.shape}; a mask of this result is {shape}, or "
            f"{shape[1:]} for the same in every slice",
        )
    return np.broadcast_to(_chosen(values, label), shape)


def read_nifti_mask(
    path: Path,
    images: ResultImages,
    shape: tuple[int, int, int],
    label: int | None,
    volume: int | None = None,
) -> NDArray[np.bool_]:
    """(slices, rows, columns) of the result from labels drawn on what `export` wrote of it.

    `volume` says which of several volumes is meant, in the order of the file's fourth axis. Raises
    ScanError where the file lies on another grid.
    """
    volumes = images.volumes()
    if volume is None and len(volumes) > 1:
        raise ScanError(
            "which-volume", f"the result holds {len(volumes)} volumes; choose one with --volume"
        )
    chosen = volume or 0
    if chosen >= len(volumes):
        raise ScanError("which-volume", f"volumes go from 0 to {len(volumes) - 1}")
    group = volumes[chosen]
    try:
        image = nibabel.load(path)
        if not isinstance(image, SpatialImage):
            raise ValueError(f"it holds a {type(image).__name__}")
        own, affine = image.shape, np.asarray(image.affine)
        grid = (*images.mean.shape[1:], len(group))
        if own == grid and np.allclose(affine, affine_of(images, group), atol=_APART_MM):
            labels = np.moveaxis(np.asanyarray(image.dataobj), -1, 0)
        else:
            raise ScanError(
                "mask-grid",
                f"{path} does not lie on the grid of the result, {grid}; draw it on the volume "
                "that `mri-posterior export --to nifti` writes, without resampling",
            )
    except (nibabel.filebasedimages.ImageFileError, OSError, ValueError, EOFError) as error:
        raise ScanError("mask-file", f"{path} is not a NIfTI file: {error}") from error
    inside = np.zeros((len(images.mean), *images.mean.shape[1:]), np.bool_)
    inside[group] = _chosen(labels, label)
    mask = np.zeros(shape, np.bool_)
    images.stack.crop(mask)[...] = inside
    return mask


def _chosen(values: NDArray[np.generic], label: int | None) -> NDArray[np.bool_]:
    return np.asarray(values != 0 if label is None else values == label, np.bool_)
