"""Annealing paths: a newcomer takes part in everything."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from recon.noise import NoiseStreams
from recon.operators import MeasurementOperator
from recon.paths import PATHS, AnnealingPath, Descent, PriorPath, Widths
from recon.phantom import simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.prior import GaussianPrior
from recon.sampler import InverseProblem, Level, State, init, step
from recon.schedule import PRESETS
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask


@dataclass(frozen=True)
class Third(AnnealingPath):
    """The prior's path, which notes what it is asked for."""

    name = "third"
    asked: list[str] = field(default_factory=list)

    def widths(self, localization: float, lowest: float, highest: float) -> Widths:
        self.asked.append("widths")
        return PriorPath().widths(localization, lowest, highest)

    def first(self, widths: Widths, descent: Descent) -> tuple[Level, ...]:
        self.asked.append("first")
        return PriorPath().first(widths, descent)

    def again(self, top: float, descent: Descent) -> tuple[Level, ...]:
        self.asked.append("again")
        return PriorPath().again(top, descent)

    def reopen(
        self, problem: InverseProblem, state: State, lowest: float, top: float, noise: NoiseStreams
    ) -> State:
        self.asked.append("reopen")
        return PriorPath().reopen(problem, state, lowest, top, noise)


def test_a_third_path_takes_part_in_everything() -> None:
    shape = (32, 32)
    full, _ = simulate(1, 4, *shape)
    scan = undersample(full, undersampling_mask(shape, "equispaced", 2, 0.4, 0))
    prior = GaussianPrior(torch.zeros(shape, dtype=torch.complex64), torch.full(shape, 0.1))
    third = Third()
    draws = {}
    for path in (third, PriorPath()):
        settings = Settings(preset="fast", path=path, self_check=False)
        posterior = [e for e in reconstruct(scan, prior, settings) if isinstance(e, SlicePosterior)]
        draws[path.name] = torch.from_numpy(posterior[0].samples)
    assert third.asked == ["widths", "first", "again"] + ["reopen"] * PRESETS["fast"].cycles
    assert torch.equal(draws["third"], draws["prior"])


def test_half_a_path_is_none() -> None:
    class Half(AnnealingPath):
        name = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_the_table_says_the_names() -> None:
    assert all(path.name == name for name, path in PATHS.items())


class Doubling(MeasurementOperator):
    """What a newcomer writes: the four methods, and no word of devices or solvers."""

    def forward(self, image: Tensor) -> Tensor:
        return 2 * image.unsqueeze(-3)

    def adjoint(self, measurement: Tensor) -> Tensor:
        return 2 * measurement.squeeze(-3)

    def measurement_shape(self, image_shape: torch.Size) -> tuple[int, ...]:
        return (*image_shape[:-2], 1, *image_shape[-2:])

    @property
    def measured_components(self) -> int:
        return 2 * 4 * 5


class OnMeta(NoiseStreams):
    """Streams that note on which device their numbers are wanted."""

    wanted: list[str]

    def normal(self, shape, device="cpu"):
        self.wanted.append(torch.device(device).type)
        return super().normal(shape, device)


def test_a_newcomers_operator_draws_its_noise_where_the_image_is() -> None:
    operator = Doubling()
    noise = OnMeta.pooled(0, 3)
    noise.wanted = []
    image = torch.zeros(3, 4, 5, dtype=torch.complex64, device="meta")
    assert operator.solver().white(noise, image).device.type == "meta"
    assert set(noise.wanted) == {"meta"}


def test_a_newcomers_operator_is_sampled() -> None:
    operator, chains = Doubling(), 400
    problem = InverseProblem(operator, operator.solver(), torch.zeros(1, 4, 5) + 0j, 0.2)
    prior = GaussianPrior(torch.zeros(4, 5, dtype=torch.complex64), torch.ones(4, 5))
    noise = NoiseStreams.pooled(0, chains)
    state = init(problem, torch.zeros(4, 5, dtype=torch.complex64), 1.0, noise)
    for _ in range(30):
        state, _ = step(problem, prior, Level(0.05, 0.05, 1.3, 0.2), state, noise)
    # Precision 1 / (1 + 0.05^2) + 4 / 0.04; standard error of the variance 1 / sqrt(20 * 400).
    found = float(state.image.abs().square().mean()) / 2
    assert found == pytest.approx(1 / (1 / 1.0025 + 100), rel=5 / math.sqrt(8000))
