"""The supervised anchor: fastMRI's end-to-end VarNet, taught on the prior's own images.

    python -m benchmarks varnet                       # learns for an hour, then competes
    python -m benchmarks.varnet [--folder FOLDER] [--hours H] [--no-training] [--model NAME]

`fastmri.models.VarNet` learns to reconstruct what simulated coils receive of the images that the
prior learns from, undersampled 4 times by equispaced lines at a random offset with 8 % of the
centre, as for the public fastMRI data. Its time is CPU time, so that it can be given as much as the
prior had; what was learned so far lies in the folder, a run goes on where it stopped, and more
`--hours` make it longer. Then our posterior mean, our samples and VarNet reconstruct the same
scans: with masks that VarNet was taught and with others.
"""

from __future__ import annotations

import argparse
import copy
import csv
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from fastmri.losses import SSIMLoss
from fastmri.models import VarNet
from matplotlib.figure import Figure
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from benchmarks.priors import chosen_priors
from benchmarks.record import Outcome, publish
from benchmarks.scans import ROOT, full_scan
from models.augment import Augmentation, complex_patches
from models.errors import ModelError
from models.loading import compute_dtype_for
from models.synthetic_heads import SyntheticHeads
from models.training_data import BatchStream, ImageFile, Mixture, SliceSet
from recon.choices import PatternName
from recon.evaluation import evaluate, volume_scores
from recon.operators import fft2c, ifft2c
from recon.phantom import receive, receiver_maps
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import Prior
from recon.reference import reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.training.labels import read_label_volumes
from service.training.runs import TrainingPlan, read_plan

DATA = ROOT.parent / "shared" / "data"
FOLDER = ROOT / "runs" / "varnet"
ACCELERATION, CENTRE = 4.0, 0.08
RECIPE = ROOT / "models" / "recipes" / "brain-base.toml"
"""Whose images are learned from, and how often each file is drawn."""
_SAVE_SECONDS = 120.0
_JUDGE_SECONDS = 200.0
"""Of CPU time: a judgement costs several."""
_VALIDATION = (20, 60, 100, 140, 180)
"""Slices of open_ms that were kept apart."""


@dataclass(frozen=True)
class Training:
    """What VarNet is and how it learns."""

    cascades: int = 5
    channels: int = 10
    pools: int = 4
    map_channels: int = 4
    map_pools: int = 3
    side: int = 176
    """Of the images, in pixels."""
    coils: tuple[int, ...] = (1, 4, 8)
    noise: tuple[float, float] = (0.002, 0.02)
    """Of a real component; log-uniform."""
    learning_rate: float = 1e-3
    warmup: int = 50
    ema_decay: float = 0.995
    gradient_norm: float = 1.0
    seed: int = 0

    def network(self) -> VarNet:
        """With random weights, the same for the same seed."""
        torch.manual_seed(self.seed)
        return VarNet(self.cascades, self.map_channels, self.map_pools, self.channels, self.pools)


class Received(NamedTuple):
    """One undersampled image as fastMRI's network takes it, and what it is to make of it."""

    kspace: Tensor
    """(1, coils, rows, columns, 2), zero outside the mask."""
    mask: Tensor
    """(1, 1, rows or 1, columns, 1) bool."""
    central: int
    """Columns of the fully sampled centre."""
    target: Tensor
    """(1, rows, columns): root of the sum of squares of the fully sampled coils, as measured."""


def training_images(plan: TrainingPlan, config: Training) -> BatchStream:
    """The images of a training file, one a step, drawn as for the prior.

    Files that are not there are left out. Raises ModelError, ScanError.
    """
    files = [ImageFile(path, weight=plan.weights.get(path.name)) for path in plan.data]
    there = [file for file in files if file.path.is_file()]
    if not there:
        raise ModelError("no-data", f"none of the files that {RECIPE.name} names is there")
    labels = [path for path in plan.labels if path.exists()]
    heads = SyntheticHeads(read_label_volumes(labels)) if labels else None
    mixture = Mixture(heads, plan.training.synthetic, plan.training.coarsened)
    return BatchStream(SliceSet(there), _Ones(), (config.seed,), mixture)


