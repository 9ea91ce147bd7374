from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.calibration import calibrate
from recon.central_lines import calibration_width
from recon.chains import ChainPlan, finished, run_chains
from recon.coarse import CoarseMethod, coarse_reconstruction
from recon.errors import ScanError
from recon.io.files import inspect_scan, read_scan
from recon.noise import NoiseKey, NoiseStreams
from recon.noncartesian import (
    NonCartesianSense,
    density_compensation,
    from_samples,
    gridded,
)
from recon.paths import NARROW
from recon.pipeline import reconstruct
from recon.planes import ATTRIBUTE, ImageStack
from recon.posterior import SlicePosterior
from recon.preparation import inverse_problem
from recon.prior import GaussianPrior
from recon.receivers import noise_model
from recon.sampler import InverseProblem
from recon.scan import Scan, Trajectory
from recon.schedule import Preset
from recon.selfcheck import hold_out_readouts
from recon.settings import Settings
from tests.contracts import assert_adjoint, assert_normal, complex_normal
from tests.mrd_files import CENTRE, OBLIQUE, header, readout, write
from tests.radial import fourier_sums, phantom_scan, psnr, spirals, spokes

TRAJECTORIES = {"radial": spokes(20, 24), "spiral": spirals(6, 80, 4.0)}


def sense(points: NDArray[np.float32], shape: tuple[int, int], coils: int = 3) -> NonCartesianSense:
    mask = torch.from_numpy(np.random.default_rng(0).random(points.shape[:2]) < 0.9)
    maps = complex_normal((coils, *shape), 5)
    maps = maps / maps.abs().square().sum(dim=0).sqrt()
    return NonCartesianSense(maps, torch.from_numpy(points), mask)


@pytest.mark.parametrize("name", TRAJECTORIES)
@pytest.mark.parametrize("shape", [(12, 16), (13, 9), (11, 12)])
def test_the_operator_obeys_the_laws(name: str, shape: tuple[int, int]) -> None:
    operator = sense(TRAJECTORIES[name], shape)
    assert_adjoint(operator, (2, *shape))
    assert_normal(operator, (2, *shape))


@pytest.mark.parametrize("shape", [(12, 16), (13, 9)])
def test_it_is_the_sum_of_the_definition(shape: tuple[int, int]) -> None:
    points = TRAJECTORIES["radial"]
    operator = sense(points, shape)
    image = complex_normal(shape, 1)
    weighted = (operator.coil_maps * image).numpy().astype(np.complex128)
    exact = fourier_sums(weighted, points.reshape(-1, 2)).reshape(3, *points.shape[:2])
    exact = exact * operator.mask.numpy() / math.sqrt(shape[0] * shape[1])
    found = operator.forward(image).numpy()
    assert np.abs(found - exact).max() < 2e-6 * np.abs(exact).max()


def test_points_on_the_grid_give_the_centred_transform() -> None:
    rows, columns = 8, 10
    grid = np.stack(
        np.meshgrid(
            (np.arange(rows) - 4) / rows, (np.arange(columns) - 5) / columns, indexing="ij"
        ),
        axis=-1,
    ).astype(np.float32)
    operator = NonCartesianSense(
        torch.ones((1, rows, columns), dtype=torch.complex64),
        torch.from_numpy(grid),
        torch.ones((rows, columns), dtype=torch.bool),
    )
    image = complex_normal((rows, columns), 2)
    shifted = np.fft.fftshift(np.fft.fft2(np.fft.ifftshift(image.numpy()), norm="ortho"))
    np.testing.assert_allclose(operator.forward(image)[0].numpy(), shifted, atol=1e-5)
    assert bool(operator.sampled.all())


