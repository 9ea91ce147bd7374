"""Pairs of files of BART, .cfl with .hdr: complex images by its sixteen dimensions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.io.layouts import BART
from recon.planes import ATTRIBUTE, ImageStack
from recon.posterior import SlicePosterior
from service.store.durable import beside

_SUFFIX = ".cfl"
_FIELDS = {
    "": "mean", "_std": "magnitude_std", "_coarse": "coarse", "_samples": "samples"
}  # fmt: skip
"""What is added to the name, and the field of `SlicePosterior` that is in that file."""
_BATCH = 15
"""BART's dimension for what is repeated at random."""


def write_bart(
    posteriors: Sequence[SlicePosterior],
    attributes: Mapping[str, str | int | float],
    path: Path,
) -> list[Path]:
    """Write `path` (.cfl): the posterior mean; beside it `…_std`, `…_coarse` and `…_samples`.

    All on the matrix of k-space, nothing cut off. Rows are dimension 0 and columns 1, slices 13,
    contrasts 5, phases 10, repetitions 11, the partitions of a volume 2, samples 15. Images that
    these do not tell apart follow each other along dimension 13. Returns the .cfl files.

    Raises:
        ScanError: The name has another suffix.
    """
    counts, order = _grid(posteriors, attributes)
    files = bart_files(path)
    for file, field in zip(files, _FIELDS.values(), strict=True):
        images = np.stack([getattr(posteriors[index], field) for index in order])
        _write(file, images if field == "samples" else images[:, np.newaxis], counts)
    return files


def bart_files(path: Path) -> list[Path]:
    """The .cfl files that are written for `path`. Raises ScanError for another suffix."""
    if path.suffix != _SUFFIX:
        raise ScanError("bart-name", "a BART file is named .cfl, its header .hdr; rename it")
    return [path.with_stem(path.stem + more) for more in _FIELDS]


def _grid(
    posteriors: Sequence[SlicePosterior], attributes: Mapping[str, str | int | float]
) -> tuple[dict[int, int], list[int]]:
    """Size of each dimension over which images go, fastest last, and which image comes when."""
    text = attributes.get(ATTRIBUTE)
    planes = ImageStack.from_text(text).planes if isinstance(text, str) else ()
    labels = [
        planes[p.index].labels if p.index < len(planes) else {"slice": p.index} for p in posteriors
    ]
    values = {
        name: sorted({label.get(name, 0) for label in labels})
        for name in {name for label in labels for name in label}
    }
    going = sorted(
        (BART.index(name), name)
        for name, found in values.items()
        if len(found) > 1 and name in BART
    )
    at = [tuple(values[name].index(label.get(name, 0)) for _, name in going) for label in labels]
    shape = tuple(len(values[name]) for _, name in going)
    if len(set(at)) == len(labels) == np.prod(shape, dtype=int) and going:
        return (
            {dimension: len(values[name]) for dimension, name in going},
            sorted(range(len(labels)), key=at.__getitem__),
        )
    return {BART.index("slice"): len(labels)}, list(range(len(labels)))


def _write(file: Path, images: NDArray[np.generic], counts: Mapping[int, int]) -> None:
    """Images (images, samples, rows, columns), the images in C order of `counts`."""
    samples, rows, columns = images.shape[1:]
    dimensions = [1] * len(BART)
    dimensions[0], dimensions[1], dimensions[_BATCH] = rows, columns, samples
    for dimension, count in counts.items():
        dimensions[dimension] = count
    # Their memory runs the other way: the first dimension is the fastest.
    array = images.reshape(*counts.values(), samples, rows, columns)
    axes = {**{d: k for k, d in enumerate(counts)}, _BATCH: len(counts)}
    axes |= {0: len(counts) + 1, 1: len(counts) + 2}
    flat = np.transpose(array, [axes[d] for d in sorted(axes, reverse=True)])
    with beside(file, durable=False) as aside:
        np.ascontiguousarray(flat, "<c8").tofile(aside)
    header = "# Dimensions\n" + " ".join(map(str, dimensions)) + "\n"
    with beside(file.with_suffix(".hdr"), durable=False) as aside:
        aside.write_text(header, encoding="ascii")
