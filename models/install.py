"""Models made, added and removed: a folder of models never shows half of one."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import save
from torch import Tensor

from models.augment import Augmentation
from models.conformal_factors import MAX_FACTORS_BYTES, parse_factors
from models.errors import ModelError
from models.loading import build_prior, smoke_test
from models.model_folder import (
    FACTORS_FILE,
    FILES,
    MAX_CARD_BYTES,
    MAX_CONFIG_BYTES,
    MAX_WEIGHTS_BYTES,
    TYPICAL_FILE,
    ModelConfig,
    ModelDescription,
    WeightsDtype,
    parameters_in,
    parse_config,
    read_beside,
    read_capped,
)
from models.model_weights import check_fit, parse_safetensors, read_model, to_stored
from models.network_configs import (
    NetworkConfig,
    NoiseExpertsConfig,
    ResidualUNetConfig,
    TrainableConfig,
)
from models.noise_experts import Expert, joined, weights_of
from models.registry import SHIPPED_FOLDER, check_name, find_model, user_folder
from models.typical_scans import MAX_TYPICAL_BYTES, parse_typical


class _TrainingRun(BaseModel):
    """The part of a run's `training.json` that its model depends on."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    network: TrainableConfig
    sigma_range: tuple[float, float]
    augmentation: Augmentation = Augmentation()


def package(
    run_folder: Path,
    out_folder: Path,
    name: str,
    *,
    training: str,
    licence: str,
    data_attributions: tuple[str, ...],
    lowest_sigma: float | None = None,
    weights_dtype: WeightsDtype = "bfloat16",
    above: str | None = None,
    between: str | None = None,
) -> Path:
    """Make the model `out_folder/<name>` out of a training run and return its folder.

    `lowest_sigma` is the noise level below which samplers should not trust the network; None
    takes the lowest one it was trained at. The error of its score grows as that of the denoiser
    over sigma squared, so that it becomes useless before the denoiser does. `above` is a model
    that takes over from its own lowest noise level on (`models.noise_experts`); of one that is
    already made of several networks, the one for much noise. `between` is one that takes over
    below that, from its own lowest level on; of several networks, the one for little noise.
    Raises ModelError.
    """
    check_name(name)
    if between is not None and above is None:
        raise ModelError("other-network", "--between needs a model --above it")
    coarse = None if above is None else _read_taken(above, "coarse")
    middle = None if between is None else _read_taken(between, "fine")
    text = read_capped(run_folder / "training.json", MAX_CONFIG_BYTES, "config-size")
    content = read_capped(run_folder / "weights.safetensors", MAX_WEIGHTS_BYTES, "weights-size")
    try:
        run = _TrainingRun.model_validate_json(text)
        tensors = parse_safetensors(content, f"the weights in {run_folder}")
        network: NetworkConfig = run.network
        low, high = lowest_sigma or run.sigma_range[0], run.sigma_range[1]
        if coarse is not None:
            network, tensors = _experts(run.network, tensors, middle, coarse)
            high = coarse.sigma_range[1]
        description = ModelDescription(
            name=name,
            network=network,
            sigma_range=(low, high),
            symmetric=run.augmentation.flips,
            weights_dtype=weights_dtype,
            training=training,
            licence=licence,
            data_attributions=data_attributions,
        )
    except (ValidationError, ModelError) as error:
        raise ModelError("bad-run", f"{run_folder} is not a training run: {error}") from error
    return write_model(out_folder, description, tensors)


class _Taken(NamedTuple):
    """One network of an installed model."""

    network: ResidualUNetConfig
    tensors: dict[str, Tensor]
    sigma_range: tuple[float, float]


def _experts(
    fine: TrainableConfig, tensors: dict[str, Tensor], middle: _Taken | None, coarse: _Taken
) -> tuple[NoiseExpertsConfig, dict[str, Tensor]]:
    """Configuration and weights of a run's network with others above it.

    A run of two networks, for little noise and for more, has its own in the middle.
    """
    if isinstance(fine, NoiseExpertsConfig):
        if fine.middle is not None or middle is not None:
            raise ModelError("other-network", "--between is for runs of one network")
        range_above = (fine.switch, coarse.sigma_range[0])
        middle = _Taken(fine.coarse, weights_of(tensors, "coarse"), range_above)
        fine, tensors = fine.fine, weights_of(tensors, "fine")
    if not isinstance(fine, ResidualUNetConfig):
        raise ModelError("other-network", "a model is put above residual U-Nets only")
    parts: dict[Expert, dict[str, Tensor]] = {"fine": tensors, "coarse": coarse.tensors}
    if middle is not None:
        parts["middle"] = middle.tensors
    config = NoiseExpertsConfig(
        fine=fine,
        middle=None if middle is None else middle.network,
        middle_from=None if middle is None else middle.sigma_range[0],
        coarse=coarse.network,
        switch=coarse.sigma_range[0],
    )
    return config, joined(parts)


