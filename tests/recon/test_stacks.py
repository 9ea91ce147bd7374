"""Stacks of slices: who is whose neighbour, exact laws slice by slice, samples that hold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from recon.chains import ChainPlan, finished, run_chains
from recon.choices import COHERENCE
from recon.evaluation import flicker
from recon.noise import NoiseKey, NoiseStreams
from recon.operators import fft2c, ifft2c
from recon.paths import NARROW
from recon.phantom import simulate
from recon.pipeline import reconstruct
from recon.planes import ATTRIBUTE, ImageStack, axial
from recon.posterior import SlicePosterior
from recon.regions import Region
from recon.scan import Geometry, Scan
from recon.schedule import PRESETS
from recon.settings import Settings
from recon.stacks import Place, noise_key, places
from recon.undersampling import undersample, undersampling_mask
from tests.problems import GaussianCase, gaussian_case, line_mask, power_law_prior, scattered_mask


def scan_of(count: int, geometry: Geometry, stack: ImageStack | None = None) -> Scan:
    kspace = np.ones((count, 1, 8, 8), np.complex64)
    attributes = {} if stack is None else {ATTRIBUTE: stack.to_text()}
    return Scan(kspace, np.ones((8, 8), np.bool_), geometry=geometry, attributes=attributes)


def test_places_come_from_positions_else_from_the_thickness_else_there_are_none() -> None:
    view = Geometry((16.0, 16.0, 5.0), (8, 8))
    assert places(scan_of(2, Geometry())) == (None, None)
    assert places(scan_of(3, view)) == (Place("", 0), Place("", 2.5), Place("", 5))
    stack = axial(3, (8, 8), (2, 2, 3.0))
    found = places(scan_of(3, view, stack))
    assert [place.height for place in found] == [-1.5, 0, 1.5]
    assert len({place.series for place in found}) == 1


def test_other_contrasts_and_other_directions_are_other_stacks() -> None:
    stack = axial(4, (8, 8), (2, 2, 3.0))
    first, second, third, fourth = stack.planes
    turned = replace(fourth, read_dir=(0, 0, 1), slice_dir=(0, 1, 0))
    second = replace(second, labels={**second.labels, "contrast": 1})
    third = replace(third, labels={**third.labels, "partition": 7})
    stack = replace(stack, planes=(first, second, third, turned))
    series = [p.series for p in places(scan_of(4, Geometry((16, 16, 3), (8, 8)), stack))]
    assert series[0] == series[2]
    assert len(set(series)) == 3


def correlation(left: NoiseKey, right: NoiseKey) -> dict[str, float]:
    """Of the image noise of two slices, in the finest octave of k-space and in its middle."""
    one, two = (fft2c(NoiseStreams.of(key, range(4)).image((64, 64))) for key in (left, right))
    product = (one * two.conj()).real / 2
    middle = torch.zeros(64, 64, dtype=torch.bool)
    middle[28:36, 28:36] = True
    fine = torch.ones(64, 64, dtype=torch.bool)
    fine[16:48, 16:48] = False
    return {"middle": float(product[:, middle].mean()), "fine": float(product[:, fine].mean())}


def test_what_is_coarse_holds_further_than_what_is_fine_and_gaps_share_nothing() -> None:
    def key(index: int, height: float, coherence: float = 1.5) -> NoiseKey:
        return noise_key(0, "slice", index, Place("s", height), coherence)

    near, far = correlation(key(0, 0), key(1, 1)), correlation(key(0, 0), key(1, 5))
    gap = correlation(key(0, 0), key(1, 250))
    assert near["middle"] > 0.9
    assert near["fine"] == pytest.approx(0.5, abs=0.05)
    assert far["middle"] > 0.85
    assert abs(far["fine"]) < 0.05
    assert abs(gap["middle"]) < 0.25
    for other in (
        noise_key(0, "slice", 1, Place("other", 0), 1.5),
        noise_key(1, "slice", 1, Place("s", 0), 1.5),
        noise_key(0, "slice", 1, Place("s", 0), 0),
        noise_key(0, "slice", 1, None, 1.5),
    ):
        assert abs(correlation(key(0, 0), other)["fine"]) < 0.05


def drawn(case: GaussianCase, key: NoiseKey, chains: int) -> torch.Tensor:
    low = case.problem.noise_std / 2
    plan = ChainPlan(replace(PRESETS["fast"], chains=chains), NARROW, 0.6, low, np.inf, 0.38)
    coarse = torch.zeros(16, 18, dtype=torch.complex64)
    run = run_chains(case.problem, case.prior, plan, coarse, key, range(chains))
    return finished(run).images[:, -1]


@pytest.mark.parametrize("mask", ["lines", "scattered"])
def test_slices_that_share_noise_keep_their_law_and_hold_together(mask: str) -> None:
    """Neighbours alike: whitened by its own posterior each is as before, together they move."""
    pattern = line_mask(16, 18) if mask == "lines" else scattered_mask(16, 18)
    case, chains = gaussian_case(pattern), 96
    keys = [noise_key(4, "slice", k, Place("s", 0.3 * k), 1.5) for k in (0, 1)]
    first, second = (drawn(case, key, chains) for key in keys)
    alone = drawn(case, NoiseKey(4, "slice-0"), chains)
    together = []
    for images in (first, second, alone):
        scores = case.scores(images)
        assert abs(float(scores.abs().square().mean()) / 2 - 1) < 0.1
        together.append(scores)
    share = case.measured_share

    def agreement(one: torch.Tensor, two: torch.Tensor, group: torch.Tensor) -> float:
        return float((one * two.conj())[:, group].real.mean()) / 2

    unmeasured = agreement(together[0], together[1], share < 0.3)
    assert unmeasured > 0.8
    # What the receivers add is each slice's own.
    assert agreement(together[0], together[1], share >= 0.9) < unmeasured - 0.1
    assert abs(agreement(together[0], together[2], share < 0.3)) < 0.1
    # Energy of the differences between the two slices, over twice the variance: 1 if independent.
    spread = (first - first.mean(dim=0)).abs().square().mean()
    moved = (first - second - (first - second).mean(dim=0)).abs().square().mean()
    assert float(moved / (2 * spread)) < 0.5


def test_flicker_is_the_energy_of_differences_over_the_truths() -> None:
    random = np.random.default_rng(0)
    truth = 50 + random.standard_normal((5, 6, 7))
    assert flicker(truth, truth) == pytest.approx(1)
    assert flicker(truth, truth.mean(axis=0, keepdims=True).repeat(5, axis=0)) == 0
    noisy = truth + 3 * random.standard_normal((5, 6, 7))
    expected = np.square(np.diff(noisy, axis=0)).sum() / np.square(np.diff(truth, axis=0)).sum()
    assert flicker(truth, noisy) == pytest.approx(expected)
    inside = np.ones(truth.shape, np.bool_)
    inside[:, 0] = False
    spoilt = noisy.copy()
    spoilt[:, 0] = 1e6 * random.standard_normal((5, 7))
    assert flicker(truth, spoilt, inside) == pytest.approx(flicker(truth, noisy, inside))
    with pytest.raises(ValueError, match="two slices"):
        flicker(truth[:1], truth[:1])
    with pytest.raises(ValueError, match="do not differ"):
        flicker(np.ones((2, 3, 3)), np.ones((2, 3, 3)))


def test_a_slice_alone_has_the_numbers_that_it_has_in_its_stack() -> None:
    full, _ = simulate(3, 4, 64, 64)
    mask = undersampling_mask((64, 64), "equispaced", 2, 0.25, 0)
    scan = undersample(full, mask)
    settings = Settings(preset="fast", samples=2, self_check=False, fit_noise=False)

    def samples(chosen: list[int], coherence: float) -> list[np.ndarray]:
        events = reconstruct(
            scan, power_law_prior(), replace(settings, slice_coherence=coherence), chosen
        )
        return [e.samples / e.scale for e in events if isinstance(e, SlicePosterior)]

    whole, alone = samples([0, 1, 2], 1.5), samples([1], 1.5)
    np.testing.assert_allclose(alone[0], whole[1], atol=1e-3)
    assert np.abs(samples([1], 0)[0] - whole[1]).max() > 0.01


SLICES = 5


def simulated_errors(case: GaussianCase, volumes: int) -> torch.Tensor:
    """(volumes, slices, 16, 18) truth minus posterior mean, slice by slice.

    Volumes are drawn from a Gaussian law whose slices have the prior's spectrum, and whose details
    of wavelength L are correlated over about L along the stack: (1 + a d) exp(-a d) at a distance
    d, a = 0.6 pi / L.
    """
    random = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> torch.Tensor:
        return torch.view_as_complex(torch.randn(*shape, 2, generator=random))

    frequency = [torch.fft.fftshift(torch.fft.fftfreq(n)) for n in (16, 18)]
    wave = 0.6 * np.pi * torch.hypot(frequency[0][:, None], frequency[1][None, :])
    distance = (torch.arange(SLICES)[:, None] - torch.arange(SLICES)).abs()
    decay = wave[..., None, None] * distance
    along = torch.linalg.cholesky((1 + decay) * torch.exp(-decay) + 1e-5 * torch.eye(SLICES))
    drawn = torch.einsum(
        "rcst,ntrc->nsrc", along.to(torch.complex64), normal(volumes, SLICES, 16, 18)
    )
    truth = ifft2c(case.prior.spectrum.sqrt() * drawn).flatten(0, 1)
    operator, noise_std = case.problem.operator, case.problem.noise_std
    noise = noise_std * operator.mask * normal(len(truth), *case.problem.measurement.shape)
    seen = operator.adjoint(operator.forward(truth) + noise).flatten(1).to(torch.complex128)
    inverse = (case.vectors / case.values) @ case.vectors.mH / noise_std**2
    mean = (seen @ inverse.mT).reshape(truth.shape)
    return (truth - mean).unflatten(0, (volumes, SLICES))


def held(case: GaussianCase, errors: torch.Tensor, coherence: float) -> float:
    """Share of volumes whose 90 % interval holds the mean over a region of five slices."""
    still = replace(case.problem, measurement=torch.zeros_like(case.problem.measurement))
    centred, chains = replace(case, problem=still), 160
    keys = [noise_key(2, "slice", k, Place("", float(k)), coherence) for k in range(SLICES)]
    deviations = torch.stack([drawn(centred, key, chains) for key in keys], dim=1)
    box = (slice(None), slice(None), slice(5, 10), slice(5, 11))
    truths = errors[box].real.mean(dim=(1, 2, 3)).numpy()
    values = deviations[box].real.mean(dim=(1, 2, 3)).double().numpy().reshape(-1, 8)
    ends = np.array([Region(eight).interval(0.9) for eight in values])
    return float(np.mean((truths >= ends[:, :1]) & (truths <= ends[:, 1:])))


def test_the_interval_of_a_region_in_three_dimensions_holds_what_it_says() -> None:
    """The mean of a posterior that is drawn by eight chains a slice, over 5 x 5 x 6 voxels."""
    case = gaussian_case(line_mask(16, 18))
    errors = simulated_errors(case, 800)
    assert 0.87 < held(case, errors, COHERENCE) < 0.97
    assert held(case, errors, 0) < 0.82
