"""Inpainting, super-resolution and deblurring of MR images (Xun, Gupta and Price, Fig. 4).

    python -m benchmarks inverse_problems

Tasks: random pixels missing (30 to 70 %, drawn per image), means of 4 x 4 blocks, a Gaussian blur
of 61 x 61 pixels and std 3 that wraps; noise 0.05 where the image's 99th percentile is 1. The
paper's faces (FFHQ) and its Inception features are not to be had: images are slices of patients
that the shipped prior was not trained on (the phantom without the folder of data), averaged 2 x 2
and given a smooth phase, and the Frechet distance is taken in the prior's own bottleneck: one
vector of 192 features per 16 x 16 pixels, of the denoised image at noise level 0.1. Four images
give 144 vectors, so that the covariances are not of full rank: the distance ranks runs and means
nothing beyond. As in the paper, the coarse image is a DPS draw, and then annealed Langevin runs for
ever longer times.

DPS (`benchmarks.samplers.dps`) takes 100 steps here, with the best of three or four scales on the
first image; the published scale is for 500 to 1000 steps and leaves so short a run far from the
data. Its dashed line says nothing of DPS at full length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy import linalg
from torch import Tensor

from benchmarks.closed_form import white_image
from benchmarks.image_operators import (
    BlockAverage,
    GaussianBlur,
    ImageOperator,
    Inpainting,
    image_problem,
)
from benchmarks.record import Check, Outcome, Row, publish
from benchmarks.samplers import Denoiser, dps
from models.denoiser import NetworkPrior
from models.loading import load_prior
from models.noise_experts import NoiseExperts
from models.training_data import ImageFile, SliceSet
from recon.noise import NoiseStreams
from recon.phantom import simulate
from recon.sampler import InverseProblem, init, step
from recon.schedule import STEP, lowest_sigma, prior_path
from service.runs import DEFAULT_MODEL

IMAGES, SIDE, NOISE_STD = 4, 96, 0.05
VALIDATION = Path(__file__).resolve().parents[2] / "shared" / "data" / "validation" / "open_ms.h5"
TASKS = ("inpainting", "super-resolution", "deblurring")
BUDGETS = (5, 10, 20, 40)
"""Langevin steps after the coarse image."""
DPS_STEPS, DPS_SCALE = 100, {"inpainting": 12.0, "super-resolution": 10.0, "deblurring": 6.0}
RESTART = 0.3
"""Noise level to which the coarse image is raised: wide against DPS's error."""
FEATURE_SIGMA = 0.1


@dataclass(frozen=True)
class Score:
    """One sampler on one task, averaged over the images."""

    task: str
    sampler: str
    evaluations: int
    error: float
    """Root-mean-square error of the complex image per component."""
    distance: float
    """Frechet distance in the prior's bottleneck."""
    chi2: float


@dataclass(frozen=True)
class Inverse:
    """All scores, and one image per task: truth, back-projection, DPS, longest Langevin."""

    scores: tuple[Score, ...]
    pictures: dict[str, tuple[np.ndarray, ...]]