def _read_taken(name: str, expert: Literal["fine", "coarse"]) -> _Taken:
    """The only network of a model, or the one that it has for little or for much noise."""
    config, tensors = read_model(find_model(name))
    network, (low, high) = config.network, config.sigma_range
    if isinstance(network, NoiseExpertsConfig):
        if expert == "coarse":
            return _Taken(network.coarse, weights_of(tensors, expert), (network.switch, high))
        return _Taken(network.fine, weights_of(tensors, expert), (low, network.switch))
    if not isinstance(network, ResidualUNetConfig):
        raise ModelError(
            "other-network",
            f"model '{name}' is a {network.architecture}; residual U-Nets and models of several "
            "can be put above another",
        )
    return _Taken(network, tensors, (low, high))


def write_model(
    out_folder: Path,
    description: ModelDescription,
    tensors: dict[str, Tensor],
    *,
    smoke_tested: bool = False,
) -> Path:
    """Write the model `out_folder/<name>`, weights in the described type; returns its folder.

    The folder appears complete and checked or not at all, and an existing one is never replaced.
    Raises ModelError.
    """
    check_fit(description, tensors, types=False)  # before anything is copied
    stored = save(to_stored(description, tensors))
    config = ModelConfig(
        **{key: getattr(description, key) for key in ModelDescription.model_fields},
        weights_sha256=hashlib.sha256(stored).hexdigest(),
    )
    files = {"weights.safetensors": stored, "README.md": _model_card(config, stored).encode()}
    return _install(out_folder, config, files, smoke_tested=smoke_tested)


def add_model(folder: Path, name: str | None = None) -> Path:
    """Copy a model folder into the user's; returns the new folder.

    Only the files of a model are taken, links are not followed, and what was copied is checked and
    run once before it can be found. `name` replaces the one in `config.json`. Raises
    ModelError.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise ModelError("not-a-folder", f"{folder} is not a folder; name one, not a link or file")
    text = read_capped(folder / FILES[0], MAX_CONFIG_BYTES, "config-size", follow_links=False)
    config = parse_config(text, str(folder / FILES[0]))
    if name is not None:
        check_name(name)
        config = config.model_copy(update={"name": name})
    if (SHIPPED_FOLDER / config.name).exists():
        raise ModelError(
            "shipped-name",
            f"'{config.name}' is the name of a shipped model; choose another one with --name",
        )
    files = {
        FILES[1]: read_capped(
            folder / FILES[1], MAX_WEIGHTS_BYTES, "weights-size", follow_links=False
        )
    }
    card = folder / FILES[2]
    files[FILES[2]] = (
        read_capped(card, MAX_CARD_BYTES, "card-size", follow_links=False)
        if card.exists() or card.is_symlink()
        else _model_card(config, files[FILES[1]]).encode()
    )
    for beside, limit, code, parse in (
        (FACTORS_FILE, MAX_FACTORS_BYTES, "calibration-size", parse_factors),
        (TYPICAL_FILE, MAX_TYPICAL_BYTES, "typical-size", parse_typical),
    ):
        found = read_beside(folder / beside, limit, code, follow_links=False)
        if found is not None:
            parse(found, config, str(folder / beside))
            files[beside] = found
    return _install(user_folder(), config, files, smoke_tested=True)


def remove_model(name: str) -> Path:
    """Delete one of the user's own models; returns the folder that is gone.

    Raises ModelError for shipped and unknown models, and for a folder that holds anything else.
    """
    check_name(name)
    folder = user_folder() / name
    if not (folder / FILES[0]).is_file():
        find_model(name)
        raise ModelError("shipped", f"'{name}' comes with the software and cannot be removed")
    if folder.is_symlink():
        raise ModelError("not-a-folder", f"{folder} is a link; delete the link itself")
    foreign = sorted(
        entry.name
        for entry in folder.iterdir()
        if entry.name not in (*FILES, FACTORS_FILE, TYPICAL_FILE)
    )
    if foreign:
        raise ModelError(
            "other-files", f"{folder} also holds {foreign[0]!r}; move it away or delete the folder"
        )
    with tempfile.TemporaryDirectory(prefix=".removing-", dir=folder.parent) as scratch:
        folder.rename(Path(scratch) / name)  # gone at once, whatever happens while deleting
    return folder


def _install(
    out_folder: Path, config: ModelConfig, files: dict[str, bytes], *, smoke_tested: bool
) -> Path:
    target = out_folder / config.name
    if target.exists() or target.is_symlink():
        raise ModelError("exists", f"{target} exists already; choose another name or remove it")
    out_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".installing-", dir=out_folder) as scratch:
        made = Path(scratch) / config.name
        made.mkdir()
        (made / "config.json").write_text(config.model_dump_json(indent=2) + "\n")
        for file, content in files.items():
            (made / file).write_bytes(content)
        model = read_model(made)
        if smoke_tested:
            smoke_test(build_prior(model, "cpu", torch.float32), config.name)
        try:
            made.rename(target)
        except OSError as error:  # another process was faster
            raise ModelError("exists", f"{target} exists already; remove it first") from error
    return target


def _model_card(config: ModelDescription, weights: bytes) -> str:
    low, high = config.sigma_range
    parameters = parameters_in(weights, f"the weights of model '{config.name}'")
    sources = "\n".join(f"- {source}" for source in config.data_attributions) or "- none named"
    return f"""# {config.name}

A learned prior of complex MR images for `mri-posterior`: a denoiser with \
{parameters:,} parameters
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
