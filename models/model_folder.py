"""A model on disk: a folder of `config.json`, `weights.safetensors` and, for people, `README.md`.

`calibration.json` (`models.conformal_factors`) and `typical.json` (`models.typical_scans`) may lie
beside them. What is read here loads no torch; `models.model_weights` reads the weights.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
import unicodedata
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)

from models.errors import ModelError
from models.network_configs import NetworkConfig, NoiseExpertsConfig, ResidualUNetConfig
from models.parameterizations import TRAINED_HERE, EdmParameterization, Parameterization

FILES = ("config.json", "weights.safetensors", "README.md")
FACTORS_FILE = "calibration.json"
"""Not part of a model, but of its folder where there is one."""
TYPICAL_FILE = "typical.json"
"""The same."""
NAME_PATTERN = r"^[a-z0-9][a-z0-9-]{0,63}$"
STEP = ".step"
"""Ends the names of tensors that say what 1 means in a kernel of whole numbers."""
MAX_CONFIG_BYTES = 64 * 1024
MAX_CARD_BYTES = 256 * 1024
MAX_WEIGHTS_BYTES = 512 * 1024**2
MAX_HEADER_BYTES = 1024**2


def printable(text: str) -> str:
    """`text` without control and formatting characters, which could rewrite a terminal."""
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c)[0] != "C")


def _plain(text: str) -> str:
    if printable(text) != text:
        raise ValueError("control and formatting characters are not allowed")
    return text


PlainText = Annotated[str, StringConstraints(min_length=1), AfterValidator(_plain)]
WeightsDtype = Literal["int8", "bfloat16", "float16", "float32"]


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
    power: float = Field(
        1.0,
        ge=0.25,
        le=4,
        description="its density is raised to it in a reconstruction: below 1 if it is too sure",
    )
    weights_dtype: WeightsDtype = Field(
        "bfloat16",
        description="int8: kernels as whole numbers and a step per channel, the rest bfloat16",
    )
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


def read_capped(
    file: Path, limit: int, code: str, *, follow_links: bool = True, most: int | None = None
) -> bytes:
    """The content of a regular file of at most `limit` bytes; ModelError with `code` if larger.

    `most` asks for the first bytes only.
    """
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
            return handle.read(status.st_size if most is None else most)
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


def count_parameters(folder: Path) -> int:
    """Number of weights, as the header of their file says; the weights themselves are not read.

    Raises ModelError.
    """
    file = folder / "weights.safetensors"
    what = f"the weights of model '{folder.name}'"
    size = header_bytes(read_capped(file, MAX_WEIGHTS_BYTES, "weights-size", most=8), what)
    return parameters_in(read_capped(file, MAX_WEIGHTS_BYTES, "weights-size", most=8 + size), what)


def parameters_in(weights: bytes, what: str) -> int:
    """Number of weights in a safetensors file, of which the header is enough.

    Steps of kernels in whole numbers are none. `what` names it in the ModelError.
    """
    try:
        header = json.loads(weights[8 : 8 + header_bytes(weights, what)])
        shapes = [
            entry["shape"]
            for name, entry in header.items()
            if name != "__metadata__" and not name.endswith(STEP)
        ]
        return sum(math.prod(map(int, shape)) for shape in shapes)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ModelError("weights-format", f"{what} are not safetensors") from error


def header_bytes(start: bytes, what: str) -> int:
    """Length of the header of a safetensors file that starts so; `what` names it in the ModelError.

    It is JSON: its length is capped before anything parses it.
    """
    size = int.from_bytes(start[:8], "little")
    if size > MAX_HEADER_BYTES:
        raise ModelError("weights-format", f"{what} are not safetensors, or of too many tensors")
    return size
