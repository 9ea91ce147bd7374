"""The result file: from one posterior per slice to named arrays, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.posterior import SelfCheck, SlicePosterior
from recon.scan import centre_crop

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
SELF_CHECK_COLUMNS = ("lines", "residual_std", "coverage_50", "coverage_90")

UNCALIBRATED = {
    "uncalibrated/magnitude_std": "magnitude_std",
    "uncalibrated/quantiles": "quantiles",
}
"""Dataset name: field, of results whose intervals were multiplied by a conformal factor."""

ARRAYS = (*STACKED, _SAMPLES, _SELF_CHECK)
"""What a reader needs; `reconstruction` and `reconstruction_std` repeat it for fastMRI's tools."""


def result_arrays(
    posteriors: Sequence[SlicePosterior], recon_shape: tuple[int, int] | None
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
    arrays["reconstruction"] = centre_crop(np.abs(arrays["mean"]), recon_shape)
    arrays["reconstruction_std"] = centre_crop(arrays["magnitude_std"], recon_shape)
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
    except (ValueError, TypeError, LookupError) as error:
        raise ScanError(
            "result-damaged", "the warnings of the result are not readable; reconstruct again"
        ) from error
    return [
        _posterior(arrays, position, warnings) for position in range(len(arrays["slice/index"]))
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
    wanted[_SELF_CHECK] = (*shape[:1], len(SELF_CHECK_COLUMNS))
    # The numbers of samples and of coils are free.
    wanted[_SAMPLES] = (*arrays[_SAMPLES].shape[:1], *shape)
    wanted["quality/chi2_per_coil"] = (*shape[:1], *arrays["quality/chi2_per_coil"].shape[1:2])
    wrong = [name for name in ARRAYS if arrays[name].shape != wanted[name]]
    wrong += [name for name, (_, kind) in STACKED.items() if arrays[name].dtype != kind]
    if len(shape) != 3 or wrong:
        raise ScanError(
            "result-damaged",
            f"shapes or types disagree in {', '.join(wrong) or 'mean'}; reconstruct again",
        )


def _posterior(
    arrays: Mapping[str, NDArray[Any]], position: int, warnings: Mapping[int, tuple[str, ...]]
) -> SlicePosterior:
    values: dict[str, Any] = {}
    for name, (field, kind) in STACKED.items():
        value = np.asarray(arrays[name][position], kind)
        values[field] = value if value.ndim else value.item()
    return SlicePosterior(
        **values,
        samples=np.ascontiguousarray(arrays[_SAMPLES][:, position], np.complex64),
        warnings=warnings.get(values["index"], ()),
        self_check=_self_check(arrays[_SELF_CHECK][position]),
    )


def _warnings_by_slice(text: str) -> dict[int, tuple[str, ...]]:
    found: dict[int, tuple[str, ...]] = {}
    for entry in json.loads(text):
        index = int(entry["slice"])
        found[index] = (*found.get(index, ()), str(entry["warning"]))
    return found


def _self_check_row(check: SelfCheck | None) -> list[float]:
    if check is None:
        return [float("nan")] * len(SELF_CHECK_COLUMNS)
    return [float(getattr(check, name)) for name in SELF_CHECK_COLUMNS]


def _self_check(row: NDArray[Any]) -> SelfCheck | None:
    if not np.isfinite(row[0]):
        return None
    return SelfCheck(int(row[0]), *(float(value) for value in row[1:]))
