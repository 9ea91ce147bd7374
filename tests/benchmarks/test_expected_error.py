from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.expected_error import as_the_prior_sees_it, expected_and_found
from recon.operators import ifft2c
from recon.phantom import simulate
from recon.prior import GaussianPrior

SIGMA, SIDE = 0.3, 64


@pytest.mark.parametrize("believed", [1.0, 0.25, 4.0])
def test_the_ratio_is_one_for_the_right_prior_and_that_of_the_closed_form_for_others(
    believed: float,
) -> None:
    power = torch.logspace(-3, 1, SIDE * SIDE).view(SIDE, SIDE)
    generator = torch.Generator().manual_seed(1)
    drawn = torch.view_as_complex(torch.randn((6, SIDE, SIDE, 2), generator=generator))
    images = list(ifft2c(power.sqrt() * drawn))
    prior = GaussianPrior(torch.zeros(SIDE, SIDE), believed * power)
    expected, found = expected_and_found(prior, images, SIGMA)
    assumed = believed * power
    gain = assumed / (assumed + SIGMA**2)
    error = 2 * float(((1 - gain) ** 2 * power + gain**2 * SIGMA**2).mean())
    assert found == pytest.approx(error, rel=0.03)
    assert expected == pytest.approx(2 * SIGMA**2 * float(gain.mean()), rel=0.05)
    ratio = found / expected
    assert ratio == pytest.approx(1, abs=0.05) if believed == 1 else abs(np.log(ratio)) > 0.1


def test_images_are_those_of_the_reconstruction() -> None:
    full, truth = simulate(rows=96, columns=80, coils=4, snr=200)
    seen = as_the_prior_sees_it(full)
    magnitude = torch.from_numpy(np.abs(truth[0]))
    inside = magnitude > 0.2 * magnitude.max()
    shares = seen.abs()[inside] / magnitude[inside]
    assert float(shares.std() / shares.mean()) < 0.1
    # The phase of the central lines is taken out of it.
    assert float(seen.angle()[inside].abs().median()) < 0.2
    assert float(torch.quantile(seen.abs().flatten(), 0.99)) == pytest.approx(1, rel=1e-3)
