"""Segmented volumes to draw synthetic heads from: `.npy`, `.npy.xz` or NIfTI, at 1 mm."""

from __future__ import annotations

import io
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from recon.errors import ScanError

_SUFFIXES = (".npy", ".npy.xz", ".nii", ".nii.gz")
_MOST_BYTES = 1 << 30
_MOST_LABELS = 256


def read_label_volumes(sources: Sequence[Path]) -> list[NDArray[np.integer]]:
    """The segmented volumes of files and folders, each (x, y, z) of integers at 1 mm.

    NIfTI is brought to 1 mm and to the axes right, anterior, superior; arrays are taken as they
    are. Raises ScanError for a file that is no segmentation, or when there is none.
    """
    files: list[Path] = []
    for source in sources:
        if not source.exists():
            raise ScanError("no-source", f"{source} does not exist; check the path")
        inside = sorted(source.iterdir()) if source.is_dir() else [source]
        files += [file for file in inside if file.name.lower().endswith(_SUFFIXES)]
    if sources and not files:
        raise ScanError(
            "no-labels",
            f"no segmentation ({', '.join(_SUFFIXES)}) in {', '.join(map(str, sources))}",
        )
    return [_read(file) for file in files]


def _read(file: Path) -> NDArray[np.integer]:
    labels: NDArray[Any]
    try:
        labels = _array(file) if ".npy" in file.suffixes else _nifti(file)
    except (
        OSError,
        ValueError,
        EOFError,
        lzma.LZMAError,
        nibabel.filebasedimages.ImageFileError,
    ) as error:
        raise ScanError("bad-labels", f"{file.name} cannot be read: {error}") from error
    whole = labels.dtype.kind in "iu" or bool((labels == np.rint(labels)).all())
    if labels.ndim != 3 or not labels.size or not whole:
        raise ScanError("bad-labels", f"{file.name} is no volume of whole numbers (x, y, z)")
    labels = labels.astype(np.int32)
    if len(np.unique(labels)) > _MOST_LABELS:
        raise ScanError(
            "bad-labels",
            f"{file.name} holds more than {_MOST_LABELS} numbers: an image, not a segmentation",
        )
    return labels


def _array(file: Path) -> NDArray[Any]:
    with lzma.open(file) if file.suffix == ".xz" else file.open("rb") as content:
        data = content.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise ValueError("more than 1 GiB")
    return np.load(io.BytesIO(data), allow_pickle=False)


def _nifti(file: Path) -> NDArray[Any]:
    image = nibabel.as_closest_canonical(nibabel.load(file))
    if np.prod(image.shape, dtype=float) * 8 > _MOST_BYTES:
        raise ValueError("more than 1 GiB")
    spacing = np.array(image.header.get_zooms()[:3], float)
    labels: NDArray[Any] = np.asarray(image.dataobj)
    if labels.ndim == 3 and not np.allclose(spacing, 1, atol=0.01):
        labels = ndimage.zoom(labels, spacing, order=0)
    return labels
