"""Training of a denoising prior, resumable at any step, on a CPU, one GPU or several.

Every batch is a function of (seed, step, process) alone, so a resumed run repeats the interrupted
one. Several processes (started by `torchrun`) share each batch and average their gradients.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn
from torch.utils.data import DataLoader

from models.architectures import build_network
from models.augment import Augmentation, complex_patches
from models.denoiser import NetworkPrior, precondition
from models.errors import ModelError
from models.loading import compute_dtype_for
from models.model_folder import write_beside
from models.network_configs import ResidualUNetConfig, TrainableConfig
from models.noise_experts import NoiseExperts
from models.optimizers import Optimizer, OptimizerName
from models.parameterizations import SIGMA_DATA
from models.processes import Process
from models.synthetic_heads import SyntheticHeads
from models.training_data import BatchStream, ImageFile, Mixture, SliceSet
from models.validate import SIGMAS, denoising_psnr


class TrainingConfig(BaseModel):
    """What a training run does; stored beside the weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    network: TrainableConfig = ResidualUNetConfig()
    augmentation: Augmentation = Augmentation()
    steps: int = Field(6000, ge=1)
    batch: int = Field(8, ge=1, description="patches per step, of all processes, at first size")
    patch_sizes: tuple[int, int] = (96, 192)
    large_patch_share: float = Field(0.2, ge=0, le=1, description="last share of the steps")
    learning_rate: float = Field(8e-4, gt=0)
    optimizer: OptimizerName = "adamw"
    schedule: Literal["cosine", "power", "trapezoid"] = "cosine"
    warmup: int = Field(100, ge=1, description="steps of linear warm-up")
    plateau: int = Field(3000, ge=1, description="steps before the power schedule falls")
    cooldown: float = Field(0.25, gt=0, le=1, description="last share of a trapezoid: to zero")
    weight_decay: float = Field(1e-3, ge=0)
    gradient_norm: float = Field(1.0, gt=0, description="gradients are clipped to it")
    ema_decay: float = Field(0.999, gt=0, lt=1)
    slow_ema_decay: float | None = Field(
        None, gt=0, lt=1, description="of a second average of the weights, chosen from afterwards"
    )
    synthetic: float = Field(0.0, ge=0, le=1, description="share of heads drawn from label maps")
    coarsened: float = Field(0.0, ge=0, le=1, description="share of slices given larger pixels")
    largest_pixel: float = Field(2.0, ge=1, le=8, description="by which factor, at most")
    unmeasured: float = Field(
        1.0,
        ge=0,
        le=1,
        description="weight in the loss of k-space that was made up, where files say what was",
    )
    balanced: bool = Field(
        False, description="noise levels weighted by how well they are known (learned)"
    )
    log_sigma_mean: float = -2.3
    log_sigma_std: float = Field(1.2, gt=0)
    sigma_range: tuple[float, float] = (0.002, 10.0)
    compiled: bool = Field(False, description="torch.compile; pays on a GPU after about a minute")
    workers: int = Field(0, ge=0, le=64, description="processes that read and scale slices")
    save_every: int = Field(250, ge=1, description="steps between checkpoints")
    validate_every: int = Field(1000, ge=1, description="steps between validations")
    validation_slices: int = Field(48, ge=1, description="at most so many, spread evenly")
    seed: int = 0
    initial: str | None = Field(None, description="SHA-256 of the weights that it began with")

    def patch(self, step: int) -> int:
        """Side of the patches of a step."""
        return self.patch_sizes[int(step >= (1 - self.large_patch_share) * self.steps)]

    def patches(self, step: int) -> int:
        """Patches of a step: about as many pixels in each."""
        return max(1, round(self.batch * (self.patch_sizes[0] / self.patch(step)) ** 2))

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if self.schedule == "cosine":
            fall = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        elif self.schedule == "trapezoid":
            fall = min(1.0, (self.steps - step) / (self.cooldown * self.steps))
        else:
            fall = min(1.0, math.sqrt(self.plateau / (step + 1)))
        return self.learning_rate * fall * min(1.0, (step + 1) / self.warmup)


AVERAGES = ("weights.safetensors", "weights-slow.safetensors")
"""Files of a run: the averaged weights, and those of the slower average if there is one."""

