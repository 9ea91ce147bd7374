"""One picture of a posterior: what was found, one draw of it, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from os import PathLike
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.posterior import SlicePosterior

_BACKGROUND, _TEXT, _FAINT = "#0e0f12", "#f2f2f2", "#9aa0a8"
_LEAST_WIDTH = 1600
_INCHES = 16.0
"""Fixed width, so that letters keep their share of the picture; the resolution varies instead."""
_UNITS = "magnitude (root sum of squares)"
"""`recon.posterior.UNITS`, in what fits below a panel."""
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


class PosteriorFigure(Figure):
    """A figure that a notebook shows by itself, whatever backend is chosen there."""

    def _repr_png_(self) -> bytes:
        picture = BytesIO()
        self.savefig(picture, format="png", dpi=self.dpi / 2)
        return picture.getvalue()


def save_figure(
    path: str | PathLike[str],
    posterior: SlicePosterior,
    reference: NDArray[np.complex64] | NDArray[np.float32] | None = None,
    note: str | None = None,
) -> None:
    """Write `draw_figure` as PNG; every pixel is a square of whole PNG pixels. Raises ScanError."""
    figure = draw_figure(posterior, reference, note)
    # Without the program's version, equal input gives an equal file.
    figure.savefig(path, format="png", metadata={"Software": None})


def draw_figure(
    posterior: SlicePosterior,
    reference: NDArray[Any] | None = None,
    note: str | None = None,
) -> PosteriorFigure:
    """Coarse image, mean, one sample, standard deviation and one more panel, side by side.

    With a `reference` (rows, columns; units of the posterior) the last panel is the true error of
    the mean's magnitude in the colour scale of the standard deviation, else the R-hat map, left
    out where there were too few draws for one. A `note` stands at the lower edge. Raises ScanError
    where the reference does not fit.
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
    figure = PosteriorFigure(figsize=(_INCHES, height / dpi), dpi=dpi, facecolor=_BACKGROUND)
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
    return figure


def _panels(posterior: SlicePosterior, reference: NDArray[Any] | None) -> list[_Panel]:
    mean = np.abs(posterior.mean)
    shown = mean if reference is None else np.abs(reference)
    brightest = _window(shown, 99.7)
    images = [("Coarse reconstruction", np.abs(posterior.coarse)), ("Posterior mean", mean)]
    if len(posterior.samples):
        images.append(("One posterior sample", np.abs(posterior.samples[0])))
    panels = [_Panel(title, image, 0, brightest, "gray", _UNITS) for title, image in images]
    spread = posterior.magnitude_std
    error = None if reference is None else np.abs(mean - np.abs(reference))
    widest = max(_window(each, 99.5) for each in (spread, error) if each is not None)
    title = "Predicted error (std. deviation)"
    panels.append(_Panel(title, spread, 0, widest, "inferno", _UNITS))
    if error is not None:
        panels.append(_Panel("True error of the mean", error, 0, widest, "inferno", _UNITS))
    elif np.isfinite(posterior.rhat).any():
        title = "Do the chains agree? (R-hat)"
        inside = np.where(posterior.object_mask, posterior.rhat, np.nan)
        panels.append(_Panel(title, inside, 1, 1.2, "viridis", "no unit; 1 agree, above 1.1 not"))
    return panels


def _window(image: NDArray[Any], percentile: float) -> float:
    """Upper end of the grey or colour scale: a few outliers may saturate."""
    values = image[np.isfinite(image)]
    return max(float(np.percentile(values, percentile)), 1e-40) if values.size else 1.0


def _draw(panel: _Panel, axes: Axes, bar: Axes) -> None:
    axes.imshow(
        # Clipped before: far above the window of an empty picture, the quotient would overflow.
        np.ma.masked_invalid(np.clip(panel.image.astype(np.float64), panel.low, panel.high)),
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
    places, labels, caption = _scale(panel)
    bar.set_xticks(places, labels, color=_FAINT, fontsize=10)
    for place, label in zip(places, bar.get_xticklabels(), strict=True):
        # A label at an end stays inside the picture.
        label.set_horizontalalignment("left" if place < 8 else "right" if place > 247 else "center")
    bar.tick_params(length=0, pad=3)
    for spine in bar.spines.values():
        spine.set_visible(False)
    bar.set_xlabel(caption, color=_FAINT, fontsize=10, labelpad=1)


def _scale(panel: _Panel) -> tuple[list[float], list[str], str]:
    """Where round values lie on a bar of 256 columns, their labels, and what they count."""
    reach = panel.high - panel.low
    values = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(panel.low, panel.high)
    inside = [v for v in values if panel.low - 1e-9 * reach <= v <= panel.high + 1e-9 * reach]
    power = (
        3 * math.floor(math.log10(panel.high) / 3) if panel.high < 0.01 or panel.high >= 1e4 else 0
    )
    caption = panel.caption if power == 0 else f"10{_superscript(power)} × {panel.caption}"
    places = [255 * (value - panel.low) / reach for value in inside]
    return places, [f"{value / 10.0**power:.4g}" for value in inside], caption


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
