"""The Python interface: arrays in, a posterior out that answers questions; files give the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

import recon
from recon import Posterior, Settings, open_result, reconstruct, reconstruct_array
from recon.errors import ScanError
from recon.io.files import write_result
from recon.phantom import simulate
from recon.posterior import SlicePosterior
from recon.prior import GaussianPrior
from recon.regions import Region
from tests.recon.slice_posteriors import slice_of

SIZE = 48
QUICK = Settings("fast", self_check=False)


def prior() -> GaussianPrior:
    frequency = torch.arange(SIZE).float() - SIZE // 2
    radius = torch.hypot(frequency[:, None], frequency[None, :]).clamp_min(0.7)
    mean = torch.zeros(SIZE, SIZE, dtype=torch.complex64)
    return GaussianPrior(mean, 60.0 / radius**2.6, (0.002, 100.0))


@pytest.fixture(scope="module")
def arrays() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """k-space (coils, rows, columns), a mask (columns,) and a noise scan."""
    scan, _ = simulate(1, 4, SIZE, SIZE, 40)
    lines = np.zeros(SIZE, bool)
    lines[::2] = True
    lines[SIZE // 2 - 8 : SIZE // 2 + 8] = True
    assert scan.noise_samples is not None
    return scan.kspace[0], lines, scan.noise_samples


@pytest.fixture(scope="module")
def posterior(arrays: tuple[np.ndarray, ...]) -> Posterior:
    kspace, lines, noise = arrays
    return reconstruct_array(
        kspace, lines, prior(), noise=noise, preset="fast", samples=6, settings=QUICK
    )


def test_one_slice_in_gives_images_out(posterior: Posterior) -> None:
    assert posterior.mean.shape == posterior.std.shape == posterior.coarse.shape == (SIZE, SIZE)
    assert posterior.samples.shape == (6, SIZE, SIZE)
    assert posterior.mean.dtype == np.complex64
    assert len(posterior) == 1


def test_it_is_what_the_pipeline_makes_of_the_same_scan(
    posterior: Posterior, arrays: tuple[np.ndarray, ...]
) -> None:
    kspace, lines, noise = arrays
    scan, single = recon.arrays.scan_of_arrays(kspace * lines, None, noise=noise)
    assert single
    events = reconstruct(scan, prior(), replace(QUICK, samples=6))
    (other,) = (event for event in events if isinstance(event, SlicePosterior))
    np.testing.assert_array_equal(posterior.mean, other.mean)
    np.testing.assert_array_equal(posterior.samples, other.samples)


def test_a_stack_keeps_its_slices_and_maps_may_be_given(arrays: tuple[np.ndarray, ...]) -> None:
    kspace, lines, noise = arrays
    angles = np.arange(4)[:, None, None] * np.ones((1, SIZE, SIZE))
    maps = (np.exp(1j * angles) / 2).astype(np.complex64)
    said: list[float] = []
    found = reconstruct_array(
        np.stack([kspace, kspace]), lines, prior(), noise=noise, samples=2, settings=QUICK,
        coil_maps=np.stack([maps, maps]), progress=lambda stage, done: said.append(done),
    )  # fmt: skip
    assert found.mean.shape == (2, SIZE, SIZE)
    assert found.samples.shape == (2, 2, SIZE, SIZE)
    assert [one.slices[0].index for one in found] == [0, 1]
    assert found[1].mean.shape == (SIZE, SIZE)
    assert found[:1].mean.shape == (1, SIZE, SIZE)
    assert said == sorted(said)
    assert 0.9 < said[-1] <= 1


def test_intervals_are_nested_and_those_of_a_result_are_its_own(posterior: Posterior) -> None:
    one = posterior.slices[0]
    low, high = posterior.interval(0.9)
    np.testing.assert_array_equal(low, one.quantiles[0])
    np.testing.assert_array_equal(high, one.quantiles[3])
    np.testing.assert_array_equal(posterior.interval(0.5)[1], one.quantiles[2])
    inside = posterior.object_mask
    narrow, wide = posterior.interval(0.8), posterior.interval(0.99)
    assert (wide[0] <= narrow[0])[inside].all()
    assert (wide[1] >= narrow[1])[inside].all()
    for level in (0, 1, -3, 90):
        with pytest.raises(ValueError, match="level"):
            posterior.interval(level)


def test_intervals_from_few_samples_hold_one_more_draw() -> None:
    """Gaussian magnitudes far from zero: of 20,000 pixels 80 % hold the next draw."""
    rng = np.random.default_rng(1)
    draws = 10 + rng.standard_normal((6, 100, 200))
    found = Posterior((slice_of(draws[:5]),), single=True)
    low, high = found.interval(0.8)
    held = ((low < draws[5]) & (draws[5] < high)).mean()
    assert abs(held - 0.8) < 4 * np.sqrt(0.8 * 0.2 / 20_000)
    widened = replace(found, attributes={"conformal_factor": 1.5})
    ratio = np.ptp(widened.interval(0.8), axis=0) / np.ptp(found.interval(0.8), axis=0)
    np.testing.assert_allclose(ratio, 1.5, rtol=1e-4)


def test_a_region_answers_with_its_own_spread(posterior: Posterior) -> None:
    mask = np.zeros((SIZE, SIZE), bool)
    mask[20:28, 20:28] = True
    region = posterior.region(mask)
    values = np.abs(posterior.samples)[:, mask].mean(axis=1)
    assert region.mean == pytest.approx(values.mean(), rel=1e-5)
    low, high = region.interval()
    reach = stats.t.ppf(0.95, 5) * values.std(ddof=1) * np.sqrt(1 + 1 / 6)
    assert (low, high) == pytest.approx((values.mean() - reach, values.mean() + reach), rel=1e-5)
    nothing = region - posterior.region(mask)
    assert nothing.mean == nothing.std == 0
    with pytest.raises(ScanError, match="region"):
        posterior.region(np.zeros((SIZE, SIZE)))
    with pytest.raises(ValueError, match="mask"):
        posterior.region(np.ones((3, 3)))


def test_many_values_are_read_off() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    region = Region(values)
    assert region.method == "quantiles"
    assert region.interval(0.5) == pytest.approx(
        tuple(np.quantile(values, (0.25, 0.75), method="weibull"))
    )
    assert "90 %" in repr(region)


def test_a_result_file_gives_the_same_objects(posterior: Posterior, tmp_path: Path) -> None:
    write_result(tmp_path / "r.h5", posterior.slices, {"model_id": "none"})
    opened = open_result(tmp_path / "r.h5")
    np.testing.assert_array_equal(opened.mean[0], posterior.mean)
    np.testing.assert_array_equal(opened[0].interval(0.9), posterior.interval(0.9))
    assert opened.attributes["model_id"] == "none"
    assert opened.region(posterior.object_mask).mean == posterior.region(posterior.object_mask).mean


def test_a_notebook_shows_a_picture_and_warnings(posterior: Posterior) -> None:
    warned = replace(posterior, slices=(replace(posterior.slices[0], warnings=("a <b> c",)),))
    shown = warned._repr_html_()
    assert "data:image/png;base64," in shown
    assert "a &lt;b&gt; c" in shown
    assert warned.plot(posterior.mean)._repr_png_().startswith(b"\x89PNG")
    assert repr(posterior).startswith("Posterior(48 × 48, 6 samples")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kspace": np.ones((SIZE, SIZE))}, "coils, rows, columns"),
        ({"mask": np.ones(7)}, "mask must be"),
        ({"coil_maps": np.ones((4, 3, 3))}, "coil maps"),
        ({"noise": np.ones((3, 100))}, "noise must be"),
        ({"kspace": np.full((4, SIZE, SIZE), np.nan)}, "NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(
    arrays: tuple[np.ndarray, ...], change: dict[str, np.ndarray], said: str
) -> None:
    given = {"kspace": arrays[0], "mask": arrays[1]} | change
    with pytest.raises(ScanError, match=said):
        reconstruct_array(prior=prior(), settings=QUICK, **given)


def test_an_unknown_preset_is_named(arrays: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(ValueError, match="fast, standard, thorough"):
        reconstruct_array(arrays[0], arrays[1], prior(), preset="slow")


def test_the_public_names_exist_and_results_open_without_torch() -> None:
    for name in recon.__all__:
        assert getattr(recon, name) is not None
    assert dir(recon) == recon.__all__ == sorted(recon.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        recon.nothing  # noqa: B018
    script = (
        "import sys, recon; recon.open_result; recon.Posterior; recon.read_scan; recon.Region;"
        "sys.exit('torch' in sys.modules or 'matplotlib' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, timeout=60)