_MAY_CHANGE = {"steps", "compiled", "workers", "save_every", "validate_every", "validation_slices"}
"""Options that a resumed run may change: they do not decide what was learned so far."""


@dataclass(frozen=True)
class Progress:
    """One line of the training log."""

    step: int
    loss: float
    patches_per_second: float
    seconds_left: float
    validation: dict[float, float] | None = None
    """Denoising PSNR in dB for every sigma, when it was measured at this step."""


def denoising_loss(
    network: nn.Module,
    clean: Tensor,
    sigma: Tensor,
    noise: Tensor,
    kspace_weight: Tensor | None = None,
) -> Tensor:
    """EDM-weighted squared error of each image (Karras et al. 2022, Eq. 2 with their lambda).

    `kspace_weight` (batch, rows, columns) is of the error's samples, zero frequency in the middle.
    """
    shape = (-1, 1, 1, 1)
    denoised = precondition(network, clean + sigma.view(shape) * noise, sigma)
    weight = (sigma**2 + SIGMA_DATA**2) / (sigma * SIGMA_DATA) ** 2
    error = denoised - clean
    if kspace_weight is None:
        return weight * (error**2).mean((1, 2, 3))
    image = torch.complex(error[:, 0], error[:, 1])
    squares = torch.view_as_real(torch.fft.fft2(image, norm="ortho")).square().sum(-1)
    return weight * (squares * torch.fft.ifftshift(kspace_weight, dim=(1, 2))).mean((1, 2)) / 2


_BALANCE_FREQUENCIES = 8


class NoiseBalance(nn.Module):
    """The loss that is to be expected at a noise level, learned beside the network.

    Divided by it, all levels pull alike (Karras et al. 2024, "Analyzing and Improving the Training
    Dynamics of Diffusion Models", Eq. 14 to 16).
    """

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Linear(_BALANCE_FREQUENCIES, 1)
        nn.init.zeros_(self.weight.weight)
        nn.init.zeros_(self.weight.bias)

    def forward(self, losses: Tensor, sigma: Tensor) -> Tensor:
        """Of `losses` (batch,) at noise levels `sigma` (batch,), the balanced mean."""
        steps = torch.arange(_BALANCE_FREQUENCIES, device=sigma.device)
        expected = self.weight(torch.cos(sigma.log()[:, None] * 0.35 * steps)).squeeze(1)
        return (losses * torch.exp(-expected) + expected).mean()


def train(
    config: TrainingConfig,
    data: Sequence[ImageFile],
    out: Path,
    process: Process,
    validation: Sequence[ImageFile] = (),
    initial: Mapping[str, Tensor] | None = None,
    heads: SyntheticHeads | None = None,
) -> Iterator[Progress]:
    """Train on the images `data`, yielding progress; resumes from `out` if it was begun.

    `initial` are weights to begin with instead of random ones; what they lack stays random.
    `heads` are what `config.synthetic` draws from. Writes `training.json` (the configuration),
    `state.pt` (the checkpoint), `weights.safetensors` (the averaged network, float32),
    `weights-slow.safetensors` (the slower average, if asked for) and `log.csv`. Under `torchrun`
    every process calls this; only the first one writes and yields.

    Raises:
        ModelError: files without images, another run in `out`, initial weights of another network,
            a loss that is not finite.
    """
    run = TrainingRun(config, out, process, initial)
    held_out = SliceSet(validation).evenly(config.validation_slices) if validation else []
    yield from run.follow(SliceSet(data), held_out, heads)


