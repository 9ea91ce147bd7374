from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from matplotlib.image import imread
from typer.testing import CliRunner

from recon.prior import GaussianPrior
from service.cli import app
from service.prior_samples import draw, noise_levels


def test_levels_fall_from_the_highest_to_the_lowest() -> None:
    levels = noise_levels(0.02, 10, 30)
    np.testing.assert_allclose([levels[0], levels[-1]], [10, 0.02])
    assert (np.diff(levels) < 0).all()
    assert len(levels) == 30


def test_draws_from_a_gaussian_prior_have_its_mean_and_variance() -> None:
    mean = torch.full((24, 24), 0.5 + 0.2j, dtype=torch.complex64)
    prior = GaussianPrior(mean, torch.full((24, 24), 0.3**2), sigma_range=(0.01, 10.0))
    *_, (share, images) = draw(prior, 8, 24, 60, 0, torch.device("cpu"))
    assert share == 1
    assert images.shape == (8, 24, 24)
    deviation = images - mean.numpy()
    # 9,216 components: standard errors of 0.003 and 0.7 %; the scheme is second order in steps.
    assert abs(deviation.mean()) < 0.02
    assert abs(np.stack([deviation.real, deviation.imag]).std() / 0.3 - 1) < 0.04


def test_the_command_writes_a_picture(tmp_path: Path) -> None:
    out = tmp_path / "prior.png"
    options = ["--count", "2", "--size", "32", "--evaluations", "3", "--device", "cpu"]
    done = CliRunner().invoke(app, ["models", "sample", "brain-preview", "-o", str(out), *options])
    assert done.exit_code == 0, done.output
    assert imread(out).shape[:2] == (192, 384)