def test_density_compensation_makes_the_adjoint_a_picture() -> None:
    points = spokes(101, 128)
    scan, truth = phantom_scan(points, 64, coils=1, noise_std=0.001)
    weights = density_compensation(points, scan.mask, (64, 64))
    values = torch.from_numpy(scan.kspace[0].copy())
    place = torch.from_numpy(points)
    with_it = from_samples(values * torch.from_numpy(weights), place, (64, 64))[0].numpy()
    without = from_samples(values, place, (64, 64))[0].numpy()
    assert psnr(with_it, truth) > 23 > 16 > psnr(without, truth)
    solved = gridded(scan.kspace[0], points, scan.mask, (64, 64))[0]
    image = np.fft.fftshift(np.fft.ifft2(np.fft.ifftshift(solved), norm="ortho"))
    assert psnr(image, truth) > 33
    assert np.abs(image).max() == pytest.approx(truth.max(), rel=0.06)
    spread = from_samples(torch.from_numpy(weights).to(torch.complex64), place, (64, 64)) / 64
    assert abs(complex(spread[32, 32]) - 1) < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["radial", "spiral"])
def test_calibration_and_the_coarse_image_come_close_to_the_phantom(name: str) -> None:
    points = spokes(64, 128) if name == "radial" else spirals(16, 400, 4.0)
    scan, truth = phantom_scan(points, 64)
    assert calibration_width(scan.sampled) >= 24
    calibration = calibrate(scan, 0, noise_model(scan)[0])
    problem = inverse_problem(calibration, torch.device("cpu"))
    streams = NoiseStreams.keyed(0, "coarse", range(2))
    coarse = coarse_reconstruction(problem, CoarseMethod.CG_SENSE, streams)
    rough = problem.operator.rough_inverse(problem.measurement)  # type: ignore[attr-defined]
    assert psnr(coarse.image.numpy(), truth) > 26
    assert psnr(coarse.image.numpy(), truth) > psnr(rough.numpy(), truth)
    with pytest.raises(ScanError, match="L1-wavelet"):
        coarse_reconstruction(problem, CoarseMethod.L1_WAVELET, streams)


def test_posterior_draws_of_a_gaussian_image_have_the_exact_mean_and_variance() -> None:
    """The same sampler as for masks, against dense linear algebra."""
    size, noise_std = 8, 0.3
    points = spokes(7, 12)
    operator = NonCartesianSense(
        torch.ones((1, size, size), dtype=torch.complex64) * complex_normal((1, size, size), 3),
        torch.from_numpy(points),
        torch.ones(points.shape[:2], dtype=torch.bool),
    )
    identity = torch.eye(size * size, dtype=torch.complex64).reshape(-1, size, size)
    dense = operator.forward(identity).reshape(size * size, -1).T.to(torch.complex128)
    truth = 0.5 * complex_normal((size, size), 7)
    measured = operator.forward(truth) + noise_std * complex_normal((1, *points.shape[:2]), 8)
    problem = InverseProblem(operator, operator.solver(), measured, noise_std)
    prior = GaussianPrior(
        torch.zeros((size, size), dtype=torch.complex64), torch.full((size, size), 0.25)
    )
    plan = ChainPlan(Preset(256, 16, 32, 0, 8), NARROW, 2.0, 0.1, math.inf, 1.0)
    run = run_chains(
        problem, prior, plan, torch.zeros_like(truth), NoiseKey(3, "exact"), range(256)
    )
    draws = finished(run).images[:, -1].reshape(256, -1).to(torch.complex128)
    precision = dense.mH @ dense / noise_std**2 + torch.eye(size * size) / 0.25
    covariance = torch.linalg.inv(precision)
    mean = covariance @ (dense.mH @ measured.reshape(-1).to(torch.complex128)) / noise_std**2
    white = torch.linalg.cholesky(precision).mH @ (draws - mean).T
    chi2 = float(white.abs().square().mean() / 2)
    assert abs(chi2 - 1) < 0.10
    bias = (torch.linalg.cholesky(precision).mH @ (draws.mean(dim=0) - mean)).abs().square().mean()
    assert float(bias.sqrt()) < 0.2


