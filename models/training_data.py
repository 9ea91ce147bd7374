"""Training and validation images: HDF5 files of slices, drawn so that a step decides its batch.

A file holds `images` (slices, rows, columns), magnitude (integer or real) or complex. One of
complex images that were made from undersampled scans may hold `measured` of the same shape: which
samples of their k-space (zero frequency in the middle) a scan measured; others were made up. Files
are the user's own; everything else (fastMRI, NIfTI, DICOM) is turned into such files first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from models.errors import ModelError
from models.reduction import cut_or_filled, resized_complex
from models.synthetic_heads import SyntheticHeads

MAX_SIDE = 512
"""Larger slices are cropped at random to this many pixels before they are augmented."""


@dataclass(frozen=True)
class ImageFile:
    """A file of slices, or some of its slices."""

    path: Path
    slices: tuple[int, ...] | None = None
    weight: float | None = None
    """How often it is drawn, in proportion; without one, the root of its number of slices."""


class SliceSet:
    """The slices of some files in memory, with the scale that brings each one to our units."""

    def __init__(self, files: Sequence[ImageFile]) -> None:
        read = [_read_images(file) for file in files]
        self.images = [images for images, _ in read]
        self.measured = [measured for _, measured in read]
        """Of each file; None where it does not say."""
        self.weights = [
            len(images) ** 0.5 if file.weight is None else file.weight
            for file, images in zip(files, self.images, strict=True)
        ]
        self.scales = [_scales(images) for images in self.images]
        self.complex = any(images.dtype.kind == "c" for images in self.images)
        self.side = min(MAX_SIDE, max(max(images.shape[1:]) for images in self.images))

    def __len__(self) -> int:
        return sum(map(len, self.images))

    def slice(self, file: int, index: int) -> NDArray[Any]:
        """One slice (rows, columns), float32 or complex64; its 99th percentile is about 1."""
        image = self.images[file][index]
        kind = np.complex64 if image.dtype.kind == "c" else np.float32
        return image.astype(kind) / self.scales[file][index]

    @property
    def channels(self) -> int:
        """Of a batch: magnitude, or two parts, or these and what was measured."""
        if any(measured is not None for measured in self.measured):
            return 3
        return 2 if self.complex else 1

    def evenly(self, count: int) -> list[Tensor]:
        """At most `count` slices, complex64, spread evenly over all of them."""
        places = [
            (file, index) for file, images in enumerate(self.images) for index in range(len(images))
        ]
        chosen = np.linspace(0, len(places) - 1, min(count, len(places))).round().astype(int)
        return [
            torch.from_numpy(self.slice(*places[place]).astype(np.complex64))
            for place in chosen.tolist()
        ]


@dataclass(frozen=True)
class Mixture:
    """What a batch is made of, beside slices as they are."""

    heads: SyntheticHeads | None = None
    synthetic: float = 0.0
    """Share of the images that is drawn from `heads`."""
    coarsened: float = 0.0
    """Share of the slices whose pixels are made larger."""
    largest_pixel: float = 2.0
    """By how much at most; pixels grow as on a scanner, by cutting k-space."""


class BatchStream(Dataset[Tensor]):
    """Item number `step` is the batch of that step, whatever was asked for before.

    A batch is (count, 1 to 3, side, side) float16: magnitude, or real and imaginary part when a
    file holds complex slices, or these and 1 for every sample of their k-space that was measured.
    Smaller slices stand in the middle of air. Each file is drawn in proportion to its weight.
    """

    def __init__(
        self,
        slices: SliceSet,
        counts: Sequence[int],
        seed: tuple[int, ...],
        mixture: Mixture | None = None,
    ) -> None:
        self.slices, self.counts, self.seed = slices, counts, seed
        self.mixture = mixture or Mixture()
        weights = np.array(slices.weights)
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        return len(self.counts)

    def __getitem__(self, step: int) -> Tensor:
        random = np.random.default_rng((*self.seed, step))
        side, channels = self.slices.side, self.slices.channels
        batch = np.zeros((self.counts[step], channels, side, side), np.float16)
        files = random.choice(len(self.weights), size=len(batch), p=self.weights)
        for canvas, file in zip(batch, files.tolist(), strict=True):
            image, measured = self._image(file, random)
            if channels == 3:
                canvas[2] = 1 if measured is None else _on_grid(measured, side)
            top, left = ((side - size) // 2 for size in image.shape)
            place = canvas[:, top : top + image.shape[0], left : left + image.shape[1]]
            place[0] = image.real
            if image.dtype.kind == "c":
                place[1] = image.imag
        return torch.from_numpy(batch)

    def _image(
        self, file: int, random: np.random.Generator
    ) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
        """A slice of `file`, or a synthetic one, no longer than the batch's side.

        With it what was measured of its k-space, where that is known.
        """
        mixture, side = self.mixture, self.slices.side
        if mixture.heads is not None and random.random() < mixture.synthetic:
            return mixture.heads.draw(side, random), None
        index = int(random.integers(len(self.slices.images[file])))
        image, all_measured = self.slices.slice(file, index), self.slices.measured[file]
        measured = None if all_measured is None else all_measured[index]
        if mixture.coarsened and random.random() < mixture.coarsened:
            image = _coarsened(image, mixture.largest_pixel ** random.random())
            measured = None if measured is None else _central(measured, image.shape)
        return _cropped(image, side, random), measured


def _coarsened(image: NDArray[Any], factor: float) -> NDArray[Any]:
    """`image` with pixels larger by `factor`: the centre of its k-space, same field of view.

    Edges ring, as a scanner's do; every other lobe of a magnitude's is negative, and stays so.
    """
    kept = (max(1, round(size / factor)) for size in image.shape)
    complex_image = torch.from_numpy(image.astype(np.complex64))
    smaller = resized_complex(complex_image, (next(kept), next(kept))).numpy()
    return smaller if image.dtype.kind == "c" else smaller.real


def _central(measured: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The samples around the zero frequency that an image of `shape` has."""
    kept = torch.from_numpy(measured)
    for axis, size in enumerate(shape):
        kept = cut_or_filled(kept, axis, size)
    return kept.numpy()


