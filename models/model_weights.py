"""The weights of a model on disk: read with every check that does not run the network.

Nothing in them is ever executed. Order of the checks: kind and size of the file, SHA-256, format,
then names, shapes and types against the network that the configuration describes, then values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from models.architectures import build_network
from models.errors import ModelError
from models.model_folder import (
    MAX_WEIGHTS_BYTES,
    STEP,
    ModelConfig,
    ModelDescription,
    header_bytes,
    read_capped,
    read_config_file,
)

_DTYPES = {
    "int8": torch.int8,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_KERNEL_AXES = 4


class Model(NamedTuple):
    """A model whose files passed every check that does not run the network."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    """What the network is loaded with: kernels stored as whole numbers are float32."""


def read_model(folder: Path) -> Model:
    """The model in `folder`, after every check that does not run the network.

    Raises ModelError. The checks never execute anything, and allocate no more than the capped
    files are large.
    """
    config = read_config_file(folder)
    content = read_capped(folder / "weights.safetensors", MAX_WEIGHTS_BYTES, "weights-size")
    if hashlib.sha256(content).hexdigest() != config.weights_sha256:
        raise ModelError(
            "weights-digest",
            f"the weights of model '{config.name}' are not those its configuration was written "
            "for (SHA-256 differs); install the model again",
        )
    tensors = parse_safetensors(content, f"the weights of model '{config.name}'")
    check_fit(config, tensors)
    tensors = _from_whole_numbers(tensors)
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ModelError(
            "weights-not-finite", f"model '{config.name}' holds NaN or infinite weights"
        )
    return Model(config, tensors)


def to_stored(description: ModelDescription, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a network as its file holds them, in the described types.

    With int8 a kernel becomes whole numbers from -127 to 127, and a step for each of its first
    axis (Krishnamoorthi 2018, "Quantizing deep convolutional networks for efficient inference",
    section 3: symmetric, per channel). The network computes as with any other weights.
    """
    stored: dict[str, Tensor] = {}
    for key, (_, dtype) in expected_tensors(description).items():
        if dtype == torch.int8:
            stored[key], stored[key + STEP] = _in_whole_numbers(tensors[key])
        elif not key.endswith(STEP):
            stored[key] = tensors[key].to(dtype).contiguous()
    return stored


def _in_whole_numbers(kernel: Tensor) -> tuple[Tensor, Tensor]:
    values = kernel.float()
    step = values.flatten(1).abs().amax(dim=1) / 127
    whole = (values / _over(step.clamp_min(1e-30), values)).round()
    return whole.to(torch.int8).contiguous(), step


def _from_whole_numbers(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key: value.float() * _over(stored[key + STEP], value)
        if value.dtype == torch.int8
        else value
        for key, value in stored.items()
        if not key.endswith(STEP)
    }


def _over(step: Tensor, kernel: Tensor) -> Tensor:
    return step.reshape(-1, *[1] * (kernel.ndim - 1))


def expected_tensors(
    config: ModelDescription,
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor in the model's file; no memory is allocated for them.

    Trained weights have the configured type, with int8 only kernels of convolutions, each with its
    step (float32); constants (such as embedding frequencies, whose rounding errors would be
    multiplied) are float32. Raises ModelError when there is no such network.
    """
    try:
        with torch.device("meta"):
            network = build_network(config.network)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(
            "bad-config", f"no network can be built for model '{config.name}': {error}"
        ) from error
    trained = {key for key, _ in network.named_parameters()}
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for key, value in network.state_dict().items():
        dtype = _DTYPES[config.weights_dtype] if key in trained else torch.float32
        if dtype == torch.int8 and value.ndim < _KERNEL_AXES:
            dtype = torch.bfloat16
        expected[key] = tuple(value.shape), dtype
        if dtype == torch.int8:
            expected[key + STEP] = (value.shape[0],), torch.float32
    return expected


def check_fit(
    config: ModelDescription, tensors: Mapping[str, Tensor], *, types: bool = True
) -> None:
    """Raise ModelError unless these are exactly the tensors of the model's file.

    `types=False`: of its network, of any types, before `to_stored`.
    """
    expected = expected_tensors(config)
    if not types:
        expected = {key: value for key, value in expected.items() if not key.endswith(STEP)}
    wrong = sorted(expected.keys() ^ tensors.keys()) + sorted(
        key
        for key, value in tensors.items()
        if key in expected
        and (tuple(value.shape) != expected[key][0] or (types and value.dtype != expected[key][1]))
    )
    if wrong:
        raise ModelError(
            "weights-mismatch",
            f"the weights of model '{config.name}' do not fit its network: {len(wrong)} tensors "
            f"are missing, unknown or of another shape or type, {wrong[0]!r} among them",
        )


def parse_safetensors(content: bytes, what: str) -> dict[str, Tensor]:
    """All tensors of a safetensors file; `what` names it in the ModelError."""
    header_bytes(content, what)
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:
        raise ModelError("weights-format", f"{what} are not safetensors: {error}") from error
