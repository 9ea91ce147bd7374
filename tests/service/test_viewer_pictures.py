"""The pictures of the viewer in a real browser, against the arrays that they show."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import pytest
from PIL import Image

from service.volumes import colour_stops
from tests.service.browsing import (
    Tab,
    centres,
    grey,
    needs_browser,
    needs_bundle,
    pictures,
    pixels,
    product,
    show,
    voxel_at,
)
from tests.service.live import ROOT, ended, submitted

pytestmark = [needs_browser, needs_bundle]

SIZE = 32
KEYBOARD = ROOT / "docs" / "viewer.md"


def test_pictures_overlays_and_windows(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    page = pictures(tab, viewed)
    plain = pixels(page)
    page.get_by_role("radio", name="Std. deviation").check()
    show(page, picture="std")
    std = product(client, viewed, "std.npy")
    level = np.clip(std[1] / np.percentile(std, 99.7), 0, 1) * 32
    stops = np.array(colour_stops("magma"), float)
    expected = np.stack([np.interp(level, np.arange(33), channel) for channel in stops.T], axis=-1)
    assert np.abs(centres(pixels(page), SIZE, SIZE) - expected).max() <= 6
    assert "Std. deviation" in page.locator(".colour-bar").first.inner_text()

    page.keyboard.press("1")
    show(page, picture="mean")
    page.get_by_label("Overlay", exact=True).select_option("90 % width")
    show(page, picture="mean", overlay="width")
    covered = pixels(page)
    assert np.ptp(plain, axis=-1).max() <= 2
    assert np.ptp(covered, axis=-1).max() > 60  # colours on grey
    assert page.locator(".colour-bar:visible").count() == 2
    page.keyboard.press("Shift+O")
    page.keyboard.press("Shift+O")
    show(page, overlay="std")

    page.get_by_label("Overlay", exact=True).select_option("none")
    show(page, overlay="")
    x, y = voxel_at(page, 16, 16, SIZE, SIZE)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y - 120, steps=4)
    page.mouse.up()
    show(page, picture="mean")
    assert pixels(page).mean() > plain.mean() + 5  # upwards is brighter
    page.keyboard.press("a")
    show(page, picture="mean")
    assert np.abs(pixels(page) - plain).max() <= 2


def test_slices_and_samples_by_keyboard(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    page = pictures(tab, viewed)
    show(page, slice="1")
    page.keyboard.press("ArrowUp")
    show(page, slice="0", picture="mean")
    mean = np.abs(product(client, viewed, "mean.npy"))
    high = np.percentile(mean, 99.7)
    assert np.abs(centres(pixels(page), SIZE, SIZE)[..., 0] - grey(mean[0], high)).max() <= 3
    page.keyboard.press("ArrowRight")
    show(page, picture="sample", sample="0")
    page.keyboard.press("ArrowLeft")
    show(page, picture="sample", sample="5")
    sample = np.abs(product(client, viewed, "samples.npy")[5, 0])
    assert np.abs(centres(pixels(page), SIZE, SIZE)[..., 0] - grey(sample, high)).max() <= 3
    page.keyboard.press("?")
    rows = page.get_by_role("dialog").get_by_role("row").all()
    listed = [
        (row.get_by_role("rowheader").inner_text(), row.get_by_role("cell").inner_text())
        for row in rows
    ]
    documented = re.findall(r"^\| (.+) \| (.+) \|$", KEYBOARD.read_text(), re.MULTILINE)
    assert len(listed) > 15
    assert set(listed) <= set(documented)


def drawn(page: Any, corners: list[tuple[float, float]]) -> Any:
    """Drag over these voxels; the question that the page asks about what was drawn."""
    (x0, y0), *rest = [voxel_at(page, row, column, SIZE, SIZE) for row, column in corners]
    with page.expect_response(lambda answer: answer.url.endswith("/roi")) as asked:
        page.mouse.move(x0, y0)
        page.mouse.down()
        for x, y in rest:
            page.mouse.move(x, y, steps=3)
        page.mouse.up()
    page.locator("section.panel:not([aria-busy]) .numbers").wait_for()
    return asked.value.request.post_data_json


def test_numbers_of_regions_are_the_apis(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    page = pictures(tab, viewed)
    page.keyboard.press("r")
    first = drawn(page, [(8, 9), (14, 20)])
    assert np.allclose(first["region"]["polygon"], [(8, 9), (8, 20), (14, 20), (14, 9)], atol=0.1)
    assert first["slice"] == 1
    page.get_by_role("radio", name="B to compare with").check()
    page.keyboard.press("e")
    question = drawn(page, [(18, 9), (25, 20)])
    said = client.post(f"{viewed['links']['self']}/roi", json=question).json()
    for what in ("region", "reference", "difference"):
        row = page.locator(f"tr[data-what={what}]")
        assert float(row.get_attribute("data-mean")) == said[what]["mean"]
        assert float(row.get_attribute("data-std")) == said[what]["std"]
    text = page.locator("tr[data-what=region]").inner_text()
    assert f"{said['region']['mean']:.3g}"[:4] in text
    assert f"{said['pixels']} pixels in A" in page.locator(".panels").inner_text()
    page.keyboard.press("Delete")
    page.locator("tr[data-what=difference]").wait_for(state="detached")


def test_a_polygon_by_clicks(tab: Tab, viewed: dict[str, Any]) -> None:
    page = pictures(tab, viewed)
    page.keyboard.press("p")
    for row, column in [(5, 5), (5, 20), (20, 12)]:
        page.mouse.click(*voxel_at(page, row, column, SIZE, SIZE))
    with page.expect_request(lambda request: request.url.endswith("/roi")) as asked:
        page.keyboard.press("Enter")
    polygon = asked.value.post_data_json["region"]["polygon"]
    assert np.allclose(polygon, [(5, 5), (5, 20), (20, 12)], atol=0.1)


def test_a_map_that_was_not_computed_cannot_be_chosen(tab: Tab, viewed: dict[str, Any]) -> None:
    page = pictures(tab, viewed)
    page.get_by_text("Diagnostics", exact=True).click()
    button = page.get_by_role("radio", name="R̂")
    assert button.is_disabled()
    assert "needs four draws" in page.locator("#why-rhat").inner_text()
    names = page.get_by_label("Overlay", exact=True).locator("option").all_inner_texts()
    assert not [name for name in names if name.startswith("R̂")]


def test_panes_are_linked(tab: Tab, client: httpx.Client, viewed: dict[str, Any]) -> None:
    page = pictures(tab, viewed)
    page.keyboard.press("b")
    show(page, picture="std")
    page.get_by_role("button", name="Three pictures side by side").click()
    show(page, picture="coarse")
    stages = page.locator(".stage")
    assert stages.count() == 3
    page.keyboard.press("ArrowUp")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.stage')].every(one => one.dataset.slice === '0')"
    )
    # What is done to one pane, the others follow: size, and the place of the pointer.
    box = stages.nth(1).bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said = [text for text in page.locator(".readout").all_inner_texts() if text]
    assert len(said) == 3
    coarse, std = (product(client, viewed, f"{name}.npy") for name in ("coarse", "std"))
    row, column = map(int, re.findall(r"row (\d+), column (\d+)", said[1])[0])
    for text, value in ((said[1], std[0, row, column]), (said[2], abs(coarse[0, row, column]))):
        shown = re.search(r"(?:deviation|Coarse) ([0-9.e−]+)", text)
        assert float(shown[1]) == pytest.approx(value, rel=0.01)
    before = [pixels(page, pane) for pane in range(3)]
    page.keyboard.press("+")
    page.wait_for_url("**at=1.25*")
    assert all(np.abs(pixels(page, pane) - before[pane]).max() > 20 for pane in range(3))


def test_a_difference_has_its_own_scale(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    page = pictures(tab, viewed, layout=2, panes="mean,coarse")
    page.locator(".stage").nth(1).focus()
    page.get_by_label("Difference from the first pane").check()
    show(page, picture="coarse", minus="true")
    assert "Coarse − Mean" in page.locator(".pane").nth(1).inner_text()
    mean, coarse = (abs(product(client, viewed, f"{name}.npy")[1]) for name in ("mean", "coarse"))
    drawn = centres(pixels(page, 1), SIZE, SIZE)
    above, below = coarse - mean > 0.3 * mean.max(), coarse - mean < -0.3 * mean.max()
    assert (drawn[above][:, 0] >= drawn[above][:, 2]).all()  # red
    assert (drawn[below][:, 2] >= drawn[below][:, 0]).all()  # blue
    assert (np.abs(drawn[np.abs(coarse - mean) < 1e-3 * mean.max()]) < 60).all()


def test_two_results_of_one_scan(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any], scan: Path
) -> None:
    other = ended(client, submitted(client, scan, samples=2, seed=5, **{"tag.label": "Other seed"}))
    page = pictures(tab, viewed, layout=2, panes="mean,mean")
    page.locator(".stage").nth(1).focus()
    page.get_by_label("Result").select_option("other seed (fast)")
    show(page, picture="mean", result=other["id"])
    mean = abs(product(client, other, "mean.npy"))
    high = np.percentile(abs(product(client, viewed, "mean.npy")), 99.7)
    found = centres(pixels(page, 1), SIZE, SIZE)[..., 0]
    assert np.abs(found - grey(mean[1], high)).max() <= 3  # the first pane's window


def test_the_address_holds_the_view(tab: Tab, viewed: dict[str, Any]) -> None:
    page = pictures(tab, viewed)
    page.keyboard.press("ArrowUp")
    page.keyboard.press("b")
    page.keyboard.press("o")
    page.keyboard.press("r")
    drawn(page, [(8, 9), (14, 20)])
    page.keyboard.press("w")
    x, y = voxel_at(page, 16, 4, SIZE, SIZE)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 30, steps=3)
    page.mouse.up()
    page.wait_for_url("**window.mean=*")
    show(page, picture="mean", slice="0", overlay="std")
    show(page, picture="std", slice="0")
    before = [pixels(page, pane) for pane in range(2)]
    numbers = page.locator("tr[data-what=region]").get_attribute("data-mean")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.keyboard.press("c")
    page.get_by_text("The link to this view is copied").wait_for()
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url

    page.goto("/view")
    page.goto(link)
    show(page, picture="mean", slice="0", overlay="std")
    show(page, picture="std", slice="0")
    page.locator("tr[data-what=region]").wait_for()
    assert page.locator("tr[data-what=region]").get_attribute("data-mean") == numbers
    for pane in range(2):
        assert np.abs(pixels(page, pane) - before[pane]).max() <= 2


def test_an_overlay_is_drawn_inside_the_object_only(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    page = pictures(tab, viewed)
    plain = centres(pixels(page), SIZE, SIZE)
    page.keyboard.press("o")
    show(page, overlay="std")
    covered = centres(pixels(page), SIZE, SIZE)
    changed = np.abs(covered - plain).max(axis=-1) > 3
    mask = volume(client, viewed, "object")[1]
    std = np.where(np.isfinite(mask), product(client, viewed, "std.npy")[1], 0)
    whole = np.where(
        np.isfinite(volume(client, viewed, "object")), product(client, viewed, "std.npy"), 0
    )
    start = np.quantile(whole[whole > 0], 0.8)
    assert changed.any()
    assert not changed[np.isnan(mask)].any()
    assert not changed[std < 0.98 * start].any()
    assert changed[std > 1.2 * start].all()


def volume(client: httpx.Client, job: dict[str, Any], name: str) -> np.ndarray:
    """(slices, rows, columns)"""
    content = client.get(f"{job['links']['volumes']}/{name}.nii").content
    return np.asarray(nibabel.Nifti1Image.from_bytes(content).dataobj).transpose(2, 1, 0)


def points(answer: Any) -> list[list[float]]:
    """Where values were asked for."""
    if not answer.url.endswith("/points"):
        return []
    found: list[list[float]] = answer.request.post_data_json["points"]
    return found


def test_a_line_is_a_ruler_and_a_profile(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    page = pictures(tab, viewed)
    page.keyboard.press("l")
    (x0, y0), (x1, y1) = (voxel_at(page, *at, SIZE, SIZE) for at in ((16, 6), (16, 26)))
    # The one voxel under the cursor is asked for too.
    with page.expect_response(lambda answer: len(points(answer)) > 1) as asked:
        page.mouse.move(x0, y0)
        page.mouse.down()
        page.mouse.move(x1, y1, steps=3)
        page.mouse.up()
    page.locator(".profile").wait_for()
    question, said = asked.value.request.post_data_json, asked.value.json()
    assert np.allclose(question["points"][0], (16, 6), atol=0.1)
    assert "30.0 mm" in page.locator("text.name.ruler").first.text_content()  # 20 voxels of 1.5 mm
    assert "30.0 mm long" in page.locator(".panels").inner_text()
    samples = np.abs(product(client, viewed, "samples.npy")[:, 1])
    at = np.round(question["points"]).astype(int)
    near = np.abs(np.array(question["points"]) - at).max(axis=1) < 0.02
    assert near.any()
    found = np.array(said["values"])[:, near]
    assert np.abs(found - samples[:, *at[near].T]).max() < 0.1 * samples.max()
    assert (np.array(said["low"]) < said["mean"]).all()
    page.keyboard.press("Delete")
    page.locator(".profile").wait_for(state="detached")


def test_the_samples_of_a_voxel(tab: Tab, client: httpx.Client, viewed: dict[str, Any]) -> None:
    page = pictures(tab, viewed)
    page.mouse.move(*voxel_at(page, 12, 17, SIZE, SIZE))
    page.locator("[data-voxel='12,17']").wait_for()
    values = np.abs(product(client, viewed, "samples.npy")[:, 1, 12, 17])
    assert f"{values.mean():.3g}" in page.locator("[data-voxel]").inner_text()
    assert page.locator(".histogram .tick").count() == 6


def test_everything_can_be_taken_away(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    page = pictures(tab, viewed, layout=2, overlay="std", A="rectangle:8,9,14,20", line="4,4,20,20")
    page.locator("tr[data-what=region]").wait_for()
    page.keyboard.press("s")
    dialog = page.get_by_role("dialog", name="Save")
    dialog.get_by_role("button", name="Download result.h5").wait_for()

    def saved(name: str) -> bytes:
        with page.expect_download() as saving:
            dialog.get_by_role("button", name=name, exact=True).click()
        return Path(saving.value.path()).read_bytes()

    drawing = saved("SVG").decode()
    for part in ("Std. deviation", "data:image/png;base64,", 'class="outline A"', "mm</text>"):
        assert part in drawing
    assert "not for diagnosis" in drawing
    figure = np.asarray(Image.open(io.BytesIO(saved("PNG"))).convert("RGB"), float)
    assert figure.shape[1] > 1600
    assert (figure[:20] == 255).all()  # paper
    assert np.ptp(figure, axis=-1).max() > 100  # colours
    lines = list(csv.DictReader(io.StringIO(saved("CSV").decode())))
    assert [line["slice"] for line in lines] == ["0", "1"]
    question = {"slice": 1, "region": {"polygon": [(8, 9), (8, 20), (14, 20), (14, 9)]}}
    said = client.post(f"{viewed['links']['self']}/roi", json=question).json()
    assert float(lines[1]["mean"]) == said["region"]["mean"]
    assert int(lines[1]["pixels"]) == said["pixels"]
    assert saved("DICOM")[:2] == b"PK"
    assert saved("NIfTI, mean")[:2] == b"\x1f\x8b"
    assert saved("NIfTI, Mean") == client.get(f"{viewed['links']['volumes']}/mean.nii").content
