"""The viewer in a real browser, against a real server and what its API says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from recon.io.files import write_scan
from recon.phantom import simulate
from recon.undersampling import undersample, undersampling_mask
from tests.service.browsing import (
    AXE,
    Tab,
    accessibility_problems,
    centres,
    drop,
    grey,
    needs_browser,
    needs_bundle,
    opened,
    pictures,
    pixels,
    product,
    show,
)
from tests.service.live import ROOT, Server, ended, submitted

pytestmark = [needs_browser, needs_bundle]

SIZE = 32
KEYBOARD = ROOT / "docs" / "viewer.md"


def test_from_a_dropped_scan_to_its_picture(tab: Tab, client: httpx.Client, scan: Path) -> None:
    page = tab.page
    page.goto("/view")
    page.get_by_label("Model", exact=True).select_option("tiny")
    page.get_by_role("radio", name="fast").check()
    page.get_by_label("Samples").fill("4")
    page.get_by_label("Label").fill("Dropped scan")
    drop(page, "scan.h5", scan.read_bytes())
    row = page.locator("tr", has_text="Dropped scan")
    row.get_by_text("succeeded").wait_for(timeout=60_000)
    row.get_by_role("link", name="Dropped scan").click()
    show(page, picture="mean")
    page.keyboard.press("i")
    page.wait_for_url("**pixels=plain")

    job = client.get(f"/v1/reconstructions/{page.url.rsplit('/', 1)[1]}").json()
    assert job["params"]["samples"] == 4
    mean = np.abs(product(client, job, "mean.npy"))
    expected = grey(mean[1], np.percentile(mean, 99.7))
    found = centres(pixels(page), SIZE, SIZE)
    assert expected.max() > 200
    assert np.ptp(found, axis=-1).max() <= 2  # grey
    assert np.abs(found[..., 0] - expected).max() <= 3


def test_the_api_page_shows_an_operation(tab: Tab) -> None:
    page = tab.page
    page.goto("/docs")
    operation = page.locator(".opblock", has_text="/v1/reconstructions/{job_id}/roi")
    operation.locator(".opblock-summary-control").first.click(timeout=60_000)
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
    alert.get_by_text("The file is of no format that is read").wait_for()
    alert.get_by_text("another vendor's raw data are not").wait_for()  # what to do
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
@pytest.mark.parametrize(
    ("width", "height", "theme"),
    [(390, 844, "dark"), (390, 844, "light"), (1280, 800, "dark"), (2560, 1440, "light")],
)
def test_every_page_meets_wcag_aa(
    chromium: Any, server: Server, viewed: dict[str, Any], width: int, height: int, theme: str
) -> None:
    tab = opened(chromium, server.url, width, height, theme)
    page = tab.page
    here = f"/view/reconstructions/{viewed['id']}"
    ready = {
        "/view": "table.jobs",
        f"{here}?layout=4&overlay=std&line=4,4,20,20": ".profile",
        f"{here}?layout=planes": "[data-cross]",
        f"{here}/report": ".report",
        "/view/models": ".prose",
        "/view/key": "#key",
        "/view/nowhere": ".problem",
        "/view/plain": "table",
    }
    for path, sign in ready.items():
        page.goto(path)
        page.wait_for_selector(sign)
        if "line=" in path:
            page.keyboard.press("Enter")  # a region, with its numbers
            page.wait_for_selector(".numbers")
            page.get_by_text("Diagnostics", exact=True).click()
        assert accessibility_problems(page) == [], path
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, path
        banner = page.get_by_text("For research use, not for diagnosis", exact=True)
        assert banner.is_visible(), path
        if "line=" in path:
            for key, dialog in (("s", "Save"), ("?", "Keyboard")):
                page.keyboard.press(key)
                page.get_by_role("dialog", name=dialog).wait_for()
                assert accessibility_problems(page) == [], dialog
                page.keyboard.press("Escape")
    page.close()


def test_the_report_says_in_words_what_the_numbers_mean(tab: Tab, viewed: dict[str, Any]) -> None:
    page = tab.page
    page.goto(f"/view/reconstructions/{viewed['id']}/report")
    page.wait_for_selector(".report")
    text = page.locator(".report").inner_text()
    for warning in viewed["summary"]["slices"][0]["warnings"]:
        assert warning in text
    assert "too few lines lie outside the calibration region" in text
    # Of the slice that is shown, chi^2 decides which sentence is said, and no other.
    [shown] = [
        each
        for each in viewed["summary"]["slices"]
        if f"slice {each['slice']}, the worst one" in text.lower()
    ]
    expected = "miss" if shown["chi2"] > 1.1 else "follow" if shown["chi2"] < 0.9 else "agree with"
    said = [
        verb for verb in ("miss", "follow", "agree with") if f"{verb} the measured data" in text
    ]
    assert said == [expected]
    assert viewed["summary"]["scan_sha256"] in text
    with page.expect_download() as saving:
        page.get_by_role("button", name="Download report.json").click()
    assert saving.value.suggested_filename == f"{viewed['id']}-report.json"


def test_the_list_is_searched_sorted_and_has_pictures(
    tab: Tab, client: httpx.Client, viewed: dict[str, Any], scan: Path
) -> None:
    page = tab.page
    page.goto("/view")
    page.get_by_label("Model", exact=True).select_option("tiny")
    page.get_by_role("radio", name="fast").check()
    page.get_by_label("Samples").fill("2")
    with page.expect_response(lambda answer: answer.url.endswith("/v1/reconstructions")) as sent:
        drop(page, "head-17.h5", scan.read_bytes())
    job = sent.value.json()
    assert "head-17" not in (sent.value.request.post_data or "")
    row = page.locator(f"tr[data-job='{job['id']}']")
    row.get_by_role("link", name="head-17.h5").wait_for()
    row.get_by_text("succeeded").wait_for(timeout=60_000)
    page.wait_for_function(
        "id => document.querySelector(`img[data-job='${id}']`)?.naturalWidth > 0", arg=job["id"]
    )
    search = page.get_by_label("Search")
    search.fill("HEAD-17")
    page.wait_for_function(
        "() => document.querySelectorAll('tr[data-job]:not([hidden])').length === 1"
    )
    assert row.is_visible()
    search.fill("nothing like it")
    page.get_by_text("No reconstruction matches").wait_for()
    search.fill("")
    page.get_by_label("Order").select_option("oldest first")
    names = page.locator("tr[data-job]").evaluate_all("rows => rows.map(row => row.dataset.job)")
    assert names == sorted(names)


def test_who_has_no_scan_tries_a_sample(tab: Tab, client: httpx.Client) -> None:
    page = tab.page
    nothing = {"items": [], "next_cursor": None}
    first = "**/v1/reconstructions?*"
    page.route(first, lambda route: route.fulfill(json=nothing))
    page.goto("/view")
    button = page.get_by_role("button", name="Try a sample scan")
    button.wait_for()
    with page.expect_response(
        lambda answer: answer.url.endswith("/v1/reconstructions"), timeout=120_000
    ) as sent:
        button.click()
    job = sent.value.json()
    client.post(job["links"]["cancel"])
    assert job["tags"] == {"label": "Sample scan"}
    scan = client.get(job["links"]["scan"]).json()
    assert (scan["rows"], scan["columns"], scan["slices"]) == (128, 128, 3)
    page.unroute(first)
    page.get_by_role("link", name="Sample scan").first.wait_for()


def test_a_failed_job_says_what_to_do(tab: Tab, client: httpx.Client, tmp_path: Path) -> None:
    full, _ = simulate(1, 4, SIZE, SIZE)
    path = tmp_path / "scan.h5"
    mask = undersampling_mask((SIZE, SIZE), "equispaced", 4, 0.1, 0)
    write_scan(path, undersample(full, mask))
    job = ended(client, submitted(client, path, **{"tag.label": "Too few lines"}))
    assert job["state"] == "failed"
    page = tab.page
    page.goto(f"/view/reconstructions/{job['id']}")
    alert = page.get_by_role("alert")
    alert.get_by_text(job["error"]["title"]).wait_for()
    advice = {one["type"]: one["advice"] for one in client.get("/v1/problems").json()["items"]}
    said = advice[job["error"]["type"]].split("`")[0].strip()
    alert.get_by_text(said[:60]).wait_for()
    log = page.get_by_role("region", name="Log of the job")
    log.get_by_text("queued").wait_for()
    log.get_by_text("failed", exact=True).first.wait_for()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("heading", name="Reconstructions", exact=True).wait_for()
    assert client.get(job["links"]["self"]).status_code == 404


def test_what_a_preset_leaves_out_is_no_warning(tab: Tab, viewed: dict[str, Any]) -> None:
    for slice_report in viewed["summary"]["slices"]:
        assert slice_report["warnings"] == []
        assert len(slice_report["notes"]) == 2  # R-hat and self-check
    page = pictures(tab, viewed)
    panel = page.locator("section.panel", has_text="Can this slice be believed?")
    assert "No warnings" in panel.inner_text()
    assert "too few draws per chain" in panel.locator(".notes").inner_text()
    assert page.get_by_text("⚠").count() == 0


def test_colours_by_day_and_on_paper(chromium: Any, server: Server, viewed: dict[str, Any]) -> None:
    tab = opened(chromium, server.url)
    page = pictures(tab, viewed)
    ground = "() => getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Colours: as the system").click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    show(page, picture="mean")
    assert page.evaluate(ground) == light
    page.get_by_role("button", name="Colours: light").click()
    assert page.evaluate(ground) == dark
    page.emulate_media(media="print")
    assert page.evaluate(ground) == light
    assert not page.get_by_role("toolbar").is_visible()
    assert page.locator(".stage").is_visible()
    page.close()


def test_the_plain_page_says_which_colour_is_which_value(
    chromium: Any, server: Server, client: httpx.Client, viewed: dict[str, Any]
) -> None:
    tab = opened(chromium, server.url)
    page = tab.page
    page.goto(f"/view/plain/{viewed['id']}?product=std")
    page.wait_for_function("() => document.querySelector('img').naturalWidth > 0")
    query = {"product": "std", "colours": "own"}
    said = client.get(f"/v1/reconstructions/{viewed['id']}/preview.png", params=query)
    low, high = map(float, said.headers["window"].split(","))
    shown = [float(value) for value in page.locator(".values span").all_inner_texts()]
    assert shown == [float(f"{value:.3g}") for value in (low, (low + high) / 2, high)]
    assert page.get_by_role("heading", name="Two slices").is_visible()
    assert not [line for line in tab.said if "Content Security Policy" in line]
    page.close()
