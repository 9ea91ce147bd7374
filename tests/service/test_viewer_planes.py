"""The three planes of the viewer in a real browser, and regions drawn across the slices."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recon.io.files import write_scan
from recon.phantom import simulate
from recon.planes import ATTRIBUTE, axial
from recon.undersampling import undersample, undersampling_mask
from tests.service.browsing import Tab, needs_browser, needs_bundle, pictures, product
from tests.service.live import Server, ended, submitted

pytestmark = [needs_browser, needs_bundle]

SIDE, SLICES, FIRST = 32, 4, 1
THICK, FINE = 4.0, 1.5


@pytest.fixture(scope="module")
def stack(server: Server, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Slices 1 to 4 of five axial ones; the head, where the last slice lies, is drawn on top."""
    full, _ = simulate(FIRST + SLICES, 4, SIDE, SIDE)
    mask = undersampling_mask((SIDE, SIDE), "equispaced", 1.6, 0.5, 0)
    planes = axial(FIRST + SLICES, (SIDE, SIDE), (FINE, FINE, THICK)).to_text()
    path = tmp_path_factory.mktemp("stack") / "stack.h5"
    write_scan(path, replace(undersample(full, mask), attributes={ATTRIBUTE: planes}))
    asked = {"samples": 3, "slices": f"{FIRST}:", "voxel_mm": f"{FINE},{FINE},{THICK}"}
    with server.client() as client:
        return ended(client, submitted(client, path, **asked))


def planes(tab: Tab, done: dict[str, Any], **query: object) -> Any:
    """The page with three planes, which cross in slice 2, row 14 and column 16."""
    asked = {"layout": "planes", "slice": 2, "cross": "14,16"} | query
    address = "&".join(f"{name}={value}" for name, value in asked.items())
    tab.page.goto(f"/view/reconstructions/{done['id']}?{address}")
    tab.page.wait_for_selector("[data-cross='1,14,16']")
    return tab.page


def place(page: Any, plane: str, line: float, along: float) -> tuple[float, float]:
    """Where on the page a point of a plane across is: position in the stack, and row or column."""
    box = page.locator(f"[data-plane={plane}]").bounding_box()
    scale = min(box["height"] / (SLICES * THICK), box["width"] / (SIDE * FINE))
    x = box["x"] + box["width"] / 2 + (along - (SIDE - 1) / 2) * FINE * scale
    y = box["y"] + box["height"] / 2 - (line - (SLICES - 1) / 2) * THICK * scale
    return x, y


def dragged(page: Any, plane: str, start: tuple[float, float], end: tuple[float, float]) -> Any:
    """The question that is asked after a drag between two points of a plane."""
    with page.expect_request(lambda request: request.url.endswith("/roi")) as asked:
        page.mouse.move(*place(page, plane, *start))
        page.mouse.down()
        page.mouse.move(*place(page, plane, *end), steps=4)
        page.mouse.up()
    page.locator("section.panel:not([aria-busy]) .numbers").wait_for()
    return asked.value.post_data_json


def pressed(page: Any, keys: str) -> Any:
    """The question that is asked after keys were pressed."""
    with page.expect_request(lambda request: request.url.endswith("/roi")) as asked:
        page.keyboard.press(keys)
    page.locator("section.panel:not([aria-busy]) .numbers").wait_for()
    return asked.value.post_data_json


def box(low: float, high: float, left: float, right: float) -> list[tuple[float, float]]:
    """Corners of a rectangle in the order in which it is asked about."""
    return [(low, left), (low, right), (high, right), (high, left)]


def mean_of(page: Any, what: str = "region") -> float:
    return float(page.locator(f"tr[data-what={what}]").get_attribute("data-mean"))


def test_three_planes_cross_where_one_points(tab: Tab, viewed: dict[str, Any]) -> None:
    page = pictures(tab, viewed)
    page.keyboard.press("n")
    page.wait_for_selector("[data-cross='1,16,16']")
    assert page.locator(".stage.plane").count() == 3
    box = page.locator("[data-plane=rows]").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2 - 6)
    page.wait_for_selector("[data-cross^='0,16,']")
    page.wait_for_url("**layout=planes*")


def test_a_region_is_drawn_across_the_slices(
    tab: Tab, client: httpx.Client, stack: dict[str, Any]
) -> None:
    samples = np.abs(product(client, stack, "samples.npy"))
    page = planes(tab, stack)
    page.keyboard.press("r")
    question = dragged(page, "rows", (0.6, 5.5), (2.4, 19.5))
    assert (question["plane"], question["slice"], question["through"]) == ("rows", 14, None)
    drawn = question["region"]["polygon"]
    assert np.allclose(drawn, box(0.6 + FIRST, 2.4 + FIRST, 5.5, 19.5), atol=0.1)
    assert mean_of(page) == pytest.approx(samples[:, 1:3, 14, 6:20].mean(), rel=1e-5)
    page.get_by_text("28 voxels of 2 slices, row 14, in A.").wait_for()

    # Its outline where it was drawn, its box where the other planes cut it.
    assert page.locator("[data-slot=A]").count() == 1
    assert page.locator("[data-plane=rows] .outline.A").count() == 1
    assert page.locator("[data-plane=slices] .extent.A").count() == 1
    assert page.locator("[data-plane=columns] .extent.A").count() == 1
    thin = page.locator("[data-plane=slices] .extent.A").bounding_box()
    with page.expect_request(lambda request: request.url.endswith("/roi")) as asked:
        page.get_by_label("through to row").fill("17")
    assert (asked.value.post_data_json["slice"], asked.value.post_data_json["through"]) == (14, 17)
    page.get_by_text("112 voxels of 2 slices, rows 14 to 17, in A.").wait_for()
    assert mean_of(page) == pytest.approx(samples[:, 1:3, 14:18, 6:20].mean(), rel=1e-5)
    thick = page.locator("[data-plane=slices] .extent.A").bounding_box()
    assert thick["height"] == pytest.approx(4 * thin["height"], rel=0.1)
    page.get_by_label("through to row").fill("")
    page.get_by_label("through to row").blur()

    # Where planes cross elsewhere the region lies in another row; the head is on top.
    page.keyboard.press("w")
    with page.expect_request(lambda request: request.url.endswith("/roi")) as asked:
        page.mouse.click(*place(page, "columns", 3, 20))
    assert asked.value.post_data_json["slice"] == 20
    page.wait_for_selector("[data-cross='3,20,16']")
    assert page.locator("[data-plane=slices] .extent.A").count() == 0


