"""One picture of a posterior: what was found, one draw of it, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.posterior import SlicePosterior

_BACKGROUND, _TEXT, _FAINT = "#0e0f12", "#f2f2f2", "#9aa0a8"
_LEAST_WIDTH = 1600
_INCHES = 16.0
"""Fixed width, so that letters keep their share of the picture; the resolution varies instead."""
_GAP, _ABOVE, _BELOW = 0.01, 0.032, 0.052
"""Between, above and below the panels, as shares of the picture's width."""


@dataclass(frozen=True)
class _Panel:
    title: str
    image: NDArray[Any]
    low: float
    high: float
    colours: str
    caption: str


def save_figure(
    path: str | PathLike[str],
    posterior: SlicePosterior,
    reference: NDArray[np.complex64] | NDArray[np.float32] | None = None,
    note: str | None = None,
) -> None:
    """Write a PNG with coarse image, mean, one sample, standard deviation and one more panel.

    With a `reference` (rows, columns; units of the posterior) the last panel is the true error of
    the mean's magnitude in the colour scale of the standard deviation, else the R-hat map, left
    out where there were too few draws for one. A `note` stands at the lower edge. Every pixel is
    a square of whole PNG pixels. Raises ScanError where the reference does not fit.
    """
    if reference is not None and reference.shape != posterior.mean.shape:
        raise ScanError(
            "reference-shape",
            f"the reference must have shape {posterior.mean.shape}, not {reference.shape}",
        )
    panels = _panels(posterior, reference)
    rows, columns = posterior.mean.shape
    zoom = max(1, math.ceil(_LEAST_WIDTH * (1 - 6 * _GAP) / (len(panels) * columns)))
    panel_width = zoom * columns
    gap = math.ceil(panel_width * _GAP * len(panels))
    width = len(panels) * panel_width + (len(panels) + 1) * gap
    above, below = round(_ABOVE * width), round(_BELOW * width)
    height = above + zoom * rows + below
    dpi = width / _INCHES
    figure = Figure(figsize=(_INCHES, height / dpi), dpi=dpi, facecolor=_BACKGROUND)
    FigureCanvasAgg(figure)
    for k, panel in enumerate(panels):
        left = gap + k * (panel_width + gap)
        axes = figure.add_axes(
            (left / width, below / height, panel_width / width, zoom * rows / height)
        )
        bar = figure.add_axes(
            (left / width, 0.66 * below / height, panel_width / width, 0.12 * below / height)
        )
        _draw(panel, axes, bar)
    if note is not None:
        figure.text(_GAP, 0.004, note, color=_FAINT, fontsize=8, va="bottom")
    # Without the program's version, equal input gives an equal file.
    figure.savefig(path, format="png", metadata={"Software": None})


def _panels(posterior: SlicePosterior, reference: NDArray[Any] | None) -> list[_Panel]:
    mean = np.abs(posterior.mean)
    shown = mean if reference is None else np.abs(reference)
    brightest = _window(shown, 99.7)
    images = [("Coarse reconstruction", np.abs(posterior.coarse)), ("Posterior mean", mean)]
    if len(posterior.samples):
        images.append(("One posterior sample", np.abs(posterior.samples[0])))
    panels = [_Panel(title, image, 0, brightest, "gray", "magnitude") for title, image in images]
    spread = posterior.magnitude_std
    error = None if reference is None else np.abs(mean - np.abs(reference))
    widest = max(_window(each, 99.5) for each in (spread, error) if each is not None)
    caption = "same units as the images"
    panels.append(_Panel("Predicted error (std. deviation)", spread, 0, widest, "inferno", caption))
    if error is not None:
        panels.append(_Panel("True error of the mean", error, 0, widest, "inferno", caption))
    elif np.isfinite(posterior.rhat).any():
        title = "Do the chains agree? (R-hat)"
        inside = np.where(posterior.object_mask, posterior.rhat, np.nan)
        panels.append(_Panel(title, inside, 1, 1.2, "viridis", "1 agree, above 1.1 not"))
    return panels


def _window(image: NDArray[Any], percentile: float) -> float:
    """Upper end of the grey or colour scale: a few outliers may saturate."""
    values = image[np.isfinite(image)]
    return max(float(np.percentile(values, percentile)), 1e-30) if values.size else 1.0


def _draw(panel: _Panel, axes: Axes, bar: Axes) -> None:
    axes.imshow(
        np.ma.masked_invalid(panel.image),
        cmap=panel.colours,
        vmin=panel.low,
        vmax=panel.high,
        interpolation="none",
        aspect="auto",  # the axes already have the image's shape, to the pixel
    )
    axes.set_axis_off()
    axes.set_title(panel.title, color=_TEXT, fontsize=13, pad=7)
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=panel.colours, aspect="auto")
    bar.set_yticks([])
    middle = (panel.low + panel.high) / 2
    labels = [f"{value:.3g}" for value in (panel.low, middle, panel.high)]
    bar.set_xticks([0, 127.5, 255], labels, color=_FAINT, fontsize=10)
    first, _, last = bar.get_xticklabels()
    first.set_horizontalalignment("left")
    last.set_horizontalalignment("right")
    bar.tick_params(length=0, pad=3)
    for spine in bar.spines.values():
        spine.set_visible(False)
    bar.set_xlabel(panel.caption, color=_FAINT, fontsize=10, labelpad=1)
