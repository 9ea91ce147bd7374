"""Scans that are right, and scans that are not: what becomes of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from recon.evidence import noise_of
from recon.io.files import read_result, write_result
from recon.phantom import simulate
from recon.pipeline import reconstruct
from recon.posterior import PLAIN, Delivery, Shown, SlicePosterior, delivered
from recon.prior import GaussianPrior
from recon.receivers import noise_model
from recon.scan import Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from recon.verdict import Cause, Trust

SIZE = 48


def made(scan: Scan, *, self_check: bool = True) -> SlicePosterior:
    frequency = torch.arange(SIZE).float() - SIZE // 2
    radius = torch.hypot(frequency[:, None], frequency[None, :]).clamp_min(0.7)
    zero = torch.zeros(SIZE, SIZE, dtype=torch.complex64)
    prior = GaussianPrior(zero, 60.0 / radius**2.6, (0.002, 100.0))
    settings = Settings(preset="fast", samples=3, self_check=self_check)
    return next(
        event
        for event in reconstruct(scan, prior, settings, [0])
        if isinstance(event, SlicePosterior)
    )


@pytest.fixture(scope="module")
def right() -> Scan:
    full, _ = simulate(1, 4, SIZE, SIZE, 40)
    return undersample(full, undersampling_mask((SIZE, SIZE), "equispaced", 2, 0.3, 0))


def test_a_right_scan_is_trusted(right: Scan) -> None:
    posterior = made(right)
    found, verdict = posterior.evidence, posterior.verdict
    assert verdict is not None
    assert (verdict.trust, verdict.cause) == (Trust.TRUSTED, None), verdict
    assert posterior.classical is None
    assert found.noise == pytest.approx(1, abs=0.2)
    assert found.centre == pytest.approx(1, abs=0.3)
    assert 0.2 < found.lines < 6
    assert 0.3 < found.held_out < 3
    assert 20 < found.held_out_freedom <= 2 * 4 * SIZE * SIZE
    assert all(0.3 < ratio < 5 for ratio in found.surprise)
    assert PLAIN.shows(posterior) is Shown.POSTERIOR


def test_a_wrong_noise_scan_makes_doubt_and_the_classical_image(
    right: Scan, tmp_path: Path
) -> None:
    assert right.noise_samples is not None
    loud = replace(right, noise_samples=(2 * right.noise_samples).astype(np.complex64))
    posterior = made(loud, self_check=False)
    verdict = posterior.verdict
    assert verdict is not None
    assert (verdict.trust, verdict.cause) == (Trust.DOUBTFUL, Cause.NOISE)
    assert verdict.sentence.startswith("The noise: the residual is that of 0.")
    assert posterior.classical is not None
    inside = posterior.object_mask
    near = np.abs(posterior.classical)[inside] - np.abs(posterior.mean)[inside]
    assert np.linalg.norm(near) < 0.2 * np.linalg.norm(posterior.mean[inside])
    path = tmp_path / "result.h5"
    for delivery, image in ((PLAIN, posterior.mean), (Delivery(True), posterior.classical)):
        write_result(path, [posterior], {}, delivery=delivery)
        with h5py.File(path) as file:
            np.testing.assert_array_equal(file["reconstruction"][0], np.abs(image))
            np.testing.assert_array_equal(file["classical"][0], posterior.classical)
            np.testing.assert_allclose(
                file["difference"][0],
                np.abs(posterior.mean) - np.abs(posterior.classical),
            )
        back, attributes = read_result(path)
        assert back[0].verdict is not None
        assert replace(back[0].verdict, p_value=0) == replace(verdict, p_value=0)
        assert Delivery.of(attributes) == delivery
    assert not delivered(posterior, Delivery(fallback=True)).magnitude_std.any()
    assert delivered(posterior) is posterior


def test_signal_at_the_edge_of_kspace_is_not_taken_for_a_wrong_noise_level(right: Scan) -> None:
    """Without a noise scan the level is that of the outermost samples: a bound from above."""
    unknown = replace(right, noise_samples=None)
    measured, edge = noise_model(right)[0], noise_model(unknown)[0]
    assert edge.source == "outer-kspace"
    assert edge.noise_std > 1.5 * measured.noise_std
    posterior = made(unknown, self_check=False)
    told = next(one for one in posterior.warnings if "The noise level was fitted" in one)
    assert float(told.split("residual: ")[1].split()[0]) < 0.8, told
    assert posterior.evidence.noise == 1.0
    loud = noise_of(2 * edge.noise_std, edge)
    assert loud == pytest.approx(2)
    assert noise_of(0.5 * measured.noise_std, measured) == pytest.approx(0.5)


def test_a_scan_that_contradicts_itself_is_refused_and_its_image_left_empty(right: Scan) -> None:
    """A zero frequency half a matrix off, which nothing noticed when the scan was read."""
    moved = np.roll(right.kspace, SIZE // 2, axis=-2)
    posterior = made(replace(right, kspace=moved), self_check=False)
    verdict = posterior.verdict
    assert verdict is not None
    assert verdict.trust is Trust.REFUSED, (verdict, posterior.evidence)
    assert PLAIN.shows(posterior) is Shown.NOTHING
    for name in ("mean", "samples", "magnitude_std", "quantiles"):
        assert np.abs(getattr(posterior, name)).any()
        assert not getattr(delivered(posterior), name).any()
    assert Delivery(accept_refused=True).shows(posterior) is Shown.POSTERIOR
    assert Delivery(fallback=True).shows(posterior) is Shown.CLASSICAL


def test_a_coil_without_signal_is_named_as_the_cause(right: Scan) -> None:
    kspace = right.kspace.copy()
    kspace[:, 2] = 0
    verdict = made(replace(right, kspace=kspace), self_check=False).verdict
    assert verdict is not None
    assert (verdict.trust, verdict.cause) == (Trust.DOUBTFUL, Cause.RECEIVERS)


def test_lines_of_a_patient_who_moved_contradict_each_other(right: Scan) -> None:
    full, _ = simulate(1, 4, SIZE, SIZE, 40)
    ramp = np.exp(2j * np.pi * 4 * (np.arange(SIZE) - SIZE // 2) / SIZE)[:, None]
    late = np.random.default_rng(0).random(SIZE) < 0.5
    kspace = np.where(late, full.kspace * ramp, full.kspace).astype(np.complex64)
    still = made(right, self_check=False).evidence
    shaken = made(undersample(replace(full, kspace=kspace), right.mask), self_check=False)
    assert shaken.evidence.lines > 2 * still.lines
    assert shaken.evidence.noise > 1.3 * still.noise
    assert shaken.verdict is not None
    assert shaken.verdict.trust is not Trust.TRUSTED
