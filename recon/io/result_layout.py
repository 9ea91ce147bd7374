"""The result file: from one posterior per slice to named arrays, and back."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.posterior import PLAIN, Delivery, SelfCheck, SlicePosterior, delivered
from recon.scan import centre_crop
from recon.verdict import NOTHING_KNOWN, SURPRISE_SIGMAS, Cause, Evidence, Trust, Verdict

SCHEMA = "mri-posterior/result/1"

_SENSITIVITY = "sensitivity"
STACKED: dict[str, tuple[str, type[np.generic]]] = {
    "mean": ("mean", np.complex64),
    "coarse": ("coarse", np.complex64),
    "magnitude_std": ("magnitude_std", np.float32),
    "phase_std": ("phase_std", np.float32),
    "quantiles": ("quantiles", np.float32),
    "quality/mean_error": ("mean_error", np.float32),
    "quality/rhat": ("rhat", np.float32),
    "quality/effective_samples": ("effective_samples", np.float32),
    "quality/chi2_per_coil": ("chi2_per_coil", np.float32),
    "quality/object_mask": ("object_mask", np.bool_),
    _SENSITIVITY: ("sensitivity", np.float32),
    "slice/index": ("index", np.int64),
    "slice/noise_std": ("noise_std", np.float64),
    "slice/scale": ("scale", np.float64),
    "slice/evaluations": ("evaluations", np.int64),
    "slice/converged": ("converged", np.bool_),
}
"""Dataset name: field of SlicePosterior and type. Slices are the first axis."""
_SAMPLES = "samples"
_SELF_CHECK = "quality/self_check"
SELF_CHECK_COLUMNS = (
    "lines",
    "residual_std",
    "coverage_50",
    "coverage_90",
    "ratio",
    "freedom",
)
_FIRST_COLUMNS = 4
"""Of `SELF_CHECK_COLUMNS` that the oldest results have."""
_EVIDENCE = "quality/evidence"
EVIDENCE_COLUMNS = (
    *(each.name for each in fields(Evidence) if each.name != "surprise"),
    *(f"surprise_{sigma:g}" for sigma in SURPRISE_SIGMAS),
)
CLASSICAL = "classical"
DIFFERENCE = "difference"

UNCALIBRATED = {
    "uncalibrated/magnitude_std": "magnitude_std",
    "uncalibrated/quantiles": "quantiles",
}
"""Dataset name: field, of results whose intervals were multiplied by a conformal factor."""

OPTIONAL = (_EVIDENCE, CLASSICAL)
"""What old results, or those that are trusted, do not have."""
ARRAYS = (*STACKED, _SAMPLES, _SELF_CHECK)
"""What a reader needs; `reconstruction` and `reconstruction_std` repeat it for fastMRI's tools."""


def result_arrays(
    posteriors: Sequence[SlicePosterior],
    recon_shape: tuple[int, int] | None,
    delivery: Delivery = PLAIN,
) -> dict[str, NDArray[Any]]:
    """Arrays of a result file by name. Raises ValueError when slices differ in shape or repeat."""
    indices = [posterior.index for posterior in posteriors]
    if not indices or len(set(indices)) != len(indices):
        raise ValueError(f"a result needs one posterior per slice, got slices {indices}")
    arrays: dict[str, NDArray[Any]] = {
        name: np.stack([np.asarray(getattr(p, field), kind) for p in posteriors])
        for name, (field, kind) in STACKED.items()
    }
    arrays[_SAMPLES] = np.stack([p.samples for p in posteriors], axis=1, dtype=np.complex64)
    arrays[_SELF_CHECK] = np.array([_self_check_row(p.self_check) for p in posteriors], np.float64)
    arrays[_EVIDENCE] = np.array([_evidence_row(p.evidence) for p in posteriors], np.float64)
    if any(p.classical is not None for p in posteriors):
        nothing = np.zeros(arrays["mean"].shape[1:], np.complex64)
        found = [nothing if p.classical is None else p.classical for p in posteriors]
        arrays[CLASSICAL] = np.stack(found, dtype=np.complex64)
        arrays[DIFFERENCE] = np.stack(
            [np.abs(nothing) if p.difference is None else p.difference for p in posteriors]
        )
    shown = [delivered(p, delivery) for p in posteriors]
    images, stds = (np.stack([np.abs(p.mean) for p in shown]), [p.magnitude_std for p in shown])
    arrays["reconstruction"] = centre_crop(images, recon_shape)
    arrays["reconstruction_std"] = centre_crop(np.stack(stds, dtype=np.float32), recon_shape)
    return arrays


def warnings_text(posteriors: Sequence[SlicePosterior]) -> str:
    """Warnings of all slices as JSON: a list of {"slice", "warning"}."""
    return json.dumps(
        [
            {"slice": posterior.index, "warning": warning}
            for posterior in posteriors
            for warning in posterior.warnings
        ]
    )


def verdicts_text(posteriors: Sequence[SlicePosterior]) -> str:
    """Verdicts of all slices as JSON: a list of {"slice", "trust", "cause", "sentence", "p_value"}.

    A p-value that is not known is null.
    """
    return json.dumps(
        [
            {
                "slice": posterior.index,
                "trust": verdict.trust,
                "cause": verdict.cause,
                "sentence": verdict.sentence,
                "p_value": verdict.p_value if math.isfinite(verdict.p_value) else None,
            }
            for posterior in posteriors
            if (verdict := posterior.verdict) is not None
        ]
    )


