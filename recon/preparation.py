"""From a calibrated slice to its problem: coarse image, scale, noise level, widths of chains."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import diagnostics
from recon.calibration import Calibration
from recon.chains import Advance, ChainPlan, run_chains
from recon.coarse import coarse_reconstruction
from recon.errors import ScanError
from recon.noise import NoiseKey, NoiseStreams
from recon.noncartesian import NonCartesianSense
from recon.operators import CartesianSense, FourierOperator
from recon.paths import NARROW
from recon.power import Raised, power_of
from recon.presets import PILOT as PILOT
from recon.prior import OverlapPrior, Prior
from recon.sampler import InverseProblem
from recon.schedule import lowest_sigma
from recon.settings import Settings
from recon.symmetry import RandomSymmetry, is_symmetric

_CHI2_BAND = (0.9, 1.1)
FITTED_BAND = (0.97, 1.03)
"""Of the chi^2 of draws: within it the noise level is taken to be right."""
_OVERRELAXATION = 1.5
_NOISE_ROUNDS = 8


@dataclass(frozen=True)
class PreparedSlice:
    """One slice, ready for its chains; tensors are in internal units."""

    index: int
    calibration: Calibration
    raw: InverseProblem
    """In units of the calibration, as `inverse_problem` gave it."""
    problem: InverseProblem
    coarse: Tensor
    plan: ChainPlan
    scale: float
    """Units of the calibration per internal unit."""
    warnings: tuple[str, ...]

    @property
    def input_scale(self) -> float:
        """Input units per internal unit."""
        return self.scale * self.calibration.unit

    def picture(self, images: Tensor) -> Tensor:
        """Images of the problem as all coils see them (`recon.sensitivity`), internal units."""
        return self.calibration.sensitivity.picture(images)

    def in_input_units(self, pictures: Tensor) -> NDArray[np.complex64]:
        """Pictures (..., rows, columns) in input units, with their phase put back."""
        array = pictures.cpu().numpy() * (self.input_scale * self.calibration.phase)
        return np.asarray(array, dtype=np.complex64)


def inverse_problem(calibration: Calibration, device: torch.device) -> InverseProblem:
    """The calibrated slice as the kernel takes it, in the units of the calibration."""
    maps = torch.from_numpy(calibration.coil_maps).to(device)
    mask = torch.from_numpy(calibration.mask.copy()).to(device)
    overlap = None if calibration.overlap is None else calibration.overlap.to(maps.device)
    operator: FourierOperator = CartesianSense(maps, mask, overlap)
    if calibration.trajectory is not None:
        points = torch.from_numpy(calibration.trajectory.points.copy())
        operator = NonCartesianSense(maps, points, mask)
    measurement = torch.from_numpy(calibration.kspace).to(device)
    return InverseProblem(operator, operator.solver(), measurement, calibration.noise_std)


def as_sampled(prior: Prior, symmetry: tuple[int, str] | None) -> Prior:
    """A prior as chains ask it: raised to the power that it asks for.

    With `symmetry`, a run's seed and a name for what is sampled, one that has symmetries is asked
    about random variants of its images.
    """
    power = power_of(prior)
    if symmetry is not None and is_symmetric(prior):
        prior = RandomSymmetry(prior, *symmetry)
    return Raised(prior, power)


def prior_of(
    prior: Prior, problem: InverseProblem, symmetry: tuple[int, str] | None = None
) -> Prior:
    """The prior of the images of a slice's problem, which may hold a strip beyond the edges.

    It is `as_sampled`, with `symmetry` as there.
    """
    prior = as_sampled(prior, symmetry)
    overlap = problem.operator.overlap
    return prior if overlap is None else OverlapPrior(prior, overlap)


def slice_prior(prior: Prior, problem: InverseProblem, settings: Settings) -> Prior:
    """`prior_of` a slice's problem; its symmetry is the same for all slices of a run.

    Neighbours are not to differ by how they were mirrored.
    """
    return prior_of(prior, problem, (settings.seed, "slices") if settings.symmetry else None)


def prepare(
    calibration: Calibration, raw: InverseProblem, index: int, prior: Prior, settings: Settings
) -> PreparedSlice:
    """Coarse image, scale and plan; `raw` is the problem in input units, its noise replaced."""
    raw = replace(raw, noise_std=calibration.noise_std)
    streams = NoiseStreams.keyed(settings.seed, f"coarse-{index}", range(4))
    coarse = coarse_reconstruction(raw, settings.coarse, streams)
    scale = float(torch.quantile(raw.operator.picture(coarse.image).abs().flatten(), 0.99))
    if scale <= 0:
        raise ScanError("empty-slice", f"slice {index} holds no signal")
    problem = replace(
        raw, measurement=raw.measurement / scale, noise_std=calibration.noise_std / scale
    )
    plan = plan_of(coarse.localization_sigma() / scale, problem.noise_std, prior, settings)
    image = coarse.image / scale
    sensitivity = calibration.sensitivity.to(image.device)
    calibration = replace(calibration, sensitivity=sensitivity)
    return PreparedSlice(
        index, calibration, raw, problem, image, plan, scale, _folding(calibration)
    )


def plan_of(width: float, noise_std: float, prior: Prior, settings: Settings) -> ChainPlan:
    """The plan of chains whose coarse image may be off by `width`, in the prior's units."""
    low, high = prior.sigma_range
    lowest = lowest_sigma(noise_std, (low, high))
    sigma = max(min(max(width, 4 * noise_std), high), 2 * lowest)
    return ChainPlan(settings.resolved, settings.path, sigma, lowest, high)


