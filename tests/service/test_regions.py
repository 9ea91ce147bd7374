"""Regions of interest: geometry against a slow truth, statistics against simulation."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.draw import polygon2mask

from recon.errors import ScanError
from service.client import Client, ServiceError
from service.region_answers import PlaneName
from service.regions import (
    Block,
    packed_mask,
    point_values,
    polygon_mask,
    region_values,
    stacked,
    statistics,
)
from tests.service.live import ended, problem, submitted, tiny_scan

TRIANGLE = [[3.2, 4.1], [25.7, 8.9], [12.4, 27.3]]


def test_a_polygon_holds_the_pixels_that_scikit_image_says() -> None:
    corners = np.array([*TRIANGLE, [9.6, 10.3]])
    ours = polygon_mask(corners, (32, 30))
    np.testing.assert_array_equal(ours, polygon2mask((32, 30), corners))
    assert 50 < ours.sum() < 500


def test_two_halves_of_a_square_meet_without_gap_or_overlap() -> None:
    square = np.array([[2, 3], [2, 9], [8, 9], [8, 3]], float)
    upper, lower = square.copy(), square.copy()
    upper[2:, 0] = lower[:2, 0] = 5
    parts = [polygon_mask(corners, (12, 12)) for corners in (upper, lower)]
    assert not (parts[0] & parts[1]).any()
    np.testing.assert_array_equal(parts[0] | parts[1], polygon_mask(square, (12, 12)))


def test_a_packed_mask_comes_back() -> None:
    mask = np.random.default_rng(0).random((7, 9)) < 0.4
    text = base64.b64encode(np.packbits(mask).tobytes()).decode()
    np.testing.assert_array_equal(packed_mask(text, (7, 9)), mask)
    with pytest.raises(ValueError, match="8 bytes"):
        packed_mask(text[:4], (7, 9))


@pytest.fixture
def ramp(tmp_path: Path) -> Path:
    """Three samples (4 slices, 6 rows, 7 columns) whose magnitude grows evenly along every axis."""
    s, r, c = np.ogrid[:4, :6, :7]
    phase = np.exp(1j * np.random.default_rng(1).uniform(0, 6, (3, 4, 6, 7)))
    factors = np.array([1, 2, 3])[:, None, None, None]
    np.save(tmp_path / "samples.npy", (factors * (50 + 3 * s + 5 * r + 7 * c) * phase))
    return tmp_path / "samples.npy"


@pytest.mark.parametrize("plane", ["slices", "rows", "columns"])
def test_a_region_in_a_plane_is_the_same_voxels_of_the_stack(ramp: Path, plane: PlaneName) -> None:
    mask = np.zeros((4, 6, 7), np.bool_)
    mask[1:4, 2:5, 3:5] = np.random.default_rng(0).random((3, 3, 2)) < 0.6
    stack = np.abs(np.load(ramp))
    block, pictures = {
        "slices": (Block([1, 2, 3]), mask[1:4]),
        "rows": (Block(range(4), rows=slice(2, 5)), mask[:, 2:5].transpose(1, 0, 2)),
        "columns": (Block(range(4), columns=slice(3, 5)), mask[:, :, 3:5].transpose(2, 0, 1)),
    }[plane]
    found = region_values(ramp, block, stacked(pictures, plane))
    np.testing.assert_allclose(found, stack[:, mask].mean(axis=1), rtol=1e-12)


@pytest.mark.parametrize(
    ("plane", "block", "middle"),
    [
        ("slices", Block([1, 2]), (1.5, 2, 3)),
        ("rows", Block(range(4), rows=slice(1, 3)), (2, 1.5, 3)),
        ("columns", Block(range(4), columns=slice(1, 3)), (2, 3, 1.5)),
    ],
)
def test_where_values_grow_evenly_a_region_has_that_of_its_middle(
    ramp: Path, plane: PlaneName, block: Block, middle: tuple[float, float, float]
) -> None:
    """A rectangle about (line 2, column 3) in two pictures, of which the first is number 1."""
    lines, columns = {"slices": (6, 7), "rows": (4, 7), "columns": (4, 6)}[plane]
    corners = np.array([[0.5, 1.5], [0.5, 4.5], [3.5, 4.5], [3.5, 1.5]])
    drawn = np.broadcast_to(polygon_mask(corners, (lines, columns)), (2, lines, columns))
    expected = 50 + np.dot((3, 5, 7), middle)
    found = region_values(ramp, block, stacked(drawn, plane))
    np.testing.assert_allclose(found, expected * np.array([1, 2, 3]), rtol=1e-12)


@pytest.mark.parametrize("count", [4, 8, 64])
def test_intervals_hold_the_next_draw_nine_times_in_ten(count: int) -> None:
    """Truth and samples are draws of the same distribution, so a quantile covers like this."""
    rng = np.random.default_rng(count)
    trials = 4000
    held = 0
    for _ in range(trials):
        *values, truth = rng.normal(5, 2, size=count + 1)
        found = statistics(np.array(values))
        held += found.low <= truth <= found.high
    standard_error = (0.9 * 0.1 / trials) ** 0.5
    # Plain quantiles of n samples cover a little less, by about 1/n.
    slack = 0.0 if count < 40 else 1.5 / count
    assert 0.9 - slack - 4 * standard_error < held / trials < 0.9 + 4 * standard_error


def test_the_service_answers_from_the_samples(client: httpx.Client, scan: Path) -> None:
    done = ended(client, submitted(client, scan, samples=6))
    link = done["links"]["self"] + "/roi"
    content = client.get(done["links"]["results"] + "/samples.npy").content
    samples = np.load(io.BytesIO(content), allow_pickle=False)[:, 1]
    magnitude = np.abs(samples).astype(np.float64)
    region = polygon2mask((32, 32), np.array(TRIANGLE))
    other = np.zeros((32, 32), bool)
    other[20:24, 20:24] = True
    packed = base64.b64encode(np.packbits(other).tobytes()).decode()
    answer = client.post(
        link, json={"slice": 1, "region": {"polygon": TRIANGLE}, "reference": {"mask": packed}}
    ).json()
    values = magnitude[:, region].mean(axis=1)
    difference = values - magnitude[:, other].mean(axis=1)
    assert answer["pixels"] == region.sum()
    assert answer["region"]["mean"] == pytest.approx(values.mean(), rel=1e-6)
    assert answer["region"]["std"] == pytest.approx(values.std(ddof=1), rel=1e-5)
    assert answer["region"]["mc_error"] == pytest.approx(values.std(ddof=1) / 6**0.5, rel=1e-5)
    assert answer["difference"]["mean"] == pytest.approx(difference.mean(), rel=1e-5)
    # Neighbouring errors are shared, so this is not the root of the sum of squares.
    assert answer["difference"]["std"] == pytest.approx(difference.std(ddof=1), rel=1e-5)


def test_a_region_reaches_through_slices(client: httpx.Client, scan: Path) -> None:
    done = ended(client, submitted(client, scan, samples=6))
    link = done["links"]["self"] + "/roi"
    content = client.get(done["links"]["results"] + "/samples.npy").content
    magnitude = np.abs(np.load(io.BytesIO(content), allow_pickle=False)).astype(np.float64)
    count = magnitude.shape[1]
    assert count > 1
    region = np.random.default_rng(0).random((count, 32, 32)) < 0.2
    other = np.zeros((32, 32), bool)
    other[20:24, 20:24] = True
    with Client(str(client.base_url)) as asking:
        answer = asking.region(done["id"], region, other, slice=0)
        prism = asking.region(done["id"], TRIANGLE, slice=0, through=count - 1)
        with pytest.raises(ServiceError, match="at or behind"):
            asking.region(done["id"], TRIANGLE, slice=1, through=0)
        with pytest.raises(ServiceError, match="not reconstructed"):
            asking.region(done["id"], TRIANGLE, slice=0, through=count)
    values = magnitude[:, region].mean(axis=1)
    difference = values - magnitude[:, :, other].mean(axis=(1, 2))
    assert (answer.pixels, answer.slices) == (region.sum(), count)
    assert answer.region.mean == pytest.approx(values.mean(), rel=1e-6)
    assert answer.region.std == pytest.approx(values.std(ddof=1), rel=1e-5)
    assert answer.difference is not None
    assert answer.difference.std == pytest.approx(difference.std(ddof=1), rel=1e-4)
    triangle = polygon2mask((32, 32), np.array(TRIANGLE))
    expected = magnitude[:, :, triangle].mean(axis=(1, 2)).mean()
    assert prism.region.mean == pytest.approx(expected, rel=1e-6)
    # The scan says nothing of where its slices lie: they were sampled one by one, and it is told.
    assert not answer.joint
    whole = client.get(link.removesuffix("/roi")).json()["summary"]
    assert whole["joint"] is False
    flat = {"mask": base64.b64encode(np.packbits(region).tobytes()[:-1]).decode()}
    problem(
        client.post(link, json={"slice": 0, "through": count - 1, "region": flat}),
        422,
        "invalid-parameter",
    )


def test_a_region_in_a_plane_across_the_slices(
    client: httpx.Client, viewed: dict[str, Any]
) -> None:
    """Voxels of the two slices are 1.5 x 1.5 mm, and 4 mm lie between slices."""
    link = viewed["links"]["self"] + "/roi"
    content = client.get(viewed["links"]["results"] + "/samples.npy").content
    magnitude = np.abs(np.load(io.BytesIO(content), allow_pickle=False)).astype(np.float64)
    both, upper = ([[a, 5.5], [a, 19.2], [1.4, 19.2], [1.4, 5.5]] for a in (-0.4, 0.6))
    sheet = np.random.default_rng(0).random((3, 2, 32)) < 0.3
    with Client(str(client.base_url)) as asking:
        row = asking.region(viewed["id"], both, upper, plane="rows", slice=11, through=13)
        column = asking.region(viewed["id"], both, plane="columns", slice=20)
        one = asking.region(viewed["id"], upper, plane="rows", slice=12)
        apart = asking.region(viewed["id"], upper, [(-0.4, 1), (-0.4, 9), (0.4, 9), (0.4, 1)],
                              plane="rows", slice=12)  # fmt: skip
        masks = asking.region(viewed["id"], sheet, sheet[0], plane="columns", slice=7)
        mm = [(4 * line, 1.5 * place) for line, place in both]
        measured = asking.region(viewed["id"], mm, plane="columns", slice=20, unit="mm")
        with pytest.raises(ServiceError, match="rows go from 0 to 31, and 32") as refused:
            asking.region(viewed["id"], both, plane="rows", slice=30, through=32)
    assert refused.value.code == "not-found"
    values = magnitude[:, :, 11:14, 6:20].mean(axis=(1, 2, 3))
    difference = values - magnitude[:, 1, 11:14, 6:20].mean(axis=(1, 2))
    assert (row.pixels, row.slices) == (2 * 3 * 14, 2)
    assert row.region.mean == pytest.approx(values.mean(), rel=1e-6)
    assert row.region.std == pytest.approx(values.std(ddof=1), rel=1e-5)
    assert row.difference is not None
    assert row.difference.std == pytest.approx(difference.std(ddof=1), rel=1e-4)
    expected = magnitude[:, :, 6:20, 20].mean(axis=(1, 2)).mean()
    assert (column.pixels, column.region.mean) == (28, pytest.approx(expected, rel=1e-6))
    assert measured == column
    marked = magnitude[:, :, :, 7:10].transpose(0, 3, 1, 2)
    assert masks.pixels == sheet.sum()
    assert masks.region.mean == pytest.approx(marked[:, sheet].mean(), rel=1e-6)
    assert masks.reference is not None
    assert masks.reference.mean == pytest.approx(marked[:, :, sheet[0]].mean(), rel=1e-6)
    # These slices were sampled one by one: what lies in one of them alone is not too narrow.
    assert viewed["summary"]["joint"] is False
    assert [answer.joint for answer in (row, one, apart)] == [False, True, False]
    assert [answer.slices for answer in (one, apart)] == [1, 1]
    body = {"plane": "rows", "slice": 3, "region": {"mask": "AAAA"}}
    told = problem(client.post(link, json=body), 422, "invalid-parameter")
    assert "has 8 bytes" in told["detail"]


def test_a_plane_across_slices_of_which_some_are_missing(
    client: httpx.Client, tmp_path: Path
) -> None:
    three = tiny_scan(tmp_path / "three.h5", slices=3)
    done = ended(client, submitted(client, three, samples=2, slices="0,2"))
    link = done["links"]["self"] + "/roi"
    content = client.get(done["links"]["results"] + "/samples.npy").content
    magnitude = np.abs(np.load(io.BytesIO(content), allow_pickle=False)).astype(np.float64)

    def asked(region: dict[str, Any], **others: object) -> httpx.Response:
        question = {"plane": "columns", "slice": 16, "region": region} | others
        return client.post(link, json=question)

    last = {"polygon": [[1.5, 7.5], [1.5, 20.5], [9, 20.5], [9, 7.5]]}
    answer = asked(last).json()
    assert (answer["pixels"], answer["slices"]) == (13, 1)
    assert answer["region"]["mean"] == pytest.approx(magnitude[:, 1, 8:21, 16].mean(), rel=1e-6)
    whole = {"polygon": [[-0.5, 7.5], [-0.5, 20.5], [9, 20.5], [9, 7.5]]}
    assert "slice 1 was not" in problem(asked(whole), 404, "not-found")["detail"]
    mask = np.zeros((2, 32), np.bool_)
    mask[:, 8:21] = True
    answer = asked({"mask": base64.b64encode(np.packbits(mask).tobytes()).decode()}).json()
    assert (answer["pixels"], answer["slices"], answer["joint"]) == (26, 2, False)
    assert answer["region"]["mean"] == pytest.approx(magnitude[:, :, 8:21, 16].mean(), rel=1e-6)
    # Nothing says how large its voxels are.
    problem(asked(last, unit="mm"), 422, "invalid-parameter")


def test_questions_that_have_no_answer(client: httpx.Client, scan: Path) -> None:
    done = ended(client, submitted(client, scan, slices="0"))
    link = done["links"]["self"] + "/roi"
    triangle = {"polygon": TRIANGLE}
    problem(client.post(link, json={"slice": 1, "region": triangle}), 404, "not-found")
    far = {"polygon": [[100, 100], [101, 100], [101, 101]]}
    assert problem(client.post(link, json={"slice": 0, "region": far}), 422, "invalid-scan")
    problem(
        client.post(link, json={"slice": 0, "region": triangle, "unit": "mm"}),
        422,
        "invalid-parameter",
    )
    problem(client.post(link, json={"slice": 0, "region": {}}), 422, "invalid-parameter")
    problem(
        client.post(link, json={"slice": 0, "region": {"mask": "AAAA"}}), 422, "invalid-parameter"
    )


def test_points_between_pixels_are_interpolated(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    stack = random.normal(size=(3, 2, 5, 6)) + 1j * random.normal(size=(3, 2, 5, 6))
    np.save(tmp_path / "samples.npy", stack.astype(np.complex64))
    points = np.array([[0, 0], [4, 5], [2.25, 3.5], [4, 1.75]])
    found = point_values(tmp_path / "samples.npy", 1, points)
    expected = [map_coordinates(np.abs(image), points.T, order=1) for image in stack[:, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for outside in ([-0.1, 0], [0, 5.1]):
        with pytest.raises(ScanError, match="columns from 0 to 5"):
            point_values(tmp_path / "samples.npy", 1, np.array([outside]))


def test_the_service_answers_at_points(client: httpx.Client, scan: Path) -> None:
    done = ended(client, submitted(client, scan, samples=4))
    link = done["links"]["self"] + "/points"
    answer = client.post(link, json={"slice": 1, "points": [[3, 4], [20, 7]]}).json()
    samples = np.load(io.BytesIO(client.get(f"{done['links']['results']}/samples.npy").content))
    values = np.abs(samples[:, 1, [3, 20], [4, 7]])
    np.testing.assert_allclose(answer["values"], values, rtol=1e-5)
    for at in range(2):
        alone = statistics(values[:, at].astype(float))
        assert answer["mean"][at] == pytest.approx(alone.mean)
        assert answer["low"][at] == pytest.approx(alone.low)
        assert answer["high"][at] == pytest.approx(alone.high)
    assert (answer["samples"], answer["level"]) == (4, 0.9)
    for question in ({"slice": 1, "points": [[3, 32]]}, {"slice": 1, "points": []}):
        problem(client.post(link, json=question), 422, "invalid-parameter")
