"""The three steps on an MR slice, as pictures (Xun, Gupta and Price, Fig. 2).

    python -m benchmarks three_steps

A coarse image; the same with noise, and what the reverse diffusion makes of it without looking at
the data; annealed Langevin from there to the posterior, on the paper's own path (the measurement's
noise falls, the anchor is kept and then released). One chain of `brain_t1_8ch` at R = 4, or of the
phantom without the folder of scans.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks.record import Check, Outcome, Row, publish
from benchmarks.shared_slice import Case, image_scores, prepare
from models.loading import load_prior
from recon.coarse import CoarseMethod, coarse_reconstruction
from recon.noise import NoiseStreams
from recon.sampler import Level, diffuse, init, step
from recon.schedule import STEP, geometric, lowest_sigma
from service.runs import DEFAULT_MODEL

LOCALIZATION, ANNEALING = 24, 64
COARSE, NOISED, LOCALIZED, POSTERIOR = (
    "coarse image x0",
    "x0' = x0 + noise",
    "localized: a draw given x0'",
    "annealed: a draw given the data",
)


@dataclass(frozen=True)
class Steps:
    """One picture per step, in internal units, and how each fits truth and data."""

    case: str
    sigma: float
    """Noise of x0' per real component."""
    images: dict[str, Tensor]
    scores: dict[str, dict[str, float]]
    reference: np.ndarray


def run() -> Steps:
    """One chain, kept at each step."""
    torch.set_num_threads(1)
    case = Case("brain_t1_8ch", 4)
    if not case.available:
        case = Case("phantom", 4, 0.13)
    prior = load_prior(DEFAULT_MODEL)
    shared = prepare(case, lambda find: find(), prior)
    problem = shared.problem
    streams = NoiseStreams.keyed(0, "coarse-0", range(4))
    coarse = coarse_reconstruction(problem, CoarseMethod.CG_SENSE, streams)
    low = lowest_sigma(problem.noise_std, prior.sigma_range)
    sigma = max(coarse.localization_sigma(), 4 * problem.noise_std)
    noise = NoiseStreams.keyed(0, "three-steps", range(1))
    state = init(problem, coarse.image, sigma, noise)
    images = {COARSE: coarse.image, NOISED: state.image[0]}
    for high, below in pairwise(geometric(sigma, low, LOCALIZATION)):
        state, _ = diffuse(prior, high, below, state, noise)
    images[LOCALIZED] = state.image[0]
    for level in refining(sigma, low, problem.noise_std):
        state, _ = step(problem, prior, level, state, noise)
    images[POSTERIOR] = state.image[0]
    scores = {name: image_scores(shared, image) for name, image in images.items()}
    pictures = {name: shared.sensitivity.picture(image) for name, image in images.items()}
    return Steps(case.name, sigma, pictures, scores, shared.reference)


def refining(sigma: float, low: float, eta: float) -> tuple[Level, ...]:
    """The paper's own steps: prior fixed, eta falls from 3 sigma, and the anchor goes at the end.

    The default path's prior falls, too (`recon.paths`): here each step is seen for itself.
    """
    released = ANNEALING // 4
    etas = geometric(max(3 * sigma, eta), eta, ANNEALING - released)[1:]
    anchored = tuple(Level(low, low, STEP, noise, anchor_sigma=sigma) for noise in etas)
    return anchored + (Level(low, low, STEP, eta),) * released


def outcome(steps: Steps) -> Outcome:
    """The localized draw has left the data, and the annealed one explains them again."""
    localized, posterior = steps.scores[LOCALIZED], steps.scores[POSTERIOR]
    checks = (
        Check("chi² of the annealed draw", posterior["chi2"], 1, 0.15),
        Check("the localized draw contradicts the data", float(localized["chi2"] > 1.5), 1, 0),
        Check(
            "the annealed draw is nearer to the truth than the localized one",
            float(posterior["PSNR"] > localized["PSNR"]),
            1,
            0,
        ),
    )
    rows: tuple[Row, ...] = tuple({"step": name, **scores} for name, scores in steps.scores.items())
    return Outcome(checks, rows, "one slice and one chain")


def draw(steps: Steps) -> Figure:
    """The images above, their errors below."""
    figure, panels = plt.subplots(2, 5, figsize=(13, 6.6), layout="constrained")
    truth = np.abs(steps.reference)
    shown = {"fully sampled": steps.reference} | {
        name: image.numpy() for name, image in steps.images.items()
    }
    for column, (name, image) in enumerate(shown.items()):
        error = np.abs(np.abs(image) - truth)
        panels[0, column].imshow(np.abs(image), cmap="gray", vmin=0, vmax=1.1)
        panels[0, column].set_title(name, fontsize=10)
        if column:
            panels[1, column].imshow(error, cmap="magma", vmin=0, vmax=0.3)
            scores = steps.scores[name]
            text = f"{scores['PSNR']:.1f} dB, χ² {scores['chi2']:.2f}"
            panels[1, column].set_xlabel(text, fontsize=10)
    for axes in panels.flat:
        axes.set(xticks=[], yticks=[])
    panels[1, 0].axis("off")
    panels[1, 0].text(0, 0.5, f"{steps.case}\nerror of the magnitude,\n0 to 0.3", fontsize=10)
    return figure


def main() -> bool:
    """Run, write and say whether all was met."""
    return publish("three_steps", run, outcome, draw)


if __name__ == "__main__":
    main()