def _folding(calibration: Calibration) -> tuple[str, ...]:
    """What to say where the field of view is smaller than the object."""
    overlap = calibration.overlap
    if overlap is None:
        return ()
    lines = f"{len(overlap.positions)} {'columns' if overlap.axis == -1 else 'rows'}"
    return (
        f"The field of view is smaller than the object: voxels of {lines} at its edges hold "
        "two places. A second set of coil maps tells them apart; the "
        "picture shows the root of the sum of their squares.",
    )


def fit_noise(
    current: PreparedSlice, prior: Prior, settings: Settings
) -> Generator[Advance, None, PreparedSlice]:
    """A short run with two chains: how wide is the posterior, and does the noise level fit?

    A posterior draw and the truth are exchangeable, so the residual of a draw has the noise's
    variance. Where it has not, eta^2 <- eta^2 * chi^2 is one step of expectation maximisation on
    the evidence of the noise level (empirical Bayes). It converges from one side, so it is
    over-relaxed. Each round starts from its own coarse image: a wrong noise level makes that
    wrong too, and with it the scale.
    """
    started = current.calibration.noise_std
    for attempt in range(_NOISE_ROUNDS):
        run = run_chains(
            current.problem,
            prior,
            replace(current.plan, preset=PILOT, path=NARROW),
            current.coarse,
            NoiseKey(settings.seed, f"pilot-{current.index}-{attempt}"),
            range(PILOT.chains),
        )
        draws = yield from run
        images = draws.images[:, -1]
        chi2 = float(current.problem.chi2(images).mean())
        band = _CHI2_BAND if attempt == 0 else FITTED_BAND
        if band[0] <= chi2 <= band[1] or not settings.fit_noise:
            break
        noise_std = fitted_noise(current.calibration.noise_std, chi2)
        calibration = replace(current.calibration, noise_std=noise_std)
        again = prepare(calibration, current.raw, current.index, prior, settings)
        current = replace(again, warnings=current.warnings)
    current = replace(current, plan=replace(current.plan, posterior_std=_spread(images)))
    if current.calibration.noise_std != started:
        change = current.calibration.noise_std / started
        text = (
            f"The noise level was fitted to the residual: {change:.2f} times the estimate from "
            f"{current.calibration.noise_source}."
        )
        current = replace(current, warnings=(*current.warnings, text))
    return current


def fitted_noise(noise_std: float, chi2: float) -> float:
    """The next guess of a noise level whose draws have this chi^2; over-relaxed."""
    return noise_std * chi2 ** (_OVERRELAXATION / 2)


def _spread(images: Tensor) -> float:
    """Posterior std per component inside the object, from two draws."""
    inside = diagnostics.object_mask(images.mean(dim=0).abs().cpu().numpy())
    return spread_of(images, torch.from_numpy(inside).to(images.device))


def spread_of(images: Tensor, inside: Tensor) -> float:
    """Posterior std per component from two draws (2, ...), where `inside` holds, if it does."""
    difference = (images[0] - images[1]).abs().square()
    if bool(inside.any()):
        difference = difference[inside]
    return float(difference.mean() / 4) ** 0.5
