"""The viewer in a real browser, against a real server and what its API says."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from service.volumes import colour_stops
from tests.service.browsing import (
    AXE,
    Tab,
    accessibility_problems,
    browser,
    centres,
    drop,
    needs_browser,
    needs_bundle,
    opened,
    pixels,
    show,
    voxel_at,
)
from tests.service.live import ROOT, Server, ended, submitted

pytestmark = [needs_browser, needs_bundle]

SIZE = 32
KEYBOARD = ROOT / "docs" / "viewer.md"


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Of this module alone: while it lives, its thread has an event loop."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def chromium(driver: Any) -> Iterator[Any]:
    with browser(driver) as running:
        yield running


@pytest.fixture(scope="module")
def done(server: Server, scan: Path) -> dict[str, Any]:
    """A finished reconstruction of two slices, six samples."""
    with server.client() as client:
        label = {"tag.label": "Two slices", "samples": 6, "self_check": True}
        return ended(client, submitted(client, scan, **label))


@pytest.fixture
def tab(chromium: Any, server: Server) -> Iterator[Tab]:
    made = opened(chromium, server.url)
    yield made
    made.page.close()
    assert not [line for line in made.said if "Content Security Policy" in line]
    assert not [line for line in made.said if line.startswith("exception: ")]


def pictures(tab: Tab, done: dict[str, Any]) -> Any:
    tab.page.goto(f"/view/reconstructions/{done['id']}")
    show(tab.page, picture="mean")
    return tab.page


def product(client: httpx.Client, job: dict[str, Any], name: str) -> np.ndarray:
    content = client.get(f"{job['links']['results']}/{name}").content
    return np.load(io.BytesIO(content), allow_pickle=False)


def grey(image: np.ndarray, high: float) -> np.ndarray:
    return 255 * np.clip(image / high, 0, 1)


def test_from_a_dropped_scan_to_its_picture(tab: Tab, client: httpx.Client, scan: Path) -> None:
    page = tab.page
    page.goto("/view")
    page.get_by_label("Model").select_option("tiny")
    page.get_by_role("radio", name="fast").check()
    page.get_by_label("Samples").fill("4")
    page.get_by_label("Label").fill("Dropped scan")
    drop(page, "scan.h5", scan.read_bytes())
    row = page.locator("tr", has_text="Dropped scan")
    row.get_by_text("succeeded").wait_for(timeout=60_000)
    row.get_by_role("link", name="Dropped scan").click()
    show(page, picture="mean", renderer="webgl2")

    job = client.get(f"/v1/reconstructions/{page.url.rsplit('/', 1)[1]}").json()
    assert job["params"]["samples"] == 4
    mean = np.abs(product(client, job, "mean.npy"))
    expected = grey(mean[1], np.percentile(mean, 99.7))
    found = centres(pixels(page), SIZE, SIZE)
    assert expected.max() > 200
    assert np.ptp(found, axis=-1).max() <= 2  # grey
    assert np.abs(found[..., 0] - expected).max() <= 3


def test_pictures_overlays_and_windows(
    tab: Tab, client: httpx.Client, done: dict[str, Any]
) -> None:
    page = pictures(tab, done)
    plain = pixels(page)
    page.get_by_role("radio", name="Std. deviation").check()
    show(page, picture="std")
    std = product(client, done, "std.npy")
    level = np.clip(std[1] / np.percentile(std, 99.7), 0, 1) * 32
    stops = np.array(colour_stops("magma"), float)
    expected = np.stack([np.interp(level, np.arange(33), channel) for channel in stops.T], axis=-1)
    assert np.abs(centres(pixels(page), SIZE, SIZE) - expected).max() <= 6
    assert "Std. deviation" in page.locator(".colour-bar").last.inner_text()

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
    tab: Tab, client: httpx.Client, done: dict[str, Any]
) -> None:
    page = pictures(tab, done)
    show(page, slice="1")
    page.keyboard.press("ArrowUp")
    show(page, slice="0", picture="mean")
    mean = np.abs(product(client, done, "mean.npy"))
    high = np.percentile(mean, 99.7)
    assert np.abs(centres(pixels(page), SIZE, SIZE)[..., 0] - grey(mean[0], high)).max() <= 3
    page.keyboard.press("ArrowRight")
    show(page, picture="sample", sample="0")
    page.keyboard.press("ArrowLeft")
    show(page, picture="sample", sample="5")
    sample = np.abs(product(client, done, "samples.npy")[5, 0])
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
    tab: Tab, client: httpx.Client, done: dict[str, Any]
) -> None:
    page = pictures(tab, done)
    page.keyboard.press("r")
    first = drawn(page, [(8, 9), (14, 20)])
    assert np.allclose(first["region"]["polygon"], [(8, 9), (8, 20), (14, 20), (14, 9)], atol=0.1)
    assert first["slice"] == 1
    page.get_by_role("radio", name="B to compare with").check()
    page.keyboard.press("e")
    question = drawn(page, [(18, 9), (25, 20)])
    said = client.post(f"{done['links']['self']}/roi", json=question).json()
    for what in ("region", "reference", "difference"):
        row = page.locator(f"tr[data-what={what}]")
        assert float(row.get_attribute("data-mean")) == said[what]["mean"]
        assert float(row.get_attribute("data-std")) == said[what]["std"]
    text = page.locator("tr[data-what=region]").inner_text()
    assert f"{said['region']['mean']:.3g}"[:4] in text
    assert f"{said['pixels']} pixels in A" in page.locator(".panels").inner_text()
    page.keyboard.press("Delete")
    page.locator("tr[data-what=difference]").wait_for(state="detached")


def test_a_polygon_by_clicks(tab: Tab, done: dict[str, Any]) -> None:
    page = pictures(tab, done)
    page.keyboard.press("p")
    for row, column in [(5, 5), (5, 20), (20, 12)]:
        page.mouse.click(*voxel_at(page, row, column, SIZE, SIZE))
    with page.expect_request(lambda request: request.url.endswith("/roi")) as asked:
        page.keyboard.press("Enter")
    polygon = asked.value.post_data_json["region"]["polygon"]
    assert np.allclose(polygon, [(5, 5), (5, 20), (20, 12)], atol=0.1)


def test_a_map_that_was_not_computed_cannot_be_chosen(tab: Tab, done: dict[str, Any]) -> None:
    page = pictures(tab, done)
    button = page.get_by_role("radio", name="R̂")
    assert button.is_disabled()
    reason = page.locator("label", has=button).get_attribute("title")
    assert "needs four draws" in reason
    names = page.get_by_label("Overlay", exact=True).locator("option").all_inner_texts()
    assert not [name for name in names if name.startswith("R̂")]


def test_the_api_page_shows_an_operation(tab: Tab) -> None:
    page = tab.page
    page.goto("/docs")
    operation = page.locator(".opblock", has_text="/v1/reconstructions/{job_id}/roi")
    operation.locator(".opblock-summary-control").first.click()
    operation.get_by_text("posterior mean, standard deviation, 90 % interval").first.wait_for()
    operation.locator(".parameters", has_text="job_id").first.wait_for()
    operation.locator(".responses-table").get_by_text("mc_error").first.wait_for()
    assert "Unable to render" not in page.locator("body").inner_text()
    assert not [line for line in tab.said if line.startswith("error")]


def test_the_first_address_leads_to_the_viewer(tab: Tab, client: httpx.Client) -> None:
    tab.page.goto("/")
    tab.page.get_by_role("heading", name="Reconstructions", exact=True).wait_for()
    assert tab.page.url.endswith("/view")
    icon = client.get("/favicon.ico")
    assert (icon.status_code, icon.headers["content-type"]) == (200, "image/svg+xml")


def test_a_broken_file_is_refused_in_words(tab: Tab, client: httpx.Client) -> None:
    page = tab.page
    page.goto("/view")
    page.locator(".drop").wait_for()
    before = client.get("/v1/reconstructions/counts").json()
    drop(page, "notes.h5", b"this is not HDF5")
    alert = page.get_by_role("alert")
    alert.wait_for()
    assert "The file is not HDF5" in alert.inner_text()
    assert "fastMRI or ISMRMRD" in alert.inner_text()
    assert client.get("/v1/reconstructions/counts").json() == before
    page.get_by_role("button", name="Dismiss").click()
    alert.wait_for(state="detached")


@pytest.fixture
def long_job(client: httpx.Client, scan: Path) -> Iterator[dict[str, Any]]:
    job = submitted(client, scan, preset="thorough", samples=64, **{"tag.label": "Long one"})
    yield job
    client.post(job["links"]["cancel"])


def test_a_running_job_is_followed_and_cancelled(
    tab: Tab, client: httpx.Client, long_job: dict[str, Any]
) -> None:
    page = tab.page
    page.goto("/view")
    row = page.locator(f"tr[data-job='{long_job['id']}']")
    row.get_by_text("left").wait_for(timeout=60_000)
    page.wait_for_function("() => document.querySelector('tr progress')?.value > 0", timeout=60_000)
    row.get_by_role("link", name="Long one").click()
    page.locator("img.preview:visible").wait_for(timeout=60_000)
    assert page.locator("img.preview").evaluate("picture => picture.naturalWidth") == SIZE
    page.get_by_role("button", name="Cancel").click()
    page.get_by_text("cancelled before it had a result").wait_for()
    assert client.get(long_job["links"]["self"]).json()["state"] == "cancelled"


@pytest.mark.skipif(not AXE.is_file(), reason="no axe-core: npm ci in service/viewer")
@pytest.mark.parametrize("size", [(1280, 800), (820, 1180)])
def test_every_page_meets_wcag_aa(
    chromium: Any, server: Server, done: dict[str, Any], size: tuple[int, int]
) -> None:
    tab = opened(chromium, server.url, *size)
    page = tab.page
    here = f"/view/reconstructions/{done['id']}"
    ready = {
        "/view": "table.jobs",
        here: ".stage[data-picture=mean]",
        f"{here}/report": ".report",
        "/view/models": ".prose",
        "/view/key": "#key",
        "/view/nowhere": ".problem",
        "/view/plain": "table",
    }
    for path, sign in ready.items():
        page.goto(path)
        page.wait_for_selector(sign)
        if path == here:
            page.keyboard.press("Enter")  # a region, with its numbers
            page.wait_for_selector(".numbers")
        assert accessibility_problems(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        banner = page.get_by_text("For research use, not for diagnosis", exact=True)
        assert banner.is_visible(), path
    page.close()


def test_the_report_says_in_words_what_the_numbers_mean(tab: Tab, done: dict[str, Any]) -> None:
    page = tab.page
    page.goto(f"/view/reconstructions/{done['id']}/report")
    page.wait_for_selector(".report")
    text = page.locator(".report").inner_text()
    for warning in done["summary"]["slices"][0]["warnings"]:
        assert warning in text
    assert "too few lines lie outside the calibration region" in text
    assert "agree with the measured data" in text
    assert done["summary"]["scan_sha256"] in text
    with page.expect_download() as saving:
        page.get_by_role("button", name="Download report.json").click()
    assert saving.value.suggested_filename == f"{done['id']}-report.json"


def test_without_webgl2_the_service_draws(
    driver: Any, server: Server, client: httpx.Client, done: dict[str, Any]
) -> None:
    mean = np.abs(product(client, done, "mean.npy"))
    expected = grey(mean[1], np.percentile(mean[1], 99.7))
    with browser(driver, webgl2=False) as running:
        tab = opened(running, server.url)
        page = tab.page
        page.goto(f"/view/reconstructions/{done['id']}")
        show(page, picture="mean", renderer="server")
        found = centres(pixels(page), SIZE, SIZE)
        assert np.abs(found[..., 0] - expected).max() <= 3
        page.get_by_label("Overlay", exact=True).select_option("Std. deviation")
        show(page, overlay="std")
        assert np.ptp(pixels(page), axis=-1).max() > 40
    assert not [line for line in tab.said if "Content Security Policy" in line]


def test_the_plain_page_says_which_colour_is_which_value(
    chromium: Any, server: Server, client: httpx.Client, done: dict[str, Any]
) -> None:
    tab = opened(chromium, server.url)
    page = tab.page
    page.goto(f"/view/plain/{done['id']}?product=std")
    page.wait_for_function("() => document.querySelector('img').naturalWidth > 0")
    query = {"product": "std", "colours": "own"}
    said = client.get(f"/v1/reconstructions/{done['id']}/preview.png", params=query)
    low, high = map(float, said.headers["window"].split(","))
    shown = [float(value) for value in page.locator(".values span").all_inner_texts()]
    assert shown == [float(f"{value:.3g}") for value in (low, (low + high) / 2, high)]
    assert page.get_by_role("heading", name="Two slices").is_visible()
    assert not [line for line in tab.said if "Content Security Policy" in line]
    page.close()
