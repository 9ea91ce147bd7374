"""By how much a denoiser errs more than it expects to, on images that it was not taught.

    python -m benchmarks expected_error
    python -m benchmarks.expected_error [--model NAME-OR-FOLDER ...]

For the expectation of an image x given x + sigma z, the mean squared error is that of Stein's
identity, E |D - x|^2 = E Re <D - x, sigma z>: an exact denoiser has a ratio of one, and one that
takes its images for others a larger one: it is sure of what is not there, and so are the draws that
follow it. Images are fully sampled scans, combined by the coil maps that a reconstruction at R = 4
finds, with and without their phase, and those of people who were kept apart.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.beside_wavelets import DATA, Row, thinned
from benchmarks.priors import chosen_priors
from benchmarks.record import Check, Outcome, publish
from benchmarks.scans import full_scan
from models.training_data import ImageFile, SliceSet
from models.validate import add_noise
from recon.calibration import calibrate
from recon.evidence import denoising_errors
from recon.kspace_centre import images_of
from recon.prior import Prior
from recon.receivers import noise_model
from recon.scan import Scan
from service.conformal_measurement import scaled_image

SCANS = ("brain_t1_8ch", "brain_wrap_8ch", "head_t1_sagittal_1ch")
SIGMAS = (0.04, 0.08, 0.15, 0.3, 0.6)
SLICES = 5
TOLERATED = 1.4
"""Real images carry noise of their own, which nobody can expect."""


def as_the_prior_sees_it(full: Scan) -> Tensor:
    """(rows, columns) complex64: what the samples of a full scan say of a reconstruction's image.

    Whitened, combined by maps and phase of the central lines of the scan at R = 4, the 99th
    percentile of the magnitude one. Of a second place in a voxel nothing is taken.
    """
    scan = thinned(full, 4)
    model, _ = noise_model(scan)
    rows, columns = full.image_shape
    maps = calibrate(scan, 0, model).coil_maps[:, :rows, :columns]
    white = np.einsum("vc,crk->vrk", model.whitening, full.kspace[0]).astype(np.complex64)
    return _scaled(torch.from_numpy((maps.conj() * images_of(white)).sum(axis=0)), "the scan")


def images() -> Iterator[tuple[str, list[Tensor]]]:
    """Sets of images by their names."""
    for name in SCANS:
        image = as_the_prior_sees_it(full_scan(name, DATA / "scans"))
        yield name, [image]
        yield f"{name}, its magnitude", [image.abs().to(torch.complex64)]
    for name in ("complex_t2", "open_ms"):
        found = SliceSet([ImageFile(DATA / "validation" / f"{name}.h5")]).evenly(SLICES)
        yield name, [_scaled(image, name) for image in found]


def expected_and_found(prior: Prior, clean: Sequence[Tensor], sigma: float) -> tuple[float, float]:
    """Mean squared errors of a pixel: what the denoiser expects, and what it makes."""
    both, pixels = np.zeros(2), 0
    for number, image in enumerate(clean):
        noise = add_noise(torch.zeros_like(image), 1, number)
        found, expected, _ = denoising_errors(prior, image[None], noise[None], sigma)
        both += image.numel() * np.array([float(expected), float(found)])
        pixels += image.numel()
    return float(both[0] / pixels), float(both[1] / pixels)


def _scaled(image: Tensor, name: str) -> Tensor:
    return torch.from_numpy(scaled_image(image.to(torch.complex64).numpy(), name))


def run(priors: Mapping[str, Prior]) -> list[Row]:
    """A row for every prior and set."""
    rows: list[Row] = []
    for name, clean in images():
        for label, prior in priors.items():
            row: Row = {"images": name, "prior": label}
            for sigma in SIGMAS:
                expected, found = expected_and_found(prior, clean, sigma)
                row[f"ratio at {sigma:g}"] = found / expected
                row[f"dB at {sigma:g}"] = -10 * float(np.log10(found))
            rows.append(row)
            print(row, flush=True)
    return rows


def outcome(rows: Sequence[Row]) -> Outcome:
    """The worst ratio of scans with several coils, whose images carry little noise."""
    checks = []
    for row in rows:
        if str(row["images"]) in SCANS[:2]:
            worst = max(float(row[f"ratio at {sigma:g}"] or 0) for sigma in SIGMAS)
            name = f"{row['prior']}, {row['images']}: largest ratio, at most {TOLERATED}"
            checks.append(Check(name, worst, 1, TOLERATED - 1))
    return Outcome(tuple(checks), tuple(rows), "one draw of the noise for every image")


def draw(rows: Sequence[Row]) -> Figure:
    """Ratios against sigma."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for row in rows:
        values = [float(row[f"ratio at {sigma:g}"] or 0) for sigma in SIGMAS]
        axes.semilogx(SIGMAS, values, "o-", label=f"{row['prior']}: {row['images']}")
    axes.axhline(1, color="grey", linewidth=0.8)
    axes.set(xlabel="noise level", ylabel="squared error over the expected one")
    axes.legend(fontsize=6)
    return figure


def main(arguments: Sequence[str] = ()) -> bool:
    """Whether errors on real scans are what the prior expects."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", default=[], help="a name or a folder")
    chosen = parser.parse_args(list(arguments))
    torch.set_num_threads(1)
    priors = chosen_priors(chosen.model)
    return publish("expected_error", lambda: run(priors), outcome, draw)


if __name__ == "__main__":
    sys.exit(not main(sys.argv[1:]))
