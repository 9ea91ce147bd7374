"""Who competes on the bench, with which settings: published ones and a grid to choose from.

Each peer runs as published and, beside that, with the best of a small grid at about `TUNED`
evaluations per sample. The grid is searched on a phantom that no table shows, for the PSNR of the
mean of two samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from benchmarks.deepinv_samplers import INSTALLED, diffpir, dps_of_deepinv
from benchmarks.samplers import (
    Denoiser,
    daps,
    dps,
    plain_annealed_langevin,
    preconditioned_langevin,
    split_gibbs,
)
from recon.noise import NoiseStreams
from recon.sampler import InverseProblem
from recon.schedule import PRESETS, Preset

TUNED = 110
"""Network evaluations per sample of the tuned runs: about those of our preset `standard`."""
Values = Mapping[str, float | int | str | None]
Sampler = Callable[..., Tensor]


@dataclass(frozen=True)
class Peer:
    """One sampler of others."""

    name: str
    sample: Sampler
    published: Values
    grid: tuple[Values, ...]
    spend: Callable[[Values, int], Values]
    """Settings and a number of evaluations to the settings that spend about that many."""

    def draw(
        self, problem: InverseProblem, denoiser: Denoiser, noise: NoiseStreams, settings: Values
    ) -> Tensor:
        """One image (chains, rows, columns) per noise stream."""
        return self.sample(problem, denoiser, noise, **settings)


def _any_dps(
    problem: InverseProblem, denoiser: Denoiser, noise: NoiseStreams, **settings: float | str
) -> Tensor:
    """Deepinv's where the settings name its guidance, the paper's constant step otherwise."""
    chosen: Sampler = dps_of_deepinv if "guidance" in settings else dps
    return chosen(problem, denoiser, noise, **settings)


def _gibbs_budget(settings: Values, evaluations: int) -> Values:
    """Iterations that spend the evaluations; the coupling reaches its end after three quarters."""
    iterations = max(2, evaluations // int(settings["steps"] or 1))
    ratio = float(settings["narrowest"] or 0) / float(settings["widest"] or 1)
    decay = ratio ** (1 / max(1, round(0.75 * (iterations - 1))))
    return {**settings, "iterations": iterations, "decay": decay}


def _grid(**choices: tuple[float | int | None, ...]) -> tuple[Values, ...]:
    found: list[Values] = [{}]
    for key, values in choices.items():
        found = [{**each, key: value} for each in found for value in values]
    return tuple(found)


_DEEPINV_DPS: tuple[Values, ...] = tuple(
    {"guidance": "annealed", "weight": weight} for weight in (1.0, 3.0, 10.0)
)

_EXACT: dict[str, tuple[float | int | None, ...]] = {
    "lowest": (0.03,),
    "langevin_steps": (0,),
    "data_std": (None,),
}
"""DAPS's Gaussian drawn exactly, at the measured noise, in place of its inner Langevin steps."""

PEERS = tuple(
    peer
    for peer in (
        Peer(
            "csgm-mri-langevin",
            plain_annealed_langevin,
            # The published schedule with the grid's weight and step. Those of the original (5 and
            # 1.148) and of InverseBench's version (0.3 and 0.689) end in numbers that are not
            # finite here: an unbounded denoiser stands in for a network with instance norms.
            {"levels": 1155, "weight": 3.0, "step": 0.3},
            tuple(
                {"weight": weight, "step": step}
                for weight, step in ((0.3, 0.689), (1.0, 0.3), (3.0, 0.1), (3.0, 0.3), (2.0, 0.5))
            ),
            lambda settings, count: {**settings, "levels": max(2, round(count / 3))},
        ),
        Peer(
            "pULA (BART)",
            preconditioned_langevin,
            {},
            (
                *_grid(steps=(1, 2, 4), step=(0.5, 1.0)),
                *_grid(steps=(1,), step=(0.5, 1.0), highest=(2.0,)),
            ),
            lambda settings, count: {
                **settings,
                "levels": max(2, count // int(settings["steps"] or 1)),
            },
        ),
        Peer(
            "DPS",
            _any_dps,
            {"steps": 500, "scale": 2.0},
            (*_grid(scale=(1.0, 3.0, 6.0, 12.0)), *(_DEEPINV_DPS if INSTALLED else ())),
            lambda settings, count: {**settings, "steps": count},
        ),
        Peer(
            "DAPS",
            daps,
            {},
            (
                *_grid(flow_steps=(1,), highest=(10.0,), width=(0.1, 0.3, 0.6, 1.0), **_EXACT),
                *_grid(flow_steps=(2,), highest=(10.0,), width=(0.3,), **_EXACT),
            ),
            lambda settings, count: {
                **settings,
                "levels": max(2, count // int(settings["flow_steps"] or 1)),
            },
        ),
        Peer(
            "DiffPIR",
            diffpir,
            {"steps": 100, "weight": 7.0, "zeta": 0.1},
            (*_grid(weight=(2.0, 7.0), zeta=(0.3, 1.0)), {"weight": 1.0, "zeta": 1.0}),
            lambda settings, count: {**settings, "steps": count},
        ),
        Peer(
            "split Gibbs (PnP-DM)",
            split_gibbs,
            {},
            (
                *_grid(steps=(2, 4), widest=(2.0,), narrowest=(0.03, 0.08)),
                *_grid(steps=(1, 2), widest=(2.0,), narrowest=(0.02,)),
            ),
            _gibbs_budget,
        ),
    )
    if peer.name != "DiffPIR" or INSTALLED
)


def our_preset(evaluations: int, chains: int) -> Preset:
    """Our sampler with a number of evaluations per chain, its cycles those of `standard`."""
    standard = PRESETS["standard"]
    spare = evaluations - standard.localization - standard.annealing
    cycles = max(0, spare // standard.cycle)
    first = evaluations - standard.localization - standard.cycle * cycles
    return Preset(chains, standard.localization, first, cycles, standard.cycle)
