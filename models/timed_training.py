"""Training by the clock, for a GPU that is lent for minutes: all images on the device, no waiting.

A run of `models.train` whose place in its schedule is the share of the time that is over: learning
rate and patch size end where they are to end, however fast the machine is. Slices lie on the device
and batches are put together there; a batch is as large as the memory allows.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import ModelError
from models.memory_fitting import free_bytes
from models.pieces import write_pieces
from models.reduction import resized_complex
from models.synthetic_heads import SyntheticHeads
from models.train import AVERAGES, TrainingConfig, TrainingRun
from models.training_data import SliceSet

MEMORY_SHARE = 0.8
"""Of what is free: the rest is for compilation and for what the probe did not see."""
MOST_PATCHES = 512
_EVERY_SECONDS = 120.0
_LOOK_EVERY = 20


class DeviceBatches:
    """Slices on a device; batches of a step as `models.training_data.BatchStream` makes them.

    Synthetic heads are drawn beforehand, `pool` (heads, side, side), and are images like others.
    Raises ModelError for complex images, which need twice the room.
    """

    def __init__(
        self,
        slices: SliceSet,
        config: TrainingConfig,
        device: torch.device,
        pool: NDArray[np.float32] | None = None,
    ) -> None:
        if slices.complex:
            raise ModelError("bad-data", "training by the clock takes magnitude images only")
        self.config, self.device, side = config, device, slices.side
        weights, sets = list(slices.weights), []
        for file, images in enumerate(slices.images):
            whole = (slices.slice(file, index) for index in range(len(images)))
            sets.append(np.stack([_in_the_middle(image, side) for image in whole]))
        if pool is not None and len(pool) and config.synthetic:
            share = config.synthetic / max(1 - config.synthetic, 1e-6)
            weights.append(share * sum(weights))
            sets.append(np.stack([_in_the_middle(image, side) for image in pool]))
        self._images = torch.cat([torch.from_numpy(each) for each in sets]).to(device)
        counts = torch.tensor([len(each) for each in sets])
        self._first = (counts.cumsum(0) - counts).to(device)
        self._counts = counts.to(device)
        self._weights = torch.tensor(weights, dtype=torch.float64).to(device)

    def batch(self, step: int, count: int) -> Tensor:
        """(count, 1, side, side) float16 on the device; (seed, step) decides it."""
        seed = self.config.seed * 1_000_003 + step
        generator = torch.Generator(self.device).manual_seed(2 * seed + 1)
        files = torch.multinomial(self._weights, count, replacement=True, generator=generator)
        place = torch.rand(count, generator=generator, device=self.device)
        counts = self._counts[files]
        index = (place * counts).long().clamp_max(counts - 1)
        images = self._images[self._first[files] + index]
        coarse = round(self.config.coarsened * count)
        if coarse:
            # One factor a step: the shape of a transform is one for all of its images.
            random = float(np.random.default_rng((self.config.seed, step)).random())
            images[:coarse] = _coarsened(images[:coarse], self.config.largest_pixel**random)
        return images[:, None]


def _in_the_middle(image: NDArray[Any], side: int) -> NDArray[np.float16]:
    """`image` in the middle of air (side, side), or the middle of a larger one."""
    canvas = np.zeros((side, side), np.float16)
    starts = [max(size - side, 0) // 2 for size in image.shape]
    middle = image[starts[0] : starts[0] + side, starts[1] : starts[1] + side]
    rows, columns = middle.shape
    top, left = (side - rows) // 2, (side - columns) // 2
    canvas[top : top + rows, left : left + columns] = middle
    return canvas


def _coarsened(images: Tensor, factor: float) -> Tensor:
    """Images (count, side, side) with larger pixels, in the middle of air."""
    side = images.shape[-1]
    kept = max(1, round(side / factor))
    smaller = resized_complex(images.to(torch.complex64), (kept, kept)).abs()
    first = (side - kept) // 2
    return torch.nn.functional.pad(
        smaller.to(images.dtype), [first, side - kept - first, first, side - kept - first]
    )


def draw_pool(
    heads: SyntheticHeads, count: int, side: int, seed: int, workers: int
) -> NDArray[np.float32]:
    """Synthetic heads (count, side, side), drawn by some processes, or in this one with none."""
    keys = [(seed, k) for k in range(count)]
    if workers == 0:
        return np.stack([heads.draw(side, np.random.default_rng(key)) for key in keys])
    # Each process gets the volumes once: they are larger than what is drawn from them.
    with ProcessPoolExecutor(workers, initializer=_begin_drawing, initargs=(heads, side)) as pool:
        return np.stack(list(pool.map(_drawn, keys, chunksize=8)))


_source: tuple[SyntheticHeads, int] | None = None


def _begin_drawing(heads: SyntheticHeads, side: int) -> None:
    global _source
    _source = heads, side


def _drawn(key: tuple[int, int]) -> NDArray[np.float32]:
    assert _source is not None
    heads, side = _source
    return heads.draw(side, np.random.default_rng(key))


def fitting_batch(run: TrainingRun, batches: DeviceBatches) -> int:
    """Patches of the first size that a step may have; the configured number where that is a CPU's.

    What two small steps take, without moving the weights, is carried on to the free memory.
    """
    config, device = run.config, run.process.device
    if device.type != "cuda":
        return config.batch
    peaks = []
    with torch.compiler.set_stance("force_eager"):  # two batches are not worth two compilations
        for count in (8, 16):
            torch.cuda.reset_peak_memory_stats(device)
            before = torch.cuda.memory_allocated(device)
            run.losses_of(batches.batch(0, count), config.patch_sizes[0])[0].mean().backward()
            run.network.zero_grad(set_to_none=True)
            peaks.append(torch.cuda.max_memory_allocated(device) - before)
    each = max(1, (peaks[1] - peaks[0]) // 8)
    most = int(MEMORY_SHARE * free_bytes(device)) // each
    return max(8, min(MOST_PATCHES, most // 8 * 8))


@dataclass(frozen=True)
class Mark:
    """How far a run by the clock is."""

    name: str
    step: int
    seconds: float
    loss: float
    patches_per_second: float
    batch: int


def train_by_the_clock(
    name: str,
    run: TrainingRun,
    batches: DeviceBatches,
    seconds: float,
    pieces: Path,
    every: float = _EVERY_SECONDS,
) -> Iterator[Mark]:
    """Train for `seconds` from now on; a mark, a checkpoint and pieces of weights `every` seconds.

    The pieces (`models.pieces`) of the average, in bfloat16, replace those of before. Batches that
    do not fit after all are halved. Raises ModelError where the loss is not finite.
    """
    started = marked = time.monotonic()
    config = run.config
    run.config = config.model_copy(update={"batch": fitting_batch(run, batches)})
    losses: list[Tensor] = []
    patches = 0
    while True:
        share = (time.monotonic() - started) / seconds
        scheduled = min(int(share * config.steps), config.steps - 1)
        count = run.config.patches(scheduled)
        try:
            losses.append(run.take_step(batches.batch(run.step, count), scheduled))
        except torch.OutOfMemoryError:
            if run.config.batch == 1:
                raise
            run.config = run.config.model_copy(update={"batch": run.config.batch // 2})
            continue
        patches += count
        # A device works ahead of the clock; now and then it is waited for.
        if run.step % _LOOK_EVERY == 0:
            _finite(losses[-1])
        now = time.monotonic()
        over = now - started >= seconds
        if not over and now - marked < every:
            continue
        loss = float(torch.stack(losses).mean())
        _finite(loss)
        run.save()
        for k, file in enumerate(AVERAGES[: len(run.averages)]):
            write_pieces(pieces, f"{name}-slow" if k else name, run.out / file, run.config)
        now = time.monotonic()
        mark = Mark(name, run.step, now - started, loss, patches / (now - marked), run.config.batch)
        _log(run.out / "log.csv", mark)
        yield mark
        if over:
            return
        losses, patches, marked = [], 0, time.monotonic()


def _finite(loss: Tensor | float) -> None:
    if not math.isfinite(float(loss)):
        raise ModelError("diverged", "the loss is not finite; take a lower learning rate")


def _log(file: Path, mark: Mark) -> None:
    fresh = not file.exists()
    with file.open("a", newline="") as handle:
        writer = csv.writer(handle)
        if fresh:
            writer.writerow(["step", "seconds", "loss", "patches_per_second", "batch"])
        row = [mark.step, f"{mark.seconds:.0f}", f"{mark.loss:.6f}"]
        writer.writerow([*row, f"{mark.patches_per_second:.1f}", mark.batch])
