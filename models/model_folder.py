"""A model on disk: a folder of `config.json`, `weights.safetensors` and, for people, `README.md`.

`calibration.json` (`models.conformal_factors`) and `typical.json` (`models.typical_scans`) may lie
beside them.

Nothing in it is ever executed. Order of the checks: kind and size of the files, SHA-256, format,
then names, shapes and types against the network that the configuration describes, then values.
"""

from __future__ import annotations

import hashlib
import math
import os
import secrets
import stat
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, Self

import torch
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from models.architectures import NetworkConfig, build_network
from models.denoiser import TRAINED_HERE, EdmParameterization, Parameterization
from models.errors import ModelError
from models.noise_experts import NoiseExpertsConfig
from models.residual_unet import ResidualUNetConfig

FILES = ("config.json", "weights.safetensors", "README.md")
FACTORS_FILE = "calibration.json"
"""Not part of a model, but of its folder where there is one."""
TYPICAL_FILE = "typical.json"
"""The same."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,63}$"
MAX_CONFIG_BYTES = 64 * 1024
MAX_CARD_BYTES = 256 * 1024
MAX_WEIGHTS_BYTES = 512 * 1024**2
MAX_HEADER_BYTES = 1024**2

_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def printable(text: str) -> str:
    """`text` without control and formatting characters, which could rewrite a terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")


def _plain(text: str) -> str:
    if printable(text) != text:
        raise ValueError("control and formatting characters are not allowed")
    return text


PlainText = Annotated[str, StringConstraints(min_length=1), AfterValidator(_plain)]
WeightsDtype = Literal["bfloat16", "float16", "float32"]


class ModelDescription(BaseModel):
    """Everything needed to rebuild a prior but its weights, and what its user should know."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN)]
    network: NetworkConfig
    parameterization: Parameterization = EdmParameterization()
    scale: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="the network's value of our 1.0"
    )
    sigma_range: tuple[float, float]
    symmetric: bool = Field(
        False, description="flipped, transposed and conjugated images are as likely to it"
    )
    weights_dtype: WeightsDtype = "bfloat16"
    training: PlainText = Field(description="how it was trained, for people")
    licence: PlainText = Field(description="licence of the weights")
    data_attributions: tuple[PlainText, ...] = Field(
        description="where the training data came from"
    )

    @model_validator(mode="after")
    def _supported(self) -> Self:
        low, high = self.sigma_range
        if not 0 < low < high < float("inf"):
            raise ValueError("sigma_range must be two increasing positive numbers")
        own = isinstance(self.network, ResidualUNetConfig | NoiseExpertsConfig)
        if own and self.parameterization != TRAINED_HERE:
            raise ValueError("a residual U-Net knows the noise labels of our own training only")
        lowest, highest = (level / self.scale for level in self.parameterization.sigma_range)
        if low < lowest * (1 - 1e-6) or high > highest * (1 + 1e-6):
            raise ValueError(
                f"sigma_range must lie in the {lowest:g} to {highest:g} that the network's "
                "timesteps and scale allow"
            )
        return self


class ModelConfig(ModelDescription):
    """The whole `config.json`."""

    weights_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


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


def count_parameters(config: ModelDescription) -> int:
    """Number of weights of the network, without building it in memory."""
    return sum(math.prod(shape) for shape, _ in expected_tensors(config).values())


def parse_config(text: bytes, origin: str) -> ModelConfig:
    """The checked content of a `config.json`; `origin` names it in the ModelError."""
    try:
        return ModelConfig.model_validate_json(text)
    except ValidationError as error:
        raise ModelError("bad-config", printable(f"{origin} is not valid: {error}")) from error


def read_config_file(folder: Path) -> ModelConfig:
    """The checked configuration of the model in `folder`. Raises ModelError."""
    file = folder / "config.json"
    config = parse_config(read_capped(file, MAX_CONFIG_BYTES, "config-size"), str(file))
    if config.name != folder.name:
        raise ModelError(
            "name-mismatch",
            f"the model in {folder} calls itself '{config.name}'; rename the folder",
        )
    return config


def read_capped(file: Path, limit: int, code: str, *, follow_links: bool = True) -> bytes:
    """The content of a regular file of at most `limit` bytes; ModelError with `code` if larger."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # a FIFO must not make us wait
    try:
        descriptor = os.open(file, flags if follow_links else flags | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise ModelError("missing-file", f"{file} is missing") from error
    except OSError as error:
        raise ModelError("not-a-file", f"{file} cannot be read as a file: {error}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ModelError("not-a-file", f"{file} is not a regular file")
        if status.st_size > limit:
            raise ModelError(code, f"{file} is larger than the {limit:,} bytes allowed")
        with os.fdopen(descriptor, "rb", closefd=False) as handle:
            return handle.read(status.st_size)
    finally:
        os.close(descriptor)


def read_beside(file: Path, limit: int, code: str, *, follow_links: bool = True) -> bytes | None:
    """What `read_capped` gives of a file that may lie beside a model's own; None if it does not."""
    if not (file.exists() or file.is_symlink()):
        return None
    return read_capped(file, limit, code, follow_links=follow_links)


def write_beside(file: Path, text: str) -> None:
    """Write the file whole, or leave what was there. Raises ModelError where it cannot be."""
    aside = file.with_name(f".{file.name}.{secrets.token_hex(4)}.part")
    try:
        with aside.open("x") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        aside.replace(file)
    except OSError as error:
        raise ModelError(
            "not-writable", f"{file} cannot be written ({error.strerror}); give another --out"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


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
    # The header is JSON: its length is capped before anything parses it.
    if int.from_bytes(content[:8], "little") > MAX_HEADER_BYTES:
        raise ModelError("weights-format", f"{what} are not safetensors, or of too many tensors")
    try:
        return load(content)
    except (SafetensorError, KeyError) as error:
        raise ModelError("weights-format", f"{what} are not safetensors: {error}") from error