class TrainingRun:
    """The state of a training run: networks, optimizer and the step it is at."""

    def __init__(
        self,
        config: TrainingConfig,
        out: Path,
        process: Process,
        initial: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.config, self.out, self.process = config, out, process
        torch.manual_seed(config.seed)
        network = build_network(config.network).train()
        if initial is not None:
            _begin_with(network, initial)
        network.to(process.device)
        self.network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.step = 0
        decays = (config.ema_decay, config.slow_ema_decay)
        self.averages = [
            (decay, copy.deepcopy(self.network).requires_grad_(False)) for decay in decays if decay
        ]
        self.dtype = compute_dtype_for(process.device)
        self.optimizer = Optimizer(
            self.network,
            config.optimizer,
            config.learning_rate,
            config.weight_decay,
            fused=process.device.type == "cuda",
        )
        self.balance = NoiseBalance().to(process.device)
        self.balancing = torch.optim.Adam(self.balance.parameters(), lr=1e-2)
        self._record()
        if (out / "state.pt").exists():
            self._resume(torch.load(out / "state.pt", process.device, weights_only=True))
        self.forward: nn.Module = self.network
        if process.count > 1:
            self.forward = DistributedDataParallel(
                self.network,
                device_ids=process.device_ids,
                # A batch may lack noise for one of them.
                find_unused_parameters=isinstance(network, NoiseExperts),
            )
        if config.compiled:
            # A graph for each patch size: one for all sizes is slower than two compilations.
            self.forward.compile(dynamic=False)

    def _record(self) -> None:
        """Write the configuration beside the run, or compare it with the one that is there."""
        self.out.mkdir(parents=True, exist_ok=True)
        record = self.out / "training.json"
        if record.exists():
            earlier = TrainingConfig.model_validate_json(record.read_text())
            if earlier.model_dump(exclude=_MAY_CHANGE) != self.config.model_dump(
                exclude=_MAY_CHANGE
            ):
                raise ModelError(
                    "other-run",
                    f"{self.out} holds a run with another configuration; use another folder, or "
                    "the same options to resume it",
                )
        if self.process.first:
            write_beside(record, self.config.model_dump_json(indent=2) + "\n")

    def _resume(self, state: Mapping[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        for (_, average), saved in zip(self.averages, state["averages"], strict=True):
            average.load_state_dict(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.balance.load_state_dict(state["balance"])
        self.balancing.load_state_dict(state["balancing"])
        self.step = state["step"]

    def follow(
        self, slices: SliceSet, held_out: list[Tensor], heads: SyntheticHeads | None = None
    ) -> Iterator[Progress]:
        """Take all remaining steps."""
        config, process = self.config, self.process
        mixture = Mixture(heads, config.synthetic, config.coarsened, config.largest_pixel)
        counts = [process.share(config.patches(step)) for step in range(config.steps)]
        loader = DataLoader(
            BatchStream(slices, counts, (config.seed, process.rank), mixture),
            batch_size=None,
            sampler=range(self.step, config.steps),
            num_workers=config.workers,
            pin_memory=process.device.type == "cuda",
        )
        losses: list[Tensor] = []
        patches, since = 0, time.monotonic()
        with _Log(self.out / "log.csv", self.step, enabled=process.first) as log:
            for canvases in loader:
                losses.append(self.take_step(canvases, self.step))
                patches += config.patches(self.step - 1)
                last = self.step == config.steps
                if last or self.step % config.save_every == 0:
                    self.save()
                validated = None
                if held_out and process.first and (last or self.step % config.validate_every == 0):
                    validated = self._validate(held_out)
                if not (last or self.step % 10 == 0):
                    continue
                loss = float(torch.stack(losses).mean())
                if not math.isfinite(loss):
                    raise ModelError(
                        "diverged",
                        f"the loss is {loss} at step {self.step}; resume from the last checkpoint "
                        "with a lower learning rate",
                    )
                seconds = time.monotonic() - since
                left = (config.steps - self.step) * seconds / len(losses)
                line = Progress(self.step, loss, patches / seconds, left, validated)
                log.write(line)
                if process.first:
                    yield line
                losses, patches, since = [], 0, time.monotonic()

    def take_step(self, canvases: Tensor, scheduled: int) -> Tensor:
        """One optimizer step; returns its loss, still on the device.

        Learning rate and patch size are those of the step `scheduled`, random numbers of its own.
        """
        config = self.config
        losses, sigma = self.losses_of(canvases, config.patch(scheduled))
        self.network.zero_grad(set_to_none=True)
        self.balance.zero_grad(set_to_none=True)
        (self.balance(losses, sigma) if config.balanced else losses.mean()).backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_norm)
        self.optimizer.step(config.rate(scheduled))
        if config.balanced:
            self.balancing.step()
        self.step += 1
        # At first the memory is a tenth of the run, so that nothing of the initial weights stays.
        for decay, average in self.averages:
            update = get_ema_multi_avg_fn(min(decay, (1 + self.step) / (10 + self.step)))
            update(list(average.parameters()), list(self.network.parameters()), 0)
        return losses.detach().mean()

    def losses_of(self, canvases: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Losses (batch,) of noisy patches of `size` pixels, and their noise levels."""
        config, device = self.config, self.process.device
        generator = torch.Generator(device).manual_seed(
            (config.seed * 1_000_003 + self.step) * 1_009 + self.process.rank
        )
        slices = canvases.to(device, non_blocking=True)
        image, measured = complex_patches(slices, size, config.augmentation, generator)
        kspace_weight = None
        if measured is not None and config.unmeasured < 1:
            kspace_weight = measured.clamp_min(config.unmeasured)
        clean = torch.view_as_real(image).movedim(-1, 1).contiguous()
        spread = torch.randn(len(clean), generator=generator, device=device)
        sigma = (config.log_sigma_mean + config.log_sigma_std * spread).exp()
        sigma = sigma.clamp(*config.sigma_range)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        with torch.autocast(device.type, self.dtype, enabled=self.dtype != torch.float32):
            losses = denoising_loss(self.forward, clean, sigma, noise, kspace_weight)
        return losses, sigma

    def save(self) -> None:
        """Checkpoint and averaged weights, each replaced in one go."""
        if not self.process.first:
            return
        state = {
            "network": self.network.state_dict(),
            "averages": [average.state_dict() for _, average in self.averages],
            "optimizer": self.optimizer.state_dict(),
            "balance": self.balance.state_dict(),
            "balancing": self.balancing.state_dict(),
            "step": self.step,
        }
        torch.save(state, self.out / "state.tmp")
        (self.out / "state.tmp").replace(self.out / "state.pt")
        for name, (_, average) in zip(AVERAGES, self.averages, strict=False):
            weights = average.state_dict()
            save_file(
                {key: value.cpu().contiguous() for key, value in weights.items()},
                self.out / "weights.tmp",
            )
            (self.out / "weights.tmp").replace(self.out / name)

    def _validate(self, held_out: list[Tensor]) -> dict[float, float]:
        device = self.process.device
        network = build_network(self.config.network).to(device)
        network.load_state_dict(self.averages[0][1].state_dict())
        prior = NetworkPrior(network, self.config.sigma_range, self.dtype)
        return denoising_psnr(prior, held_out, device=device)


def _begin_with(network: nn.Module, initial: Mapping[str, Tensor]) -> None:
    """Copy weights into the network; it may have more of them than `initial`, never fewer."""
    own = network.state_dict()
    unknown = [
        name for name, value in initial.items() if name not in own or own[name].shape != value.shape
    ]
    if unknown:
        raise ModelError(
            "other-network",
            f"{len(unknown)} of the initial weights do not fit the network, {unknown[0]!r} among "
            "them; take the network of the model that the run begins with",
        )
    network.load_state_dict({**own, **{name: value.float() for name, value in initial.items()}})


class _Log:
    """`log.csv`: a line every ten steps; lines after the checkpoint resumed from are dropped."""

    def __init__(self, file: Path, step: int, *, enabled: bool) -> None:
        self.file, self.step, self.enabled = file, step, enabled

    def __enter__(self) -> _Log:
        if self.enabled:
            kept = self.file.read_text().splitlines() if self.file.exists() else []
            names = [f"psnr_{sigma:g}" for sigma in SIGMAS]
            head = ",".join(["step", "loss", "patches_per_second", *names])
            kept = [line for line in kept[1:] if int(line.partition(",")[0]) <= self.step]
            self.handle = self.file.open("w", newline="")
            self.handle.write("\r\n".join([head, *kept]) + "\r\n")
            self.writer = csv.writer(self.handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self.enabled:
            self.handle.close()

    def write(self, line: Progress) -> None:
        """Append and flush, so that a killed run keeps its history."""
        if self.enabled:
            scores = [f"{score:.3f}" for score in (line.validation or {}).values()]
            self.writer.writerow(
                [line.step, f"{line.loss:.6f}", f"{line.patches_per_second:.1f}", *scores]
            )
            self.handle.flush()
