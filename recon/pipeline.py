"""From a scan to posteriors: the only place that joins calibration, sampler and diagnostics."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import diagnostics
from recon.calibration import (
    Calibration,
    CalibrationSettings,
    calibrate,
    compress,
    noise_model,
    scaled,
)
from recon.chains import Advance, ChainPlan, Draws, run_chains
from recon.coarse import CoarseMethod, coarse_reconstruction
from recon.errors import ScanError
from recon.noise import NoiseStreams
from recon.noncartesian import NonCartesianSense
from recon.operators import CartesianSense, FourierOperator
from recon.posterior import QUANTILE_LEVELS, SlicePosterior
from recon.prior import OverlapPrior, Prior
from recon.sampler import Problem
from recon.scan import Scan
from recon.schedule import PRESETS, Path, Preset, cycle_top, lowest_sigma, wide_start
from recon.selfcheck import hold_out, hold_out_readouts, judge
from recon.solve import solver_for

_CHI2_BAND = (0.9, 1.1)
_CONSISTENT_BAND = (0.8, 1.3)
_FITTED_BAND = (0.97, 1.03)
_OVERRELAXATION = 1.5
_PILOT = Preset(chains=2, localization=2, annealing=10, cycles=0, cycle=6)
_CHECK = Preset(chains=4, localization=2, annealing=18, cycles=2, cycle=6)
_NOISE_ROUNDS = 8


@dataclass(frozen=True)
class Settings:
    """How to reconstruct; the defaults need no thought."""

    preset: str = "standard"
    samples: int | None = None
    """Chains, one independent sample each; None takes the preset's."""
    seed: int = 0
    coarse: CoarseMethod = CoarseMethod.CG_SENSE
    path: Path = Path.PRIOR
    fit_noise: bool = True
    """Re-estimate the noise level when the residual contradicts it."""
    self_check: bool = True
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)

    @property
    def resolved(self) -> Preset:
        """The preset with the number of chains asked for."""
        preset = PRESETS[self.preset]
        return preset if self.samples is None else replace(preset, chains=self.samples)


@dataclass(frozen=True)
class CoarseReady:
    """The first picture of a slice, in input units."""

    index: int
    image: NDArray[np.complex64]


@dataclass(frozen=True)
class Progress:
    """How far a slice is."""

    index: int
    stage: str
    fraction: float
    estimates: Tensor | None = None
    """(chains, rows, columns): what the network takes the chains' images to be, in internal units;
    only while the chains run whose draws are kept."""


Event = CoarseReady | Progress | SlicePosterior


@dataclass(frozen=True)
class _Slice:
    """One slice between calibration and posterior; tensors are in internal units."""

    index: int
    calibration: Calibration
    """In input units."""
    problem: Problem
    coarse: Tensor
    plan: ChainPlan
    scale: float
    warnings: tuple[str, ...]


def reconstruct(
    scan: Scan,
    prior: Prior,
    settings: Settings | None = None,
    slices: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
) -> Iterator[Event]:
    """Posteriors of the chosen slices (all by default), as a stream of events.

    Cancelling is not asking for the next event. The result of a slice depends on the scan, the
    prior and the settings alone, not on which other slices are reconstructed.

    Raises:
        ScanError: a slice that is not there.
        CalibrationError: noise or maps cannot be found.
        ConvergenceError: the chains of a slice diverged twice.
    """
    settings = settings or Settings()
    chosen = range(scan.kspace.shape[0]) if slices is None else slices
    for index in chosen:
        if not 0 <= index < scan.kspace.shape[0]:
            raise ScanError(
                "no-such-slice", f"slice {index} of a scan with {scan.kspace.shape[0]} slices"
            )
    model, noise_warnings = noise_model(scan)
    model = compress(model, scan, settings.calibration)
    for index in chosen:
        yield Progress(index, "calibration", 0.0)
        calibration = calibrate(scan, index, model, settings.calibration)
        raw = problem_of(calibration, torch.device(device))
        sliced = prior_of(prior, raw)
        current = _prepare(calibration, raw, index, prior, settings)
        yield CoarseReady(index, _output(current, current.coarse))
        budget = _Budget(raw, index, settings)
        current = yield from _fit_noise(current, sliced, settings, budget)
        current = replace(current, warnings=noise_warnings + current.warnings)
        draws = yield from budget.follow(
            run_chains(
                current.problem,
                sliced,
                current.plan,
                current.coarse,
                (settings.seed, f"slice-{index}"),
                range(current.plan.preset.chains),
            ),
            current.plan.preset,
            shown=True,
        )
        posterior = _summarise(current, draws)
        if settings.self_check:
            posterior = yield from _self_check(current, sliced, settings, posterior, budget)
        yield posterior


def work(settings: Settings) -> int:
    """Network evaluations per slice, over all chains; a fitted noise level adds to them."""
    runs = [_PILOT, settings.resolved] + [_CHECK] * settings.self_check
    return sum(run.chains * run.evaluations for run in runs)


