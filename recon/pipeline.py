"""From a scan to posteriors: the only place that joins calibration, chains and self-check."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from recon.alarm import TypicalScans
from recon.calibration import calibrate, scaled
from recon.chains import Advance, run_chains
from recon.coarse import CoarseMethod, coarse_reconstruction
from recon.errors import CalibrationError
from recon.events import CoarseReady as CoarseReady
from recon.events import Event as Event
from recon.events import Progress as Progress
from recon.events import followed
from recon.evidence import energy_of, physics_of, surprise, with_check
from recon.noise import NoiseKey, NoiseStreams
from recon.paths import PriorPath
from recon.posterior import TOO_FEW_LINES, SlicePosterior
from recon.preparation import (
    PILOT,
    PreparedSlice,
    fit_noise,
    inverse_problem,
    prepare,
    slice_prior,
)
from recon.prior import Prior
from recon.receivers import compress, has_signal, noise_model
from recon.refined_maps import refine_maps
from recon.scan import Scan
from recon.schedule import Preset
from recon.selfcheck import held_out_of, judge
from recon.settings import Settings
from recon.stacks import noise_key, places
from recon.summary import judged, nothing_found, summarise
from recon.verdict import SURPRISE_SIGMAS, Evidence
from recon.volume_posterior import KeptChains, volume_posterior

_Result = TypeVar("_Result")
_LARGE_PIXEL_MM = 1.5
_CHECK = Preset(chains=4, localization=2, annealing=18, cycles=1, cycle=8)
_SHORT_CHECK = Preset(chains=3, localization=1, annealing=7, cycles=0, cycle=0)
"""Three draws are the fewest that tell how freely they vary. So short a run leaves more open than
the posterior does, and finds a smaller part of what is wrong."""
_UNPLANNED = replace(PILOT, localization=0, annealing=0)
"""Of what only some slices need."""
_SHARE = 0.15
"""Of the chains' own work that a self-check may cost before it is the short one."""
_EXAMINED = 2
"""Draws that the prior is asked about again; an image alone says enough (`Evidence.surprise`)."""


def reconstruct(
    scan: Scan,
    prior: Prior,
    settings: Settings | None = None,
    slices: Sequence[int] | None = None,
    device: str | torch.device = "cpu",
    typical: TypicalScans | None = None,
    kept: KeptChains | None = None,
) -> Iterator[Event]:
    """Posteriors of the chosen slices (all by default), as a stream of events.

    With `settings.volume` the chosen slices are one volume (`recon.volume_posterior`), each of
    whose finished chains is `kept`; slices without any signal at its ends are left out of it.

    Cancelling is not asking for the next event. The result of a slice depends on the scan, the
    prior and the settings alone, not on which other slices are reconstructed. `typical` is what
    the prior makes of right scans: without it verdicts do not say whether it knows such images.

    Raises:
        ScanError: a slice that is not there.
        CalibrationError: noise or maps cannot be found, or no slice of the scan holds a signal; of
            a scan that holds some, slices without any come back empty and say so.
        ConvergenceError: the chains of a slice diverged twice.
    """
    settings = settings or Settings()
    chosen = range(scan.kspace.shape[0]) if slices is None else slices
    for index in chosen:
        scan.require_slice(index)
    model, warnings = noise_model(scan)
    warnings += _large_pixels(scan)
    full = [has_signal(model, kspace, scan.mask) for kspace in scan.kspace]
    if not any(full):
        raise CalibrationError(
            "no-signal",
            "k-space holds nothing but noise, the same everywhere; check what was exported",
        )
    model = compress(
        model, scan, settings.calibration.compress_above, settings.calibration.compression_energy
    )
    if settings.volume:
        inside = [index for index in chosen if full[index]]
        for index in chosen:
            if not full[index]:
                yield nothing_found(scan, index, model, settings.resolved.chains, warnings)
        yield from volume_posterior(
            scan, prior, settings, inside, model, warnings, torch.device(device), typical, kept
        )
        return
    where = places(scan)
    for index in chosen:
        yield Progress(index, "calibration", 0.0)
        if not full[index]:
            empty = nothing_found(scan, index, model, settings.resolved.chains, warnings)
            yield CoarseReady(index, empty.coarse)
            yield empty
            continue
        calibration = calibrate(scan, index, model, settings.calibration, device)
        raw = inverse_problem(calibration, torch.device(device))
        current = prepare(calibration, raw, index, prior, settings)
        yield CoarseReady(index, current.in_input_units(current.picture(current.coarse)))
        budget = _Budget(current, settings)
        current = yield from budget.follow(
            refine_maps(scan, model, current, prior, settings), _UNPLANNED
        )
        budget.picture = current.picture
        sliced = slice_prior(prior, current.raw, settings)
        current = yield from budget.follow(fit_noise(current, sliced, settings), PILOT)
        current = replace(current, warnings=warnings + current.warnings)
        draws = yield from budget.follow(
            run_chains(
                current.problem,
                sliced,
                current.plan,
                current.coarse,
                noise_key(settings.seed, "slice", index, where[index], settings.slice_coherence),
                range(current.plan.preset.chains),
            ),
            current.plan.preset,
            shown=True,
        )
        posterior = summarise(current, draws)
        evidence = physics_of(current, draws.images[:, -1], model)
        if settings.self_check:
            evidence = yield from budget.follow(
                _examine(current, prior, settings, draws.images[:_EXAMINED, -1], evidence),
                _examination(settings),
            )
            posterior = yield from _self_check(current, sliced, settings, posterior, budget)
        yield judged(current, with_check(posterior, evidence), typical)


