"""From the draws of the chains to the posterior of a slice, and whether it may be trusted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import convergence, diagnostics
from recon.alarm import NO_SIGNAL, TypicalScans, verdict_of
from recon.chains import Draws
from recon.coarse import classical_image
from recon.posterior import QUANTILE_LEVELS, TOO_FEW_DRAWS, SlicePosterior
from recon.preparation import PreparedSlice
from recon.receivers import NoiseModel
from recon.scan import Scan
from recon.verdict import Cause, Trust, Verdict

_CONSISTENT_BAND = (0.8, 1.3)
_MOST_ERROR = 0.4
"""Monte Carlo error of the mean over the posterior std: it adds a sixth to the squared error."""


def _numpy(values: Tensor, scale: float = 1.0) -> NDArray[np.float32]:
    return np.asarray(scale * values.cpu().numpy(), dtype=np.float32)


def summarise(current: PreparedSlice, draws: Draws) -> SlicePosterior:
    """Mean, spread, intervals and diagnostics of all draws, in input units; no self-check yet."""
    pictures = current.picture(draws.images)
    pooled = pictures.flatten(0, 1)
    magnitude = pictures.abs()
    mean = pooled.mean(dim=0)
    inside = diagnostics.object_mask(mean.abs().cpu().numpy())
    worth = convergence.independent_draws(magnitude, convergence.nearby)
    quantiles = diagnostics.interval_ends(magnitude.flatten(0, 1), QUANTILE_LEVELS, worth)
    std = diagnostics.spread_correction(worth) * magnitude.flatten(0, 1).std(dim=0, correction=0)
    rhat = _numpy(convergence.rhat(magnitude, convergence.nearby))
    chi2 = _numpy(diagnostics.chi2_per_coil(current.problem, draws.images[:, -1]))
    error = convergence.mean_error(magnitude)
    doubt = _ratio(error, std, inside)
    converged, warnings = _convergence(rhat[inside], doubt, chi2)
    if draws.step < current.plan.step:
        warnings = (*warnings, "The chains were unstable once and were run with half the step.")
    scale = current.input_scale
    return SlicePosterior(
        index=current.index,
        mean=current.in_input_units(mean),
        samples=current.in_input_units(pictures[:, -1]),
        coarse=current.in_input_units(current.picture(current.coarse)),
        sensitivity=current.calibration.sensitivity.of_picture,
        magnitude_std=_numpy(std, scale),
        phase_std=_numpy(diagnostics.circular_std(pooled)),
        quantiles=_numpy(quantiles, scale),
        mean_error=_numpy(error, scale),
        rhat=rhat,
        effective_samples=_numpy(convergence.effective_samples(magnitude, convergence.nearby)),
        chi2_per_coil=chi2,
        object_mask=inside,
        noise_std=current.problem.noise_std * scale,
        scale=scale,
        evaluations=current.plan.preset.evaluations,
        converged=converged,
        warnings=current.warnings + warnings,
        self_check=None,
    )


def judged(
    current: PreparedSlice, posterior: SlicePosterior, typical: TypicalScans | None
) -> SlicePosterior:
    """The posterior with its verdict, and a classical image beside it where that is no trust."""
    verdict = verdict_of(posterior.evidence, typical)
    if verdict.trust is Trust.TRUSTED:
        return replace(posterior, verdict=verdict)
    image = classical_image(current.problem)
    picture = posterior.coarse
    if image is not None:
        picture = current.in_input_units(current.picture(image))
    return replace(posterior, verdict=verdict, classical=picture)


def nothing_found(
    scan: Scan, index: int, model: NoiseModel, samples: int, warnings: tuple[str, ...]
) -> SlicePosterior:
    """The posterior of a slice without signal: empty, and it says so."""
    shape = scan.image_shape
    empty, unknown = np.zeros(shape, np.float32), np.full(shape, np.nan, np.float32)
    white = model.whitening @ scan.kspace[index][:, scan.mask]
    chi2 = np.mean(np.abs(white) ** 2, axis=1) / (2 * model.noise_std**2)
    return SlicePosterior(
        index=index,
        mean=empty.astype(np.complex64),
        samples=np.zeros((samples, *shape), np.complex64),
        coarse=empty.astype(np.complex64),
        magnitude_std=empty,
        phase_std=empty,
        quantiles=np.zeros((len(QUANTILE_LEVELS), *shape), np.float32),
        mean_error=empty,
        rhat=unknown,
        effective_samples=empty,
        chi2_per_coil=chi2.astype(np.float32),
        object_mask=np.zeros(shape, np.bool_),
        sensitivity=empty,
        noise_std=model.noise_std * model.unit,
        scale=model.unit,
        evaluations=0,
        converged=False,
        warnings=(*warnings, "This slice holds no signal, only noise: its picture is left empty."),
        self_check=None,
        verdict=Verdict(Trust.REFUSED, NO_SIGNAL, Cause.SIGNAL),
    )


def _ratio(error: Tensor, std: Tensor, inside: NDArray[np.bool_]) -> float:
    """Root mean square of the mean's Monte Carlo error over that of the std, in the object."""
    place = torch.from_numpy(inside).to(std.device)
    return float((error[place].square().sum() / std[place].square().sum()).sqrt())


def _convergence(
    rhat: NDArray[np.float32], doubt: float, chi2: NDArray[np.float32]
) -> tuple[bool, tuple[str, ...]]:
    """Whether the chains have found the posterior, and why not in plain words."""
    warnings = []
    known = rhat[np.isfinite(rhat)]
    mixed = float((known < 1.1).mean()) if known.size else 0.0
    if not known.size:
        warnings.append(TOO_FEW_DRAWS)
    elif mixed < 0.95:
        warnings.append(
            f"The chains agree (R-hat below 1.1) in {mixed:.0%} of the object; 95 % is wanted. "
            "Use a longer preset."
        )
    if np.isnan(doubt):
        warnings.append("One draw says nothing of its own error. Ask for more samples.")
    elif doubt > _MOST_ERROR:
        warnings.append(
            f"The mean is known to {doubt:.2f} posterior standard deviations; {_MOST_ERROR} are "
            "wanted. Ask for more samples, or use a longer preset."
        )
    consistent = _CONSISTENT_BAND[0] <= float(chi2.mean()) <= _CONSISTENT_BAND[1]
    if not consistent:
        warnings.append(
            f"The residual is {float(chi2.mean()):.2f} times the noise variance; it should be "
            "near one. The noise level or the coil maps do not describe this scan."
        )
    return mixed >= 0.95 and doubt <= _MOST_ERROR and consistent, tuple(warnings)