def posteriors_from_layout(
    arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, str | int | float]
) -> list[SlicePosterior]:
    """The inverse of `result_arrays` and `warnings_text`. Raises ScanError."""
    if attributes.get("schema") != SCHEMA:
        raise ScanError("not-a-result", f"this file is not a result; its schema is not '{SCHEMA}'")
    if _SENSITIVITY not in arrays and "mean" in arrays:
        # Written before results were in units of the root of the sum of squares: no factor is in.
        arrays = {**arrays, _SENSITIVITY: np.ones(arrays["mean"].shape, np.float32)}
    _check_shapes(arrays)
    try:
        warnings = _warnings_by_slice(str(attributes.get("warnings", "[]")))
        verdicts = _verdicts_by_slice(str(attributes.get("verdicts", "[]")))
    except (ValueError, TypeError, LookupError) as error:
        raise ScanError(
            "result-damaged",
            "the warnings or verdicts of the result are not readable; reconstruct again",
        ) from error
    return [
        _posterior(arrays, position, warnings, verdicts)
        for position in range(len(arrays["slice/index"]))
    ]


def _check_shapes(arrays: Mapping[str, NDArray[Any]]) -> None:
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        raise ScanError(
            "result-damaged", f"the result lacks {', '.join(missing)}; reconstruct again"
        )
    shape = arrays["mean"].shape
    wanted = {name: shape[:1] if name.startswith("slice/") else shape for name in ARRAYS}
    wanted["quantiles"] = (*shape[:1], 4, *shape[1:])
    # Results that are older than the last columns are read.
    columns = arrays[_SELF_CHECK].shape[-1]
    known = columns in (_FIRST_COLUMNS, len(SELF_CHECK_COLUMNS))
    wanted[_SELF_CHECK] = (*shape[:1], columns if known else len(SELF_CHECK_COLUMNS))
    # The numbers of samples and of coils are free.
    wanted[_SAMPLES] = (*arrays[_SAMPLES].shape[:1], *shape)
    wanted["quality/chi2_per_coil"] = (*shape[:1], *arrays["quality/chi2_per_coil"].shape[1:2])
    optional = {_EVIDENCE: (*shape[:1], len(EVIDENCE_COLUMNS)), CLASSICAL: shape}
    wanted |= {name: wide for name, wide in optional.items() if name in arrays}
    wrong = [name for name in wanted if arrays[name].shape != wanted[name]]
    wrong += [name for name, (_, kind) in STACKED.items() if arrays[name].dtype != kind]
    if len(shape) != 3 or wrong:
        raise ScanError(
            "result-damaged",
            f"shapes or types disagree in {', '.join(wrong) or 'mean'}; reconstruct again",
        )


def _posterior(
    arrays: Mapping[str, NDArray[Any]],
    position: int,
    warnings: Mapping[int, tuple[str, ...]],
    verdicts: Mapping[int, Verdict],
) -> SlicePosterior:
    values: dict[str, Any] = {}
    for name, (field, kind) in STACKED.items():
        value = np.asarray(arrays[name][position], kind)
        values[field] = value if value.ndim else value.item()
    verdict = verdicts.get(values["index"])
    return SlicePosterior(
        **values,
        samples=np.ascontiguousarray(arrays[_SAMPLES][:, position], np.complex64),
        warnings=warnings.get(values["index"], ()),
        self_check=_self_check(arrays[_SELF_CHECK][position]),
        evidence=_evidence(arrays[_EVIDENCE][position]) if _EVIDENCE in arrays else NOTHING_KNOWN,
        verdict=verdict,
        classical=_classical(arrays, position, verdict),
    )


def _classical(
    arrays: Mapping[str, NDArray[Any]], position: int, verdict: Verdict | None
) -> NDArray[np.complex64] | None:
    """Of slices that are not trusted but hold a signal; that of others is filler."""
    if CLASSICAL not in arrays or verdict is None or verdict.trust is Trust.TRUSTED:
        return None
    return None if verdict.cause is Cause.SIGNAL else arrays[CLASSICAL][position]


def _warnings_by_slice(text: str) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for entry in json.loads(text):
        index = int(entry["slice"])
        found[index] = (*found.get(index, ()), str(entry["warning"]))
    return found


def _verdicts_by_slice(text: str) -> dict[int, Verdict]:
    found = {}
    for entry in json.loads(text):
        cause, p_value = entry["cause"], entry["p_value"]
        found[int(entry["slice"])] = Verdict(
            Trust(entry["trust"]),
            str(entry["sentence"]),
            None if cause is None else Cause(cause),
            math.nan if p_value is None else float(p_value),
        )
    return found


def _evidence_row(evidence: Evidence) -> list[float]:
    single = [getattr(evidence, name) for name in EVIDENCE_COLUMNS[: -len(SURPRISE_SIGMAS)]]
    return [*single, *evidence.surprise]


def _evidence(row: NDArray[Any]) -> Evidence:
    values = [float(value) for value in row]
    single = dict(zip(EVIDENCE_COLUMNS, values[: -len(SURPRISE_SIGMAS)], strict=False))
    return Evidence(**single, surprise=tuple(values[-len(SURPRISE_SIGMAS) :]))


def _self_check_row(check: SelfCheck | None) -> list[float]:
    if check is None:
        return [float("nan")] * len(SELF_CHECK_COLUMNS)
    return [float(getattr(check, name)) for name in SELF_CHECK_COLUMNS]


def _self_check(row: NDArray[Any]) -> SelfCheck | None:
    if not np.isfinite(row[0]):
        return None
    return SelfCheck(int(row[0]), *(float(value) for value in row[1:]))
