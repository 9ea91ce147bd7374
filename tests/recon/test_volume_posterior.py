"""From a scan with two phase encodings to one posterior of the volume."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.errors import ScanError
from recon.operators import fft2c, grid_radius, ifft2c
from recon.phantom import simulate
from recon.pipeline import CoarseReady, Progress, reconstruct
from recon.planes import ATTRIBUTE, axial
from recon.posterior import SlicePosterior
from recon.scan import Geometry, Scan
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from recon.volume_posterior import volume_plan

SIDE, SLICES = 32, 6
SETTINGS = Settings("fast", samples=2, self_check=False, fit_noise=False, volume=True)
CUBES = Geometry((SIDE, SIDE, 1.0), (SIDE, SIDE))


class PowerLaw:
    """Gaussian images of any size whose spectrum falls with the frequency."""

    sigma_range = (0.002, 100.0)

    def denoise(self, noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        radius = grid_radius(noisy.shape[-2:], noisy.device).clamp_min(0.02)
        spectrum = 0.02 / radius**2
        return ifft2c(spectrum / (spectrum + sigma**2) * fft2c(noisy))


def scan_of(geometry: Geometry = CUBES, acceleration: float = 2) -> tuple[Scan, np.ndarray]:
    full, truth = simulate(SLICES, 4, SIDE, SIDE)
    mask = undersampling_mask((SIDE, SIDE), "poisson", acceleration, 0.4, 0)
    return replace(undersample(full, mask), geometry=geometry), truth


class Kept:
    """Finished chains, in memory."""

    def __init__(self) -> None:
        self.chains: dict[int, np.ndarray] = {}

    def read(self, chain: int) -> np.ndarray | None:
        return self.chains.get(chain)

    def write(self, chain: int, draws: np.ndarray) -> None:
        self.chains[chain] = draws


def test_a_volume_goes_on_behind_its_last_finished_chain_with_the_same_numbers() -> None:
    scan, truth = scan_of()
    kept = Kept()
    events = reconstruct(scan, PowerLaw(), SETTINGS, device="cpu", kept=kept)
    seen = []
    for event in events:
        seen.append(event)
        if len(kept.chains) == 1:  # killed in the second chain
            break
    assert [type(e) for e in seen if not isinstance(e, Progress)] == [CoarseReady] * SLICES
    fractions = [e.fraction for e in seen if isinstance(e, Progress)]
    assert fractions == sorted(fractions)
    on = list(reconstruct(scan, PowerLaw(), SETTINGS, device="cpu", kept=kept))
    whole = list(reconstruct(scan, PowerLaw(), SETTINGS))
    found, again = ([e for e in each if isinstance(e, SlicePosterior)] for each in (on, whole))
    assert [one.index for one in found] == list(range(SLICES))
    assert sum(isinstance(e, Progress) for e in on) < sum(isinstance(e, Progress) for e in whole)
    for one, other, true in zip(found, again, truth, strict=True):
        assert one.samples.shape == (2, SIDE, SIDE)
        np.testing.assert_array_equal(one.samples, other.samples)
        inside = one.object_mask
        error = np.abs(np.abs(one.mean) - np.abs(true))[inside]
        assert np.linalg.norm(error) < 0.25 * np.linalg.norm(np.abs(true)[inside])
        assert 0.5 < one.chi2_per_coil.mean() < 1.5
        assert one.warnings


def test_what_a_volume_takes_is_known_before_it_is_begun() -> None:
    scan, _ = scan_of()
    plan = volume_plan(scan, SETTINGS, range(SLICES))
    assert (plan.shape, plan.directions, plan.left_out) == ((6, 32, 32), (0, 1, 2), None)
    more = volume_plan(scan, replace(SETTINGS, samples=4), range(SLICES))
    assert more.cost.memory_bytes == plan.cost.memory_bytes  # one chain after the other
    assert more.cost.kept_bytes == 2 * plan.cost.kept_bytes
    assert more.cost.evaluations > 1.5 * plan.cost.evaluations
    long, _ = scan_of(Geometry((SIDE, 2 * SIDE, 1.0), (SIDE, SIDE)))
    told = volume_plan(long, SETTINGS, range(SLICES))
    assert told.directions == (0, 2)
    assert told.left_out is not None
    assert "1.00 x 2.00 x 1.00 mm" in told.left_out


def test_voxels_across_which_no_plane_can_be_judged_make_no_volume() -> None:
    flat, _ = scan_of(Geometry((SIDE, SIDE, 3.0), (SIDE, SIDE)))
    with pytest.raises(ScanError, match=r"1\.00 x 1\.00 x 3\.00 mm.*slice by slice"):
        volume_plan(flat, SETTINGS, range(SLICES))


def test_slices_that_were_measured_one_by_one_make_no_volume() -> None:
    scan, _ = scan_of()
    mask = np.zeros((SIDE, SIDE), np.bool_)
    mask[:, ::2] = True
    lines = replace(scan, mask=mask, kspace=np.where(mask, scan.kspace, 0))
    with pytest.raises(ScanError, match="one phase encoding"):
        volume_plan(lines, SETTINGS, range(SLICES))
    stack = axial(SLICES, (SIDE, SIDE), (1.0, 1.0, 1.0))
    planes = tuple(
        replace(plane, labels={**plane.labels, "partition": k})
        for k, plane in enumerate(stack.planes)
    )
    text = replace(stack, planes=planes).to_text()
    slab = replace(lines, attributes={ATTRIBUTE: text})
    assert volume_plan(slab, SETTINGS, range(SLICES)).directions == (0, 1, 2)


def test_slices_that_are_no_volume_are_refused() -> None:
    scan, _ = scan_of()
    for chosen, geometry in (([0, 1, 3], CUBES), ([2], CUBES), (range(6), Geometry())):
        with pytest.raises(ScanError, match="slice by slice"):
            volume_plan(replace(scan, geometry=geometry), SETTINGS, chosen)


def test_empty_slices_at_the_ends_cost_a_volume_nothing() -> None:
    scan, _ = scan_of()
    kspace = scan.kspace.copy()
    random = np.random.default_rng(0)
    noise = random.standard_normal((2, *kspace[0].shape)) * 1e-3
    kspace[0] = (noise[0] + 1j * noise[1]) * scan.mask
    events = reconstruct(replace(scan, kspace=kspace), PowerLaw(), SETTINGS)
    found = {e.index: e for e in events if isinstance(e, SlicePosterior)}
    assert sorted(found) == list(range(SLICES))
    assert not found[0].mean.any()
    assert found[1].mean.any()