class _Budget:
    """Turns evaluations into a fraction of the slice's work."""

    def __init__(self, problem: Problem, index: int, settings: Settings) -> None:
        self.problem = problem
        self.index = index
        self.total = work(settings)
        self.done = 0
        self.fraction = 0.0

    def follow(
        self, run: Generator[Advance, None, Draws], preset: Preset, *, shown: bool = False
    ) -> Generator[Event, None, Draws]:
        """Pass a run on as progress events and return what it returns."""
        while True:
            try:
                advance = next(run)
            except StopIteration as stop:
                draws: Draws = stop.value
                return draws
            self.done += preset.chains
            # Another round of noise fitting makes the whole longer; the bar waits, it never falls.
            self.fraction = max(self.fraction, min(self.done / self.total, 0.99))
            estimates = self.problem.operator.picture(advance.denoised) if shown else None
            yield Progress(self.index, advance.stage, self.fraction, estimates)


def problem_of(calibration: Calibration, device: torch.device) -> Problem:
    """The calibrated slice as the kernel takes it, in the units of the calibration."""
    maps = torch.from_numpy(calibration.coil_maps).to(device)
    mask = torch.from_numpy(calibration.mask.copy()).to(device)
    overlap = None if calibration.overlap is None else calibration.overlap.to(maps.device)
    operator: FourierOperator = CartesianSense(maps, mask, overlap)
    if calibration.trajectory is not None:
        points = torch.from_numpy(calibration.trajectory.points.copy())
        operator = NonCartesianSense(maps, points, mask)
    measurement = torch.from_numpy(calibration.kspace).to(device)
    return Problem(operator, solver_for(operator), measurement, calibration.noise_std)


def prior_of(prior: Prior, problem: Problem) -> Prior:
    """The prior of the images of a slice's problem, which may hold a strip beyond the edges."""
    operator = problem.operator
    if not isinstance(operator, FourierOperator) or operator.overlap is None:
        return prior
    return OverlapPrior(prior, operator.overlap)


def _prepare(
    calibration: Calibration, raw: Problem, index: int, prior: Prior, settings: Settings
) -> _Slice:
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
    low, high = prior.sigma_range
    sigma = min(max(coarse.localization_sigma() / scale, 4 * problem.noise_std), high)
    lowest = lowest_sigma(problem.noise_std, (low, high))
    sigma = max(sigma, 2 * lowest)
    plan = ChainPlan(
        settings.resolved, settings.path, sigma, max(sigma / 2, lowest), lowest, sigma / 2
    )
    image = coarse.image / scale
    return _Slice(index, calibration, problem, image, plan, scale, ())


def _fit_noise(
    current: _Slice, prior: Prior, settings: Settings, budget: _Budget
) -> Generator[Event, None, _Slice]:
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
            replace(current.plan, preset=_PILOT, path=Path.PRIOR),
            current.coarse,
            (settings.seed, f"pilot-{current.index}-{attempt}"),
            range(_PILOT.chains),
        )
        draws = yield from budget.follow(run, _PILOT)
        images = draws.images[:, -1]
        chi2 = float(current.problem.chi2(images).mean())
        band = _CHI2_BAND if attempt == 0 else _FITTED_BAND
        if band[0] <= chi2 <= band[1] or not settings.fit_noise:
            break
        noise_std = current.calibration.noise_std * chi2 ** (_OVERRELAXATION / 2)
        calibration = replace(current.calibration, noise_std=noise_std)
        raw = replace(current.problem, measurement=current.scale * current.problem.measurement)
        current = _prepare(calibration, raw, current.index, prior, settings)
        budget.total += _PILOT.chains * _PILOT.evaluations
    top = cycle_top(_spread(images), current.plan.lowest_sigma, current.plan.localization_sigma)
    plan = replace(current.plan, cycle_sigma=top)
    if settings.path is Path.PRIOR:
        start, handover = wide_start(plan.localization_sigma, prior.sigma_range[1])
        plan = replace(plan, localization_sigma=start, annealing_sigma=handover)
    current = replace(current, plan=plan)
    if current.calibration.noise_std != started:
        change = current.calibration.noise_std / started
        text = (
            f"The noise level was fitted to the residual: {change:.2f} times the estimate from "
            f"{current.calibration.noise_source}."
        )
        current = replace(current, warnings=(text,))
    return current


def _spread(images: Tensor) -> float:
    """Posterior std per component inside the object, from two draws."""
    inside = diagnostics.object_mask(images.mean(dim=0).abs().cpu().numpy())
    difference = (images[0] - images[1]).abs().square()
    if inside.any():
        difference = difference[torch.from_numpy(inside).to(difference.device)]
    return float(difference.mean() / 4) ** 0.5


def _output(current: _Slice, images: Tensor) -> NDArray[np.complex64]:
    """Images of the problem as pictures in input units."""
    return _in_input_units(current, current.problem.operator.picture(images))


