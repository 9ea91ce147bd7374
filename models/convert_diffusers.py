"""Folders of diffusers' `UNet2DModel` made into models, without importing diffusers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from models.convert import (
    MAX_SOURCE_BYTES,
    Conversion,
    check_channels,
    unsupported,
    write_converted,
)
from models.errors import ModelError
from models.model_folder import MAX_CONFIG_BYTES, read_capped
from models.model_weights import parse_safetensors
from models.network_configs import DiffusersUNetConfig
from models.parameterizations import BetaSchedule, VariancePreservingParameterization
from models.registry import check_name


def convert_diffusers(source: Path, out_folder: Path, about: Conversion) -> Path:
    """Make a model of a diffusers `UNet2DModel` folder; returns the new model's folder.

    `source` holds `config.json` and `diffusion_pytorch_model.safetensors`; the noise schedule is
    `scheduler_config.json` beside them, or in `scheduler` beside or below `source`. Raises
    ModelError.
    """
    check_name(about.name)
    network = _diffusers_network(_read_json(source / "config.json"))
    parameterization = _diffusers_schedule(_read_json(_scheduler_file(source)))
    weights = source / "diffusion_pytorch_model.safetensors"
    if not weights.exists():
        raise ModelError(
            "missing-file",
            f"{weights} is missing; save the model in one file with "
            "`model.save_pretrained(folder, safe_serialization=True)` (pickles are not read)",
        )
    content = read_capped(weights, MAX_SOURCE_BYTES, "weights-size")
    tensors = _current_names(parse_safetensors(content, f"the weights in {source}"))
    return write_converted(out_folder, about, network, parameterization, tensors)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_capped(file, MAX_CONFIG_BYTES, "config-size"))
    except (ValueError, RecursionError) as error:
        raise ModelError("bad-config", f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ModelError("bad-config", f"{file} must hold a JSON object")
    return found


# Options of UNet2DModel that do not change what a trained network computes.
_IRRELEVANT = {"sample_size", "dropout", "num_train_timesteps"}


def _diffusers_network(options: dict[str, Any]) -> DiffusersUNetConfig:
    kind = options.get("_class_name")
    if kind != "UNet2DModel":
        raise ModelError(
            "unsupported-source",
            f"the network is a {str(kind)[:60]!r}; only unconditional UNet2DModel can be converted",
        )
    check_channels(options.get("in_channels", 3), options.get("out_channels", 3))
    kept = {
        key: value
        for key, value in options.items()
        if not key.startswith("_") and key not in _IRRELEVANT
    }
    try:
        return DiffusersUNetConfig.model_validate_json(json.dumps(kept))
    except ValidationError as error:
        raise unsupported("the network", error) from error


def _scheduler_file(source: Path) -> Path:
    places = [
        folder / "scheduler_config.json"
        for folder in (source, source / "scheduler", source.resolve().parent / "scheduler")
    ]
    for place in places:
        if place.exists():
            return place
    raise ModelError(
        "missing-file",
        "there is no scheduler_config.json beside the model, nor in a folder 'scheduler' there or "
        "one level up; the noise schedule it was trained with is needed",
    )


class _Scheduler(BaseModel):
    """What a diffusers scheduler says about the training; how it samples does not matter."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    beta_schedule: BetaSchedule = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    num_train_timesteps: int = 1000
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon"
    trained_betas: None = None
    rescale_betas_zero_snr: Literal[False] = False
    use_flow_sigmas: Literal[False] | None = None


_VARIANCE_PRESERVING = (
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "UniPCMultistepScheduler",
)


def _diffusers_schedule(options: dict[str, Any]) -> VariancePreservingParameterization:
    kind = options.get("_class_name")
    if kind not in _VARIANCE_PRESERVING:
        raise ModelError(
            "unsupported-source",
            f"the scheduler is a {str(kind)[:60]!r}; supported are "
            + ", ".join(_VARIANCE_PRESERVING),
        )
    try:
        scheduler = _Scheduler.model_validate(options)
        return VariancePreservingParameterization(
            kind="vp-epsilon" if scheduler.prediction_type == "epsilon" else "vp-v",
            beta_schedule=scheduler.beta_schedule,
            beta_start=scheduler.beta_start,
            beta_end=scheduler.beta_end,
            timesteps=scheduler.num_train_timesteps,
        )
    except ValidationError as error:
        raise unsupported("the noise schedule", error) from error


# Attention layers as diffusers named them before version 0.17.
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        re.sub(
            r"(\.attentions\.\d+\.)(query|key|value|proj_attn)(\.\w+)$",
            lambda found: found[1] + _OLD_NAMES[found[2]] + found[3],
            key,
        ): value
        for key, value in tensors.items()
    }
