"""Coil maps of few central lines, before and after draws have filled the centre."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recon.calibration import calibrate
from recon.chains import finished
from recon.phantom import receive, receiver_maps, simulate
from recon.pipeline import reconstruct
from recon.posterior import SlicePosterior
from recon.preparation import PreparedSlice, inverse_problem, prepare
from recon.prior import StationaryPrior
from recon.receivers import NoiseModel, noise_model
from recon.refined_maps import is_narrow, refine_maps
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask

ROWS, COLUMNS, COILS = 64, 60, 6
SETTINGS = Settings("fast", samples=2, self_check=False)
CPU = torch.device("cpu")
RADII = (0.011, 0.05, 0.1, 0.3, 0.7)
PRIOR = StationaryPrior(RADII, tuple(60 / (64 * radius) ** 2.6 for radius in RADII))


def scan_of(lines: int, *, transposed: bool = False) -> tuple[Scan, NDArray[np.complex64]]:
    shape = (COLUMNS, ROWS) if transposed else (ROWS, COLUMNS)
    full, truth = simulate(1, COILS, *shape, snr=60, seed=4)
    mask = undersampling_mask((ROWS, COLUMNS), "equispaced", 2.5, lines / COLUMNS, 1)
    return undersample(full, mask.T.copy() if transposed else mask), truth


def prepared(scan: Scan, model: NoiseModel) -> PreparedSlice:
    calibration = calibrate(scan, 0, model)
    return prepare(calibration, inverse_problem(calibration, CPU), 0, PRIOR, SETTINGS)


def error_of(current: PreparedSlice, model: NoiseModel, inside: NDArray[np.bool_]) -> float:
    """Mean over the object of what is missing of the true maps' energy in the found ones."""
    shape = inside.shape
    # The strip of places that fold, which six lines may find where there are none, comes after.
    found = current.calibration.coil_maps[:, : shape[0], : shape[1]]
    true = np.einsum("vc,crk->vrk", model.whitening, receiver_maps(COILS, *shape))
    product = np.abs((found.conj() * true).sum(axis=0)) ** 2
    return float((1 - product / (np.abs(true) ** 2).sum(axis=0))[inside].mean())


@pytest.mark.parametrize("transposed", [False, True])
def test_maps_of_few_lines_come_nearer_to_the_coils(transposed: bool) -> None:
    scan, truth = scan_of(6, transposed=transposed)
    model, _ = noise_model(scan)
    before = prepared(scan, model)
    after = finished(refine_maps(scan, model, before, PRIOR, SETTINGS))
    inside = np.abs(truth[0]) > 0.1 * np.abs(truth[0]).max()
    assert after.calibration.overlap is None
    errors = [error_of(each, model, inside) for each in (before, after)]
    assert errors[1] < 0.5 * errors[0]
    np.testing.assert_array_equal(after.calibration.kspace, before.calibration.kspace)
    np.testing.assert_array_equal(after.calibration.mask, scan.mask)
    assert any("Only 6 central lines" in told for told in after.warnings)


def test_a_field_of_view_that_folds_is_found_again_too() -> None:
    """The strip of places beyond the edges may come out wider or narrower with other maps."""
    image = simulate(1, 1, 96, 128, snr=40)[1]
    full = receive(image, 8, 0.005, columns=64)
    mask = undersampling_mask((96, 64), "equispaced", 2.5, 8 / 64, 0)
    scan = undersample(full, mask)
    events = list(reconstruct(scan, PRIOR, SETTINGS, [0]))
    told = next(event for event in events if isinstance(event, SlicePosterior)).warnings
    assert any("maps were found again" in each for each in told)
    assert any("field of view is smaller" in each for each in told)


def test_only_maps_that_are_found_from_few_lines_are_found_again() -> None:
    scan, _ = scan_of(6)
    assert is_narrow(scan, 0, folded=False)
    assert not is_narrow(scan_of(12)[0], 0, folded=False)
    assert is_narrow(scan_of(12)[0], 0, folded=True)
    assert not is_narrow(scan_of(14)[0], 0, folded=True)
    maps = receiver_maps(COILS, ROWS, COLUMNS)[None]
    assert not is_narrow(replace(scan, coil_maps=maps), 0, folded=False)
    apart = np.zeros_like(scan.kspace)
    apart[..., 20:40] = 1
    assert not is_narrow(replace(scan, calibration=apart), 0, folded=False)
    alone, _ = simulate(1, 1, ROWS, COLUMNS, snr=60)
    assert not is_narrow(undersample(alone, scan.mask), 0, folded=False)


def test_a_reconstruction_says_so_and_keeps_its_data() -> None:
    scan, _ = scan_of(7)
    first, second = (
        next(e for e in reconstruct(scan, PRIOR, SETTINGS, [0]) if isinstance(e, SlicePosterior))
        for _ in range(2)
    )
    assert any("maps were found again" in told for told in first.warnings)
    np.testing.assert_array_equal(first.samples, second.samples)
    assert float(first.chi2_per_coil.mean()) == pytest.approx(1, abs=0.15)
