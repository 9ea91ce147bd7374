"""One page that says what the series are: three pictures of one slice, scales and words."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from recon.planes import ImagePlane, turned, upright
from service.exports.images import NOT_FOR_DIAGNOSIS, ResultImages

_WIDTH, _HEIGHT = 1536, 768
_DPI = 96
_BACKGROUND, _TEXT, _FAINT = "#000000", "#ffffff", "#b0b0b0"
_EDGE = [withStroke(linewidth=3, foreground=_BACKGROUND)]
_LENGTHS_MM = (1, 2, 5, 10, 20, 50, 100, 200)
_LONGEST = 0.4
"""Of a picture's width, for its scale bar."""
_LETTERS = (("R", "L"), ("A", "P"), ("F", "H"))
"""Ends of the patient's axes: where coordinates fall, and where they grow."""


@dataclass(frozen=True)
class _Panel:
    title: str
    image: NDArray[np.float32]
    colours: str
    top: float


def overview_index(images: ResultImages) -> int:
    """The image that stands for all: the middle slice of the first volume."""
    group = images.volumes()[0]
    return group[len(group) // 2]


def draw_overview(images: ResultImages) -> NDArray[np.uint8]:
    """(rows, columns, 3) page: mean, standard deviation and first reconstruction of one slice.

    Upright, with a bar of millimetres, the patient's sides where they are known, and the values
    that black and white stand for. It names nobody.
    """
    index = overview_index(images)
    plane = images.stack.planes[index]
    turn = upright(plane)
    mean, std, coarse = (
        turned(values[index], turn) for values in (images.mean, images.std, images.coarse)
    )
    bright = _top(mean)
    panels = (
        _Panel("Posterior mean", mean, "gray", bright),
        _Panel("Posterior standard deviation", std, "inferno", _top(std)),
        _Panel("First reconstruction", coarse, "gray", bright),
    )
    rows_mm, columns_mm = images.stack.voxel_mm[:2][::-1] if turn[0] else images.stack.voxel_mm[:2]
    figure = Figure((_WIDTH / _DPI, _HEIGHT / _DPI), dpi=_DPI, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    for number, panel in enumerate(panels):
        axes = figure.add_axes((0.01 + 0.33 * number, 0.25, 0.32, 0.6))
        _draw(figure, axes, panel, rows_mm / columns_mm)
        _scale_bar(axes, panel.image.shape[1], columns_mm)
        if images.located:
            above, left = sides(plane)
            axes.text(0.5, 0.95, above, fontsize=14, **_over(axes))
            axes.text(0.05, 0.5, left, fontsize=14, **_over(axes))
    _words(figure, images, index)
    page = BytesIO()
    figure.savefig(page, format="rgba", dpi=_DPI)
    pixels = np.frombuffer(page.getvalue(), np.uint8).reshape(_HEIGHT, _WIDTH, 4)
    return np.ascontiguousarray(pixels[..., :3])


def _draw(figure: Figure, axes: Axes, panel: _Panel, aspect: float) -> None:
    axes.set_title(panel.title, color=_TEXT, fontsize=13)
    axes.imshow(
        np.clip(panel.image, 0, panel.top),
        cmap=panel.colours,
        vmin=0,
        vmax=panel.top,
        aspect=aspect,
        interpolation="nearest",
    )
    axes.set_axis_off()
    left, width = axes.get_position().x0, axes.get_position().width
    bar = figure.add_axes((left + 0.2 * width, 0.215, 0.6 * width, 0.012))
    bar.imshow(np.linspace(0, 1, 256)[np.newaxis], cmap=panel.colours, aspect="auto")
    bar.set_yticks([])
    bar.set_xticks([0, 255], ["0", f"{panel.top:.3g}"], color=_FAINT, fontsize=10)
    bar.tick_params(length=0)


def _scale_bar(axes: Axes, columns: int, column_mm: float) -> None:
    """A bar of a round number of millimetres at the lower left, where it is as long as in life."""
    fitting = [length for length in _LENGTHS_MM if length <= _LONGEST * columns * column_mm]
    if not fitting:
        return
    length = fitting[-1]
    share = length / (columns * column_mm)
    middle = 0.04 + share / 2
    axes.plot([0.04, 0.04 + share], [0.04, 0.04], linewidth=3, solid_capstyle="butt",
              transform=axes.transAxes, color=_TEXT, path_effects=_EDGE)  # fmt: skip
    axes.text(middle, 0.07, f"{length} mm", fontsize=10, **_over(axes))


def _over(axes: Axes) -> dict[str, Any]:
    """How words look that stand on a picture: white with a dark edge."""
    return {
        "transform": axes.transAxes,
        "color": _TEXT,
        "ha": "center",
        "va": "center",
        "path_effects": _EDGE,
    }


def sides(plane: ImagePlane) -> tuple[str, str]:
    """The patient's sides at the upper and at the left edge of the upright image, as letters."""
    exchanged, upwards, leftwards = upright(plane)
    first, second = np.array(plane.read_dir), np.array(plane.phase_dir)
    down, right = (second, first) if exchanged else (first, second)
    above, left = down if upwards else -down, right if leftwards else -right
    return _side(above), _side(left)


def _side(direction: NDArray[np.float64]) -> str:
    axis = int(np.argmax(np.abs(direction)))
    return _LETTERS[axis][int(direction[axis] > 0)]


def _words(figure: Figure, images: ResultImages, index: int) -> None:
    labels = images.stack.planes[index].labels
    where = ", ".join(f"{name} {value}" for name, value in labels.items())
    place = "" if images.located else "ORIENTATION ASSUMED, NOT MEASURED. "
    figure.text(0.5, 0.955, NOT_FOR_DIAGNOSIS, color=_TEXT, fontsize=17, ha="center", va="center")
    figure.text(
        0.5,
        0.91,
        f"{place}Image {index + 1} of {len(images.mean)} ({where}); voxel "
        + " × ".join(f"{size:.3g}" for size in images.stack.voxel_mm) + " mm",
        color=_FAINT, fontsize=11, ha="center", va="center",
    )  # fmt: skip
    told = f"{images.verdict(index)} {images.derivation}".strip()
    figure.text(0.02, 0.15, textwrap.fill(told, 170, max_lines=6), color=_FAINT, fontsize=10,
                va="top")  # fmt: skip


def _top(image: NDArray[np.float32]) -> float:
    """White: a few outliers may saturate."""
    return max(float(np.percentile(image, 99.5)), 1e-30)
