"""The scores of the peers' bench, on draws whose quality is known."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.closed_form import white_image
from benchmarks.samplers import Denoiser
from benchmarks.shared_slice import Case, SharedSlice, sample_scores
from benchmarks.single_images import bart, methods, wavelet
from models.denoiser import NetworkPrior
from recon.calibration import calibrate
from recon.operators import CartesianSense, fft2c
from recon.phantom import simulate
from recon.preparation import inverse_problem, prior_of
from recon.receivers import noise_model
from recon.sampler import InverseProblem
from recon.sensitivity import Sensitivity
from tests.problems import folded_scan

SIDE, SPREAD, SAMPLES = 46, 0.1, 8
NOISE_STD = 0.01


def shared_slice(reference: torch.Tensor) -> SharedSlice:
    mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    mask[:, ::2] = True
    operator = CartesianSense(torch.ones(1, SIDE, SIDE, dtype=torch.complex64), mask)
    noise = NOISE_STD * white_image(1, SIDE, SIDE, seed=3) * mask
    measurement = operator.forward(reference) + noise
    problem = InverseProblem(operator, operator.solver(), measurement, NOISE_STD)
    inside = np.ones((SIDE, SIDE), np.bool_)
    scan = simulate(coils=1, rows=SIDE, columns=SIDE)[0]
    factor = np.ones((SIDE, SIDE), np.complex64)
    flat = Sensitivity(torch.ones(SIDE, SIDE))
    known = reference.numpy()
    return SharedSlice(Case("phantom", 2), scan, problem, flat, factor, known, 0.0, inside)


def test_draws_as_far_apart_as_from_the_truth_are_honest() -> None:
    centre = torch.full((SIDE, SIDE), 1 + 0j, dtype=torch.complex64)
    everything = centre + SPREAD * white_image(SAMPLES + 1, SIDE, SIDE, seed=1)
    shared, draws = shared_slice(everything[0]), everything[1:]
    honest = sample_scores(shared, draws)
    assert honest["calibration ratio"] == pytest.approx(1, abs=0.1)
    assert honest["cover90"] == pytest.approx(0.9, abs=0.03)
    assert honest["cover50"] == pytest.approx(0.5, abs=0.04)
    assert honest["mean PSNR"] > honest["sample PSNR"] + 2
    mean = draws.mean(dim=0)
    narrow = sample_scores(shared, mean + 0.5 * (draws - mean))
    assert narrow["calibration ratio"] < 0.35
    assert narrow["cover90"] < 0.75


def test_the_noise_of_the_reference_is_not_held_against_the_draws() -> None:
    centre = torch.full((SIDE, SIDE), 1 + 0j, dtype=torch.complex64)
    everything = centre + SPREAD * white_image(SAMPLES + 1, SIDE, SIDE, seed=1)
    noisy = everything[0] + SPREAD * white_image(SIDE, SIDE, seed=9)
    shared = shared_slice(noisy)
    problem = replace(shared.problem, noise_std=SPREAD)
    told = replace(shared, unseen=1.0, problem=problem)
    assert sample_scores(shared, everything[1:])["calibration ratio"] < 0.7
    assert sample_scores(told, everything[1:])["calibration ratio"] == pytest.approx(1, abs=0.15)


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not on this machine")
def test_bart_gets_the_same_problem_as_sigpy() -> None:
    image = torch.from_numpy(simulate(coils=1, rows=SIDE, columns=SIDE)[1][0])
    shared = shared_slice(image)
    found = bart(shared.problem, 0.01, "W")
    # With next to no penalty both solve least squares on the measured lines.
    measured = shared.problem.operator.forward(found)
    expected = shared.problem.operator.forward(wavelet(shared.problem, 0.01))
    torch.testing.assert_close(measured, expected, rtol=0, atol=5 * NOISE_STD)
    assert float((measured - shared.problem.measurement).abs().max()) < 5 * NOISE_STD
    assert fft2c(found).shape == (SIDE, SIDE)


class Halving(torch.nn.Module):
    """A network for images of any shape."""

    def forward(self, image: torch.Tensor, _label: torch.Tensor) -> torch.Tensor:
        return 0.5 * image


@pytest.mark.skipif(shutil.which("bart") is None, reason="BART is not on this machine")
def test_bart_gets_both_sets_of_maps_where_voxels_fold() -> None:
    scan = folded_scan().scan
    problem = inverse_problem(calibrate(scan, 0, noise_model(scan)[0]), torch.device("cpu"))
    found = bart(problem, 0.001, "W")
    assert found.shape == problem.backprojection.shape
    assert float(problem.chi2(found[None])[0]) < 1.2
    # The maps of a voxel are orthonormal: fully sampled, A^H y is the least squares answer.
    error = (found - problem.backprojection).abs().square().mean().sqrt()
    assert float(error) < 0.5 * problem.noise_std


def test_the_peers_denoiser_takes_the_strip_as_our_own_prior_does() -> None:
    scan = folded_scan().scan
    calibration = calibrate(scan, 0, noise_model(scan)[0])
    problem = inverse_problem(calibration, torch.device("cpu"))
    prior = NetworkPrior(Halving(), (0.05, 2.0))
    noisy = white_image(2, *problem.backprojection.shape, seed=4)
    denoiser = Denoiser(prior, calibration.overlap)
    expected = prior_of(prior, problem).denoise(noisy, 0.3)
    torch.testing.assert_close(denoiser(noisy, 0.3), expected)
    assert denoiser.images == 2


def test_methods_have_settings_to_choose_from() -> None:
    found = methods()
    assert {"zero-filled", "CG-SENSE", "L1-wavelet (sigpy)"} <= set(found)
    assert all(tried for _, tried in found.values())