def images() -> Tensor:
    """(IMAGES, SIDE, SIDE) complex64, the 99th percentile of each magnitude 1."""
    if VALIDATION.is_file():
        slices = SliceSet([ImageFile(VALIDATION)])
        chosen = np.linspace(30, 190, IMAGES).astype(int)
        raw = np.stack([np.abs(slices.slice(0, int(k))) for k in chosen])
    else:
        raw = np.stack(
            [np.abs(simulate(rows=256, columns=256, seed=k)[1][0]) for k in range(IMAGES)]
        )
    size = 2 * SIDE
    top, left = ((n - size) // 2 for n in raw.shape[-2:])
    cropped = torch.from_numpy(np.ascontiguousarray(raw[:, top : top + size, left : left + size]))
    magnitude = cropped.float().reshape(IMAGES, SIDE, 2, SIDE, 2).mean(dim=(2, 4))
    magnitude = magnitude / magnitude.flatten(1).quantile(0.99, dim=1)[:, None, None]
    place = torch.linspace(-1, 1, SIDE)
    phase = 0.6 + 0.8 * place[None, :] - 0.5 * place[:, None] + 0.9 * place[:, None] * place
    return torch.polar(magnitude, phase.expand_as(magnitude).contiguous())


def operator_of(task: str, index: int) -> ImageOperator:
    """The measurement of an image; inpainting draws the share of missing pixels as well."""
    if task == "super-resolution":
        return BlockAverage(4, SIDE, SIDE)
    if task == "deblurring":
        return GaussianBlur(3.0, 61, SIDE, SIDE)
    generator = torch.Generator().manual_seed(500 + index)
    missing = 0.3 + 0.4 * float(torch.rand((), generator=generator))
    return Inpainting(torch.rand((SIDE, SIDE), generator=generator) >= missing)


def measure(task: str, truth: Tensor, index: int) -> InverseProblem:
    """The noisy measurement of `truth` as a problem for the kernel."""
    operator = operator_of(task, index)
    clean = operator.forward(truth)
    noise = NOISE_STD * white_image(*clean.shape, seed=700 + index)
    if isinstance(operator, Inpainting):
        noise = noise * operator.mask
    return image_problem(operator, clean + noise, NOISE_STD)


def coarse_draw(problem: InverseProblem, prior: NetworkPrior, task: str, index: int) -> Tensor:
    """One DPS draw (rows, columns)."""
    noise = NoiseStreams.keyed(index, "inverse-dps", range(1))
    scale = DPS_SCALE[task]
    return dps(problem, Denoiser(prior), noise, steps=DPS_STEPS, scale=scale)[0]


def langevin(
    problem: InverseProblem, prior: NetworkPrior, coarse: Tensor, count: int, seed: int
) -> Tensor:
    """Annealed Langevin from the coarse image, `count` steps along the prior's path."""
    noise = NoiseStreams.keyed(seed, "inverse", range(1))
    state = init(problem, coarse, RESTART, noise)
    low = lowest_sigma(NOISE_STD, prior.sigma_range)
    for level in prior_path(RESTART, low, count, NOISE_STD, STEP):
        state, _ = step(problem, prior, level, state, noise)
    return state.image[0]


def features(prior: NetworkPrior, batch: Tensor) -> np.ndarray:
    """(positions, channels) float64: the bottleneck of the network on each image."""
    kept: list[Tensor] = []
    network = prior.network
    if isinstance(network, NoiseExperts):
        network = network.at(FEATURE_SIGMA)
    deepest = list(network.get_submodule("down").children())[-1]
    middle = list(deepest.children())[-1]
    hook = middle.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
    try:
        prior.denoise(batch, FEATURE_SIGMA)
    finally:
        hook.remove()
    found = kept[0]
    return found.movedim(1, -1).reshape(-1, found.shape[1]).double().numpy()


def frechet(first: np.ndarray, second: np.ndarray) -> float:
    """Frechet distance of the normals with the moments of two samples."""
    shift = first.mean(axis=0) - second.mean(axis=0)
    left, right = np.cov(first.T), np.cov(second.T)
    root = linalg.sqrtm(left)
    cross = linalg.eigvalsh((root @ right @ root).real)
    overlap = np.sqrt(np.maximum(cross, 0)).sum()
    return float(shift @ shift + np.trace(left) + np.trace(right) - 2 * overlap)


def run() -> Inverse:
    """Every task on every image: DPS, then Langevin of each length from it."""
    # One image at a time: on a busy machine a second thread costs more than it brings.
    torch.set_num_threads(1)
    prior = load_prior(DEFAULT_MODEL)
    truth = images()
    reference = features(prior, truth)
    scores, pictures = [], {}
    for task in TASKS:
        problems = [measure(task, each, k) for k, each in enumerate(truth)]
        coarse = [coarse_draw(p, prior, task, k) for k, p in enumerate(problems)]
        runs = {("DPS", DPS_STEPS): coarse}
        for count in BUDGETS:
            runs["DPS, then annealed Langevin", count] = [
                langevin(p, prior, start, count, k)
                for k, (p, start) in enumerate(zip(problems, coarse, strict=True))
            ]
        for (sampler, count), found in runs.items():
            batch = torch.stack(found)
            chi2 = [float(p.chi2(x[None])) for p, x in zip(problems, found, strict=True)]
            error = float((batch - truth).abs().square().mean() / 2) ** 0.5
            distance = frechet(features(prior, batch), reference)
            scores.append(Score(task, sampler, count, error, distance, float(np.mean(chi2))))
            print(scores[-1], flush=True)
        back = problems[0].backprojection * (16 if task == "super-resolution" else 1)
        shown = (truth[0], back, coarse[0], batch[0])
        pictures[task] = tuple(each.abs().numpy() for each in shown)
    return Inverse(tuple(scores), pictures)


def outcome(inverse: Inverse) -> Outcome:
    """The data are explained, and the error falls with Langevin time as the paper found."""
    checks = []
    for task in TASKS:
        walks = [s for s in inverse.scores if s.task == task][1:]
        checks += [
            Check(f"{task}: longest Langevin explains the data, chi²", walks[-1].chi2, 1, 0.15),
            Check(
                f"{task}: error against time falls (1) as the paper found",
                float(walks[-1].error < walks[0].error),
                1,
                0,
            ),
        ]
    rows: list[Row] = [
        {
            "task": s.task,
            "sampler": s.sampler,
            "evaluations": s.evaluations,
            "RMS error": s.error,
            "Frechet distance": s.distance,
            "chi2": s.chi2,
        }
        for s in inverse.scores
    ]
    return Outcome(
        tuple(checks),
        tuple(rows),
        f"{IMAGES} images of {SIDE} x {SIDE} pixels, one draw each: differences between images are "
        "larger than those between runs; the same images and noise serve every run",
    )


def draw(inverse: Inverse) -> Figure:
    """Curves of both measures, and one image per task."""
    figure = plt.figure(figsize=(12, 7.2), layout="constrained")
    left, right = np.asarray(figure.subfigures(1, 2, width_ratios=(1.25, 1)))
    curves = left.subplots(3, 2, sharex=True)
    for row, task in zip(curves, TASKS, strict=True):
        rows = [s for s in inverse.scores if s.task == task]
        for axes, name, title in ((row[0], "error", "RMS error"), (row[1], "distance", "Fréchet")):
            walks = rows[1:]
            axes.plot([s.evaluations for s in walks], [getattr(s, name) for s in walks], "o-")
            axes.axhline(
                getattr(rows[0], name), color="k", ls="--", lw=0.9, label=f"DPS, {DPS_STEPS} steps"
            )
            axes.set_title(f"{task}: {title}", fontsize=9)
            axes.set_xscale("log")
            axes.set_xticks(BUDGETS, [str(b) for b in BUDGETS])
            axes.minorticks_off()
    curves[0, 0].legend(fontsize=8)
    for axes in curves[-1]:
        axes.set_xlabel("annealed Langevin steps")
    panels = right.subplots(3, 4)
    titles = ("truth", "measured", "DPS", "annealed\nLangevin")
    for row, task in zip(panels, TASKS, strict=True):
        for axes, image, title in zip(row, inverse.pictures[task], titles, strict=True):
            axes.imshow(image, cmap="gray", vmin=0, vmax=1.1)
            axes.set(xticks=[], yticks=[])
            if task == TASKS[0]:
                axes.set_title(title, fontsize=9)
        row[0].set_ylabel(task, fontsize=9)
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("inverse_problems", run, outcome, draw)


if __name__ == "__main__":
    main()
