"""What the posterior of a volume takes, from its size alone; without torch, so that all can ask."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recon.presets import PILOT, Preset

_COMPLEX_BYTES = 8
_STATES = 8
"""Volumes per chain that a step holds at once: image, noise, anchor, estimate, drift, …"""


@dataclass(frozen=True)
class VolumeCost:
    """Of a volume whose chains run one after the other."""

    memory_bytes: int
    """On the device, without the network's own."""
    kept_bytes: int
    """On the disk, while it runs: the draws of finished chains."""
    evaluations: int
    """Of the network, each on a volume's worth of planes; all chains together."""


def volume_cost(
    shape: tuple[int, int, int],
    coils: int,
    preset: Preset,
    *,
    compress_above: int = 0,
    line_mask: bool = False,
) -> VolumeCost:
    """Of a volume of (slices, rows, columns); `compress_above` as in `CalibrationSettings`.

    With a mask of lines there is a matrix for every line of every slice.
    """
    coils = min(coils, compress_above) if compress_above else coils
    # The pilot runs its chains together, all others run alone.
    memory = memory_bytes(shape, coils, PILOT.chains, line_mask=line_mask)
    kept = _COMPLEX_BYTES * preset.chains * preset.draws * math.prod(shape)
    return VolumeCost(memory, kept, PILOT.work + preset.work)


def memory_bytes(
    shape: tuple[int, int, int], coils: int, chains: int, *, line_mask: bool = False
) -> int:
    """What a volume (slices, rows, columns) takes on its device while `chains` run at a time.

    Measurement, maps and what solves need; volumes of each chain; planes in the network are not
    counted. With a mask of lines there is a matrix for every line of every slice.
    """
    slices, rows, columns = shape
    voxels = slices * rows * columns
    fixed = 4 * coils * voxels + (voxels * max(rows, columns) if line_mask else 0)
    white = 2 if line_mask else 1 + coils
    per_chain = (_STATES + 2 * white) * voxels + coils * rows * columns
    return _COMPLEX_BYTES * (fixed + chains * per_chain)
