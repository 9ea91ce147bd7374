"""Coil maps found again from a centre of k-space that first draws have filled.

Where few lines are sampled in full round the centre, maps are too smooth, and all that is made with
them errs. Draws under such maps predict the lines that are missing beside the centre; maps found
from measured and predicted lines together are nearer to the coils', and so are the next draws:
images and maps are estimated in turn (as in JSENSE, Ying and Sheng 2007), with short runs of chains
in place of a regularised image.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from recon.calibration import calibrate
from recon.central_lines import calibration_region, calibration_width
from recon.chains import Advance, run_chains
from recon.kspace_centre import calibration_lines, central
from recon.noise import NoiseKey
from recon.operators import CartesianSense
from recon.paths import NARROW
from recon.preparation import PILOT, PreparedSlice, inverse_problem, prepare, slice_prior
from recon.prior import Prior
from recon.receivers import NoiseModel
from recon.scan import Scan
from recon.settings import Settings

_ENOUGH = 12
"""Central lines from which on maps are good enough as they are,"""
_ENOUGH_FOLDED = 14
"""and where some voxels hold two places, whose maps tell one from the other."""
_WIDTH = 24
"""Central lines, measured and predicted, that maps are found from again."""
_ROUNDS = 2


def is_narrow(scan: Scan, index: int, *, folded: bool) -> bool:
    """Whether maps of a slice are found from so few central lines that draws better them.

    `folded` says that some of its voxels hold two places (`Calibration.overlap`).
    """
    if scan.coil_maps is not None or scan.trajectory is not None or scan.kspace.shape[1] == 1:
        return False
    _, sampled = calibration_lines(scan, index)
    return calibration_width(sampled) < (_ENOUGH_FOLDED if folded else _ENOUGH)


def refine_maps(
    scan: Scan, model: NoiseModel, current: PreparedSlice, prior: Prior, settings: Settings
) -> Generator[Advance, None, PreparedSlice]:
    """The slice, prepared again with maps that short runs of two chains have bettered.

    As it is, and no chain is run, where its centre is wide enough (`is_narrow`).
    """
    if not is_narrow(scan, current.index, folded=current.calibration.overlap is not None):
        return current
    device = current.coarse.device
    lines = calibration_width(calibration_lines(scan, current.index)[1])
    for number in range(_ROUNDS):
        draws = yield from run_chains(
            current.problem,
            slice_prior(prior, current.raw, settings),
            replace(current.plan, preset=PILOT, path=NARROW),
            current.coarse,
            NoiseKey(settings.seed, f"maps-{current.index}-{number}"),
            range(PILOT.chains),
        )
        filled = _filled(scan, model, current, draws.images[:, -1].mean(dim=0) * current.scale)
        calibration = calibrate(filled, 0, model, settings.calibration, device)
        raw = inverse_problem(calibration, device)
        current = prepare(calibration, raw, current.index, prior, settings)
    told = (
        f"Only {lines} central lines are sampled in full; the coil maps were found again from "
        "these and what first draws predict beside them."
    )
    return replace(current, warnings=(*current.warnings, told))


def _filled(scan: Scan, model: NoiseModel, current: PreparedSlice, image: Tensor) -> Scan:
    """The slice alone, its lines for calibration those that `image` predicts and the measured."""
    maps = torch.from_numpy(current.calibration.coil_maps).to(image.device)
    everywhere = torch.ones(scan.mask.shape, dtype=torch.bool, device=image.device)
    seen = CartesianSense(maps, everywhere, current.raw.operator.overlap).forward(image)
    index = current.index
    lines, sampled = calibration_lines(scan, index)
    predicted = np.einsum("cv,vrk->crk", model.unit * model.unwhitening, seen.cpu().numpy())
    whole = np.where(scan.mask, scan.kspace[index], predicted.astype(np.complex64))
    whole = np.where(sampled, lines, whole)
    rows, columns = calibration_region(sampled, _WIDTH, max(scan.mask.shape))
    region = tuple(
        min(max(width, _WIDTH), size)
        for width, size in zip((rows, columns), scan.mask.shape, strict=True)
    )
    calibration = np.zeros_like(whole)
    central(calibration, region)[:] = central(whole, region)
    return replace(scan, kspace=scan.kspace[index : index + 1], calibration=calibration[None])
