"""What a reconstruction shows, as volumes of real numbers: the one list of pictures there is.

Each is float32 (slices, rows, columns), never complex: viewers show the real part of complex
volumes, which means nothing. NaN stands where there is no value, and is never drawn. They are made
when they are asked for, from the arrays beside the result file or from the result file itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.io.files import read_result_maps
from service.products import RESULT
from service.report import Report

Stack = NDArray[np.float32]

GREY = "gray"
_STOPS = 33
_BRIGHTEST = 99.7
_STANDS_OUT = 0.08
"""Share of a slice's 99th percentile above which there is signal, as in the object's mask."""


@dataclass(frozen=True)
class PosteriorMap:
    """One kind of picture of a reconstruction."""

    label: str
    meaning: str
    unit: str
    """Empty: in the units of the scan."""
    colours: str
    """A colour map of matplotlib."""
    overlay: bool
    """Whether it is of use on top of the mean."""
    diagnostic: bool
    """Whether it tells of the reconstruction rather than of the patient."""
    file: str | None
    """The array that holds it, or None: it is made from the result file."""
    maps: tuple[str, ...] = ()
    """Datasets of the result file."""
    make: Callable[..., NDArray[Any]] = np.abs
    """From these arrays, slices first."""
    window: tuple[float, float] | None = None
    """Where black and white lie; None: from 0 to the 99.7th percentile."""


def _known(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(values), values, np.nan)


def _inside(values: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    return np.where(mask & np.isfinite(values), values, np.nan)


def _relative(std: NDArray[Any], mean: NDArray[Any], mask: NDArray[np.bool_]) -> NDArray[Any]:
    """In per cent of the mean, where there is one: near the noise the ratio says nothing."""
    magnitude = np.abs(mean)
    least = _STANDS_OUT * np.percentile(magnitude, 99, axis=(1, 2), keepdims=True)
    return _inside(100 * std / np.maximum(magnitude, 1e-38), mask & (magnitude > least))


_MASK = "quality/object_mask"

MAPS: dict[str, PosteriorMap] = {
    "mean": PosteriorMap(
        "Mean",
        "Magnitude of the posterior mean",
        "",
        GREY,
        overlay=False,
        diagnostic=False,
        file="mean.npy",
    ),
    "sample": PosteriorMap(
        "Samples",
        "One draw of the posterior: an image that the data and the prior allow",
        "",
        GREY,
        overlay=False,
        diagnostic=False,
        file="samples.npy",
    ),
    "std": PosteriorMap(
        "Std. deviation",
        "Posterior standard deviation of the magnitude",
        "",
        "magma",
        overlay=True,
        diagnostic=False,
        file="std.npy",
    ),
    "coarse": PosteriorMap(
        "Coarse",
        "The first reconstruction, without the learned prior",
        "",
        GREY,
        overlay=False,
        diagnostic=False,
        file="coarse.npy",
    ),
    "relative": PosteriorMap(
        "Relative std.",
        "Standard deviation over mean, where the mean stands out of the noise",
        "%",
        "magma",
        overlay=True,
        diagnostic=True,
        file=None,
        maps=("magnitude_std", "mean", _MASK),
        make=_relative,
        window=(0.0, 50.0),
    ),
    "width": PosteriorMap(
        "90 % width",
        "Distance between the 5 % and the 95 % quantile of the magnitude",
        "",
        "viridis",
        overlay=True,
        diagnostic=True,
        file=None,
        maps=("quantiles",),
        make=lambda quantiles: quantiles[:, 3] - quantiles[:, 0],
    ),
    "mc-error": PosteriorMap(
        "MC error",
        "Monte Carlo standard error of the mean: what more samples would remove",
        "",
        "viridis",
        overlay=True,
        diagnostic=True,
        file=None,
        maps=("quality/mean_error",),
        make=_known,
    ),
    "rhat": PosteriorMap(
        "R̂",
        "Split R-hat inside the object: 1 where chains agree, above 1.1 where they do not yet",
        "",
        "plasma",
        overlay=True,
        diagnostic=True,
        file=None,
        maps=("quality/rhat", _MASK),
        make=_inside,
        window=(1.0, 1.2),
    ),
    "effective-samples": PosteriorMap(
        "Effective samples",
        "How many independent samples the chains are worth, inside the object",
        "",
        "cividis",
        overlay=True,
        diagnostic=True,
        file=None,
        maps=("quality/effective_samples", _MASK),
        make=_inside,
    ),
    "phase": PosteriorMap(
        "Phase",
        "Phase of the posterior mean, inside the object",
        "rad",
        "twilight",
        overlay=False,
        diagnostic=True,
        file=None,
        maps=("mean", _MASK),
        make=lambda mean, mask: _inside(np.angle(mean), mask),
        window=(-np.pi, np.pi),
    ),
    "object": PosteriorMap(
        "Object",
        "Where there is signal to judge; overlays are drawn inside it only",
        "",
        GREY,
        overlay=False,
        diagnostic=True,
        file=None,
        maps=(_MASK,),
        make=lambda mask: np.where(mask, 1.0, np.nan),
        window=(0.0, 1.0),
    ),
}
"""By the name that requests use, in the order in which they are offered."""


def read_stack(
    find: Callable[[str], Path], name: str, sample: int = 0, position: int | None = None
) -> Stack:
    """A picture of all slices, or of the one at `position`; `find` gives the path of a result file.

    Of arrays only the part asked for is read; the result file is read in a child process. Raises
    IndexError for a slice or sample that is not there, FileNotFoundError, ScanError.
    """
    picture = MAPS[name]
    chosen = slice(None) if position is None else slice(position, position + 1)
    if picture.file is not None:
        array = np.load(find(picture.file), mmap_mode="r", allow_pickle=False)
        stack = (array[sample] if name == "sample" else array)[chosen]
        made = np.abs(stack)
    else:
        arrays = read_result_maps(find(RESULT), picture.maps)
        made = picture.make(*(array[chosen] for array in arrays))
    if not len(made):
        raise IndexError("no such slice")
    return np.asarray(made, np.float32)


def window_of(name: str, stack: Stack) -> tuple[float, float]:
    """Which values to show darkest and brightest when nobody says."""
    fixed = MAPS[name].window
    if fixed is not None:
        return fixed
    known = stack[np.isfinite(stack)]
    high = float(np.percentile(known, _BRIGHTEST)) if known.size else 1.0
    return 0.0, high if high > 0 else 1.0


def not_computed(name: str, report: Report | None) -> str | None:
    """Why a picture is not there, in words, or None: it is."""
    if name != "rhat" or report is None:
        return None
    if any(entry.mixed is not None for entry in report.slices):
        return None
    return (
        f"R̂ was not computed: it needs four draws of every chain or more, and the preset "
        f"{report.preset} keeps fewer. Use standard or thorough."
    )


@cache
def colour_stops(name: str) -> tuple[tuple[int, int, int], ...]:
    """Evenly spaced colours (red, green, blue; 0-255) from the lowest to the highest value."""
    from matplotlib import colormaps  # lazy: takes a while, and most requests need no colours

    table = colormaps[name](np.linspace(0, 1, _STOPS), bytes=True)
    return tuple((int(r), int(g), int(b)) for r, g, b, _ in table)


def nifti(
    stack: Stack, voxel_mm: Sequence[float] | None, window: tuple[float, float], description: str
) -> bytes:
    """A NIfTI-1 file of one volume as it is seen on the screen: first index rightwards, second up.

    Args:
        stack: (slices, rows, columns); a single slice becomes a volume of thickness one slice.
        voxel_mm: Height, width and thickness of a voxel, or None: not known.
        window: Goes to `cal_min` and `cal_max`.
        description: At most 79 bytes of ASCII.

    The affine is centred and knows nothing of the patient (`mri-posterior export` writes volumes
    that do).
    """
    height, width, thickness = voxel_mm or (1.0, 1.0, 1.0)
    import nibabel  # lazy: it brings pydicom, and most requests need no volumes

    volume = np.ascontiguousarray(stack.transpose(2, 1, 0))
    sizes = np.array([width, -height, thickness])
    affine = np.diag([*sizes, 1.0])
    affine[:3, 3] = -sizes * (np.array(volume.shape) - 1) / 2
    image = nibabel.Nifti1Image(volume, affine)
    image.header.set_sform(affine, code=2)
    image.header.set_qform(affine, code=2)
    image.header.set_xyzt_units("mm" if voxel_mm else "unknown")
    image.header["cal_min"], image.header["cal_max"] = window
    image.header["descrip"] = description.encode()
    return bytes(image.to_bytes())
