"""Training of a denoising prior on magnitude slices, resumable at any step.

Every batch is a function of (seed, step) alone, so a resumed run repeats the interrupted one.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.augment import complex_patches
from models.denoiser import SIGMA_DATA, precondition
from models.network import UNet, UNetConfig
from models.registry import ModelError


class TrainingConfig(BaseModel):
    """What a training run does; stored beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: UNetConfig = UNetConfig()
    steps: int = Field(7000, ge=1)
    batch: int = Field(16, ge=1, description="patches per step at the first patch size")
    patch_sizes: tuple[int, int] = (128, 224)
    large_patch_share: float = Field(0.25, ge=0, le=1, description="last share of the steps")
    learning_rate: float = 4e-4
    warmup: int = 200
    gradient_norm: float = 1.0
    ema_decay: float = Field(0.999, gt=0, lt=1)
    log_sigma_mean: float = -2.5
    log_sigma_std: float = 1.4
    sigma_range: tuple[float, float] = (0.002, 10.0)
    seed: int = 0


@dataclass(frozen=True)
class Progress:
    """One line of the training log."""

    step: int
    loss: float
    seconds_per_step: float


class SliceData:
    """Magnitude slices of all `images` datasets in a folder, scaled to a 99th percentile of 1.

    Each file is drawn equally often per square root of its size, so that small sets are heard.
    """

    def __init__(self, folder: Path) -> None:
        files = sorted(folder.glob("*.h5"))
        if not files:
            raise ModelError("no-data", f"no .h5 file with an 'images' dataset in {folder}")
        self.images, self.scales = [], []
        for file in files:
            images = _read_images(file)
            self.images.append(images)
            flat = images.reshape(len(images), -1).astype(np.float32)
            # Slices with hardly any tissue are not blown up to full brightness.
            floor = np.maximum(0.2 * flat.max(axis=1), flat.max() / 256)
            self.scales.append(np.maximum(np.percentile(flat, 99, axis=1), floor))
        sizes = torch.tensor([float(len(images)) for images in self.images])
        self.weights = sizes.sqrt()

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """`count` random slices (count, rows, columns), float32."""
        files = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        chosen = []
        for file in files.tolist():
            index = int(torch.randint(len(self.images[file]), (), generator=generator))
            image = self.images[file][index].astype(np.float32) / self.scales[file][index]
            chosen.append(torch.from_numpy(image))
        return torch.stack(chosen)


def _read_images(file: Path) -> NDArray[Any]:
    """The magnitude slices (slices, rows, columns) of one file, which the user trusts."""
    with h5py.File(file, "r") as handle:
        images = handle.get("images")
        real = isinstance(images, h5py.Dataset) and images.dtype.kind in "uf"
        if not real or images.ndim != 3:
            raise ModelError(
                "bad-data",
                f"{file.name} must hold a real dataset 'images' of shape (slices, rows, columns)",
            )
        return np.asarray(images[()])


def _record(config: TrainingConfig, out: Path) -> None:
    """Write the configuration beside the run; a resumed run may only be longer, not different."""
    record = out / "training.json"
    if record.exists():
        earlier = TrainingConfig.model_validate_json(record.read_text())
        if earlier.model_copy(update={"steps": config.steps}) != config:
            raise ModelError(
                "other-run",
                f"{out} holds a run with another configuration; use another folder, or the same "
                "options to resume it",
            )
    record.write_text(config.model_dump_json(indent=2))


def _as_channels(image: Tensor) -> Tensor:
    return torch.view_as_real(image).movedim(-1, 1).contiguous()


def denoising_loss(network: nn.Module, clean: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """EDM-weighted squared error (Karras et al. 2022, Eq. 2 with their lambda)."""
    shape = (-1, 1, 1, 1)
    denoised = precondition(network, clean + sigma.view(shape) * noise, sigma)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    return (weight.view(shape) * (denoised - clean) ** 2).mean()


def _learning_rate(config: TrainingConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / config.warmup)
    return config.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * step / config.steps))


def train(
    config: TrainingConfig, data: Path, out: Path, save_every: int = 250
) -> Iterator[Progress]:
    """Train, yielding progress every 10 steps; resumes from `out` when a checkpoint is there.

    Writes `weights.safetensors` (the averaged network, bfloat16), `config.json` and `log.csv`.
    """
    out.mkdir(parents=True, exist_ok=True)
    slices = SliceData(data)
    torch.manual_seed(config.seed)
    network = UNet(config.network).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-3)
    step, state_file = 0, out / "state.pt"
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        network.load_state_dict(state["network"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    _record(config, out)
    with (out / "log.csv").open("a", newline="") as log_file:
        log = csv.writer(log_file)
        losses, started = [], time.monotonic()
        while step < config.steps:
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            large = step >= (1 - config.large_patch_share) * config.steps
            size = config.patch_sizes[int(large)]
            batch = max(1, round(config.batch * (config.patch_sizes[0] / size) ** 2))
            clean = _as_channels(complex_patches(slices.draw(batch, generator), size, generator))
            log_sigma = config.log_sigma_mean + config.log_sigma_std * torch.randn(
                batch, generator=generator
            )
            sigma = log_sigma.exp().clamp(*config.sigma_range)
            noise = torch.randn(clean.shape, generator=generator)
            for group in optimizer.param_groups:
                group["lr"] = _learning_rate(config, step)
            with torch.autocast("cpu", torch.bfloat16):
                loss = denoising_loss(network, clean, sigma, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), config.gradient_norm)
            optimizer.step()
            step += 1
            decay = min(config.ema_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for mean, value in zip(average.parameters(), network.parameters(), strict=True):
                    mean.lerp_(value, 1 - decay)
            losses.append(float(loss.detach()))
            if step % save_every == 0 or step == config.steps:
                state = {
                    "network": network.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "step": step,
                }
                torch.save(state, out / "state.tmp")
                (out / "state.tmp").replace(state_file)
                save_file(
                    {k: v.to(torch.bfloat16).contiguous() for k, v in average.state_dict().items()},
                    out / "weights.safetensors",
                )
            if step % 10 == 0 or step == config.steps:
                seconds = (time.monotonic() - started) / len(losses)
                mean_loss = sum(losses) / len(losses)
                log.writerow([step, f"{mean_loss:.6f}", f"{seconds:.3f}"])
                log_file.flush()
                yield Progress(step, mean_loss, seconds)
                losses, started = [], time.monotonic()


def load_average(folder: Path, config: UNetConfig) -> UNet:
    """The averaged network of a run."""
    network = UNet(config)
    weights = load_file(folder / "weights.safetensors")
    network.load_state_dict({k: v.to(torch.float32) for k, v in weights.items()})
    return network
