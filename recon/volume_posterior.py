"""From the slices of one encoded volume to its posterior: prepared together, chain by chain."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon.alarm import TypicalScans
from recon.calibration import Calibration, calibrate
from recon.chains import Advance, ChainPlan, Draws, run_chains
from recon.coarse import Coarse, coarse_reconstruction
from recon.errors import ScanError
from recon.events import CoarseReady, Event, Progress, followed
from recon.evidence import physics_of, with_check
from recon.noise import NoiseKey, NoiseStreams
from recon.paths import NARROW
from recon.preparation import (
    FITTED_BAND,
    PILOT,
    PreparedSlice,
    as_sampled,
    fitted_noise,
    inverse_problem,
    plan_of,
    spread_of,
)
from recon.presets import Preset
from recon.prior import Prior
from recon.receivers import NoiseModel
from recon.sampler import InverseProblem
from recon.scan import Scan, of_lines, two_phase_encodings
from recon.settings import Settings
from recon.stacks import Place, places
from recon.summary import judged, summarise
from recon.volume_size import VolumeCost, volume_cost
from recon.volumes import AlternatingPlanes, plane_directions, stacked_problem

_INSTEAD = "reconstruct slice by slice, without `volume`"
_UNEVEN = 0.05
"""Of the distance of slices: more than this between two of them makes no volume."""
_ROUNDS = 4
_PERCENTILE = 99
_SEEN = 0.1
"""Share of the volume's 99th percentile above which there is signal."""


class KeptChains(Protocol):
    """Where the draws of finished chains lie, for a run that goes on after it was interrupted."""

    def read(self, chain: int) -> NDArray[np.complex64] | None:
        """(draws, slices, rows, columns), or None: it is still to be run.

        They may lie in a mapped file: memory then holds no more than what is looked at.
        """
        ...

    def write(self, chain: int, draws: NDArray[np.complex64]) -> None:
        """Keep them, whole or not at all."""
        ...


@dataclass(frozen=True)
class VolumePlan:
    """What a volume will be and take, before anything runs."""

    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    directions: tuple[int, ...]
    """Axes of the volume that the prior's planes are perpendicular to."""
    cost: VolumeCost
    left_out: str | None
    """What to say where voxels are no cubes."""


def volume_plan(scan: Scan, settings: Settings, chosen: Sequence[int]) -> VolumePlan:
    """Raises ScanError where the chosen slices are no evenly spaced stack of one series.

    Nor are they a volume where samples lie on whole lines, as those of slices do, or where voxels
    are such that no plane across the slices can be judged.
    """
    where = [place for place in map(places(scan).__getitem__, chosen) if place is not None]
    if scan.trajectory is not None or len(where) < len(chosen) or len(chosen) < 2:
        raise ScanError(
            "no-volume",
            "a volume needs two slices or more of a Cartesian scan that says how far apart they "
            f"lie; {_INSTEAD}",
        )
    if two_phase_encodings(scan.mask, scan.attributes) is False:
        raise ScanError(
            "no-volume",
            "the samples of this scan are whole lines: it has one phase encoding, and its slices "
            f"were measured one by one; {_INSTEAD}",
        )
    spacing = _spacing(where)
    view, (rows, columns) = scan.view_mm, scan.image_shape
    assert view is not None
    side = (view[0] / rows * view[1] / columns) ** 0.5
    sides = (spacing * side, view[0] / rows, view[1] / columns)
    directions = plane_directions(sides)
    size = " x ".join(f"{each:.2f}" for each in (*sides[1:], sides[0]))
    if directions == (0,):
        raise ScanError(
            "no-volume",
            f"voxels are {size} mm, too far from cubes for a prior of slices to judge planes "
            f"across them; {_INSTEAD}",
        )
    told = None
    if len(directions) < 3:
        told = f"Voxels are {size} mm, no cubes: the prior judges planes of two directions."
    shape = (len(chosen), rows, columns)
    cost = volume_cost(
        shape,
        scan.kspace.shape[1],
        settings.resolved,
        compress_above=settings.calibration.compress_above,
        line_mask=of_lines(scan.mask),
    )
    return VolumePlan(shape, directions, cost, told)


def _spacing(where: Sequence[Place]) -> float:
    steps = [after.height - before.height for before, after in pairwise(where)]
    step = float(np.median(steps))
    uneven = any(abs(each - step) > _UNEVEN * abs(step) for each in steps)
    if step == 0 or uneven or len({place.series for place in where}) > 1:
        raise ScanError(
            "no-volume",
            "these slices are not one evenly spaced stack (of one contrast, repetition and "
            f"direction); choose them with `slices`, or {_INSTEAD}",
        )
    return abs(step)


@dataclass(frozen=True)
class _Prepared:
    """The slices of a volume on one scale, and the volume that they are."""

    slices: tuple[PreparedSlice, ...]
    problem: InverseProblem
    coarse: Tensor
    plan: ChainPlan


