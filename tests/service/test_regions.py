"""Regions of interest: geometry against a slow truth, statistics against simulation."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import httpx
import numpy as np
import pytest
from scipy.ndimage import map_coordinates
from skimage.draw import polygon2mask

from recon.errors import ScanError
from service.client import Client, ServiceError
from service.regions import packed_mask, point_values, polygon_mask, statistics
from tests.service.live import ended, problem, submitted

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
