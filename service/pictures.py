"""One slice as a PNG: grey values between two ends, nothing drawn on top."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PRODUCTS = ("mean", "std", "coarse", "sample")
_FILES = {"mean": "mean.npy", "std": "std.npy", "coarse": "coarse.npy", "sample": "samples.npy"}


def product_file(product: str) -> str:
    """The result file that holds a product."""
    return _FILES[product]


def read_slice(path: Path, position: int, sample: int | None) -> NDArray[np.float32]:
    """Magnitude of one slice (rows, columns); only its part of the file is read.

    Raises IndexError for a slice or sample that is not there.
    """
    stack = np.load(path, mmap_mode="r", allow_pickle=False)
    image = stack[position] if sample is None else stack[sample, position]
    return np.abs(image).astype(np.float32)


def png(image: NDArray[Any], window: tuple[float, float] | None) -> bytes:
    """An 8-bit PNG; without a window, from 0 to the 99.7th percentile."""
    values = np.nan_to_num(np.asarray(image, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    low, high = window or (0.0, float(np.percentile(values, 99.7)))
    grey = np.clip((values - low) / max(high - low, 1e-30), 0, 1)
    buffer = BytesIO()
    Image.fromarray((255 * grey + 0.5).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()
