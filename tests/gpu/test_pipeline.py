"""The whole pipeline on a pretended GPU: the CPU's results, and what a GPU would wait for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from inspect import getsourcelines
from typing import Any

import pytest
import torch

from benchmarks.image_operators import (
    BlockAverage,
    GaussianBlur,
    ImageOperator,
    Inpainting,
    image_problem,
)
from models.denoiser import NetworkPrior
from models.network_configs import ResidualUNetConfig
from models.residual_unet import ResidualUNet
from recon import coarse, schedule, solve
from recon.chains import ChainPlan, finished, run_chains
from recon.noise import NoiseKey
from recon.paths import PATHS
from recon.phantom import simulate
from recon.pipeline import CoarseReady, reconstruct
from recon.posterior import SlicePosterior
from recon.scan import Scan
from recon.settings import Settings
from recon.solve import Solution, conjugate_gradient
from recon.undersampling import undersample, undersampling_mask
from tests.gpu.comparison import TINY, assert_alike
from tests.gpu.pretended import GPU, Ledger, pretended_gpu
from tests.problems import folded_scan
from tests.radial import phantom_scan, spokes

UNCHECKED = Settings(preset="tiny", fit_noise=False, self_check=False)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(schedule.PRESETS, "tiny", TINY)


def network() -> ResidualUNet:
    """One that hardly changes an image, so that steps stay near the data."""
    torch.manual_seed(0)
    return ResidualUNet(ResidualUNetConfig(channels=(4, 6), blocks=1)).eval()


def lines() -> Scan:
    full, _ = simulate(1, 4, 40, 48, 40, 0)
    return undersample(full, undersampling_mask((40, 48), "equispaced", 2, 0.3, 0))


def scattered() -> Scan:
    full, _ = simulate(1, 4, 40, 40, 40, 0)
    return undersample(full, undersampling_mask((40, 40), "poisson", 2.5, 0.35, 0))


def folded() -> Scan:
    full = folded_scan().scan
    return undersample(full, undersampling_mask(full.image_shape, "equispaced", 2, 0.4, 0))


def radial() -> Scan:
    return phantom_scan(spokes(32, 64), 32, coils=3)[0]


@dataclass
class Run:
    """What a reconstruction gave, and what it asked of the device."""

    posterior: SlicePosterior
    first_picture: int
    """Waits until the coarse image is there."""
    within: list[tuple[str, Counter[str], Counter[str]]]
    """Stage, waits and copies of every step that is not the first of its stage."""
    between: list[tuple[str, Counter[str], Counter[str]]]
    """Of the first steps, with what comes before them."""


def run(scan: Scan, settings: Settings, ledger: Ledger | None = None) -> Run:
    """On the CPU, or inside `pretended_gpu` with its ledger."""
    device = torch.device("cpu") if ledger is None else GPU
    ledger = ledger or Ledger()
    prior = NetworkPrior(network().to(device), (0.02, 50.0))
    ledger.clear()
    stage, first_picture = "", 0
    within, between, found = [], [], []
    for event in reconstruct(scan, prior, settings, device=device):
        if isinstance(event, CoarseReady):
            first_picture = ledger.waits.total()
        elif isinstance(event, SlicePosterior):
            found.append(event)
        elif event.stage != "calibration":
            counts = (event.stage, Counter(ledger.waits), Counter(ledger.copies))
            (within if event.stage == stage else between).append(counts)
            stage = event.stage
            ledger.clear()
    return Run(found[0], first_picture, within, between)


@pytest.mark.parametrize("path", list(PATHS))
def test_lines_are_sampled_without_waiting(path: str) -> None:
    scan, settings = lines(), Settings(preset="tiny", path=PATHS[path], fit_noise=False)
    here = run(scan, settings)
    with pretended_gpu() as ledger:
        there = run(scan, settings, ledger)
    assert_alike(there.posterior, here.posterior)
    assert there.posterior.self_check is not None
    for stage, waits, copies in there.within:
        assert not waits, (stage, waits)
        # The prior's examination has streams, and with them keys, of its own for every level.
        assert not copies or stage == "examination", (stage, copies)
    for stage, waits, copies in there.between:
        if stage.startswith("draw"):  # a cycle: its chains are looked at once
            looks = {line: n for line, n in waits.items() if line.startswith("recon/chains.py")}
            assert sum(looks.values()) == 1, (stage, waits)
            # An operator counts its samples when it is first asked how many there are.
            assert waits.total() <= 1 + stage.startswith("draw 1 "), (stage, waits)
            assert not copies, (stage, copies)
    assert there.first_picture <= 30


@pytest.mark.parametrize("path", list(PATHS))
def test_conjugate_gradients_wait_once_in_eight_iterations(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, settings = scattered(), replace(UNCHECKED, path=PATHS[path])
    here = run(scan, settings)
    solved: list[int] = []

    def counted(*args: Any, **kwargs: Any) -> Solution:
        solution = conjugate_gradient(*args, **kwargs)
        solved.append(solution.iterations)
        return solution

    for module in (solve, coarse):
        monkeypatch.setattr(module, "conjugate_gradient", counted)
    source, begin = getsourcelines(conjugate_gradient)
    own = {f"recon/solve.py:{line}" for line in range(begin, begin + len(source))}
    with pretended_gpu() as ledger:
        there = run(scan, settings, ledger)
    assert_alike(there.posterior, here.posterior)
    assert max(solved) >= 8
    waited = sum((waits for _, waits, _ in there.within + there.between), Counter())
    assert sum(waited[line] for line in own) <= sum(iterations // 8 + 1 for iterations in solved)
    for stage, waits, copies in there.within:
        assert set(waits) <= own, (stage, waits)
        assert not copies, (stage, copies)


@pytest.mark.parametrize("scan", [folded, radial])
def test_overlap_and_trajectories_meet_no_tensor_of_the_cpu(scan: Callable[[], Scan]) -> None:
    taken, settings = scan(), UNCHECKED
    here = run(taken, settings)
    with pretended_gpu() as ledger:
        there = run(taken, settings, ledger)
    assert_alike(there.posterior, here.posterior)
    told = " ".join(here.posterior.warnings)
    assert ("two places" in told) == (scan is folded)


@pytest.mark.parametrize(
    "operator",
    [
        lambda device: Inpainting((torch.arange(24 * 24) % 3 > 0).reshape(24, 24).to(device)),
        lambda device: BlockAverage(2, 24, 24),
        lambda device: GaussianBlur(1.5, 9, 24, 24, device),
    ],
)
def test_operators_on_the_image_itself(operator: Callable[[torch.device], ImageOperator]) -> None:
    image = torch.from_numpy(simulate(1, 1, 24, 24, 40, 0)[1][0])
    plan = ChainPlan(TINY, PATHS["prior"], 0.3, 0.05, 50.0, 0.1)

    def draws(device: torch.device) -> torch.Tensor:
        measuring = operator(device)
        problem = image_problem(measuring, measuring.forward(image.to(device)), 0.05)
        prior = NetworkPrior(network().to(device), (0.02, 50.0))
        chains = run_chains(problem, prior, plan, image.to(device), NoiseKey(0, "image"), range(2))
        return finished(chains).images.cpu()

    here = draws(torch.device("cpu"))
    with pretended_gpu():
        there = draws(GPU)
    assert float((there - here).abs().max()) < 1e-3 * float(here.abs().max())
