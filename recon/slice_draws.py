"""Draws of a slice as its prior has them, and how they predict lines that they have not seen.

For those who learn a prior from undersampled scans: what a prior is trained on are images in its
own units, and what tells priors apart without ground truth is the likelihood of measured lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from recon.calibration import Calibration, calibrate, scaled
from recon.chains import Draws, finished, run_chains
from recon.errors import ScanError
from recon.noise import NoiseKey
from recon.preparation import PreparedSlice, fit_noise, inverse_problem, prepare, slice_prior
from recon.prior import Prior, StationaryPrior
from recon.receivers import NoiseModel, has_signal
from recon.reference import model_of
from recon.refined_maps import refine_maps
from recon.sampler import InverseProblem
from recon.scan import Scan
from recon.selfcheck import held_out_of, judge, log_densities
from recon.settings import Settings

SPREADS = tuple(2 ** (k / 16) for k in range(-32, 65))
"""Factors of the draws' spread at which lines are predicted: 1/4 to 16. Between two of them the log
density differs by less than 0.0005 from that of the nearer one, where it is highest."""


@dataclass(frozen=True)
class HeldOutLines:
    """How measured lines agree with draws that did not see them."""

    log_densities: Sequence[float]
    """Mean log density of their real components in units of the receiver noise, nats
    (`recon.selfcheck.log_densities`), for each of `SPREADS`."""
    coverage_90: float
    """Share of the components inside the predicted 90 % interval, the spread as it is."""
    lines: int


class _Sampled(NamedTuple):
    current: PreparedSlice
    draws: Draws


def draw_images(
    scan: Scan,
    index: int,
    prior: Prior,
    settings: Settings,
    device: torch.device | str = "cpu",
) -> NDArray[np.complex64]:
    """All draws (chains x draws, rows, columns) of a slice's posterior, in the prior's units.

    The coils' shading and the coarse image's phase are not in them, nor is the noise at which
    chains end: the prior takes it off (Tweedie's mean). Of a voxel that holds two places the first
    is given.

    Raises:
        ScanError: no such slice, or nothing in it but noise.
        CalibrationError: noise or maps cannot be found.
        ConvergenceError: the chains diverged twice.
    """
    place = torch.device(device)
    model = _model(scan, index, settings)
    calibration = calibrate(scan, index, model, settings.calibration, place)
    current, draws = _sampled(scan, model, calibration, index, prior, settings, place)
    images = draws.images.flatten(0, 1)
    overlap = current.problem.operator.overlap
    if overlap is not None:
        images = overlap.split(images)[0].contiguous()
    clean = prior.denoise(images, current.plan.lowest_sigma)
    return np.asarray(clean.cpu().numpy(), np.complex64)


def coarse_image(
    scan: Scan, index: int, settings: Settings, device: torch.device | str = "cpu"
) -> NDArray[np.complex64]:
    """The image (rows, columns) that chains of a slice begin at, as `draw_images` gives draws.

    No prior was asked. Raises ScanError and CalibrationError as it does.
    """
    current = _prepared(scan, index, _UNINFORMED, settings, torch.device(device))
    overlap = current.problem.operator.overlap
    image = current.coarse if overlap is None else overlap.split(current.coarse)[0]
    return np.asarray(image.cpu().numpy(), np.complex64)


def predict_held_out(
    scan: Scan,
    index: int,
    prior: Prior,
    settings: Settings,
    device: torch.device | str = "cpu",
) -> HeldOutLines | None:
    """Lines of a slice held out by `settings.seed`, and predicted from all others.

    None where too few lines lie outside the centre. Noise, coil compression and start are found
    without them; maps are of the centre. The noise level is never fitted: priors are compared at
    the same one. Raises as `draw_images`.
    """
    place = torch.device(device)
    held_out = held_out_of(scan, settings.seed)
    if not held_out.any():
        return None
    kept = scan.mask & ~held_out
    thinned = replace(scan, kspace=np.where(kept, scan.kspace, np.complex64(0)), mask=kept)
    model = _model(thinned, index, settings)
    whole = calibrate(scan, index, model, settings.calibration, place)
    seen = replace(whole, kspace=np.where(kept, whole.kspace, np.complex64(0)), mask=kept)
    settings = replace(settings, fit_noise=False)
    current, draws = _sampled(thinned, model, seen, index, prior, settings, place)
    # The maps are those that the draws were made with.
    whole = replace(current.calibration, kspace=whole.kspace, mask=whole.mask)
    problem = inverse_problem(scaled(whole, current.scale), place)
    images, lines = draws.images.flatten(0, 1), torch.from_numpy(held_out)
    check = judge(problem, images, lines)
    densities = log_densities(problem, images, lines, SPREADS)
    return HeldOutLines(densities, check.coverage_90, check.lines)


def slice_problem(
    scan: Scan, index: int, settings: Settings, device: torch.device | str = "cpu"
) -> InverseProblem:
    """A slice's problem in the units that priors have. Raises as `coarse_image`."""
    return _prepared(scan, index, _UNINFORMED, settings, torch.device(device)).problem


def slices_with_signal(scan: Scan, settings: Settings) -> tuple[int, ...]:
    """Numbers of the slices that hold more than noise. Raises CalibrationError."""
    model = model_of(scan, settings.calibration)
    return tuple(
        index for index, kspace in enumerate(scan.kspace) if has_signal(model, kspace, scan.mask)
    )


_UNINFORMED = StationaryPrior((1.0,), (1.0,))
"""Shapes chains only, where none is run."""


def _prepared(
    scan: Scan, index: int, prior: Prior, settings: Settings, device: torch.device
) -> PreparedSlice:
    model = _model(scan, index, settings)
    calibration = calibrate(scan, index, model, settings.calibration, device)
    return prepare(calibration, inverse_problem(calibration, device), index, prior, settings)


def _model(scan: Scan, index: int, settings: Settings) -> NoiseModel:
    """Noise and compression of a scan whose slice holds a signal."""
    scan.require_slice(index)
    model = model_of(scan, settings.calibration)
    if not has_signal(model, scan.kspace[index], scan.mask):
        raise ScanError("empty-slice", f"slice {index} holds nothing but noise")
    return model


def _sampled(
    scan: Scan,
    model: NoiseModel,
    calibration: Calibration,
    index: int,
    prior: Prior,
    settings: Settings,
    device: torch.device,
) -> _Sampled:
    raw = inverse_problem(calibration, device)
    current = prepare(calibration, raw, index, prior, settings)
    current = finished(refine_maps(scan, model, current, prior, settings))
    sliced = slice_prior(prior, current.raw, settings)
    current = finished(fit_noise(current, sliced, settings))
    run = run_chains(
        current.problem,
        sliced,
        current.plan,
        current.coarse,
        NoiseKey(settings.seed, f"draws-{index}"),
        range(current.plan.preset.chains),
    )
    return _Sampled(current, finished(run))
