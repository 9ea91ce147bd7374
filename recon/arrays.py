"""The posterior of an image or of a stack of images, as one works with it in Python.

from mri_posterior.models import load_prior
from mri_posterior.recon import reconstruct_array

posterior = reconstruct_array(kspace, mask, load_prior("brain-small"))
low, high = posterior.interval(0.9)
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recon.errors import ScanError
from recon.io.files import read_result
from recon.io.scan_layout import sampling_mask
from recon.posterior import QUANTILE_LEVELS, SlicePosterior
from recon.presets import PRESETS
from recon.regions import Region, student_reach, tail_of
from recon.scan import Scan

if TYPE_CHECKING:  # torch and matplotlib are loaded when they are needed: results open without
    import torch
    from matplotlib.figure import Figure

    from recon.prior import Prior
    from recon.settings import Settings

_STORED = {
    round(QUANTILE_LEVELS[high] - QUANTILE_LEVELS[low], 6): (low, high)
    for low, high in ((0, 3), (1, 2))
}
"""Levels of the intervals that a result holds: the places of their ends in `quantiles`."""


@dataclass(frozen=True, repr=False)
class Posterior:
    """What the data and the prior leave open: mean, samples, intervals, regions, a picture.

    Arrays of one slice are (rows, columns), of a stack (slices, rows, columns); `samples` has one
    axis more, in front. Indexing a stack gives slices of it, in the order of the stack.
    """

    slices: tuple[SlicePosterior, ...]
    """All that is known of each slice, diagnostics too."""
    single: bool = False
    """Whether arrays have no axis of slices."""
    attributes: Mapping[str, str | int | float] = field(default_factory=dict)
    """What a result file says of its making; empty for arrays."""

    @property
    def mean(self) -> NDArray[np.complex64]:
        """Posterior mean, complex64."""
        return self._stack("mean")

    @property
    def samples(self) -> NDArray[np.complex64]:
        """(samples, ...) independent draws, complex64: images that data and prior allow."""
        stack = np.stack([one.samples for one in self.slices], axis=1)
        return stack[:, 0] if self.single else stack

    @property
    def std(self) -> NDArray[np.float32]:
        """Posterior standard deviation of the magnitude."""
        return self._stack("magnitude_std")

    @property
    def coarse(self) -> NDArray[np.complex64]:
        """The first reconstruction, without the learned prior, complex64."""
        return self._stack("coarse")

    @property
    def object_mask(self) -> NDArray[np.bool_]:
        """Where there is signal to judge."""
        return self._stack("object_mask")

    @property
    def converged(self) -> bool:
        """Whether every slice may be trusted; `warnings` say why not."""
        return all(one.converged for one in self.slices)

    @property
    def warnings(self) -> tuple[str, ...]:
        """In plain words, of all slices, with the slice's number where there are several."""
        return tuple(
            warning if len(self.slices) == 1 else f"slice {one.index}: {warning}"
            for one in self.slices
            for warning in one.warnings
        )

    def interval(self, level: float = 0.9) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Lower and upper ends that hold the true magnitude of a pixel with probability `level`.

        The 50 % and the 90 % interval come from all draws of the chains. Others are those of one
        more draw under normality (Student's t) from the samples alone, times the conformal factor
        where the result has one. Raises ValueError for a level that is not between 0 and 1.
        """
        tail_of(level)
        if (places := _STORED.get(round(level, 6))) is not None:
            quantiles = np.stack([one.quantiles for one in self.slices], axis=1)
            low, high = (quantiles[place] for place in places)
            return (low[0], high[0]) if self.single else (low, high)
        magnitude = np.abs(self.samples)
        factor = float(self.attributes.get("conformal_factor", 1.0))
        reach = factor * student_reach(len(magnitude), level) * magnitude.std(axis=0, ddof=1)
        middle = magnitude.mean(axis=0)
        low, high = np.maximum(middle - reach, 0), middle + reach
        return low.astype(np.float32), high.astype(np.float32)

    def region(self, mask: ArrayLike) -> Region:
        """Posterior of the mean magnitude inside `mask`, boolean, of the shape of `mean`.

        A mask of (rows, columns) of a stack is taken in every slice. Raises ScanError for an empty
        region, ValueError for another shape.
        """
        inside = np.asarray(mask, bool)
        if inside.shape not in {self.mean.shape, self.mean.shape[-2:]}:
            raise ValueError(f"the mask must be {self.mean.shape}, not {inside.shape}")
        if not inside.any():
            raise ScanError("empty-region", "the region holds no pixel centre; make it larger")
        magnitude = np.abs(self.samples)
        values = magnitude[:, np.broadcast_to(inside, self.mean.shape)].mean(axis=1, dtype=float)
        return Region(values)

    def plot(self, reference: ArrayLike | None = None) -> Figure:
        """Coarse image, mean, a sample, standard deviation and what else there is, side by side.

        Of a stack the middle slice; `posterior[3].plot()` for another. With a `reference`, of the
        shape of `mean`, its error beside what was predicted. Raises ScanError where it does not
        fit.
        """
        from recon.figure import draw_figure  # lazy: loads matplotlib

        middle = len(self.slices) // 2
        true = None if reference is None else np.asarray(reference)
        if true is not None and not self.single and true.shape == self.mean.shape:
            true = true[middle]
        return draw_figure(self.slices[middle], true)

    def __len__(self) -> int:
        return len(self.slices)

    def __getitem__(self, place: int | slice) -> Posterior:
        if isinstance(place, slice):
            return Posterior(self.slices[place], attributes=self.attributes)
        return Posterior((self.slices[place],), single=True, attributes=self.attributes)

    def __iter__(self) -> Iterator[Posterior]:
        return (self[place] for place in range(len(self)))

    def __repr__(self) -> str:
        return f"Posterior({self._told()})"

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        told = "".join(f"<li>{html.escape(warning)}</li>" for warning in self.warnings)
        picture = BytesIO()
        self.plot().savefig(picture, format="png", dpi=60)
        source = base64.b64encode(picture.getvalue()).decode()
        return (
            f"<p><b>Posterior</b> {html.escape(self._told())}. For research, not for diagnosis.</p>"
            f'<img alt="posterior" style="max-width:100%" src="data:image/png;base64,{source}">'
            + (f"<ul>{told}</ul>" if told else "")
        )

    def _told(self) -> str:
        shape = " × ".join(str(length) for length in self.mean.shape)
        count = len(self.slices[0].samples)
        verdict = "converged" if self.converged else "not converged"
        number = len(self.warnings)
        warned = f", {number} warning{'s' * (number > 1)}" if number else ""
        return f"{shape}, {count} samples, {verdict}{warned}"

    def _stack(self, name: str) -> NDArray[Any]:
        if self.single:
            return np.asarray(getattr(self.slices[0], name))
        return np.stack([getattr(one, name) for one in self.slices])


def reconstruct_array(
    kspace: ArrayLike,
    mask: ArrayLike | None,
    prior: Prior,
    *,
    coil_maps: ArrayLike | None = None,
    noise: ArrayLike | None = None,
    preset: str | None = None,
    samples: int | None = None,
    seed: int | None = None,
    settings: Settings | None = None,
    device: str | torch.device = "cpu",
    progress: Callable[[str, float], None] | None = None,
) -> Posterior:
    """The posterior of k-space in memory; no file is read or written.

    Args:
        kspace: Complex (coils, rows, columns) of one slice, or (slices, coils, rows, columns), with
            zero frequency at index n // 2 of rows and columns.
        mask: (columns,), (rows,) or (rows, columns) of 0 and 1, what was acquired; None: where
            k-space is not zero.
        prior: Such as `models.load_prior("brain-small")`, on `device`.
        coil_maps: Complex, of the shape of `kspace`; None: found from the middle of k-space.
        noise: Complex (coils, samples), receiver noise without signal; None: the noise level is
            found from the edge of k-space.
        preset: fast, standard or thorough. It, `samples` and `seed` win over `settings`.
        samples: Independent samples; None: the preset's.
        seed: Of everything random.
        settings: Everything else that may be chosen.
        device: Where to compute.
        progress: Called with a stage and the fraction that is done, often.

    Returns:
        A posterior with the axes of `kspace`, without that of the coils.

    Raises:
        ScanError: Arrays that do not fit one another, hold NaN, or nothing.
        CalibrationError: Noise or coil maps cannot be found.
        ConvergenceError: The chains of a slice diverged twice.
    """
    from recon.pipeline import Progress, reconstruct  # lazy: loads torch

    scan, single = scan_of_arrays(kspace, mask, coil_maps=coil_maps, noise=noise)
    found: list[SlicePosterior] = []
    for event in reconstruct(
        scan, prior, settings_with(settings, preset, samples, seed), device=device
    ):
        if isinstance(event, SlicePosterior):
            found.append(event)
        elif isinstance(event, Progress) and progress is not None:
            done = (len(found) + event.fraction) / len(scan.kspace)
            progress(f"slice {event.index}: {event.stage}", done)
    return Posterior(tuple(found), single)


def scan_of_arrays(
    kspace: ArrayLike,
    mask: ArrayLike | None = None,
    *,
    coil_maps: ArrayLike | None = None,
    noise: ArrayLike | None = None,
) -> tuple[Scan, bool]:
    """The scan in arrays as `reconstruct_array` takes them, and whether it is a single slice.

    Raises ScanError.
    """
    given = np.array(kspace, np.complex64)  # a copy: what was not acquired is set to zero
    single = given.ndim == 3
    if single:
        given = given[np.newaxis]
    if given.ndim != 4:
        raise ScanError(
            "kspace-shape",
            "k-space must be (coils, rows, columns) or (slices, coils, rows, columns), "
            f"not {given.shape}",
        )
    maps = None if coil_maps is None else np.array(coil_maps, np.complex64)
    if maps is not None and maps.ndim == 3:
        maps = maps[np.newaxis]
    sampled = sampling_mask(given, None if mask is None else np.asarray(mask))
    given[..., ~sampled] = 0
    silent = None if noise is None else np.array(noise, np.complex64)
    if silent is not None and (silent.ndim != 2 or len(silent) != given.shape[1]):
        raise ScanError(
            "noise-shape", f"noise must be ({given.shape[1]}, samples), not {silent.shape}"
        )
    return Scan(given, sampled, noise_samples=silent, coil_maps=maps), single


def settings_with(
    settings: Settings | None, preset: str | None, samples: int | None, seed: int | None
) -> Settings:
    """Settings with the choices that were given. Raises ValueError for an unknown preset."""
    from recon.settings import Settings  # lazy: loads torch

    chosen = {"preset": preset, "samples": samples, "seed": seed}
    given = {name: value for name, value in chosen.items() if value is not None}
    if preset is not None and preset not in PRESETS:
        raise ValueError(f"there is no preset '{preset}'; there are {', '.join(PRESETS)}")
    return replace(settings or Settings(), **given)  # type: ignore[arg-type]


def open_result(path: str | Path) -> Posterior:
    """The posterior in a result file, which may be hostile. Raises ScanError."""
    posteriors, attributes = read_result(Path(path))
    return Posterior(tuple(posteriors), attributes=attributes)
