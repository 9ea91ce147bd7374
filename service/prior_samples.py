"""Images drawn from a prior alone: what it believes before any measurement."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recon.noise import NoiseStreams
from recon.prior import Prior
from recon.sampler import State, diffuse

_HIGHEST = 100.0
"""Noise that hides a whole head: its norm is about 90 on 256 x 256 pixels."""
_BEND = 7


def noise_levels(low: float, high: float, count: int) -> list[float]:
    """`count` falling levels, dense at the low end (Karras et al. 2022, Eq. 5, rho = 7)."""
    ramp = np.linspace(high ** (1 / _BEND), low ** (1 / _BEND), count) ** _BEND
    return [float(level) for level in ramp]


def draw(
    prior: Prior, count: int, size: int, evaluations: int, seed: int, device: torch.device
) -> Iterator[tuple[float, NDArray[np.complex64]]]:
    """The reverse diffusion from pure noise: (share done, images so far) after every step.

    Images are (count, size, size) complex64; the last ones are denoised at the lowest level that
    the prior is trusted at.
    """
    low, high = prior.sigma_range
    levels = noise_levels(low, min(high, _HIGHEST), evaluations)
    noise = NoiseStreams.keyed(seed, "prior", range(count))
    start = levels[0] * noise.normal((size, size), device)
    nothing = torch.zeros_like(start)  # there is no measurement to re-noise
    state = State(start, nothing, nothing, nothing, 0.0)
    for index, (level, following) in enumerate(pairwise(levels)):
        state, _ = diffuse(prior, level, following, state, noise)
        yield (index + 1) / evaluations, state.image.cpu().numpy()
    yield 1.0, prior.denoise(state.image, levels[-1]).cpu().numpy()


def save_samples(file: Path, images: NDArray[np.complex64]) -> None:
    """Magnitudes side by side, four in a row, window 0 to 1.2."""
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    with matplotlib.rc_context({"figure.facecolor": "black", "savefig.facecolor": "black"}):
        figure = Figure(figsize=(2.4 * columns, 2.4 * rows))
        axes = figure.subplots(rows, columns, squeeze=False)
        for axis in axes.flat:
            axis.axis("off")
        for axis, image in zip(axes.flat, images, strict=False):
            axis.imshow(np.abs(image), cmap="gray", vmin=0, vmax=1.2)
        figure.tight_layout(pad=0.2)
        figure.savefig(file, dpi=80)