def volume_posterior(
    scan: Scan,
    prior: Prior,
    settings: Settings,
    chosen: Sequence[int],
    model: NoiseModel,
    warnings: tuple[str, ...],
    device: torch.device,
    typical: TypicalScans | None = None,
    kept: KeptChains | None = None,
) -> Iterator[Event]:
    """Posteriors of the slices of one volume, which are those of the volume.

    Chains run one after the other, so that memory holds one, and each is `kept` when it is done.
    Raises ScanError, CalibrationError, ConvergenceError.
    """
    plan = volume_plan(scan, settings, chosen)
    own = replace(settings.calibration, second_crop=1.0)
    calibrations = []
    for index in chosen:
        yield Progress(index, "calibration", 0.0)
        calibrations.append(calibrate(scan, index, model, own, device))
    raws = tuple(inverse_problem(each, device) for each in calibrations)
    told = (*warnings, *(() if plan.left_out is None else (plan.left_out,)))
    preset = settings.resolved
    pilot = PILOT.work / plan.cost.evaluations
    current = _prepare(calibrations, raws, chosen, prior, settings, told)
    for one in current.slices:
        yield CoarseReady(one.index, one.in_input_units(one.picture(one.coarse)))
    started = calibrations[0].noise_std
    for attempt in range(_ROUNDS):
        run = run_chains(
            current.problem,
            _planes(prior, plan, settings, f"pilot-{attempt}"),
            replace(current.plan, preset=PILOT, path=NARROW),
            current.coarse,
            NoiseKey(settings.seed, f"volume-pilot-{attempt}"),
            range(PILOT.chains),
        )
        draws = yield from _followed(run, current, PILOT, 0.0, pilot)
        images = draws.images[:, -1]
        chi2 = float(current.problem.chi2(images).mean())
        if FITTED_BAND[0] <= chi2 <= FITTED_BAND[1] or not settings.fit_noise:
            break
        noise_std = fitted_noise(calibrations[0].noise_std, chi2)
        calibrations = [replace(each, noise_std=noise_std) for each in calibrations]
        current = _prepare(calibrations, raws, chosen, prior, settings, told)
    current = replace(current, plan=replace(current.plan, posterior_std=_spread(images)))
    if calibrations[0].noise_std != started:
        change = calibrations[0].noise_std / started
        told = (*told, f"The noise level was fitted to the residual: {change:.2f} times.")
    finished, step = [], current.plan.step
    for chain in range(preset.chains):
        chain_draws = None if kept is None else kept.read(chain)
        if chain_draws is None:
            run = run_chains(
                current.problem,
                _planes(prior, plan, settings, f"chain-{chain}"),
                current.plan,
                current.coarse,
                NoiseKey(settings.seed, "volume"),
                range(chain, chain + 1),
            )
            share = (1 - pilot) / preset.chains
            start = pilot + chain * share
            made = yield from _followed(run, current, preset, start, share, shown=True)
            step = min(step, made.step)
            chain_draws = made.images[0].cpu().numpy()
            if kept is not None:
                kept.write(chain, chain_draws)
                chain_draws = kept.read(chain)
                assert chain_draws is not None
        finished.append(chain_draws)
    for at, one in enumerate(current.slices):
        images = torch.from_numpy(np.stack([one_chain[:, at] for one_chain in finished]))
        each = Draws(images.to(device), step)
        one = replace(one, plan=current.plan, warnings=told)
        evidence = physics_of(one, each.images[:, -1], model)
        yield judged(one, with_check(summarise(one, each), evidence), typical)


def _spread(images: Tensor) -> float:
    """Posterior std per component where the volume is, from two draws (2, slices, …)."""
    return spread_of(images, images.mean(dim=0).abs() > _SEEN)


def _followed(
    run: Generator[Advance, None, Draws],
    current: _Prepared,
    planned: Preset,
    before: float,
    share: float,
    *,
    shown: bool = False,
) -> Generator[Event, None, Draws]:
    """Pass a run on as progress of the middle slice, from `before` on over `share` of the whole."""
    middle = len(current.slices) // 2
    one = current.slices[middle]

    def tell(steps: int, advance: Advance) -> Progress:
        fraction = before + share * min(1.0, steps / planned.evaluations)
        picture = one.picture(advance.denoised[:, middle]) if shown else None
        return Progress(one.index, advance.stage, min(fraction, 0.99), picture)

    return (yield from followed(run, tell))


def _planes(prior: Prior, plan: VolumePlan, settings: Settings, name: str) -> Prior:
    symmetry = (settings.seed, f"volume-{name}") if settings.symmetry else None
    return AlternatingPlanes(as_sampled(prior, symmetry), plan.directions)


def _prepare(
    calibrations: Sequence[Calibration],
    raws: Sequence[InverseProblem],
    chosen: Sequence[int],
    prior: Prior,
    settings: Settings,
    warnings: tuple[str, ...],
) -> _Prepared:
    """Coarse images, one scale and one plan for all slices."""
    noise_std = calibrations[0].noise_std
    raws = [replace(raw, noise_std=noise_std) for raw in raws]
    found: list[Coarse] = []
    for index, raw in zip(chosen, raws, strict=True):
        streams = NoiseStreams.keyed(settings.seed, f"coarse-{index}", range(4))
        found.append(coarse_reconstruction(raw, settings.coarse, streams))
    magnitudes = np.stack([coarse.image.abs().cpu().numpy() for coarse in found])
    scale = float(np.percentile(magnitudes, _PERCENTILE))
    if scale <= 0:
        raise ScanError("empty-slice", "the volume holds no signal")
    noise = noise_std / scale
    widths = [coarse.localization_sigma() / scale for coarse in found]
    plan = plan_of(float(np.mean(widths)), noise, prior, settings)
    slices = []
    for index, raw, calibration, coarse in zip(chosen, raws, calibrations, found, strict=True):
        problem = replace(raw, measurement=raw.measurement / scale, noise_std=noise)
        sensitivity = calibration.sensitivity.to(coarse.image.device)
        own = replace(calibration, sensitivity=sensitivity)
        slices.append(
            PreparedSlice(index, own, raw, problem, coarse.image / scale, plan, scale, warnings)
        )
    return _Prepared(
        tuple(slices),
        stacked_problem([one.problem for one in slices]),
        torch.stack([one.coarse for one in slices]),
        plan,
    )