def _on_grid(measured: NDArray[np.bool_], side: int) -> NDArray[np.bool_]:
    """The same samples as those nearest to them of an image that has `side` pixels each way.

    Air around an image, or less of it, changes how dense samples are, not how far they reach.
    """
    nearest = []
    for size in measured.shape:
        frequency = (np.arange(side) - side // 2) / side
        nearest.append(np.clip(np.round(frequency * size).astype(int) + size // 2, 0, size - 1))
    return measured[np.ix_(*nearest)]


def _cropped(image: NDArray[Any], side: int, random: np.random.Generator) -> NDArray[Any]:
    starts = [int(random.integers(max(size - side, 0) + 1)) for size in image.shape]
    return image[starts[0] : starts[0] + side, starts[1] : starts[1] + side]


def slices_in(path: Path) -> int:
    """Number of slices of a file. Raises ModelError."""
    with h5py.File(path, "r") as handle:
        return len(_dataset(handle, path))


def _read_images(file: ImageFile) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    with h5py.File(file.path, "r") as handle:
        images, measured = _dataset(handle, file.path), handle.get("measured")
        chosen = () if file.slices is None else sorted(file.slices)
        if measured is None:
            return np.asarray(images[chosen]), None
        known = isinstance(measured, h5py.Dataset) and measured.dtype == np.bool_
        if not known or measured.shape != images.shape or images.dtype.kind != "c":
            raise ModelError(
                "bad-data",
                f"'measured' of {file.path.name} must be boolean and of the shape of its 'images', "
                "which must be complex",
            )
        return np.asarray(images[chosen]), np.asarray(measured[chosen])


def _dataset(handle: h5py.File, path: Path) -> h5py.Dataset:
    images = handle.get("images")
    numeric = isinstance(images, h5py.Dataset) and images.dtype.kind in "ufc"
    if not numeric or images.ndim != 3 or not len(images):
        raise ModelError(
            "bad-data",
            f"{path.name} must hold a numeric dataset 'images' of shape (slices, rows, columns)",
        )
    return images


def _scales(images: NDArray[Any]) -> NDArray[np.float32]:
    """Per slice the 99th percentile of its magnitude; nearly empty slices are not blown up."""
    flat = np.abs(images.reshape(len(images), -1))
    high = np.percentile(flat, 99, axis=1)
    floor = np.maximum(0.2 * flat.max(axis=1), flat.max() / 256)
    scales = np.maximum(high, floor).astype(np.float32)
    scales[scales == 0] = 1
    return scales
