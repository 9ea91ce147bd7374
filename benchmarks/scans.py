"""Real scans, undersampled: our posterior mean beside L1-wavelet, and where the time goes.

    python -m benchmarks.scans [--scans FOLDER] [--preset standard] [--only NAME]

Writes one row per case to benchmarks/results/scans.json and .csv and a picture of each; with
`--only` the rows are printed and the tables stay as they are. Without the folder of scans the
analytic phantom is used, so that the script runs anywhere.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.priors import chosen_priors
from benchmarks.shared_slice import variance_over_error
from models.training_data import ImageFile, SliceSet
from recon import diagnostics
from recon.calibration import CalibrationSettings, calibrate
from recon.choices import PatternName
from recon.coarse import l1_wavelet
from recon.evaluation import evaluate, volume_scores, with_noise_energy
from recon.figure import save_figure
from recon.io.files import read_scan
from recon.paths import PATHS
from recon.phantom import receive, simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.power import power_of
from recon.preparation import inverse_problem
from recon.prior import Prior
from recon.reference import Combination, Reference, model_of, reference_of
from recon.refined_maps import is_narrow
from recon.scan import Scan
from recon.settings import Settings
from recon.symmetry import is_symmetric
from recon.undersampling import undersample, undersampling_mask

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
LAMBDAS = (0.125, 0.25, 0.5, 1.0)
"""L1 weights tried, in units of the noise std; the best by PSNR against the truth is shown."""


@dataclass(frozen=True)
class Case:
    """One undersampled scan."""

    scan: str
    acceleration: float
    pattern: PatternName = "equispaced"
    center_fraction: float = 0.08

    @property
    def name(self) -> str:
        return f"{self.scan} R={self.acceleration:g} centre {self.center_fraction:g}"


CASES = (
    Case("brain_t1_8ch", 4),
    Case("brain_t1_8ch", 4, center_fraction=0.13),
    Case("brain_t1_8ch", 8, center_fraction=0.08),
    Case("brain_wrap_8ch", 4),
    Case("head_t1_sagittal_1ch", 3),
    Case("complex_t2", 4),
    Case("complex_t2", 6),
)
COMPLEX_T2 = 12
"""The complex image that is received by eight simulated coils."""
PHANTOM_CASES = (Case("phantom", 4),)


@dataclass
class Timed:
    """A prior that adds up the seconds spent in it."""

    prior: Prior
    seconds: float = 0.0
    images: int = field(default=0)

    @property
    def sigma_range(self) -> tuple[float, float]:
        return self.prior.sigma_range

    @property
    def symmetric(self) -> bool:
        return is_symmetric(self.prior)

    @property
    def power(self) -> float:
        return power_of(self.prior)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        started = time.perf_counter()
        clean = self.prior.denoise(noisy, sigma)
        self.seconds += time.perf_counter() - started
        self.images += len(noisy)
        return clean


def best_l1(
    scan: Scan, reference: np.ndarray, weights: Sequence[float] = LAMBDAS
) -> tuple[float, np.ndarray]:
    """Best of some L1-wavelet reconstructions of slice 0, (lambda in noise units, image)."""
    calibration = calibrate(scan, 0, model_of(scan, CalibrationSettings()))
    problem = inverse_problem(calibration, torch.device("cpu"))
    tried = []
    for weight in weights:
        found = l1_wavelet(problem, weight * calibration.noise_std, 100)
        image = calibration.unit * calibration.sensitivity.picture(found).numpy()
        tried.append((volume_scores(reference, image[None]).psnr, weight, image))
    _, weight, image = max(tried, key=lambda each: each[0])
    return weight, image * calibration.phase


def full_scan(name: str, folder: Path) -> Scan:
    """The fully sampled scan of a case: measured, or simulated from images or formulas."""
    if name == "phantom":
        return simulate()[0]
    if name == "complex_t2":
        slices = SliceSet([ImageFile(folder.parent / "validation" / "complex_t2.h5")])
        return receive(slices.slice(0, COMPLEX_T2)[None], coils=8, noise_std=0.005)
    return read_scan(folder / f"{name}.h5")


def run_case(
    case: Case, full: Scan, settings: Settings, prior: Prior
) -> tuple[dict[str, object], SlicePosterior, np.ndarray]:
    """One row of the table, the posterior, and the reference (rows, columns)."""
    shape = (full.mask.shape[0], full.mask.shape[1])
    mask = undersampling_mask(shape, case.pattern, case.acceleration, case.center_fraction, 0)
    scan = undersample(full, mask)
    reference = reference_of(full, scan.mask)
    timed = Timed(prior)
    started = time.perf_counter()
    events = list(reconstruct(scan, timed, settings, [0]))
    seconds = time.perf_counter() - started
    posterior = next(event for event in events if isinstance(event, SlicePosterior))
    scores = evaluate([posterior], reference).slices[0]
    weight, image = best_l1(scan, reference.images[:1])
    wavelet = volume_scores(reference.images[:1], image[None])
    level = posterior.noise_std
    noise, floor = level * reference.noise[:1], level**2 * reference.floor[:1]
    told = volume_scores(reference.images[:1], with_noise_energy(image[None], noise, floor))
    check = posterior.self_check
    row: dict[str, object] = {
        "case": case.name,
        "path": settings.path.name,
        "preset": settings.preset,
        "acceleration": round(scan.acceleration, 2),
        "L1 PSNR": round(wavelet.psnr, 2),
        "L1 SSIM": round(wavelet.ssim, 3),
        "L1 lambda/noise": weight,
        "L1 PSNR with noise": round(told.psnr, 2),
        "L1 SSIM with noise": round(told.ssim, 3),
        "mean PSNR with noise": round(scores.predicted.psnr, 2),
        "mean SSIM with noise": round(scores.predicted.ssim, 3),
        "coarse PSNR": round(scores.coarse.psnr, 2),
        "sample PSNR": round(scores.sample.psnr, 2),
        "mean PSNR": round(scores.mean.psnr, 2),
        "mean SSIM": round(scores.mean.ssim, 3),
        "gain dB": round(scores.mean.psnr - wavelet.psnr, 2),
        "chi2": round(scores.chi2, 3),
        "Rhat<1.1": round(scores.rhat_share, 3),
        "cover50": round(scores.predicted_50, 3),
        "cover90": round(scores.predicted_90, 3),
        "cover50 without noise": round(scores.coverage_50, 3),
        "cover90 without noise": round(scores.coverage_90, 3),
        "Delta_cal": round(_honesty(posterior, full, scan, reference), 2),
        "self-check std": round(check.residual_std, 2) if check else None,
        "self-check 90": round(check.coverage_90, 2) if check else None,
        "noise/signal": round(posterior.noise_std / posterior.scale, 4),
        "seconds": round(seconds, 1),
        "outside network": round(1 - timed.seconds / seconds, 3),
        "network s per image": round(timed.seconds / timed.images, 4),
    }
    return row, posterior, reference.images[0]


def _honesty(posterior: SlicePosterior, full: Scan, scan: Scan, rss: Reference) -> float:
    """Delta_cal: 1 when honest.

    Against the SENSE combination of the full scan, or, where the result has other maps than its
    central lines give, of magnitudes against the root of the sum of squares (`rss`) with noise
    told.
    """
    level, draws = posterior.noise_std, posterior.samples
    found = calibrate(scan, 0, model_of(scan, CalibrationSettings()))
    if is_narrow(scan, 0, folded=found.overlap is not None):
        reference = rss
        noise, floor = level * rss.noise[:1], level**2 * rss.floor[:1]
        draws = np.stack([with_noise_energy(each[None], noise, floor)[0] for each in draws])
        share = 1
    else:
        reference = reference_of(full, scan.mask, Combination.SENSE)
        noise, share = level * reference.noise[:1], 2
    inside = diagnostics.object_mask(np.abs(reference.images[0]))
    receiver = share * float(np.mean(noise[0][inside] ** 2))
    return variance_over_error(draws, reference.images[0], inside, receiver)


def main() -> None:
    """Run the cases and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=Path, default=ROOT.parent / "shared" / "data" / "scans")
    parser.add_argument("--preset", default="standard")
    parser.add_argument("--path", default="prior", choices=["prior", "measurement", "both"])
    parser.add_argument("--model", action="append", default=[], help="a name or a folder")
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--no-self-check", action="store_true")
    parser.add_argument("--no-symmetry", action="store_true", help="ask the prior as it comes")
    arguments = parser.parse_args()
    RESULTS.mkdir(parents=True, exist_ok=True)
    models = chosen_priors(arguments.model)
    real = arguments.scans.is_dir()
    paths = ["prior", "measurement"] if arguments.path == "both" else [arguments.path]
    rows = []
    for case in CASES if real else PHANTOM_CASES:
        if arguments.only not in case.name:
            continue
        full = full_scan(case.scan, arguments.scans)
        for path, (model, prior) in product(paths, models.items()):
            settings = replace(
                Settings(
                    preset=arguments.preset,
                    self_check=not arguments.no_self_check,
                    symmetry=not arguments.no_symmetry,
                ),
                path=PATHS[path],
            )
            row, posterior, reference = run_case(case, full, settings, prior)
            rows.append({"model": model} | row)
            print(json.dumps(rows[-1]), flush=True)
            stem = f"{case.name}-{path}-{Path(model).name}".replace(" ", "-").replace("=", "")
            save_figure(RESULTS / f"{stem}.png", posterior, reference)
    if arguments.only:
        return
    (RESULTS / "scans.json").write_text(json.dumps(rows, indent=2) + "\n")
    with (RESULTS / "scans.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
