"""The pictures of the viewer in docs/images: a simulated scan, the shipped prior, a real browser.

    python -m benchmarks.screenshots [--server URL]

Without a server one is started on a temporary folder. Needs chromium and the viewer's bundle.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from recon.io.files import write_scan
from recon.phantom import simulate
from recon.scan import Scan
from recon.undersampling import undersample, undersampling_mask

FOLDER = Path(__file__).parents[1] / "docs" / "images"
SIZE = 192
LABEL = "Phantom, 4 times undersampled"
MOST_BYTES = 300_000
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
    "--use-gl=angle",
    "--use-angle=swiftshader",
)


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", help="a running service to use [one is started]")
    given = parser.parse_args().server
    with tempfile.TemporaryDirectory() as folder, _server(given, Path(folder)) as url:
        job = _reconstructed(url, Path(folder))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=list(_FLAGS)
            )
            desk = chromium.new_page(viewport={"width": 1280, "height": 800}, base_url=url)
            with _running(url) as another:
                _take_running(desk, another)
            _take_desk(desk, job)
            tablet = chromium.new_page(
                viewport={"width": 820, "height": 1180}, has_touch=True, base_url=url
            )
            tablet.goto(f"/view/reconstructions/{job}")
            _shown(tablet, "mean")
            _save(tablet, "viewer-tablet")
            chromium.close()


def _take_running(page: Page, job: str) -> None:
    page.goto(f"/view/reconstructions/{job}")
    page.locator("img.preview:visible").wait_for(timeout=300_000)
    page.wait_for_function(
        "() => document.querySelector('progress')?.value > 0.15", timeout=300_000
    )
    _save(page, "viewer-running")
    page.goto("/view")
    page.locator(f"tr[data-job='{job}']").get_by_text("left").wait_for()
    _save(page, "viewer-jobs")


def _take_desk(page: Page, job: str) -> None:
    here = f"/view/reconstructions/{job}"
    page.goto("/view")
    page.locator("table.jobs").wait_for()
    page.locator("#scan").set_input_files(
        {"name": "notes.h5", "mimeType": "application/x-hdf5", "buffer": b"this is not HDF5"}
    )
    page.get_by_role("alert").wait_for()
    _save(page, "viewer-broken-file")

    page.goto(here)
    _shown(page, "mean")
    _save(page, "viewer-mean")
    page.keyboard.press("o")
    _shown(page, "mean", "std")
    _save(page, "viewer-overlay")
    page.get_by_label("Overlay", exact=True).select_option("")
    _shown(page, "mean", "")
    _regions(page)
    _save(page, "viewer-regions")
    page.keyboard.press("Delete")
    page.keyboard.press("?")
    _save(page, "viewer-keyboard")

    page.goto(f"{here}/report")
    page.locator(".report").wait_for()
    _save(page, "viewer-report")
    page.goto("/view/models")
    page.locator(".prose").wait_for()
    _save(page, "viewer-models")
    page.goto("/view/key")
    page.locator("#key").wait_for()
    _save(page, "viewer-key")
    page.goto(f"/view/plain/{job}?product=std")
    page.locator("img").wait_for()
    _save(page, "viewer-plain")
    page.goto("/view/plain")
    page.locator("table").wait_for()
    _save(page, "viewer-plain-list")


def _regions(page: Page) -> None:
    """An ellipse in tissue, and one on the other side to compare it with."""
    box = page.locator(".stage").bounding_box()
    assert box is not None
    middle = box["x"] + box["width"] / 2
    height = box["y"] + box["height"] / 2
    scale = min(box["width"], box["height"]) / SIZE
    page.keyboard.press("e")
    for turn, side in enumerate((-1, 1)):
        if turn:
            page.keyboard.press("x")
            page.keyboard.press("e")
        x = middle + side * 34 * scale
        page.mouse.move(x - 11 * scale, height - 16 * scale)
        page.mouse.down()
        page.mouse.move(x + 11 * scale, height + 16 * scale, steps=4)
        with page.expect_response(lambda answer: answer.url.endswith("/roi")):
            page.mouse.up()
    page.locator("tr[data-what=difference]").wait_for()


def _shown(page: Page, picture: str, overlay: str = "") -> None:
    page.wait_for_selector(
        f'.stage[data-picture="{picture}"][data-overlay="{overlay}"]:not([aria-busy])'
    )


def _save(page: Page, name: str) -> None:
    page.wait_for_timeout(300)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    path = FOLDER / f"{name}.png"
    FOLDER.mkdir(parents=True, exist_ok=True)
    image.save(path, optimize=True)
    if path.stat().st_size > MOST_BYTES:
        image.quantize(256).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path.name}: {size} bytes")
    if size > MOST_BYTES:
        raise SystemExit(f"{path.name} is larger than {MOST_BYTES} bytes")


def _reconstructed(url: str, folder: Path) -> str:
    """Id of the finished reconstruction, made unless the service has it."""
    with httpx.Client(base_url=url, timeout=120) as client:
        known = client.get("/v1/reconstructions", params={"state": "succeeded"}).json()["items"]
        for job in known:
            if job["tags"].get("label") == LABEL:
                return str(job["id"])
        write_scan(folder / "scan.h5", _scan(4))
        job = _submitted(client, folder / "scan.h5", preset="fast", label=LABEL)
        while job["finished_at"] is None:
            job = client.get(
                f"/v1/reconstructions/{job['id']}", headers={"Prefer": "wait=60"}
            ).json()
        if job["state"] != "succeeded":
            raise SystemExit(json.dumps(job["error"]))
        return str(job["id"])


@contextmanager
def _running(url: str) -> Iterator[str]:
    """Id of a reconstruction that is still at work, and is cancelled in the end."""
    with httpx.Client(base_url=url, timeout=120) as client, tempfile.TemporaryDirectory() as folder:
        write_scan(Path(folder) / "scan.h5", _scan(8))
        label = "Phantom, 8 times undersampled"
        job = _submitted(client, Path(folder) / "scan.h5", preset="thorough", label=label)
        yield str(job["id"])
        client.post(f"/v1/reconstructions/{job['id']}/cancel")
        while job["finished_at"] is None:
            job = client.get(
                f"/v1/reconstructions/{job['id']}", headers={"Prefer": "wait=60"}
            ).json()


def _scan(acceleration: int) -> Scan:
    full, _ = simulate(rows=SIZE, columns=SIZE)
    return undersample(full, undersampling_mask((SIZE, SIZE), "equispaced", acceleration, 0.08, 0))


def _submitted(client: httpx.Client, scan: Path, *, preset: str, label: str) -> dict[str, Any]:
    answer = client.post(
        "/v1/reconstructions",
        params={"preset": preset, "tag.label": label},
        content=scan.read_bytes(),
        headers={"Content-Type": "application/x-hdf5"},
    )
    answer.raise_for_status()
    job: dict[str, Any] = answer.json()
    return job


@contextmanager
def _server(given: str | None, folder: Path) -> Iterator[str]:
    """The address of a service that has a worker."""
    if given is not None:
        yield given.rstrip("/")
        return
    command = [sys.executable, "-m", "service.cli", "serve", "--port", "0"]
    process = subprocess.Popen(
        [*command, "--data", str(folder / "data")], stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stderr is not None
        url = ""
        for line in process.stderr:
            said: dict[str, Any] = json.loads(line) if line.startswith("{") else {}
            if said.get("event") == "listening":
                url = said["url"]
                break
        while httpx.get(f"{url}/readyz", timeout=10).status_code != 200:
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.communicate(timeout=60)


if __name__ == "__main__":
    main()
