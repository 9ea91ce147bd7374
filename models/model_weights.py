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
    ModelConfig,
    ModelDescription,
    header_bytes,
    read_capped,
    read_config_file,
)

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class Model(NamedTuple):
    """A model whose files passed every check that does not run the network."""

    config: ModelConfig
    tensors: dict[str, Tensor]


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
    if not all(bool(value.isfinite().all()) for value in tensors.values()):
        raise ModelError(
            "weights-not-finite", f"model '{config.name}' holds NaN or infinite weights"
        )
    return Model(config, tensors)


def expected_tensors(
    config: ModelDescription,
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shape and type of every tensor of the configured network; no memory is allocated for them.

    Trained weights have the configured type; constants (such as embedding frequencies, whose
    rounding errors would be multiplied) are float32. Raises ModelError when there is no such
    network.
    """
    try:
        with torch.device("meta"):
            network = build_network(config.network)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise ModelError(
            "bad-config", f"no network can be built for model '{config.name}': {error}"
        ) from error
    trained = {key for key, _ in network.named_parameters()}
    return {
        key: (
            tuple(value.shape),
            _DTYPES[config.weights_dtype] if key in trained else torch.float32,
        )
        for key, value in network.state_dict().items()
    }


def check_fit(
    config: ModelDescription, tensors: Mapping[str, Tensor], *, types: bool = True
) -> None:
    """Raise ModelError unless these are exactly the tensors of the configured network.

    `types=False` lets tensors be of other types than they are going to be stored in.
    """
    expected = expected_tensors(config)
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
