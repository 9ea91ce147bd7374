import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recon.choices import PatternName
from recon.errors import ScanError
from recon.scan import Scan
from recon.undersampling import undersample, undersampling_mask

LINES: tuple[PatternName, ...] = ("equispaced", "random")


@pytest.mark.parametrize(
    ("columns", "acceleration", "fraction", "center", "lines"),
    [(256, 2, 0.08, 20, 128), (256, 4, 34 / 256, 34, 64), (180, 4, 24 / 180, 24, 45)],
)
def test_equispaced_keeps_the_nominal_number_of_lines(
    columns: int, acceleration: float, fraction: float, center: int, lines: int
) -> None:
    for seed in range(20):
        mask = undersampling_mask((6, columns), "equispaced", acceleration, fraction, seed)
        assert np.all(mask == mask[0])
        assert abs(mask[0].sum() - lines) <= 1
        start = (columns - center + 1) // 2
        assert mask[0, start : start + center].all()
        outer = np.flatnonzero(mask[0, : start - 1])
        spacing = acceleration * (columns - center) / (columns - center * acceleration)
        assert np.all(np.abs(np.diff(outer) - spacing) < 1)


def test_random_keeps_the_nominal_number_of_lines_on_average() -> None:
    counts = [
        undersampling_mask((1, 256), "random", 4, 20 / 256, seed).sum() for seed in range(300)
    ]
    share = (64 - 20) / (256 - 20)
    deviation = math.sqrt(236 * share * (1 - share))
    assert abs(np.mean(counts) - 64) < 4 * deviation / math.sqrt(300)
    assert abs(np.std(counts) - deviation) < 4 * deviation / math.sqrt(600)


@settings(deadline=None, max_examples=60)
@given(
    pattern=st.sampled_from(LINES),
    rows=st.integers(1, 9),
    columns=st.integers(16, 257),
    acceleration=st.floats(1.01, 12),
    fraction=st.floats(0, 0.3),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_of_lines(
    pattern: PatternName, rows: int, columns: int, acceleration: float, fraction: float, seed: int
) -> None:
    center = round(columns * fraction)
    assume(columns / acceleration - center >= 1)
    mask = undersampling_mask((rows, columns), pattern, acceleration, fraction, seed)
    assert mask.shape == (rows, columns)
    assert mask.dtype == np.bool_
    assert np.all(mask == mask[0])
    start = (columns - center + 1) // 2
    assert mask[0, start : start + center].all()
    if pattern == "equispaced":
        assert abs(mask[0].sum() - columns / acceleration) <= 3
    same = undersampling_mask((rows, columns), pattern, acceleration, fraction, seed)
    np.testing.assert_array_equal(mask, same)


@settings(deadline=None, max_examples=25)
@given(
    rows=st.integers(32, 90),
    columns=st.integers(32, 90),
    acceleration=st.floats(2, 10),
    fraction=st.floats(0, 0.2),
    seed=st.integers(0, 2**32 - 1),
)
def test_poisson_masks(
    rows: int, columns: int, acceleration: float, fraction: float, seed: int
) -> None:
    budget = round(rows * columns / acceleration)
    high, wide = round(rows * fraction), round(columns * fraction)
    assume(budget - high * wide >= max(32, 0.2 * budget))
    mask = undersampling_mask((rows, columns), "poisson", acceleration, fraction, seed)
    assert mask.sum() == budget
    top, left = (rows - high + 1) // 2, (columns - wide + 1) // 2
    assert mask[top : top + high, left : left + wide].all()
    assert not mask[0, 0]
    assert high * wide == 0 or mask[rows // 2, columns // 2]
    same = undersampling_mask((rows, columns), "poisson", acceleration, fraction, seed)
    np.testing.assert_array_equal(mask, same)


def test_poisson_leaves_the_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    first = undersampling_mask((48, 48), "poisson", 4, 0.1, 1)
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    assert not np.array_equal(first, undersampling_mask((48, 48), "poisson", 4, 0.1, 2))


def test_poisson_ends_where_the_search_of_sigpy_does_not() -> None:
    mask = undersampling_mask((74, 90), "poisson", 8.99803184932367, 0.1, 255)
    assert mask.sum() == 740


def test_poisson_samples_keep_their_distance() -> None:
    mask = undersampling_mask((96, 96), "poisson", 6, 0, 0)
    scattered = np.random.default_rng(0).permutation(mask.ravel()).reshape(mask.shape)
    touching = [np.mean(m[:, 1:] & m[:, :-1]) for m in (mask[:, :30], scattered[:, :30])]
    assert touching[0] < 0.1 * touching[1]


def test_poisson_is_denser_in_the_middle() -> None:
    mask = undersampling_mask((96, 96), "poisson", 6, 0, 0)
    assert mask[36:60, 36:60].mean() > 1.5 * mask.mean()


@pytest.mark.parametrize("pattern", [*LINES, "poisson"])
def test_acceleration_one_keeps_everything(pattern: PatternName) -> None:
    assert undersampling_mask((5, 7), pattern, 1, 0.08, 0).all()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"acceleration": 0.5}, "acceleration"),
        ({"acceleration": math.nan}, "acceleration"),
        ({"acceleration": math.inf}, "center-too-large"),
        ({"center_fraction": 0.25}, "center-too-large"),
        ({"center_fraction": 1.5}, "center-fraction"),
        ({"center_fraction": math.nan}, "center-fraction"),
        ({"pattern": "spiral"}, "unknown-pattern"),
        ({"seed": -1}, "seed"),
        ({"shape": (0, 64)}, "mask-shape"),
        ({"pattern": "poisson", "center_fraction": 0.5}, "center-too-large"),
        ({"pattern": "poisson", "acceleration": 1.5}, "poisson-acceleration"),
        ({"pattern": "poisson", "acceleration": math.inf}, "center-too-large"),
        ({"pattern": "poisson", "shape": (16, 64)}, "poisson-acceleration"),
    ],
)
def test_impossible_requests_are_refused(change: dict[str, object], code: str) -> None:
    request = {
        "shape": (64, 64),
        "pattern": "equispaced",
        "acceleration": 4.0,
        "center_fraction": 0.1,
        "seed": 0,
    }
    with pytest.raises(ScanError) as refusal:
        undersampling_mask(**(request | change))
    assert refusal.value.code == code


def test_undersample_zeroes_what_is_left_out_and_keeps_the_rest() -> None:
    rng = np.random.default_rng(0)
    kspace = rng.standard_normal((2, 3, 4, 8, 2)).astype(np.float32).view(np.complex64)[..., 0]
    full = np.ones((4, 8), dtype=np.bool_)
    full[:, 7] = False
    scan = Scan(kspace=kspace * full, mask=full, attributes={"acquisition": "T1"}, sha256="ab")
    mask = np.zeros((4, 8), dtype=np.bool_)
    mask[:, 3:] = True
    thinned = undersample(scan, mask)
    np.testing.assert_array_equal(thinned.mask, mask & full)
    np.testing.assert_array_equal(thinned.kspace[..., 3:7], scan.kspace[..., 3:7])
    assert not thinned.kspace[..., :3].any()
    assert thinned.kspace.dtype == np.complex64
    assert thinned.attributes == scan.attributes
    assert thinned.acceleration == 2
    assert mask.flags.writeable
    with pytest.raises(ScanError, match="boolean"):
        undersample(scan, mask[:3])