def _in_input_units(current: _Slice, pictures: Tensor) -> NDArray[np.complex64]:
    """Pictures (..., rows, columns) in input units, with their phase put back."""
    array = pictures.cpu().numpy() * (current.scale * current.calibration.phase)
    return np.asarray(array, dtype=np.complex64)


def _numpy(values: Tensor, scale: float = 1.0) -> NDArray[np.float32]:
    return np.asarray(scale * values.cpu().numpy(), dtype=np.float32)


def _summarise(current: _Slice, draws: Draws) -> SlicePosterior:
    pictures = current.problem.operator.picture(draws.images)
    pooled = pictures.flatten(0, 1)
    magnitude = pictures.abs()
    mean = pooled.mean(dim=0)
    inside = diagnostics.object_mask(mean.abs().cpu().numpy())
    worth = diagnostics.independent_draws(magnitude, torch.from_numpy(inside).to(mean.device))
    quantiles = diagnostics.interval_ends(magnitude.flatten(0, 1), QUANTILE_LEVELS, worth)
    std = diagnostics.spread_correction(worth) * magnitude.flatten(0, 1).std(dim=0, correction=0)
    rhat = _numpy(diagnostics.split_rhat(magnitude))
    chi2 = _numpy(diagnostics.chi2_per_coil(current.problem, draws.images[:, -1]))
    converged, warnings = _verdict(rhat[inside], chi2)
    if draws.step < current.plan.step:
        warnings = (*warnings, "The chains were unstable once and were run with half the step.")
    scale = current.scale
    return SlicePosterior(
        index=current.index,
        mean=_in_input_units(current, mean),
        samples=_output(current, draws.images[:, -1]),
        coarse=_output(current, current.coarse),
        magnitude_std=_numpy(std, scale),
        phase_std=_numpy(diagnostics.circular_std(pooled)),
        quantiles=_numpy(quantiles, scale),
        mean_error=_numpy(diagnostics.mean_error(magnitude), scale),
        rhat=rhat,
        effective_samples=_numpy(diagnostics.effective_samples(magnitude)),
        chi2_per_coil=chi2,
        object_mask=inside,
        noise_std=current.problem.noise_std * scale,
        scale=scale,
        evaluations=current.plan.preset.evaluations,
        converged=converged,
        warnings=current.warnings + warnings,
        self_check=None,
    )


def _verdict(rhat: NDArray[np.float32], chi2: NDArray[np.float32]) -> tuple[bool, tuple[str, ...]]:
    """Whether the slice may be trusted, and why not in plain words."""
    warnings = []
    known = rhat[np.isfinite(rhat)]
    mixed = float((known < 1.1).mean()) if known.size else 0.0
    if not known.size:
        warnings.append(
            "There are too few draws per chain to check that the chains agree (R-hat). "
            "Use the standard or thorough preset."
        )
    elif mixed < 0.95:
        warnings.append(
            f"The chains agree (R-hat below 1.1) in {mixed:.0%} of the object; 95 % is wanted. "
            "Use a longer preset."
        )
    consistent = _CONSISTENT_BAND[0] <= float(chi2.mean()) <= _CONSISTENT_BAND[1]
    if not consistent:
        warnings.append(
            f"The residual is {float(chi2.mean()):.2f} times the noise variance; it should be "
            "near one. The noise level or the coil maps do not describe this scan."
        )
    return mixed >= 0.95 and consistent, tuple(warnings)


def _self_check(
    current: _Slice,
    prior: Prior,
    settings: Settings,
    posterior: SlicePosterior,
    budget: _Budget,
) -> Generator[Event, None, SlicePosterior]:
    """Predict acquired lines from the others, and compare."""
    choose = hold_out if current.calibration.trajectory is None else hold_out_readouts
    held_out = choose(current.calibration.mask, settings.seed)
    if not held_out.any():
        text = "Too few lines outside the calibration region for a self-check."
        return replace(posterior, warnings=(*posterior.warnings, text))
    kept = current.calibration.mask & ~held_out
    inside = scaled(current.calibration, current.scale)
    kspace = np.where(kept, inside.kspace, 0).astype(np.complex64)
    problem = problem_of(replace(inside, kspace=kspace, mask=kept), current.coarse.device)
    # The start, too, must not have seen the held-out lines.
    streams = NoiseStreams.keyed(settings.seed, f"check-coarse-{current.index}", range(4))
    coarse = coarse_reconstruction(problem, CoarseMethod.CG_SENSE, streams).image
    plan = replace(current.plan, preset=_CHECK, path=Path.PRIOR)
    run = run_chains(
        problem,
        prior,
        plan,
        coarse,
        (settings.seed, f"self-check-{current.index}"),
        range(_CHECK.chains),
    )
    draws = yield from budget.follow(run, _CHECK)
    check = judge(current.problem, draws.images.flatten(0, 1), torch.from_numpy(held_out))
    return replace(posterior, self_check=check)
