"""A field of view smaller than the head, with one set of coil maps and with the second one found.

    python -m benchmarks folding

`brain_wrap_8ch` at R = 4 (the phantom with two thirds of its field of view where the scans are not
there), preset `fast`. Both are judged by the root of the sum of squares of the fully sampled scan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.record import Check, Outcome, Row, publish
from benchmarks.shared_slice import SCANS
from models.loading import load_prior
from recon.calibration import CalibrationSettings
from recon.evaluation import evaluate
from recon.io.files import read_scan
from recon.phantom import receive, simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.reference import reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.runs import DEFAULT_MODEL

SETS = {
    "one set of maps": CalibrationSettings(second_crop=1),
    "two sets": CalibrationSettings(),
}


@dataclass(frozen=True)
class Run:
    """One reconstruction and what it is judged by."""

    posterior: SlicePosterior
    reference: np.ndarray
    scores: dict[str, float]


def scan_that_folds() -> tuple[Scan, float]:
    """Fully sampled, with the share of lines in the centre."""
    file = SCANS / "brain_wrap_8ch.h5"
    if file.is_file():
        return read_scan(file), 0.08
    image = simulate(1, 1, 160, 192, snr=40)[1]
    return receive(image, 8, 0.01, columns=112), 0.14


def run(full: Scan, centre: float, prior: Prior, calibration: CalibrationSettings) -> Run:
    """Undersample, reconstruct and compare slice 0."""
    rows, columns = full.image_shape
    mask = undersampling_mask((rows, columns), "equispaced", 4, centre, 0)
    scan = undersample(full, mask)
    settings = Settings(preset="fast", calibration=calibration)
    events = list(reconstruct(scan, prior, settings, [0]))
    posterior = next(event for event in events if isinstance(event, SlicePosterior))
    reference = reference_of(full, mask)
    judged = evaluate([posterior], reference).slices[0]
    check = posterior.self_check
    scores = {
        "coarse PSNR": judged.coarse.psnr,
        "sample PSNR": judged.sample.psnr,
        "mean PSNR": judged.mean.psnr,
        "mean SSIM": judged.mean.ssim,
        "chi2": judged.chi2,
        "cover50": judged.predicted_50,
        "cover90": judged.predicted_90,
        "self-check std": check.residual_std if check else float("nan"),
    }
    return Run(posterior, reference.images[0], scores)


def experiment() -> dict[str, Run]:
    """One run for each number of sets."""
    torch.set_num_threads(1)
    prior = load_prior(DEFAULT_MODEL)
    full, centre = scan_that_folds()
    return {name: run(full, centre, prior, settings) for name, settings in SETS.items()}


def outcome(runs: dict[str, Run]) -> Outcome:
    """Two sets give an image, and intervals that hold it."""
    one, two = (runs[name].scores for name in SETS)
    better = two["mean PSNR"] > one["mean PSNR"] + 3
    checks = (
        Check("two sets: χ² of the draws", two["chi2"], 1, 0.15),
        Check("two sets: pixels in the 90 % interval", two["cover90"], 0.9, 0.06),
        Check("two sets are better by 3 dB at least", float(better), 1, 0),
    )
    rows: tuple[Row, ...] = tuple({"maps": name, **each.scores} for name, each in runs.items())
    return Outcome(checks, rows, "one slice, one mask and one seed; not tuned on this scan")


def draw(runs: dict[str, Run]) -> Figure:
    """The reference by two sets, and of each run mean, predicted and true error."""
    reference = np.abs(runs["two sets"].reference)
    figure, panels = plt.subplots(1, 7, figsize=(17, 5.2), layout="constrained")
    top = float(np.percentile(reference, 99.5))
    _show(panels[0], reference, "fully sampled", cmap="gray", vmax=top)
    for number, (name, each) in enumerate(runs.items()):
        mean, place = np.abs(each.posterior.mean), 1 + 3 * number
        error = np.abs(mean - np.abs(each.reference))
        _show(panels[place], mean, f"{name}: mean", cmap="gray", vmax=top)
        psnr, held = each.scores["mean PSNR"], 100 * each.scores["cover90"]
        panels[place].set_xlabel(f"{psnr:.1f} dB, {held:.0f} % in the 90 % interval", fontsize=9)
        predicted = each.posterior.magnitude_std
        _show(panels[place + 1], predicted, "predicted error", cmap="inferno", vmax=top / 5)
        _show(panels[place + 2], error, "true error", cmap="inferno", vmax=top / 5)
    return figure


def _show(panel: Any, image: np.ndarray, title: str, **style: Any) -> None:  # noqa: ANN401
    panel.imshow(image, vmin=0, **style)
    panel.set_title(title, fontsize=10)
    panel.set(xticks=[], yticks=[])


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("folding", experiment, outcome, draw)


if __name__ == "__main__":
    main()
