"""A training run from a TOML file: images prepared, patients held out, network trained."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from models.errors import ModelError
from models.model_weights import read_model
from models.network_configs import NetworkConfig, NoiseExpertsConfig, ResidualUNetConfig
from models.noise_experts import joined, weights_of
from models.processes import Process
from models.registry import find_model
from models.synthetic_heads import SyntheticHeads
from models.train import Progress, TrainingConfig, train
from models.training_data import ImageFile
from recon.errors import ScanError
from service.images.volumes import ImageSettings
from service.training.images import Prepared, prepare_images, split_patients
from service.training.images import Progress as Preparing
from service.training.labels import read_label_volumes

Size = Literal["small", "base"]

NETWORKS: Mapping[Size, ResidualUNetConfig] = {
    "small": ResidualUNetConfig(),
    "base": ResidualUNetConfig(channels=(96, 192, 256, 384), blocks=4),
}
"""`small` runs on a CPU; `base` wants a GPU."""


class TrainingPlan(BaseModel):
    """The content of a training file; every table and key is optional but `data` and `out`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: tuple[Path, ...] = Field(min_length=1, description="files and folders of images")
    out: Path = Field(description="folder of the run; resumed if begun")
    validation: tuple[Path, ...] = Field((), description="images of patients not in `data`")
    weights: dict[str, float] = Field(
        {},
        description="file name -> how often it is drawn, such as its number of subjects; for files "
        "not named, the root of their number of slices",
    )
    labels: tuple[Path, ...] = Field(
        (), description="segmented heads at 1 mm, which `synthetic` draws from"
    )
    hold_out: float = Field(0.1, gt=0, lt=1, description="share of patients, without `validation`")
    start_from: str | None = Field(None, description="model whose weights the run begins with")
    images: ImageSettings = ImageSettings()
    training: TrainingConfig = TrainingConfig()


@dataclass(frozen=True)
class Ready:
    """What a run will be trained and validated on."""

    training: Prepared
    validation: Prepared
    slices: int
    held_out: int
    shared: tuple[str, ...]
    """Patients named on both sides, which only `validation` can bring about."""


def read_plan(file: Path) -> TrainingPlan:
    """The plan in a TOML file. Paths are relative to its folder. Raises ModelError."""
    try:
        plan = TrainingPlan.model_validate(tomllib.loads(file.read_text()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, ValidationError) as error:
        raise ModelError("bad-plan", f"{file} is not a training file: {error}") from error
    base = file.parent
    return plan.model_copy(
        update={
            "data": tuple(base / path for path in plan.data),
            "validation": tuple(base / path for path in plan.validation),
            "labels": tuple(base / path for path in plan.labels),
            "out": base / plan.out,
        }
    )


class Beginning(NamedTuple):
    """Weights of an installed model that a run begins with."""

    network: NetworkConfig
    tensors: Mapping[str, Tensor]
    sha256: str
    """Of the whole model's weights."""
    above: str | None
    """The model, where it has a network for much noise, which is not trained: `models package
    --above` puts it back."""


def beginning_of(name: str) -> Beginning:
    """What of a model is trained: of several networks all but that for much noise.

    Raises ModelError.
    """
    config, tensors = read_model(find_model(name))
    network = config.network
    if not isinstance(network, NoiseExpertsConfig):
        return Beginning(network, tensors, config.weights_sha256, None)
    fine = weights_of(tensors, "fine")
    if network.middle is None or network.middle_from is None:
        return Beginning(network.fine, fine, config.weights_sha256, name)
    both = NoiseExpertsConfig(fine=network.fine, coarse=network.middle, switch=network.middle_from)
    weights = joined({"fine": fine, "coarse": weights_of(tensors, "middle")})
    return Beginning(both, weights, config.weights_sha256, name)


def run_plan(plan: TrainingPlan, process: Process) -> Iterator[Preparing | Ready | Progress]:
    """Prepare the images, hold patients out, train; the first process yields what it does.

    Raises ModelError and ScanError.
    """
    training = plan.training
    initial: Mapping[str, Tensor] | None = None
    if plan.start_from is not None:
        beginning = beginning_of(plan.start_from)
        initial = beginning.tensors
        changed: dict[str, object] = {"initial": beginning.sha256}
        network = beginning.network
        usual = training.network == ResidualUNetConfig()
        if isinstance(network, NoiseExpertsConfig) and (usual or training.network == network.fine):
            changed["network"] = network  # no other one was asked for
        training = training.model_copy(update=changed)
    if not process.first:
        process.wait()  # the first process converts; afterwards the cache answers at once
    prepared: list[Prepared] = []
    for sources in (plan.data, plan.validation):
        cache = plan.out / "images"
        for event in prepare_images(sources, cache, plan.images) if sources else ():
            if isinstance(event, Prepared):
                prepared.append(event)
            elif process.first:
                yield event
    if process.first:
        process.wait()
    taken = prepared[0]
    if not taken.files:
        reasons = "; ".join(f"{each.sources[0]}: {each.reason}" for each in taken.refused[:3])
        raise ModelError("no-data", f"no image to train on ({reasons or 'the folders are empty'})")
    if plan.validation:
        held = prepared[1]
        data, held_out = _whole(taken), _whole(held)
    else:
        held = taken
        data, held_out = _split(taken, plan.hold_out, training.seed)
    names = {each.file: each.source.name for each in taken.taken}
    data = [replace(file, weight=plan.weights.get(names[file.path])) for file in data]
    if unknown := plan.weights.keys() - set(names.values()):
        raise ModelError(
            "bad-plan", f"[weights] names files that are not in data: {', '.join(sorted(unknown))}"
        )
    heads = SyntheticHeads(read_label_volumes(plan.labels)) if plan.labels else None
    if training.synthetic and heads is None:
        raise ModelError(
            "bad-plan", "`synthetic` heads are drawn from segmented ones; name them in `labels`"
        )
    if process.first:
        shared = sorted(_names(taken) & _names(held)) if plan.validation else []
        counts = _count(data, taken), _count(held_out, held)
        yield Ready(taken, held, *counts, tuple(shared))
    yield from train(training, data, plan.out, process, held_out, initial, heads)


def _whole(prepared: Prepared) -> list[ImageFile]:
    return [ImageFile(file) for file in prepared.files]


def _split(prepared: Prepared, share: float, seed: int) -> tuple[list[ImageFile], list[ImageFile]]:
    """Slices of the patients trained on and of those held out; nobody is when there is only one."""
    patients = prepared.patients
    try:
        split = split_patients(patients, share, seed)
    except ScanError as error:
        if error.code != "one-patient":
            raise
        return _whole(prepared), []
    sides: list[list[ImageFile]] = []
    for side in (split.training, split.validation):
        chosen = []
        for file, names in patients.items():
            slices = tuple(i for i, name in enumerate(names) if (file, name) in side)
            if slices:
                chosen.append(ImageFile(file, slices))
        sides.append(chosen)
    return sides[0], sides[1]


def _names(prepared: Prepared) -> set[str]:
    return {name for slices in prepared.patients.values() for name in slices}


def _count(files: Sequence[ImageFile], prepared: Prepared) -> int:
    patients = prepared.patients
    return sum(len(patients[file.path] if file.slices is None else file.slices) for file in files)