def test_a_region_across_is_moved_resized_and_in_the_address(
    tab: Tab, client: httpx.Client, stack: dict[str, Any]
) -> None:
    samples = np.abs(product(client, stack, "samples.npy"))
    page = planes(tab, stack, A="rows-ellipse:-0.4,6,1.4,12")
    page.locator("tr[data-what=region]").wait_for()
    page.locator("[data-plane=rows] .outline.A").wait_for()
    page.keyboard.press("x")
    page.keyboard.press("r")
    question = dragged(page, "rows", (0.6, 5.3), (1.4, 11.3))
    assert question["plane"] == "rows"
    assert np.allclose(question["reference"]["polygon"], box(1.6, 2.4, 5.3, 11.3), atol=0.1)
    page.keyboard.press("w")
    question = dragged(page, "rows", (1, 8), (2, 11))  # held inside
    assert np.allclose(question["reference"]["polygon"], box(2.6, 3.4, 8.3, 14.3), atol=0.1)
    question = pressed(page, "Alt+ArrowUp")  # towards the head
    assert np.allclose(question["reference"]["polygon"], box(3.6, 4.4, 8.3, 14.3), atol=0.1)
    question = pressed(page, "Alt+Shift+ArrowRight")  # and no smaller than a voxel
    assert np.allclose(question["reference"]["polygon"], box(3.5, 4.5, 7.8, 14.8), atol=0.1)
    expected = samples[:, 3, 14, 8:15].mean()
    assert mean_of(page, "reference") == pytest.approx(expected, rel=1e-3)
    page.wait_for_url(re.compile(r"B=rows-rectangle%3A2\.[45]\d*%2C7\.[6-9]"))

    numbers = mean_of(page, "difference")
    address = page.url
    page.goto("/view")
    page.goto(address)
    page.locator("tr[data-what=difference]").wait_for()
    assert mean_of(page, "difference") == pytest.approx(numbers, rel=1e-3)
    assert page.locator("[data-plane=rows] .outline.B").count() == 1

    # Two regions are compared in one kind of plane only; the other is named.
    page.keyboard.press("x")
    page.keyboard.press("p")
    for corner in [(0.6, 8.5), (0.6, 20.5), (2.4, 20.5), (2.4, 8.5)]:
        page.mouse.click(*place(page, "columns", *corner))
    question = pressed(page, "Enter")
    assert (question["plane"], question["reference"]) == ("rows", None)
    page.get_by_text("B lies in another plane and is not compared.").wait_for()
    page.get_by_role("button", name="Remove region A").click()
    page.get_by_text("24 voxels of 2 slices, column 16, in B.").wait_for()
    page.get_by_label("through to column").wait_for()
    assert mean_of(page) == pytest.approx(samples[:, 1:3, 9:21, 16].mean(), rel=1e-5)

    # A picture of one slice shows where it cuts the region; numbers of every column can be saved.
    page.keyboard.press("Shift+B")
    page.locator(".stage:not(.plane) .extent.B").wait_for()
    page.keyboard.press("s")
    with page.expect_download() as saving:
        page.get_by_role("dialog", name="Save").get_by_role("button", name="CSV").click()
    lines = list(csv.DictReader(io.StringIO(Path(saving.value.path()).read_text())))
    assert [line["column"] for line in lines] == [str(column) for column in range(SIDE)]
    assert float(lines[20]["mean"]) == pytest.approx(samples[:, 1:3, 9:21, 20].mean(), rel=1e-5)


def test_a_region_of_a_slice_is_drawn_among_the_planes(
    tab: Tab, client: httpx.Client, stack: dict[str, Any]
) -> None:
    page = planes(tab, stack)
    page.locator("[data-plane=slices]").focus()
    page.keyboard.press("r")
    question = pressed(page, "Enter")
    assert (question["plane"], question["slice"]) == ("slices", 2)
    assert page.locator("[data-plane=slices] .outline.A").count() == 1
    low = page.locator("[data-plane=rows] .extent.A").bounding_box()
    page.get_by_label("through to slice").fill("4")
    page.get_by_text("of 3 slices in A").wait_for()
    high = page.locator("[data-plane=rows] .extent.A").bounding_box()
    assert high["height"] == pytest.approx(3 * low["height"], rel=0.1)


def test_a_result_without_planes_has_no_region_across(tab: Tab, server: Server, scan: Path) -> None:
    with server.client() as client:
        done = ended(client, submitted(client, scan, samples=2, slices="0"))
    page = pictures(tab, done, A="rows-rectangle:0,6,1,12")
    page.get_by_text("Draw a rectangle (R)").wait_for()
    page.wait_for_url(lambda url: "rows" not in url)
