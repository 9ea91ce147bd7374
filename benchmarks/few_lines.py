"""Six to ten central lines: coil maps as they are found, found again from draws, and of 32 lines.

    python -m benchmarks few_lines

Two real scans and a held-out slice with simulated coils, R = 4, preset `fast`. `as found` has the
maps of ESPIRiT handed in, which are then left as they are (not where they are of two sets);
`found again` is what `reconstruct` does (`recon.refined_maps`); `32 lines` are taken from the full
scan, as a calibration apart. L1-wavelet has the maps as found and the best of its weights by PSNR
against the truth.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import h5py
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from benchmarks.alarm import with_maps
from benchmarks.beside_wavelets import DATA, Row
from benchmarks.record import Check, Outcome, publish
from benchmarks.scans import best_l1
from models.loading import load_prior
from recon.calibration import calibrate
from recon.central_lines import calibration_width
from recon.evaluation import Judgement, evaluate, volume_scores
from recon.io.files import read_scan
from recon.phantom import receive
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.receivers import noise_model
from recon.reference import Reference, reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.conformal_measurement import scaled_image, with_phase
from service.runs import DEFAULT_MODEL

LINES = (6, 8, 10)
ACCELERATION = 4.0
WIDE = 32
WAYS = ("as found", "found again", "32 lines")
SETTINGS = Settings("fast", self_check=False)


def full_scans() -> Iterator[tuple[str, Scan]]:
    """Fully sampled scans of one slice."""
    for name in ("brain_t1_8ch", "brain_wrap_8ch"):
        yield name, read_scan(DATA / "scans" / f"{name}.h5")
    with h5py.File(DATA / "validation" / "open_ms.h5") as handle:
        image = scaled_image(handle["images"][110], "open_ms 110")
    yield "open_ms 110, 8 coils, noise 0.01", receive(with_phase(image, 110)[None], 8, 0.01, 110)


def as_found(scan: Scan) -> Scan | None:
    """With the maps of its own lines handed in; None where these are of two sets."""
    folded = calibrate(scan, 0, noise_model(scan)[0]).overlap is not None
    return None if folded else with_maps(scan, scan, 0)


def of_many_lines(scan: Scan, full: Scan) -> Scan:
    """With the central lines of the full scan for its maps."""
    middle, lines = full.mask.shape[1] // 2, np.zeros_like(full.kspace)
    taken = slice(middle - WIDE // 2, middle + WIDE // 2)
    lines[..., taken] = full.kspace[..., taken]
    return replace(scan, calibration=lines)


def judged(scan: Scan, reference: Reference, prior: Prior) -> Judgement:
    """The posterior beside the root of the sum of squares of the full scan."""
    *_, posterior = reconstruct(scan, prior, SETTINGS, [0])
    assert isinstance(posterior, SlicePosterior)
    return evaluate([posterior], reference).slices[0]


def experiment() -> list[Row]:
    """A row for every scan and number of lines."""
    torch.set_num_threads(1)
    prior, rows = load_prior(DEFAULT_MODEL), []
    for name, full in full_scans():
        for lines in LINES:
            share = lines / full.mask.shape[1]
            mask = undersampling_mask(full.image_shape, "equispaced", ACCELERATION, share, 0)
            scan = undersample(full, mask)
            reference = reference_of(full, mask)
            wavelet = best_l1(scan, reference.images[:1])[1]
            row: Row = {
                "scan": name,
                "lines": calibration_width(mask),
                "L1 PSNR": volume_scores(reference.images[:1], wavelet[None]).psnr,
            }
            for way, made in zip(
                WAYS, (as_found(scan), scan, of_many_lines(scan, full)), strict=True
            ):
                if made is not None:
                    found = judged(made, reference, prior)
                    row |= {
                        f"{way}: PSNR": found.mean.psnr,
                        f"{way}: noise told": found.predicted.psnr,
                        f"{way}: 90 %": found.predicted_90,
                    }
            rows.append(row)
            print(row, flush=True)
    return rows


def outcome(rows: Sequence[Row]) -> Outcome:
    """Maps found again are to win back most of what few lines cost."""
    first, again, best = (
        float(np.mean([_number(row, f"{way}: noise told") for row in rows if _known(row)]))
        for way in WAYS
    )
    share = (again - first) / (best - first)
    checks = (Check("share of the loss that is won back", share, 0.85, 0.25),)
    return Outcome(checks, tuple(rows), "one slice, one mask, one run each")


def _known(row: Row) -> bool:
    return f"{WAYS[0]}: PSNR" in row


def _number(row: Row, key: str) -> float:
    value = row.get(key)
    return math.nan if value is None else float(value)


def draw(rows: Sequence[Row]) -> Figure:
    """PSNR with the reference's noise told, over the number of lines."""
    names = list(dict.fromkeys(str(row["scan"]) for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(11, 3.4), layout="constrained")
    for panel, name in zip(axes, names, strict=True):
        own = [row for row in rows if row["scan"] == name]
        for way in WAYS:
            values = [_number(row, f"{way}: noise told") for row in own]
            panel.plot([_number(row, "lines") for row in own], values, "o-", label=way)
        panel.set(title=name, xlabel="central lines", ylabel="PSNR, noise told, dB")
    axes[0].legend()
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("few_lines", experiment, outcome, draw)


if __name__ == "__main__":
    main()