@pytest.mark.slow
def test_a_radial_scan_goes_through_the_whole_pipeline() -> None:
    scan, truth = phantom_scan(spokes(40, 96), 48)
    power = np.abs(np.fft.fftshift(np.fft.fft2(truth, norm="ortho"))) ** 2 / 2 + 1e-4
    prior = GaussianPrior(
        torch.zeros((48, 48), dtype=torch.complex64), torch.from_numpy(power.astype(np.float32))
    )
    events = list(reconstruct(scan, prior, Settings(preset="fast", samples=4, fit_noise=False)))
    posterior = events[-1]
    assert isinstance(posterior, SlicePosterior)
    assert 0.9 < posterior.chi2_per_coil.mean() < 1.2
    assert posterior.self_check is not None
    assert posterior.self_check.lines == 5
    assert 0.8 < posterior.self_check.coverage_90 < 0.97
    assert psnr(posterior.mean, truth) > 25


def test_whole_readouts_are_held_out() -> None:
    mask = np.ones((40, 10), np.bool_)
    held_out = hold_out_readouts(mask, 0)
    assert (held_out.all(axis=1) == held_out.any(axis=1)).all()
    assert held_out.any(axis=1).sum() == 5
    assert not hold_out_readouts(np.ones((15, 10), np.bool_), 0).any()


def radial_file(path: Path, name: str = "radial", **changes: object) -> tuple[Path, Scan]:
    scan, _ = phantom_scan(spokes(20, 32), 16, coils=2)
    assert scan.trajectory is not None
    points = changes.pop("points", scan.trajectory.points)
    assert isinstance(points, np.ndarray)
    acquisitions = []
    for slice_ in range(2):
        for line, place in enumerate(points):
            acquired = readout(
                scan.kspace[0, :, line] * (1 + slice_), line, slice=slice_, **changes
            )
            acquired.resize(32, 2, place.shape[1])  # type: ignore[attr-defined]
            acquired.data[:] = scan.kspace[0, :, line] * (1 + slice_)  # type: ignore[attr-defined]
            acquired.traj[:] = place  # type: ignore[attr-defined]
            acquisitions.append(acquired)
    xml = header((16, 16, 1), (12, 12, 1), trajectory=name)
    return write(path, xml, acquisitions), scan


@pytest.mark.parametrize("name", ["radial", "goldenangle", "spiral"])
def test_readouts_with_trajectories_become_a_scan(name: str, tmp_path: Path) -> None:
    path, expected = radial_file(tmp_path / "a.h5", name)
    scan = read_scan(path)
    assert scan.trajectory is not None
    assert expected.trajectory is not None
    np.testing.assert_array_equal(scan.trajectory.points, expected.trajectory.points)
    assert scan.trajectory.matrix == (16, 16)
    np.testing.assert_array_equal(scan.kspace[0], expected.kspace[0])
    np.testing.assert_array_equal(scan.kspace[1], 2 * expected.kspace[0])
    assert scan.geometry.recon_shape == (12, 12)
    stack = ImageStack.from_text(str(scan.attributes[ATTRIBUTE]))
    assert stack.planes[1].labels["slice"] == 1
    np.testing.assert_allclose(stack.planes[0].position, CENTRE)
    np.testing.assert_allclose(stack.planes[0].read_dir, OBLIQUE[0], atol=1e-6)
    assert inspect_scan(path) == (2, 2, 16, 16)
    assert 1 < scan.acceleration < 2


@pytest.mark.parametrize(
    ("points", "code"),
    [
        (32 * spokes(20, 32), "trajectory-range"),
        (np.full((20, 32, 2), np.nan, np.float32), "trajectory-range"),
        (np.concatenate([spokes(20, 32), spokes(20, 32)[..., :1]], axis=-1), "no-trajectory"),
    ],
)
def test_trajectories_that_cannot_be_used_are_refused(
    points: NDArray[np.float32], code: str, tmp_path: Path
) -> None:
    path, _ = radial_file(tmp_path / "a.h5", points=points)
    with pytest.raises(ScanError) as caught:
        read_scan(path)
    assert caught.value.code == code


def test_a_trajectory_of_another_shape_is_refused() -> None:
    kspace = np.ones((1, 1, 20, 32), np.complex64)
    with pytest.raises(ScanError, match="trajectory"):
        Scan(kspace, np.ones((20, 32), np.bool_), Trajectory(spokes(20, 31), (16, 16)))
