"""Trained priors on disk: found by name, checked before use, never executed.

A model is a folder `<name>/` of `config.json`, `weights.safetensors` and, for people, `README.md`.
Folders are looked up among the shipped ones first, so a shipped name always means shipped weights,
and then in the user's. Order of the checks: sizes, SHA-256, format, then names, shapes and dtypes
against the network that the configuration describes.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from models.denoiser import SIGMA_DATA, NetworkPrior
from models.network import UNet, UNetConfig

SHIPPED_FOLDER = Path(__file__).parent / "weights"
USER_FOLDER_VARIABLE = "MRI_POSTERIOR_MODELS"
MAX_CONFIG_BYTES = 64 * 1024
MAX_WEIGHTS_BYTES = 512 * 1024**2
MAX_CHANNELS = 1024

_NAME = r"^[a-z0-9][a-z0-9-]{0,63}$"
_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


class ModelError(Exception):
    """A model cannot be used; the message says why and what to do.

    `code` is a short, stable, kebab-case name for programs (for example `weights-digest`).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[ModelError], tuple[str, str]]:
        return type(self), (self.code, self.message)


class ModelConfig(BaseModel):
    """Everything needed to rebuild a prior, and what its user should know about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=_NAME)]
    network: UNetConfig
    sigma_range: tuple[float, float]
    sigma_data: float = Field(description="RMS of one component that preconditioning assumes")
    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    weights_dtype: Literal["bfloat16", "float32"] = "bfloat16"
    training: str = Field(min_length=1, description="how it was trained, for people")
    licence: str = Field(min_length=1, description="licence of the weights")
    data_attributions: tuple[str, ...] = Field(description="where the training data came from")

    @model_validator(mode="after")
    def _supported(self) -> Self:
        low, high = self.sigma_range
        if not 0 < low < high < float("inf"):
            raise ValueError("sigma_range must be two increasing positive numbers")
        if not all(0 < count <= MAX_CHANNELS for count in self.network.channels):
            raise ValueError(f"the network's channels must be between 1 and {MAX_CHANNELS}")
        if self.sigma_data != SIGMA_DATA:
            raise ValueError(
                f"sigma_data must be {SIGMA_DATA}, the value this version computes with"
            )
        return self


def user_folder() -> Path:
    """Where the user's own models are: `$MRI_POSTERIOR_MODELS`, or the platform's data folder."""
    if chosen := os.environ.get(USER_FOLDER_VARIABLE):
        return Path(chosen)
    data = os.environ.get("XDG_DATA_HOME")
    base = Path(data) if data else Path.home() / ".local" / "share"
    return base / "mri-posterior" / "models"


def list_models() -> tuple[str, ...]:
    """Names of all models that can be asked for, sorted; their files are not checked yet."""
    return tuple(
        sorted(
            {
                file.parent.name
                for folder in (SHIPPED_FOLDER, user_folder())
                for file in folder.glob("*/config.json")
                if re.fullmatch(_NAME, file.parent.name)
            }
        )
    )


def read_config(name: str) -> ModelConfig:
    """The checked configuration of a model; its weights are not read."""
    return _read_config(_find(name))


def load_prior(
    name: str,
    device: torch.device | str = "cpu",
    compute_dtype: torch.dtype | None = None,
) -> NetworkPrior:
    """A model as a prior on `device`.

    Weights are kept in float32; the network computes in `compute_dtype`, which defaults to
    `compute_dtype_for(device)`.
    """
    folder, target = _find(name), torch.device(device)
    config = _read_config(folder)
    content = _read_capped(folder / "weights.safetensors", MAX_WEIGHTS_BYTES, "weights-size")
    if hashlib.sha256(content).hexdigest() != config.weights_sha256:
        raise ModelError(
            "weights-digest",
            f"the weights of model '{name}' are not those its configuration was written for "
            "(SHA-256 differs); install the model again",
        )
    tensors = _checked_tensors(content, config)
    network = UNet(config.network)
    network.load_state_dict({key: value.float() for key, value in tensors.items()})
    network.to(target, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return NetworkPrior(network, config.sigma_range, compute_dtype or compute_dtype_for(target))


def compute_dtype_for(device: torch.device | str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it natively, else float32.

    Asked of torch, which asks CUDA (compute capability 8 and up) or, on x86, CPUID: AVX512-BF16 or
    AMX. Elsewhere bfloat16 is emulated. Measured with the default network on one core of an EPYC
    with AVX512-BF16, 256 x 256 pixels: 0.05 s per slice against 0.10 s in float32.
    """
    kind = torch.device(device).type
    if kind == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = kind == "cpu" and (
            torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
        )
    return torch.bfloat16 if native else torch.float32


