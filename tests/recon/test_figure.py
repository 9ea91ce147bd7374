import dataclasses
import math
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from numpy.typing import NDArray

from recon.errors import ScanError
from recon.figure import save_figure
from recon.posterior import SlicePosterior

ROWS, COLUMNS = 40, 33


@pytest.fixture
def posterior() -> SlicePosterior:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:ROWS, :COLUMNS]
    mean = (x / COLUMNS * np.exp(0.1j * y)).astype(np.complex64)
    flat = np.full((ROWS, COLUMNS), np.float32(0.1))
    return SlicePosterior(
        index=0,
        mean=mean,
        samples=(mean + 0.05 * rng.standard_normal((2, ROWS, COLUMNS))).astype(np.complex64),
        coarse=(0.5 * mean).astype(np.complex64),
        magnitude_std=(0.2 * y / ROWS).astype(np.float32),
        phase_std=flat,
        quantiles=np.stack([flat] * 4),
        mean_error=flat,
        rhat=1 + flat,
        effective_samples=flat,
        chi2_per_coil=np.ones(2, dtype=np.float32),
        object_mask=np.ones((ROWS, COLUMNS), dtype=np.bool_),
        sensitivity=flat + 1,
        noise_std=1.0,
        scale=1.0,
        evaluations=40,
        converged=True,
        warnings=(),
        self_check=None,
    )


def panels(path: Path) -> list[NDArray[np.float32]]:
    """The image areas of a figure with five panels, found from the layout's own numbers."""
    picture = matplotlib.image.imread(path)[..., :3]
    zoom = 10
    wide, gap = zoom * COLUMNS, 17
    top = round(0.032 * picture.shape[1])
    return [
        picture[top : top + zoom * ROWS, left : left + wide]
        for left in (gap + k * (wide + gap) for k in range(5))
    ]


def test_picture_has_whole_square_pixels_and_a_readable_width(
    posterior: SlicePosterior, tmp_path: Path
) -> None:
    save_figure(tmp_path / "a.png", posterior)
    height, width, _ = matplotlib.image.imread(tmp_path / "a.png").shape
    assert width == 5 * 330 + 6 * 17
    assert height == 400 + round(0.032 * width) + round(0.052 * width)
    for panel in panels(tmp_path / "a.png"):
        blocks = panel.reshape(ROWS, 10, COLUMNS, 10, 3)
        assert np.ptp(blocks, axis=(1, 3)).max() == 0


@pytest.mark.parametrize(("rows", "columns"), [(20, 20), (47, 45), (58, 24), (36, 39)])
def test_no_line_of_the_picture_is_lost_to_rounding(
    posterior: SlicePosterior, tmp_path: Path, rows: int, columns: int
) -> None:
    maps = ("mean", "coarse", "magnitude_std", "rhat", "object_mask")
    resized = {name: np.resize(getattr(posterior, name), (rows, columns)) for name in maps} | {
        "samples": np.resize(posterior.samples, (2, rows, columns))
    }
    save_figure(tmp_path / "a.png", dataclasses.replace(posterior, **resized))
    height, width, _ = matplotlib.image.imread(tmp_path / "a.png").shape
    zoom = math.ceil(1600 * 0.94 / (5 * columns))
    assert width == 5 * zoom * columns + 6 * math.ceil(zoom * columns * 0.05)
    assert height == zoom * rows + round(0.032 * width) + round(0.052 * width)


def test_panels_show_the_maps(posterior: SlicePosterior, tmp_path: Path) -> None:
    reference = (np.abs(posterior.mean) + posterior.magnitude_std).astype(np.float32)
    save_figure(tmp_path / "a.png", posterior, reference)
    coarse, mean, sample, spread, error = (p[5::10, 5::10] for p in panels(tmp_path / "a.png"))
    # The same grey scale: half the magnitude is half as bright.
    np.testing.assert_allclose(coarse[:, 5:], mean[:, 5:] / 2, atol=0.006)
    assert np.abs(sample - mean).max() > 0.02
    assert np.corrcoef(mean[..., 0].ravel(), np.abs(posterior.mean).ravel())[0, 1] > 0.999
    # The true error equals the standard deviation here, so the same colours must come out.
    np.testing.assert_allclose(error, spread, atol=0.02)
    assert np.ptp(spread[..., 0]) > 0.5


def test_equal_input_gives_an_equal_file(posterior: SlicePosterior, tmp_path: Path) -> None:
    save_figure(tmp_path / "a.png", posterior)
    save_figure(str(tmp_path / "b.png"), posterior)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_empty_and_undefined_maps_are_drawn(posterior: SlicePosterior, tmp_path: Path) -> None:
    blank = dataclasses.replace(
        posterior,
        mean=np.zeros_like(posterior.mean),
        samples=posterior.samples[:0],
        rhat=np.full_like(posterior.rhat, np.nan),
        magnitude_std=np.full_like(posterior.rhat, np.nan),
    )
    save_figure(tmp_path / "a.png", blank)
    assert matplotlib.image.imread(tmp_path / "a.png").shape[1] >= 1600


def test_wrong_reference_is_refused(posterior: SlicePosterior, tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="reference"):
        save_figure(tmp_path / "a.png", posterior, np.ones((3, 3), dtype=np.float32))
    assert not list(tmp_path.iterdir())


def test_neither_pyplot_nor_torchvision_is_imported() -> None:
    script = (
        "import sys, recon.figure, recon.evaluation, recon.phantom, recon.undersampling; "
        "sys.exit(any(m.split('.')[0] == 'torchvision' or m == 'matplotlib.pyplot' "
        "for m in sys.modules))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", script], cwd=root, check=True, timeout=60)
