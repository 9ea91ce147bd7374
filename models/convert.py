"""What converters of other software's checkpoints share: offline, one way, nothing executed.

Only complex models can be used: two channels, the real and the imaginary part. How a model's pixel
values relate to ours is not in any checkpoint and is therefore asked for (`Conversion.scale`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import Tensor

from models.errors import ModelError
from models.install import write_model
from models.model_folder import MAX_WEIGHTS_BYTES, ModelDescription, WeightsDtype, printable
from models.network_configs import NetworkConfig
from models.parameterizations import Parameterization

# float32 checkpoints are twice as large as what is stored of them by default.
MAX_SOURCE_BYTES = 2 * MAX_WEIGHTS_BYTES


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint does not say and its converter is told.

    `scale` is the model's pixel value that stands for our 1.0. The noise levels are in our units;
    None takes the whole range of a discrete schedule.
    """

    name: str
    scale: float
    training: str
    licence: str
    data_attributions: tuple[str, ...]
    sigma_low: float | None = None
    sigma_high: float | None = None
    weights_dtype: WeightsDtype = "bfloat16"


def write_converted(
    out_folder: Path,
    about: Conversion,
    network: NetworkConfig,
    parameterization: Parameterization,
    tensors: dict[str, Tensor],
) -> Path:
    """Write the model and run it once; returns its folder. Raises ModelError."""
    if not 0 < about.scale < float("inf"):
        raise ModelError("bad-scale", f"the scale must be a positive number, not {about.scale:g}")
    lowest, highest = (level / about.scale for level in parameterization.sigma_range)
    try:
        description = ModelDescription(
            name=about.name,
            network=network,
            parameterization=parameterization,
            scale=about.scale,
            sigma_range=(
                lowest if about.sigma_low is None else about.sigma_low,
                highest if about.sigma_high is None else about.sigma_high,
            ),
            weights_dtype=about.weights_dtype,
            training=about.training,
            licence=about.licence,
            data_attributions=about.data_attributions,
        )
    except ValidationError as error:
        raise ModelError("bad-config", f"no such model: {reasons(error)}") from error
    return write_model(out_folder, description, tensors, smoke_tested=True)


def reasons(error: ValidationError) -> str:
    """The first few complaints, on one line."""
    return printable(
        "; ".join(
            f"{'.'.join(map(str, item['loc']))}: {item['msg']}".removeprefix(": ")
            for item in error.errors()[:4]
        )
    )


def unsupported(what: str, error: ValidationError) -> ModelError:
    """The error for a checkpoint that is none of those that can be converted."""
    return ModelError("unsupported-source", f"{what} cannot be converted: {reasons(error)}")


def check_channels(inputs: object, outputs: object) -> None:
    """Raise ModelError unless the network maps complex images to complex images."""
    if (inputs, outputs) == (2, 2):
        return
    raise ModelError(
        "not-complex",
        f"the checkpoint maps {inputs} to {outputs} channels; a prior of complex images needs "
        "two of each, the real and the imaginary part (a model of magnitudes knows no phase)",
    )
