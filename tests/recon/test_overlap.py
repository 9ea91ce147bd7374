"""Fields of view that are smaller than the object: two places on one voxel."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor

from recon.calibration import CalibrationSettings, calibrate
from recon.coarse import CoarseMethod
from recon.evaluation import evaluate
from recon.operators import CartesianSense
from recon.overlap import Overlap
from recon.phantom import simulate
from recon.pipeline import CoarseReady, Progress, reconstruct
from recon.posterior import SlicePosterior
from recon.preparation import inverse_problem, prior_of
from recon.receivers import noise_model
from recon.reference import coil_combination, reference_of
from recon.scan import Scan
from recon.settings import Settings
from recon.solve import ConjugateGradientSolver, RowSolver
from recon.undersampling import undersample, undersampling_mask
from tests.contracts import assert_adjoint, assert_normal, complex_normal, inner, norm
from tests.problems import Folded, folded_scan

ONE_SET = CalibrationSettings(second_crop=1)


@dataclass(frozen=True)
class WhitePrior:
    """Independent pixels of one variance: images of any shape."""

    std: float = 0.6
    sigma_range: tuple[float, float] = (0.01, 10.0)

    def denoise(self, noisy: Tensor, sigma: float) -> Tensor:
        return noisy * (self.std**2 / (self.std**2 + sigma**2))


def overlap_of(axis: int, size: int) -> Overlap:
    """A strip across the edge: the last voxel and the first two."""
    positions = torch.tensor([size - 1, 0, 1])
    shape = (7, 3) if axis == -1 else (3, 9)
    return Overlap(axis, size, positions, torch.rand(shape) < 2)


def folding_operator(axis: int, mask: Tensor) -> tuple[CartesianSense, tuple[int, int]]:
    """Three coils, a mask of 7 x 9 and the shape of the longer images."""
    rows, columns = mask.shape
    shape = (rows, columns + 3) if axis == -1 else (rows + 3, columns)
    overlap = overlap_of(axis, columns if axis == -1 else rows)
    return CartesianSense(complex_normal((3, *shape), 1) / 2.5, mask, overlap), shape


def lines(axis: int) -> Tensor:
    """Every other line of 7 x 9, the mask varying along the axis."""
    pattern = torch.arange(9 if axis == -1 else 7) % 2 == 0
    return (pattern[None, :] if axis == -1 else pattern[:, None]).expand(7, 9).clone()


@pytest.fixture(scope="module")
def folded() -> Folded:
    return folded_scan()


def thinned(folded: Folded, acceleration: float = 2) -> Scan:
    shape = folded.scan.image_shape
    return undersample(folded.scan, undersampling_mask(shape, "equispaced", acceleration, 0.4, 0))


def transposed(scan: Scan) -> Scan:
    return replace(scan, kspace=scan.kspace.swapaxes(-2, -1), mask=scan.mask.T)


@pytest.mark.parametrize("axis", [-1, -2])
def test_folding_and_unfolding_are_adjoint(axis: int) -> None:
    overlap = overlap_of(axis, 9 if axis == -1 else 7)
    longer = (2, 7, 12) if axis == -1 else (2, 10, 9)
    images, fields = complex_normal(longer, 1), complex_normal((2, 7, 9), 2)
    left = inner(overlap.folded(images), fields)
    assert abs(left - inner(images, overlap.unfolded(fields))) < 1e-5 * norm(images) * norm(fields)
    inside, strip = overlap.split(images)
    edge = overlap.folded(images).select(axis, int(overlap.positions[1]))
    torch.testing.assert_close(edge, inside.select(axis, 0) + strip.select(axis, 1))


@pytest.mark.parametrize("axis", [-1, -2])
def test_a_picture_holds_the_energy_of_both_places(axis: int) -> None:
    overlap = overlap_of(axis, 9 if axis == -1 else 7)
    images = complex_normal((2, 7, 12) if axis == -1 else (2, 10, 9), 3)
    picture = overlap.joined(images)
    assert picture.shape == (2, 7, 9)
    assert norm(picture) == pytest.approx(norm(images), rel=1e-5)
    inside, strip = overlap.split(images)
    torch.testing.assert_close(overlap.joined(overlap.padded(inside)), inside)
    both = inside.select(axis, 1) + strip.select(axis, 2)
    torch.testing.assert_close(picture.select(axis, 1).angle(), both.angle())


@pytest.mark.parametrize("axis", [-1, -2])
@pytest.mark.parametrize("kind", ["lines", "scattered"])
def test_operator_laws_hold(axis: int, kind: str) -> None:
    mask = lines(axis) if kind == "lines" else torch.rand(7, 9) < 0.5
    operator, shape = folding_operator(axis, mask)
    assert_adjoint(operator, (4, *shape))
    assert_normal(operator, (4, *shape))


@pytest.mark.parametrize("axis", [-1, -2])
def test_lines_that_fold_along_themselves_are_solved_exactly(axis: int) -> None:
    operator, shape = folding_operator(axis, lines(axis))
    solver = operator.solver()
    assert isinstance(solver, RowSolver)
    rhs = complex_normal((2, *shape), 4)
    expected = ConjugateGradientSolver(operator, 1e-6, 400).precondition(rhs, None, 30.0, 0.5)
    assert norm(solver.precondition(rhs, None, 30.0, 0.5) - expected) < 1e-4 * norm(expected)
    torch.testing.assert_close(solver.normal(rhs), operator.normal(rhs), atol=1e-4, rtol=0)
    across, _ = folding_operator(-3 - axis, lines(axis))
    assert isinstance(across.solver(), ConjugateGradientSolver)


def test_the_strip_is_found_along_the_axis_that_folds(folded: Folded) -> None:
    for scan, axis in ((thinned(folded), -1), (transposed(thinned(folded)), -2)):
        model, _ = noise_model(scan)
        found = calibrate(scan, 0, model)
        overlap = found.overlap
        assert overlap is not None
        assert (overlap.axis, overlap.size) == (axis, scan.image_shape[axis])
        steps = np.diff(overlap.positions.numpy()) % overlap.size
        assert (steps == 1).all()  # one piece, across the edge
        twice = (np.abs(folded.places) > 0).all(axis=0)
        twice = twice if axis == -1 else twice.T
        held = np.zeros_like(twice)
        where = [slice(None), slice(None)]
        where[axis] = overlap.positions.numpy()
        held[tuple(where)] = overlap.support.numpy()
        assert np.count_nonzero(twice & ~held) < 0.03 * np.count_nonzero(twice)
        assert len(overlap.positions) < 0.7 * overlap.size
        power = np.square(np.abs(found.coil_maps)).sum(axis=0)
        np.testing.assert_allclose(
            power[tuple(slice(0, side) for side in scan.image_shape)][held], 1, atol=1e-3
        )


@pytest.mark.parametrize("snr", [5, 40])
@pytest.mark.parametrize("coils", [2, 8])
@pytest.mark.parametrize("acceleration", [1, 4])
def test_a_field_of_view_that_holds_the_head_has_no_strip(
    acceleration: int, coils: int, snr: float
) -> None:
    """Not with noise either, which makes eigenvalues of one without any signal."""
    full, _ = simulate(1, coils, 96, 96, snr=snr)
    mask = undersampling_mask((96, 96), "equispaced", acceleration, 0.15, 0)
    scan = undersample(full, mask) if acceleration > 1 else full
    assert calibrate(scan, 0, noise_model(scan)[0]).overlap is None


def test_the_reference_holds_all_that_the_coils_saw(folded: Folded) -> None:
    """The root sum of squares of whitened coil images, without most of its noise."""
    picture = np.abs(coil_combination(folded.scan, thinned(folded).mask)[0])
    model, _ = noise_model(folded.scan)
    coils = (folded.maps * folded.places[:, None]).sum(axis=0)
    truth = np.linalg.norm(np.einsum("vc,crk->vrk", model.unit * model.whitening, coils), axis=0)
    inside = (np.abs(folded.places) > 0).all(axis=0)
    error = np.linalg.norm((picture - truth)[inside]) / np.linalg.norm(truth[inside])
    single = np.abs(coil_combination(folded.scan, thinned(folded).mask, ONE_SET)[0])
    alone = np.linalg.norm((single - truth)[inside]) / np.linalg.norm(truth[inside])
    assert error < 0.03
    assert error < 0.5 * alone


def test_two_sets_explain_what_one_cannot(folded: Folded) -> None:
    """End to end at R = 2: data explained at the measured noise, and about half the error."""
    scan = thinned(folded)
    found, errors = [], []
    for calibration in (CalibrationSettings(), ONE_SET):
        settings = Settings(
            preset="fast", samples=4, self_check=False, fit_noise=False, calibration=calibration
        )
        events = list(reconstruct(scan, WhitePrior(), settings))
        (posterior,) = (each for each in events if isinstance(each, SlicePosterior))
        shown = [each.estimates for each in events if isinstance(each, Progress)]
        shapes = {tuple(each.shape[1:]) for each in shown if each is not None}
        assert shapes == {scan.image_shape}
        (coarse,) = (each.image for each in events if isinstance(each, CoarseReady))
        assert coarse.shape == posterior.mean.shape == scan.image_shape
        found.append(float(posterior.chi2_per_coil.mean()))
        said = any("smaller than the object" in text for text in posterior.warnings)
        assert said is (calibration.second_crop < 1)
        reference = reference_of(folded.scan, scan.mask)
        errors.append(evaluate([posterior], reference).slices[0].mean.nmse)
    assert 0.85 < found[0] < 1.15
    assert found[1] > 1.1
    assert errors[0] < 0.6 * errors[1]


@pytest.mark.parametrize("method", list(CoarseMethod))
def test_every_start_gives_images_with_their_strip(folded: Folded, method: CoarseMethod) -> None:
    settings = Settings(preset="fast", samples=2, self_check=False, fit_noise=False, coarse=method)
    events = list(reconstruct(thinned(folded), WhitePrior(), settings))
    assert isinstance(events[-1], SlicePosterior)
    assert np.isfinite(events[-1].mean).all()


def test_the_strip_is_nothing_where_no_second_place_was_found(folded: Folded) -> None:
    scan = thinned(folded)
    calibration = calibrate(scan, 0, noise_model(scan)[0])
    overlap = calibration.overlap
    assert overlap is not None
    prior = prior_of(WhitePrior(), inverse_problem(calibration, torch.device("cpu")))
    noisy = complex_normal((2, *calibration.coil_maps.shape[1:]), 5)
    inside, strip = overlap.split(prior.denoise(noisy, 0.5))
    torch.testing.assert_close(inside, WhitePrior().denoise(overlap.split(noisy)[0], 0.5))
    assert not strip[:, ~overlap.support].any()
    assert strip[:, overlap.support].abs().min() > 0
    assert prior.sigma_range == (0.01, 10.0)