class _Ones(Sequence[int]):
    """One image a step, for as many steps as it takes."""

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> Any:  # noqa: ANN401
        return 1


def received(image: Tensor, config: Training, step: int) -> Received:
    """What simulated coils receive of a complex image (rows, columns); a step decides how.

    The coils stand round an area half as large again, of which the image is a random part, and
    have a gain and phase of their own.
    """
    random = np.random.default_rng((config.seed, step))
    rows, columns = image.shape
    coils = int(random.choice(config.coils))
    maps = _wide_maps(coils, rows + rows // 2, columns + columns // 2)
    top, left = (int(random.integers(size // 2 + 1)) for size in (rows, columns))
    maps = maps[:, top : top + rows, left : left + columns]
    gain = np.exp(0.2 * random.standard_normal(coils) + 2j * np.pi * random.random(coils))
    coil_images = image * maps * torch.from_numpy(gain.astype(np.complex64))[:, None, None]
    low, high = config.noise
    level = low * (high / low) ** random.random()
    noise = random.standard_normal((2, *coil_images.shape)).astype(np.float32)
    measured = fft2c(coil_images) + level * torch.complex(*map(torch.from_numpy, noise))
    offset = int(random.integers(2**31))
    mask = undersampling_mask((rows, columns), "equispaced", ACCELERATION, CENTRE, offset)
    # Theirs is of the fully sampled scan, noise and all, and so are the references it is held to.
    target = ifft2c(measured).abs().square().sum(dim=0).sqrt()
    return as_received(measured.numpy(), mask, target.numpy())


@cache
def _wide_maps(coils: int, rows: int, columns: int) -> Tensor:
    return torch.from_numpy(receiver_maps(coils, rows, columns))


def as_received(kspace: NDArray[Any], mask: NDArray[np.bool_], target: NDArray[Any]) -> Received:
    """K-space (coils, rows, columns), mask and target (rows, columns), for the network."""
    kept = torch.tensor(mask)
    one = kept[:1] if bool((kept == kept[:1]).all()) else kept
    pairs = torch.view_as_real(torch.tensor(np.where(mask, kspace, 0).astype(np.complex64)))
    central = round(mask.shape[1] * CENTRE)
    image = torch.tensor(target, dtype=torch.float32)
    return Received(pairs[None], one[None, None, :, :, None], central, image[None])


class Run:
    """A training run in a folder: weights, their average, and the CPU seconds spent."""

    def __init__(self, folder: Path, config: Training, augmentation: Augmentation) -> None:
        self.folder, self.config = folder, config
        # Coils shade what they receive; the prior's images are of no coil.
        self.augmentation = augmentation.model_copy(update={"shading": 0.0})
        self.network = config.network()
        self.average = copy.deepcopy(self.network).requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), config.learning_rate)
        self.step, self.seconds = 0, 0.0
        self.loss, self.dtype = SSIMLoss(), compute_dtype_for("cpu")
        if (folder / "state.pt").exists():
            state = torch.load(folder / "state.pt", weights_only=True)
            self.network.load_state_dict(state["network"])
            self.average.load_state_dict(state["average"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.seconds = state["step"], state["seconds"]

    def learn(self, images: BatchStream, budget: float) -> Iterator[float]:
        """Steps until `budget` CPU seconds are spent, over all runs; yields their losses."""
        while self.seconds < budget:
            started = time.process_time()
            loss = self._take_step(images, budget)
            self.seconds += time.process_time() - started
            yield loss

    def _take_step(self, images: BatchStream, budget: float) -> float:
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        drawn = complex_patches(images[self.step], config.side, self.augmentation, generator)
        [image] = drawn.images
        given = received(image, config, self.step)
        # Scaled to one, so that the loss's constants mean the same for every image.
        peak = given.target.max().clamp_min(1e-6)
        with torch.autocast("cpu", self.dtype, enabled=self.dtype != torch.float32):
            found = self.network(given.kspace / peak, given.mask, given.central)
        loss: Tensor = self.loss(
            found.float()[:, None], given.target[:, None] / peak, torch.ones(1)
        )
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.gradient_norm)
        # A constant rate, then a line to zero over the last third.
        left = max(1 - self.seconds / budget, 0.0)
        rate = config.learning_rate * min(1.0, 3 * left) * min(1.0, (self.step + 1) / config.warmup)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step += 1
        decay = min(config.ema_decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        return float(loss.detach())

    def save(self) -> None:
        """Checkpoint and averaged weights, each replaced in one go."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, self.folder / "state.tmp")
        (self.folder / "state.tmp").replace(self.folder / "state.pt")
        save_file(self.average.state_dict(), self.folder / "weights.tmp")
        (self.folder / "weights.tmp").replace(self.folder / "weights.safetensors")


def train(run: Run, images: BatchStream, hours: float, kept: Sequence[Received] = ()) -> None:
    """Learn until `hours` of CPU time are spent; a line of log.csv now and then.

    `kept` are what the average of the weights is judged by.
    """
    losses: list[float] = []
    saved, judged = time.monotonic(), run.seconds
    for loss in run.learn(images, 3600 * hours):
        losses.append(loss)
        last = run.seconds >= 3600 * hours
        if last or time.monotonic() - saved > _SAVE_SECONDS:
            run.save()
            saved = time.monotonic()
        if last or run.seconds - judged > _JUDGE_SECONDS:
            psnr = float(np.mean([score(run.average, each) for each in kept])) if kept else math.nan
            _log(run, float(np.mean(losses)), psnr)
            losses, judged = [], run.seconds


def _log(run: Run, loss: float, psnr: float) -> None:
    file, hours = run.folder / "log.csv", run.seconds / 3600
    fresh = not file.exists()
    with file.open("a", newline="") as handle:
        writer = csv.writer(handle)
        if fresh:
            writer.writerow(["step", "CPU hours", "1 - SSIM", "validation PSNR"])
        writer.writerow([run.step, f"{hours:.3f}", f"{loss:.4f}", f"{psnr:.2f}"])
    text = f"step {run.step}, {hours:.2f} CPU hours: 1 - SSIM {loss:.4f}, {psnr:.2f} dB"
    print(text, flush=True)


def score(network: VarNet, given: Received) -> float:
    """PSNR in dB of what the network makes of it."""
    return float(volume_scores(given.target.numpy(), picture(network, given)[None]).psnr)


def picture(network: VarNet, given: Received) -> NDArray[Any]:
    """The network's image (rows, columns), in the units of the k-space."""
    peak = given.kspace.abs().max().clamp_min(1e-30)
    with torch.inference_mode():
        found: Tensor = network(given.kspace / peak, given.mask, given.central)
    return (found[0] * peak).float().numpy()


def validation(folder: Path) -> list[Received]:
    """Slices of patients that were kept apart, received by eight coils."""
    file = folder / "validation" / "open_ms.h5"
    if not file.is_file():
        return []
    slices = SliceSet([ImageFile(file)])
    made = []
    for index in _VALIDATION:
        full = receive(slices.slice(0, index).astype(np.complex64)[None], 8, 0.01, index)
        mask = undersampling_mask(full.image_shape, "equispaced", ACCELERATION, CENTRE, index)
        made.append(as_received(full.kspace[0], mask, reference_of(full, mask).images[0]))
    return made


class Sampling(NamedTuple):
    """A mask, and how VarNet knows it."""

    name: str
    pattern: PatternName
    acceleration: float
    seed: int


SAMPLINGS = (
    Sampling("R=4 equispaced, as taught", "equispaced", 4, 0),
    Sampling("R=4 equispaced, shifted", "equispaced", 4, 1),
    Sampling("R=8 equispaced", "equispaced", 8, 0),
    Sampling("R=4 Poisson disc", "poisson", 4, 0),
)
SCANS = ("brain_t1_8ch", "head_t1_sagittal_1ch", "complex_t2")


Row = dict[str, float | int | str | bool | None]


def compared(
    full: Scan, sampling: Sampling, network: VarNet, priors: Mapping[str, Prior], settings: Settings
) -> Row:
    """Scores of ours, once for each prior, and of VarNet, on slice 0."""
    mask = undersampling_mask(
        full.image_shape, sampling.pattern, sampling.acceleration, CENTRE, sampling.seed
    )
    scan = undersample(full, mask)
    reference = reference_of(full, scan.mask)
    given = as_received(scan.kspace[0], scan.mask, reference.images[0])
    theirs = volume_scores(reference.images[:1], picture(network, given)[None])
    row: Row = {"sampling": sampling.name, "VarNet PSNR": theirs.psnr, "VarNet SSIM": theirs.ssim}
    for name, prior in priors.items():
        *_, posterior = reconstruct(scan, prior, settings, [0])
        assert isinstance(posterior, SlicePosterior)
        ours = evaluate([posterior], reference).slices[0]
        mark = f"{name}: " if len(priors) > 1 else ""
        for kind, scores in (("mean", ours.mean), ("sample", ours.sample)):
            row[f"{mark}{kind} PSNR"], row[f"{mark}{kind} SSIM"] = scores.psnr, scores.ssim
    return row


def rows_of(
    network: VarNet, priors: Mapping[str, Prior], settings: Settings, only: str = ""
) -> list[Row]:
    """The table, a line printed for each row as it comes."""
    made = []
    for name in SCANS:
        full = full_scan(name, DATA / "scans")
        for sampling in SAMPLINGS:
            if only in f"{name} {sampling.name}":
                row = compared(full, sampling, network, priors, settings)
                made.append({"scan": name, **row})
                print(made[-1], flush=True)
    return made


def draw(rows: Sequence[Row]) -> Figure:
    """PSNR of everything on everything."""
    kinds = [key for key in rows[0] if key.endswith("PSNR")]
    names = [f"{row['scan']}\n{row['sampling']}" for row in rows]
    figure, axes = plt.subplots(figsize=(1.1 * len(rows) + 2, 4.5), layout="constrained")
    width = 0.8 / len(kinds)
    for k, kind in enumerate(kinds):
        places = np.arange(len(rows)) + width * (k - (len(kinds) - 1) / 2)
        axes.bar(places, [float(row[kind] or 0) for row in rows], width, label=kind)
    axes.set_xticks(range(len(rows)), names, rotation=35, ha="right", fontsize=7)
    axes.set(ylabel="dB", ylim=(15, None))
    axes.legend(fontsize=8)
    return figure


def main(arguments: Sequence[str] = ()) -> bool:
    """Learn what is left to learn, then compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="of the training run")
    parser.add_argument("--hours", type=float, default=1.0, help="CPU time to learn, in all")
    parser.add_argument("--training-only", action="store_true")
    parser.add_argument("--no-training", action="store_true", help="compare what is there")
    parser.add_argument("--model", action="append", default=[], help="a name or a folder")
    parser.add_argument("--preset", default="standard")
    parser.add_argument(
        "--only",
        default="",
        help="part of a scan's and a sampling's name: rows are printed, tables stay",
    )
    chosen = parser.parse_args(list(arguments))
    torch.set_num_threads(1)
    config, plan = Training(), read_plan(RECIPE)
    run = Run(chosen.folder, config, plan.training.augmentation)
    if not chosen.no_training and run.seconds < 3600 * chosen.hours:
        train(run, training_images(plan, config), chosen.hours, validation(DATA))
    if chosen.training_only:
        return True
    if run.step == 0:
        parser.error(f"nothing was learned in {chosen.folder}; leave --no-training out")
    if not (DATA / "scans").is_dir():
        parser.error(f"there are no scans in {DATA / 'scans'}")
    settings = Settings(preset=chosen.preset, self_check=False)
    priors = chosen_priors(chosen.model)
    if chosen.only:
        rows_of(run.average, priors, settings, chosen.only)
        return True
    note = (
        f"one slice, one mask each; VarNet after {run.step} steps, {run.seconds / 3600:.2f} CPU "
        f"hours; ours: {', '.join(priors)}, preset {chosen.preset}"
    )
    return publish(
        "varnet",
        lambda: rows_of(run.average, priors, settings),
        lambda rows: Outcome((), tuple(rows), note),
        draw,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