class _TrainingRun(BaseModel):
    """The part of a run's `training.json` that its model depends on."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    network: UNetConfig
    sigma_range: tuple[float, float]


def package(
    run_folder: Path,
    out_folder: Path,
    name: str,
    *,
    training: str,
    licence: str,
    data_attributions: tuple[str, ...],
    lowest_sigma: float | None = None,
) -> Path:
    """Make the model `out_folder/<name>` out of a training run and return its folder.

    `lowest_sigma` is the noise level below which samplers should not trust the network; None
    takes the lowest one it was trained at. The error of its score grows as that of the denoiser
    over sigma squared, so that it becomes useless before the denoiser does.
    Weights are stored in bfloat16. The folder appears complete or not at all, and an existing one
    is never replaced.
    """
    _check_name(name)
    target = out_folder / name
    if target.exists():
        raise ModelError("exists", f"{target} exists already; choose another name or remove it")
    text = _read_capped(run_folder / "training.json", MAX_CONFIG_BYTES, "config-size")
    content = _read_capped(run_folder / "weights.safetensors", MAX_WEIGHTS_BYTES, "weights-size")
    out_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".packaging-", dir=out_folder) as scratch:
        made = Path(scratch) / name
        made.mkdir()
        try:
            run = _TrainingRun.model_validate_json(text)
            tensors = load(content)
            weights = made / "weights.safetensors"
            save_file({key: value.to(torch.bfloat16) for key, value in tensors.items()}, weights)
            stored = weights.read_bytes()
            config = ModelConfig(
                name=name,
                network=run.network,
                sigma_range=(lowest_sigma or run.sigma_range[0], run.sigma_range[1]),
                sigma_data=SIGMA_DATA,
                weights_sha256=hashlib.sha256(stored).hexdigest(),
                training=training,
                licence=licence,
                data_attributions=data_attributions,
            )
        except (ValidationError, SafetensorError) as error:
            raise ModelError("bad-run", f"{run_folder} is not a training run: {error}") from error
        tensors = _checked_tensors(stored, config)
        (made / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        (made / "README.md").write_text(_model_card(config, tensors))
        made.rename(target)
    return target


def _check_name(name: str) -> None:
    if not re.fullmatch(_NAME, name):
        raise ModelError(
            "bad-name",
            f"{name!r} is not a model name: use 1-64 lower-case letters, digits and hyphens "
            "(a name, not a path)",
        )


def _find(name: str) -> Path:
    _check_name(name)
    for folder in (SHIPPED_FOLDER, user_folder()):
        if (folder / name / "config.json").is_file():
            return folder / name
    known = ", ".join(list_models()) or "none"
    raise ModelError("not-found", f"there is no model '{name}'; installed models: {known}")


def _read_config(folder: Path) -> ModelConfig:
    text = _read_capped(folder / "config.json", MAX_CONFIG_BYTES, "config-size")
    try:
        config = ModelConfig.model_validate_json(text)
    except ValidationError as error:
        raise ModelError("bad-config", f"{folder / 'config.json'} is not valid: {error}") from error
    if config.name != folder.name:
        raise ModelError(
            "name-mismatch",
            f"the model in {folder} calls itself '{config.name}'; rename the folder",
        )
    return config


def _read_capped(file: Path, limit: int, code: str) -> bytes:
    if not file.is_file():
        raise ModelError("missing-file", f"{file} is missing or not a regular file")
    with file.open("rb") as handle:
        content = handle.read(limit + 1)
    if len(content) > limit:
        raise ModelError(code, f"{file} is larger than the {limit:,} bytes allowed")
    return content


def _checked_tensors(content: bytes, config: ModelConfig) -> dict[str, Tensor]:
    """Tensors of a safetensors file, exactly those that the configured network holds."""
    try:
        with torch.device("meta"):  # shapes only: a hostile configuration costs no memory
            expected = UNet(config.network).state_dict()
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(
            "bad-config", f"no network can be built for model '{config.name}': {error}"
        ) from error
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ModelError(
            "weights-format", f"the weights of model '{config.name}' are not safetensors: {error}"
        ) from error
    dtype = _DTYPES[config.weights_dtype]
    wrong = sorted(expected.keys() ^ tensors.keys()) + sorted(
        key
        for key, value in tensors.items()
        if key in expected and (value.shape != expected[key].shape or value.dtype != dtype)
    )
    if wrong:
        raise ModelError(
            "weights-mismatch",
            f"the weights of model '{config.name}' do not fit its network: {len(wrong)} tensors "
            f"are missing, unknown or of another shape or type, {wrong[0]!r} among them",
        )
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ModelError(
            "weights-not-finite", f"model '{config.name}' holds NaN or infinite weights"
        )
    return tensors


def _model_card(config: ModelConfig, tensors: dict[str, Tensor]) -> str:
    parameters = sum(value.numel() for value in tensors.values())
    low, high = config.sigma_range
    sources = "\n".join(f"- {source}" for source in config.data_attributions) or "- none named"
    return f"""# {config.name}

A learned prior of complex MR images for `mri-posterior`: a denoiser with {parameters:,} parameters
({config.network.architecture}), for noise of {low:g} to {high:g} per real component on images whose
99th percentile of the magnitude is 1.

## Training

{config.training}

## Training data

{sources}

## Limits

For research. It knows the anatomy, contrast and scanners of its training data and nothing else; on
other images the reconstruction may be wrong and the uncertainty too small.

## Licence of the weights

{config.licence}
"""
