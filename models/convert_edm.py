"""State dicts of EDM-preconditioned `SongUNet`s (NVlabs/edm) made into models."""

from __future__ import annotations

import io
import pickle
import re
import struct
import warnings
import zipfile
from pathlib import Path
from typing import Literal

import torch
from pydantic import ValidationError
from torch import Tensor

from models.convert import (
    MAX_SOURCE_BYTES,
    Conversion,
    check_channels,
    unsupported,
    write_converted,
)
from models.errors import ModelError
from models.model_folder import read_capped
from models.model_weights import parse_safetensors
from models.network_configs import SongUNetConfig
from models.parameterizations import EdmParameterization
from models.registry import check_name


def convert_edm(source: Path, out_folder: Path, about: Conversion, sigma_data: float) -> Path:
    """Make a model of the state dict of an EDM-preconditioned `SongUNet`; returns its folder.

    `source` is a `.safetensors` file, or a `.pt` file of tensors only. The architecture follows
    from names and shapes. `sigma_data` is in the model's units. Raises ModelError.
    """
    check_name(about.name)
    state = _read_state(source)
    prefix = "model." if all(key.startswith("model.") for key in state) else ""
    state = {key.removeprefix(prefix): value for key, value in state.items()}
    try:
        network, tensors = _song_unet(state)
        parameterization = EdmParameterization(sigma_data=sigma_data, noise_label="quarter-log")
    except ValidationError as error:
        raise unsupported(source.name, error) from error
    return write_converted(out_folder, about, network, parameterization, tensors)


# What torch.load was seen or is documented to raise for damaged and hostile files.
_LOAD_ERRORS = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


def _read_state(source: Path) -> dict[str, Tensor]:
    if source.suffix == ".pkl":
        raise ModelError(
            "pickle",
            f"{source.name} is a pickle, which runs code when it is read; where you trust it, in a "
            'copy of the EDM repository, export its state dict: python -c "import pickle, torch; '
            "net = pickle.load(open('model.pkl', 'rb'))['ema']; "
            "torch.save(net.state_dict(), 'model.pt')\"",
        )
    content = read_capped(source, MAX_SOURCE_BYTES, "weights-size")
    if source.suffix == ".safetensors":
        return parse_safetensors(content, f"the weights in {source.name}")
    state = _load_tensors(content, source.name)
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ModelError(
            "weights-format", f"{source.name} holds more than a state dict; save net.state_dict()"
        )
    return state


def _load_tensors(content: bytes, name: str) -> object:
    """What `torch.save` wrote, if that is tensors and containers of them; else ModelError."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            # Compressed entries could be of any size.
            if sum(entry.file_size for entry in archive.infolist()) > MAX_SOURCE_BYTES:
                raise ModelError("weights-size", f"{name} is larger than allowed when unpacked")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd pickles, which fail or do no harm
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except _LOAD_ERRORS as error:
        raise ModelError(
            "weights-format",
            f"{name} is not a file of tensors only; save `net.state_dict()` with torch.save",
        ) from error


# Label embeddings of augmentations are left out: without labels they are not added.
_EDM_KEY = re.compile(r"(enc|dec)\.(\d+)x\2_(\w+?)\.(.+)")


def _song_unet(state: dict[str, Tensor]) -> tuple[SongUNetConfig, dict[str, Tensor]]:
    """The architecture that a `SongUNet` state dict implies, and its tensors by our names."""
    sizes = sorted(
        {int(found[2]) for key in state if (found := _EDM_KEY.fullmatch(key))}, reverse=True
    )
    if not sizes or any(size != sizes[0] >> level for level, size in enumerate(sizes)):
        raise ModelError(
            "unsupported-source", "the state dict is not that of a SongUNet of NVlabs/edm"
        )
    for name in ("map_label.weight", "out_conv.weight"):
        if name in state:
            raise ModelError(
                "unsupported-source",
                f"the state dict holds '{name}': class-conditional and ADM networks cannot be "
                "converted",
            )
    named, filters = _our_names(state, {str(size): level for level, size in enumerate(sizes)})
    shapes = {key: tuple(value.shape) for key, value in named.items()}
    try:
        base, inputs = shapes["enc.0_conv.weight"][:2]
        check_channels(inputs, shapes["dec.0_aux_conv.weight"][0])
        levels = range(len(sizes))
        embedded, waves = shapes["map_layer0.weight"]
        config = SongUNetConfig(
            base_channels=base,
            channels=tuple(shapes[f"enc.{level}_block0.conv1.weight"][0] for level in levels),
            blocks=sum(1 for key in shapes if re.fullmatch(r"enc\.0_block\d+\.conv1\.weight", key)),
            attention=tuple(f"enc.{level}_block0.qkv.weight" in shapes for level in levels),
            noise_channels=waves,
            embedding_channels=embedded,
            embedding="fourier" if "map_noise.freqs" in shapes else "positional",
            encoder="residual" if "enc.1_aux_residual.conv.weight" in shapes else "standard",
            resample_filter=_filter_name(filters),
        )
    except (KeyError, IndexError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise
        raise ModelError(
            "unsupported-source", f"the state dict is not that of a SongUNet: no {error}"
        ) from error
    return config, named


def _our_names(
    state: dict[str, Tensor], levels: dict[str, int]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Tensors by level instead of size, and the resampling filters, which are constants."""
    named: dict[str, Tensor] = {}
    filters = []
    for key, value in state.items():
        found = _EDM_KEY.fullmatch(key)
        if key.endswith(".resample_filter"):
            filters.append(value)
        elif found is None:
            if not key.startswith("map_augment."):
                named[key] = value
        elif found[3] in ("aux_skip", "aux_up", "aux_down"):
            raise ModelError(
                "unsupported-source",
                f"{key!r} belongs to an encoder or decoder of type 'skip'; 'standard' and "
                "'residual' encoders and 'standard' decoders can be converted",
            )
        else:
            inner = "conv." if found[3] == "aux_residual" else ""
            named[f"{found[1]}.{levels[found[2]]}_{found[3]}.{inner}{found[4]}"] = value
    return named, filters


def _filter_name(filters: list[Tensor]) -> Literal["box", "binomial"]:
    for name, taps in (("box", (1.0, 1.0)), ("binomial", (1.0, 3.0, 3.0, 1.0))):
        line = torch.tensor(taps)
        wanted = (torch.outer(line, line) / line.sum() ** 2)[None, None]
        if all(
            found.shape == wanted.shape and torch.allclose(found.float(), wanted)
            for found in filters
        ):
            return "box" if name == "box" else "binomial"
    raise ModelError(
        "unsupported-source",
        "the resampling filters are neither all [1, 1] nor all [1, 3, 3, 1]",
    )