def _large_pixels(scan: Scan) -> tuple[str, ...]:
    """What to say of pixels that are larger than a prior's usual training images."""
    view, shape = scan.view_mm, scan.image_shape
    if view is None or max(view[0] / shape[0], view[1] / shape[1]) <= _LARGE_PIXEL_MM:
        return ()
    return (
        f"Pixels are {view[0] / shape[0]:.2f} x {view[1] / shape[1]:.2f} mm, larger than those "
        "of the images that priors usually learn from; the model's card says up to which size. "
        "Beyond it a result may be no better than its coarse image.",
    )


def work(settings: Settings) -> int:
    """Network evaluations per slice, over all chains; a fitted noise level adds to them."""
    checks = (_check(settings), _examination(settings)) if settings.self_check else ()
    return sum(run.work for run in (PILOT, settings.resolved, *checks))


def _check(settings: Settings) -> Preset:
    """The second run, which does not see all lines."""
    allowed = _SHARE * settings.resolved.work
    return _CHECK if _CHECK.work <= allowed else _SHORT_CHECK


def _examination(settings: Settings) -> Preset:
    """Evaluations that ask the prior about its own draws again."""
    return Preset(min(settings.resolved.chains, _EXAMINED), len(SURPRISE_SIGMAS), 0, 0, 0)


class _Budget:
    """Turns evaluations into a fraction of the slice's work."""

    def __init__(self, current: PreparedSlice, settings: Settings) -> None:
        self.picture = current.picture
        self.index = current.index
        self.total = work(settings)
        self.done = 0
        self.fraction = 0.0

    def follow(
        self, run: Generator[Advance, None, _Result], planned: Preset, *, shown: bool = False
    ) -> Generator[Event, None, _Result]:
        """Pass a run on as progress events and return what it returns.

        What goes beyond the planned evaluations makes the whole longer.
        """

        def tell(steps: int, advance: Advance) -> Progress:
            self.done += planned.chains
            if steps > planned.evaluations:
                self.total += planned.chains
            # The bar waits where the whole grows; it never falls.
            self.fraction = max(self.fraction, min(self.done / self.total, 0.99))
            estimates = self.picture(advance.denoised) if shown else None
            return Progress(self.index, advance.stage, self.fraction, estimates)

        return (yield from followed(run, tell))


def _examine(
    current: PreparedSlice,
    prior: Prior,
    settings: Settings,
    draws: Tensor,
    evidence: Evidence,
) -> Generator[Advance, None, Evidence]:
    """What the prior itself says of its draws (chains, rows, columns)."""
    overlap = current.problem.operator.overlap
    images = draws if overlap is None else overlap.split(draws)[0].contiguous()
    found = []
    for done, sigma in enumerate(SURPRISE_SIGMAS, start=1):
        key = f"surprise-{current.index}-{sigma:g}"
        streams = NoiseStreams.keyed(settings.seed, key, range(len(images)))
        ratio, denoised = surprise(prior, images, streams, sigma)
        found.append(ratio)
        yield Advance("examination", done, denoised)
    return replace(evidence, energy=energy_of(images), surprise=tuple(torch.stack(found).tolist()))


def _self_check(
    current: PreparedSlice,
    prior: Prior,
    settings: Settings,
    posterior: SlicePosterior,
    budget: _Budget,
) -> Generator[Event, None, SlicePosterior]:
    """Predict acquired lines from the others, and compare."""
    held_out = held_out_of(current.calibration, settings.seed)
    if not held_out.any():
        return replace(posterior, warnings=(*posterior.warnings, TOO_FEW_LINES))
    kept = current.calibration.mask & ~held_out
    inside = scaled(current.calibration, current.scale)
    kspace = np.where(kept, inside.kspace, 0).astype(np.complex64)
    problem = inverse_problem(replace(inside, kspace=kspace, mask=kept), current.coarse.device)
    # The start, too, must not have seen the held-out lines.
    streams = NoiseStreams.keyed(settings.seed, f"check-coarse-{current.index}", range(4))
    coarse = coarse_reconstruction(problem, CoarseMethod.CG_SENSE, streams).image
    check = _check(settings)
    plan = replace(current.plan, preset=check, path=PriorPath())
    run = run_chains(
        problem,
        prior,
        plan,
        coarse,
        NoiseKey(settings.seed, f"self-check-{current.index}"),
        range(check.chains),
    )
    draws = yield from budget.follow(run, check)
    found = judge(current.problem, draws.images.flatten(0, 1), torch.from_numpy(held_out))
    return replace(posterior, self_check=found)
