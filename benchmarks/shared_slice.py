"""One undersampled slice that every contestant gets alike, and the scores of what they make."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.samplers import Denoiser
from recon import diagnostics
from recon.calibration import CalibrationSettings, calibrate, scaled
from recon.evaluation import ImageScores, evaluate, volume_scores
from recon.io.files import read_scan
from recon.operators import FourierOperator
from recon.phantom import simulate
from recon.pipeline import reconstruct
from recon.posterior import QUANTILE_LEVELS, SlicePosterior
from recon.preparation import inverse_problem
from recon.prior import Prior
from recon.reference import Combination, Reference, model_of, reference_of
from recon.sampler import InverseProblem
from recon.scan import Scan
from recon.sensitivity import Sensitivity
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask

SCANS = Path(__file__).resolve().parents[2] / "shared" / "data" / "scans"
PHANTOM_SIDE = 96


@dataclass(frozen=True)
class Case:
    """An undersampled scan: equispaced lines, slice 0."""

    scan: str
    acceleration: float
    center_fraction: float = 0.08

    @property
    def name(self) -> str:
        return f"{self.scan} R={self.acceleration:g}"

    @property
    def available(self) -> bool:
        return self.scan.startswith("phantom") or (SCANS / f"{self.scan}.h5").is_file()


@dataclass(frozen=True)
class SharedSlice:
    """Whitened measurement, maps, noise and scale as our own pipeline settles them."""

    case: Case
    scan: Scan
    problem: InverseProblem
    """In internal units: the 99th percentile of the coarse image is 1."""
    sensitivity: Sensitivity
    """From images of the problem to pictures."""
    factor: np.ndarray
    """(rows, columns) complex: internal pictures times this are in the units of a result."""
    reference: np.ndarray
    """(rows, columns) complex64, the fully sampled combination in internal units."""
    unseen: float
    """Share of the reference's samples that were thrown away."""
    inside: np.ndarray
    """(rows, columns) bool: the object, found on the reference, the same for all."""

    def denoiser(self, prior: Prior) -> Denoiser:
        """The prior as the peers need it, for this slice's images."""
        operator = self.problem.operator
        return Denoiser(prior, operator.overlap if isinstance(operator, FourierOperator) else None)


def full_scan(name: str) -> Scan:
    """A measured scan; `phantom` and `phantom-tuning` are two simulated heads."""
    if not name.startswith("phantom"):
        return read_scan(SCANS / f"{name}.h5")
    seed = 7 if name == "phantom-tuning" else 0
    return simulate(rows=PHANTOM_SIDE, columns=PHANTOM_SIDE, seed=seed)[0]


def undersampled(case: Case) -> tuple[Scan, Scan]:
    """The full scan of a case, and what is left of it."""
    full = full_scan(case.scan)
    shape = (full.mask.shape[0], full.mask.shape[1])
    mask = undersampling_mask(shape, "equispaced", case.acceleration, case.center_fraction, 0)
    return full, undersample(full, mask)


def prepare(
    case: Case,
    levels: Callable[[Callable[[], tuple[float, float]]], tuple[float, float]],
    prior: Prior,
) -> SharedSlice:
    """The slice of a case. `levels` may keep the noise std and the scale that our pilot found."""
    full, scan = undersampled(case)
    calibration = calibrate(scan, 0, model_of(scan, CalibrationSettings()))

    def found() -> tuple[float, float]:
        settings = Settings(preset="fast", samples=2, self_check=False)
        events = list(reconstruct(scan, prior, settings, [0]))
        posterior = next(event for event in events if isinstance(event, SlicePosterior))
        return posterior.noise_std / posterior.scale, posterior.scale

    noise_std, scale = levels(found)
    inner = inverse_problem(scaled(calibration, scale / calibration.unit), torch.device("cpu"))
    problem = InverseProblem(inner.operator, inner.solver, inner.measurement, noise_std)
    factor = scale * calibration.phase
    reference = reference_of(full, scan.mask, Combination.SENSE).images[0] / factor
    inside = diagnostics.object_mask(np.abs(reference))
    unseen = 1 - np.count_nonzero(scan.mask) / np.count_nonzero(full.mask)
    return SharedSlice(
        case, scan, problem, calibration.sensitivity, factor, reference, unseen, inside
    )


