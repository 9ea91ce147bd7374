"""Scans of one slice, our mean and samples beside CG-SENSE and L1-wavelet; priors side by side.

`small`, `contrast` and `truth` say which scans. Everything is in the units of the root of the sum
of squares of the coils as received, as `mri-posterior evaluate` compares. The wavelet has the best
of six weights by PSNR against the truth.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.priors import chosen_priors
from benchmarks.record import Check, Outcome, publish
from benchmarks.scans import LAMBDAS, best_l1
from recon.evaluation import evaluate, volume_scores
from recon.phantom import receive, receiver_maps
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.reference import Reference, reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask

Row = dict[str, float | int | str | bool | None]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_WEIGHTS = (1 / 32, 1 / 16, *LAMBDAS)
"""Little noise and few lines want less of it than the scans of `benchmarks.scans`."""
_FEWEST_LINES = 14
"""Of the centre: maps of fewer than 12 are found again, and the public fastMRI data have 8 %."""


@dataclass(frozen=True)
class Subject:
    """A fully sampled scan of one slice, and what it shows."""

    name: str
    full: Scan
    truth: NDArray[np.float32] | None = None
    """(rows, columns) root of the sum of squares without noise; None takes the scan's own."""

    def reference(self, scan: Scan) -> Reference:
        """What a reconstruction of `scan`, the full one thinned, is compared with."""
        if self.truth is None:
            return reference_of(self.full, scan.mask)
        return Reference.exact(self.truth[None])


def simulated(name: str, image: NDArray[Any], coils: int, noise_std: float, seed: int) -> Subject:
    """What coils receive of an image (rows, columns) that is known without noise."""
    whole = image.astype(np.complex64)[None]
    seen = np.abs(whole * receiver_maps(coils, *image.shape))
    truth = np.sqrt((seen**2).sum(axis=0)).astype(np.float32)
    return Subject(name, receive(whole, coils, noise_std, seed), truth)


def thinned(full: Scan, acceleration: float) -> Scan:
    """Equispaced lines with 8 % of the centre, or as many lines as coil maps need."""
    centre = max(0.08, _FEWEST_LINES / full.image_shape[1])
    mask = undersampling_mask(full.image_shape, "equispaced", acceleration, centre, 0)
    return undersample(full, mask)


def row_of(
    subject: Subject, acceleration: float, priors: Mapping[str, Prior], settings: Settings
) -> Row:
    """Scores of every method on one scan."""
    scan = thinned(subject.full, acceleration)
    reference = subject.reference(scan)
    weight, wavelet = best_l1(scan, reference.images[:1], _WEIGHTS)
    rival = volume_scores(reference.images[:1], wavelet[None])
    rows, columns = scan.image_shape
    row: Row = {
        "scan": subject.name,
        "matrix": f"{rows} x {columns}",
        "R": acceleration,
        "L1 PSNR": rival.psnr,
        "L1 SSIM": rival.ssim,
        "L1 lambda/noise": weight,
    }
    for name, prior in priors.items():
        *_, posterior = reconstruct(scan, prior, settings, [0])
        assert isinstance(posterior, SlicePosterior)
        ours = evaluate([posterior], reference).slices[0]
        row |= {"CG-SENSE PSNR": ours.coarse.psnr, "CG-SENSE SSIM": ours.coarse.ssim}
        mark = f"{Path(name).name}: " if len(priors) > 1 else ""
        row |= {
            f"{mark}mean PSNR": ours.mean.psnr,
            f"{mark}mean SSIM": ours.mean.ssim,
            f"{mark}sample PSNR": ours.sample.psnr,
            f"{mark}sample SSIM": ours.sample.ssim,
            f"{mark}gain dB": ours.mean.psnr - max(rival.psnr, ours.coarse.psnr),
            f"{mark}cover90": ours.predicted_90,
        }
    return row


def checks(rows: Iterable[Row]) -> tuple[Check, ...]:
    """That the mean is above both of the others."""
    return tuple(
        Check(f"{row['scan']} R={row['R']}: {key} above none", float(float(gain) > 0), 1, 0)
        for row in rows
        for key, gain in row.items()
        if key.endswith("gain dB") and gain is not None
    )


def draw(rows: Sequence[Row]) -> Figure:
    """PSNR of every method on every scan."""
    kinds = [key for key in rows[0] if key.endswith("PSNR") and "sample" not in key]
    figure, axes = plt.subplots(figsize=(0.9 * len(rows) + 2, 4.5), layout="constrained")
    width = 0.8 / len(kinds)
    for k, kind in enumerate(kinds):
        places = np.arange(len(rows)) + width * (k - (len(kinds) - 1) / 2)
        values = [float(row[kind] or 0) for row in rows]
        axes.bar(places, values, width, label=kind.removesuffix(" PSNR"))
    names = [f"{row['scan']}\n{row['matrix']}, R = {row['R']:g}" for row in rows]
    axes.set_xticks(range(len(rows)), names, rotation=40, ha="right", fontsize=7)
    lowest = min(float(row[kind] or 0) for row in rows for kind in kinds)
    axes.set(ylabel="PSNR, dB", ylim=(lowest - 2, None))
    axes.legend(fontsize=8)
    return figure


def compare(
    name: str,
    about: str | None,
    subjects: Iterable[Subject],
    accelerations: Sequence[float],
    arguments: Sequence[str],
) -> bool:
    """Run an experiment: a table of all subjects at all accelerations.

    With `--only` the rows are printed and the tables stay as they are.
    """
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--model", action="append", default=[], help="a name or a folder")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--only", default="", help="part of a scan's name")
    chosen = parser.parse_args(list(arguments))
    torch.set_num_threads(1)
    settings = Settings(preset=chosen.preset, self_check=False)
    priors = chosen_priors(chosen.model)

    def rows() -> list[Row]:
        made = []
        for subject in subjects:
            for acceleration in accelerations if chosen.only in subject.name else ():
                made.append(row_of(subject, acceleration, priors, settings))
                print(json.dumps(made[-1]), flush=True)
        return made

    if chosen.only:
        return all(check.met for check in checks(rows()))
    note = (
        f"one slice, one mask, one run each: a few tenths of a decibel mean nothing; preset "
        f"{chosen.preset}, priors {', '.join(priors)}"
    )
    return publish(name, rows, lambda found: Outcome(checks(found), tuple(found), note), draw)
