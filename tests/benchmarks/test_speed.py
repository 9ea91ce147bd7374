"""What `benchmarks speed` compares the chains' time with."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.speed import SHORT, side_by_side
from recon.calibration import calibrate
from recon.phantom import simulate
from recon.preparation import inverse_problem, prepare
from recon.prior import StationaryPrior
from recon.receivers import noise_model
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask


class Listening:
    """A prior that keeps the level of every question."""

    def __init__(self) -> None:
        self._prior = StationaryPrior((0.0, 0.7), (1.0, 0.01))
        self.sigma_range = self._prior.sigma_range
        self.asked: list[float] = []

    def denoise(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        self.asked.append(sigma)
        return self._prior.denoise(noisy, sigma)


def test_network_alone_is_timed_at_the_level_of_every_step() -> None:
    """Levels have networks of their own, of which one costs a thirteenth of the others."""
    full, _ = simulate(1, 4, 48, 48, snr=40, seed=0)
    scan = undersample(full, undersampling_mask((48, 48), "equispaced", 3, 0.2, 0))
    model, _ = noise_model(scan)
    calibration = calibrate(scan, 0, model)
    prior = Listening()
    raw = inverse_problem(calibration, torch.device("cpu"))
    current = prepare(calibration, raw, 0, prior, Settings(samples=2))
    plan = replace(current.plan, preset=replace(SHORT, chains=2))
    prior.asked.clear()
    steps, alone = side_by_side(current.problem, prior, plan, current.coarse)
    evaluations = plan.preset.evaluations
    assert len(prior.asked) == 2 * evaluations
    assert prior.asked[2::2] == prior.asked[3::2]  # every step after the first, which warms up
    assert len(set(prior.asked)) > evaluations / 2
    assert steps > 0
    assert alone > 0