def picture_scores(shared: SharedSlice, picture: Tensor) -> ImageScores:
    """PSNR, SSIM and NMSE of one picture (rows, columns) in internal units."""
    return volume_scores(shared.reference[None], picture.numpy()[None])


def image_scores(shared: SharedSlice, image: Tensor) -> dict[str, float]:
    """PSNR, SSIM, NMSE and chi2 of one image of the problem."""
    scores = picture_scores(shared, shared.sensitivity.picture(image))
    chi2 = float(shared.problem.chi2(image[None])[0])
    return {"PSNR": scores.psnr, "SSIM": scores.ssim, "NMSE": scores.nmse, "chi2": chi2}


def sample_scores(
    shared: SharedSlice, samples: Tensor, result: SlicePosterior | None = None
) -> dict[str, float]:
    """Scores of independent draws of the problem's images, and of their mean.

    Intervals come from the draws as in a result (`diagnostics.interval_ends`); with `result`, our
    own, which pools all draws of its chains, `samples` are its pictures, and its intervals and chi2
    are judged as they stand.
    """
    if result is None:
        chi2 = float(shared.problem.chi2(samples).mean())
        samples = shared.sensitivity.picture(samples)
    else:
        chi2 = float(result.chi2_per_coil.mean())
    magnitude = samples.abs()
    if result is None:
        ends = diagnostics.interval_ends(magnitude, QUANTILE_LEVELS, len(samples))
    else:
        ends = torch.from_numpy(result.quantiles) / result.scale
    posterior = _posterior(shared, samples, ends.numpy())
    noise = np.float32(shared.unseen**0.5) * shared.sensitivity.of_picture[None]
    reference = Reference(shared.reference[None], noise, np.zeros_like(noise))
    judged = evaluate([posterior], reference).slices[0]
    return {
        "sample PSNR": judged.sample.psnr,
        "sample SSIM": judged.sample.ssim,
        "sample NMSE": judged.sample.nmse,
        "mean PSNR": judged.mean.psnr,
        "mean SSIM": judged.mean.ssim,
        "mean NMSE": judged.mean.nmse,
        "chi2": chi2,
        "cover50": judged.predicted_50,
        "cover90": judged.predicted_90,
        "calibration ratio": calibration_ratio(shared, samples),
    }


def calibration_ratio(shared: SharedSlice, samples: Tensor) -> float:
    """`variance_over_error` of pictures in internal units."""
    gain = float(np.mean(shared.sensitivity.of_picture[shared.inside] ** 2))
    receiver = 2 * shared.problem.noise_std**2 * shared.unseen * gain
    return variance_over_error(samples.numpy(), shared.reference, shared.inside, receiver)


def variance_over_error(
    samples: np.ndarray, reference: np.ndarray, inside: np.ndarray, receiver: float
) -> float:
    """V / B: the variance of draws over the squared error of their mean; 1 when honest.

    Complex pictures, (draws, rows, columns) and (rows, columns), over the pixels `inside`. B is
    corrected for the finite number of draws and for `receiver`, the variance of the noise that the
    reference has in the samples nobody saw. NaN where what is left of B is not positive.
    """
    variance = float(samples.var(axis=0, ddof=1)[inside].mean())
    error = np.abs(samples.mean(axis=0) - reference)
    squared = float((error[inside] ** 2).mean()) - variance / len(samples) - receiver
    return variance / squared if squared > 0 else math.nan


def _posterior(shared: SharedSlice, samples: Tensor, ends: np.ndarray) -> SlicePosterior:
    """Draws as a result that `evaluate` can judge; what it does not look at is left empty."""
    empty = np.zeros(shared.inside.shape, np.float32)
    mean = samples.mean(dim=0).numpy()
    return SlicePosterior(
        index=0,
        mean=mean,
        samples=samples.numpy(),
        coarse=mean,
        magnitude_std=empty,
        phase_std=empty,
        quantiles=ends.astype(np.float32),
        mean_error=empty,
        rhat=np.full(shared.inside.shape, np.nan, np.float32),
        effective_samples=empty,
        chi2_per_coil=np.ones(1, np.float32),
        object_mask=shared.inside,
        sensitivity=shared.sensitivity.of_picture,
        noise_std=shared.problem.noise_std,
        scale=1.0,
        evaluations=0,
        converged=False,
        warnings=(),
        self_check=None,
    )
