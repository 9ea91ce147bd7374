"""What a scan and its posterior say of the assumptions they rest on: prior, maps, noise, patient.

Everything here is one number with a known or measurable distribution over scans for which the
assumptions hold; `recon.alarm` turns them into a verdict. No ground truth is needed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.calibration import Calibration
from recon.central_lines import calibration_region
from recon.diagnostics import object_mask
from recon.kspace_centre import images_of, window
from recon.noise import NoiseStreams
from recon.posterior import SlicePosterior
from recon.preparation import PreparedSlice
from recon.prior import Prior
from recon.receivers import NoiseModel
from recon.sampler import InverseProblem
from recon.verdict import Evidence

_CENTRE = 32
_FEWEST_LINES = 8
_SMALLEST = 1e-12


def surprise(
    prior: Prior, draws: Tensor, streams: NoiseStreams, sigma: float
) -> tuple[Tensor, Tensor]:
    """Squared error of denoising `draws` (n, rows, columns) over that which the prior expects.

    For images x of the prior the two are the same (`denoising_errors`), whatever the image's size
    and brightness. For other images the error is larger. The mean of both is over all draws. The
    first is one number, left on its device; the second the denoised images, for those who watch.
    """
    noise = streams.normal(draws.shape[-2:], draws.device)
    found, expected, denoised = denoising_errors(prior, draws, noise, sigma)
    return found / expected.clamp_min(_SMALLEST * sigma**2), denoised


def denoising_errors(
    prior: Prior, images: Tensor, noise: Tensor, sigma: float
) -> tuple[Tensor, Tensor, Tensor]:
    """What denoising `images` + `sigma` `noise` (n, rows, columns) errs, and expects to err.

    For images x of the prior the posterior variance given x + sigma e is sigma^2 div D (Tweedie),
    and E <e, D(x + sigma e)> is sigma E div D (Stein): so E |D - x|^2 = sigma E <e, D - x>. Both
    are means over all pixels, one number each, left on their device; third, the denoised images.
    """
    denoised = prior.denoise(images + sigma * noise, sigma)
    error = denoised - images
    expected = sigma * (noise.conj() * error).real.mean()
    return error.abs().square().mean(), expected, denoised


def energy_of(draws: Tensor) -> float:
    """Mean squared magnitude of draws (n, rows, columns) where their mean shows an object."""
    inside = object_mask(draws.mean(dim=0).abs().cpu().numpy())
    if not inside.any():
        return math.nan
    place = torch.from_numpy(inside).to(draws.device)
    return float(draws[:, place].abs().square().mean())


def physics_of(current: PreparedSlice, draws: Tensor, model: NoiseModel) -> Evidence:
    """All that draws (n, ...) of the slice's problem and the scan tell without asking the prior."""
    misfit = Misfit(math.nan, math.nan)
    if current.calibration.trajectory is None:
        misfit = misfit_of(current.problem, draws, current.calibration.mask)
    return Evidence(
        noise=noise_of(current.calibration.noise_std, model),
        centre=misfit.centre,
        lines=misfit.lines,
        outside=outside_of(current.calibration),
        coils_lost=float(np.count_nonzero(~model.whitening.any(axis=0))),
    )


def noise_of(fitted: float, model: NoiseModel) -> float:
    """See `Evidence.noise`, for the level per real component that fits the residual.

    What stands at the edge of k-space is noise and, in images with large pixels, signal: it bounds
    the noise from above, and a lower level that fits contradicts nothing.
    """
    if model.source == "floor":
        return math.nan
    ratio = fitted / model.noise_std
    return max(ratio, 1.0) if model.source == "outer-kspace" else ratio


def with_check(posterior: SlicePosterior, evidence: Evidence) -> SlicePosterior:
    """The posterior with its evidence, to which its self-check adds."""
    check = posterior.self_check
    if check is not None:
        evidence = replace(evidence, held_out=check.ratio, held_out_freedom=check.freedom)
    return replace(posterior, evidence=evidence)


class Misfit(NamedTuple):
    """What draws leave over of the acquired samples."""

    centre: float
    """See `Evidence.centre`."""
    lines: float
    """See `Evidence.lines`."""


def misfit_of(problem: InverseProblem, draws: Tensor, mask: NDArray[np.bool_]) -> Misfit:
    """Of a Cartesian problem: where in k-space the residual of draws (n, ...) lies.

    Power of white noise on a line of m real components varies by 2 / m of its squared mean.
    """
    residual = problem.measurement - problem.operator.forward(draws)
    power = residual.abs().square().mean(dim=0).sum(dim=0).cpu().numpy() / 2
    expected = len(problem.measurement) * problem.noise_std**2
    power = np.where(mask, power / expected, 0)
    region = calibration_region(mask, _CENTRE)
    middle = tuple(
        slice(size // 2 - width // 2, size // 2 - width // 2 + width)
        for size, width in zip(mask.shape, region, strict=True)
    )
    centre = float(power[middle].mean()) if min(region) > 0 else math.nan
    axis = 0 if (mask == mask[:1]).all() else 1
    if not (mask == mask.take([0], axis=axis)).all():
        return Misfit(centre, math.nan)
    outer = np.array(mask.take(0, axis=axis))
    outer[middle[1 - axis]] = False
    if np.count_nonzero(outer) < _FEWEST_LINES:
        return Misfit(centre, math.nan)
    lines = power.mean(axis=axis)[outer]
    components = 2 * len(problem.measurement) * mask.shape[axis]
    relative = float(lines.var(ddof=1) / max(float(lines.mean()) ** 2, _SMALLEST))
    return Misfit(centre, relative * components / 2)


def outside_of(calibration: Calibration) -> float:
    """Share of the coils' energy at low resolution where no map is, beyond its noise.

    NaN where maps cover everything, and off the grid.
    """
    rows, columns = calibration.phase.shape
    support = np.abs(calibration.coil_maps[:, :rows, :columns]).any(axis=0)
    if calibration.trajectory is not None or support.all():
        return math.nan
    region = calibration_region(calibration.mask, _CENTRE)
    if min(region) < 1:
        return math.nan
    weights = window((rows, columns), region)
    images = images_of((calibration.kspace * weights).astype(np.complex64))
    energy = (np.abs(images) ** 2).sum(axis=0)
    noise = 2 * len(images) * calibration.noise_std**2 * float(np.mean(weights**2))
    total = max(float(energy.sum()), _SMALLEST)
    beyond = float(energy[~support].sum()) - noise * float(np.count_nonzero(~support))
    return max(beyond, 0.0) / total
