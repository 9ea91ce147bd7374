"""The pictures of the viewer in docs/images: a simulated scan, the shipped prior, a real browser.

    python -m benchmarks.screenshots [--server URL]

Without a server one is started on a temporary folder. Needs chromium and the viewer's bundle. What
the pictures show is digested into docs/images/viewer.json, and a test compares: pictures of a
viewer or of weights that have changed since are found out.
"""

from __future__ import annotations

import argparse
import hashlib
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
from typing import Any, Literal

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from recon.io.files import write_scan
from recon.phantom import simulate
from recon.scan import Scan
from recon.undersampling import undersample, undersampling_mask

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "images"
AGE = FOLDER / "viewer.json"
SHOWN = (
    "service/viewer/src/**/*",
    "service/viewer/index.html",
    "service/viewer/plain.css",
    "service/viewer/icon.svg",
    "service/http/view.py",
    "service/http/docs.py",
    "service/pictures.py",
    "benchmarks/screenshots.py",
    "models/weights/**/*.safetensors",
)
"""All that the pictures show: pages, and the weights that the scan was reconstructed with."""
SIZE, SLICES = 160, 3
VOXEL = "1.4,1.4,5"
LABEL = "Phantom, 4 times undersampled"
MOST_BYTES = 500_000
MOST_PIXELS = 1700
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
)


def digest() -> str:
    """SHA-256 of everything that the pictures show."""
    whole = hashlib.sha256()
    for pattern in SHOWN:
        for path in sorted(path for path in ROOT.glob(pattern) if path.is_file()):
            whole.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", help="a running service to use [one is started]")
    given = parser.parse_args().server
    shown = digest()
    with tempfile.TemporaryDirectory() as folder, _server(given, Path(folder)) as url:
        job = _reconstructed(url, Path(folder))
        with sync_playwright() as playwright:
            chromium = playwright.chromium.launch(
                executable_path=shutil.which("chromium"), args=list(_FLAGS)
            )
            desk = _page(chromium, url)
            with _running(url) as another:
                _take_running(desk, another)
            _take_list(desk)
            _take_failed(desk, url, Path(folder))
            _take_pictures(desk, f"/view/reconstructions/{job}")
            _take_pages(desk, job)
            _take_elsewhere(chromium, url, f"/view/reconstructions/{job}")
            chromium.close()
    AGE.write_text(json.dumps({"shows": shown}) + "\n")


def _page(
    chromium: Browser,
    url: str,
    size: tuple[int, int] = (1280, 800),
    theme: Literal["dark", "light"] = "dark",
    density: float = 1,
) -> Page:
    page = chromium.new_page(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=theme,
        device_scale_factor=density,
        base_url=url,
    )
    page.set_default_timeout(120_000)
    return page


def _take_running(page: Page, job: str) -> None:
    page.goto(f"/view/reconstructions/{job}")
    page.locator("img.preview:visible").wait_for(timeout=600_000)
    begun = "() => document.querySelector('progress')?.value > 0.02"
    page.wait_for_function(begun, timeout=600_000)
    _save(page, "viewer-running")
    page.goto("/view")
    page.locator(f"tr[data-job='{job}']").get_by_text("left").wait_for()
    page.wait_for_function("() => document.querySelector('.thumbnail')?.naturalWidth > 0")
    _save(page, "viewer-jobs")


def _take_list(page: Page) -> None:
    page.locator("#scan").set_input_files(
        {"name": "notes.h5", "mimeType": "application/x-hdf5", "buffer": b"this is not HDF5"}
    )
    page.get_by_role("alert").wait_for()
    _save(page, "viewer-broken-file")
    nothing: dict[str, list[str] | None] = {"items": [], "next_cursor": None}
    page.route("**/v1/reconstructions?*", lambda route: route.fulfill(json=nothing))
    page.goto("/view")
    page.get_by_role("button", name="Try a sample scan").wait_for()
    _save(page, "viewer-empty")
    page.unroute("**/v1/reconstructions?*")


def _take_failed(page: Page, url: str, folder: Path) -> None:
    """A scan whose centre holds too few lines for coil maps."""
    full, _ = simulate(rows=64, columns=64)
    mask = undersampling_mask((64, 64), "equispaced", 4, 0.08, 0)
    write_scan(folder / "few.h5", undersample(full, mask))
    with httpx.Client(base_url=url, timeout=120) as client:
        job = _submitted(client, folder / "few.h5", preset="fast", label="Too few central lines")
        job = _ended(client, job)
    page.goto(f"/view/reconstructions/{job['id']}")
    page.locator(".log td").first.wait_for()
    _save(page, "viewer-failed")


def _take_pictures(page: Page, here: str) -> None:
    page.goto(here)
    _shown(page, "mean")
    _save(page, "viewer-mean")
    page.goto(f"{here}?overlay=std")
    _shown(page, "mean", "std")
    _save(page, "viewer-overlay")
    page.goto(f"{here}?layout=4&panes=mean,std,-coarse,sample")
    _shown(page, "sample")
    _shown(page, "coarse")
    middle = page.locator(".stage").first.bounding_box()
    assert middle is not None
    page.mouse.move(middle["x"] + middle["width"] / 2, middle["y"] + middle["height"] / 2)
    page.locator(".histogram").wait_for()
    _save(page, "viewer-panes")
    regions = "A=ellipse:56,36,92,56&B=ellipse:56,100,92,120&line=112,22,112,137"
    page.goto(f"{here}?{regions}")
    _shown(page, "mean")
    page.locator("tr[data-what=difference]").wait_for()
    page.locator(".profile").wait_for()
    _save(page, "viewer-regions")
    page.keyboard.press("s")
    page.get_by_role("button", name="Download result.h5").wait_for()
    _save(page, "viewer-save")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    _save(page, "viewer-keyboard")
    page.goto(f"{here}?layout=planes")
    page.wait_for_selector("[data-cross]")
    _save(page, "viewer-planes")


def _take_pages(page: Page, job: str) -> None:
    page.goto(f"/view/reconstructions/{job}/report")
    page.locator(".report").wait_for()
    _save(page, "viewer-report")
    page.goto("/view/models")
    page.locator(".prose").wait_for()
    _save(page, "viewer-models")
    page.goto("/view/key")
    page.locator("#key").wait_for()
    _save(page, "viewer-key")
    page.goto("/docs")
    operation = page.locator(".opblock", has_text="/v1/reconstructions/{job_id}/roi").first
    operation.locator(".opblock-summary-control").first.click()
    operation.locator(".responses-table").wait_for()
    operation.evaluate("element => element.scrollIntoView()")
    _save(page, "viewer-api")
    page.goto(f"/view/plain/{job}?product=std")
    page.wait_for_function("() => document.querySelector('img')?.naturalWidth > 0")
    _save(page, "viewer-plain")
    page.goto("/view/plain")
    page.locator("table").wait_for()
    _save(page, "viewer-plain-list")


def _take_elsewhere(chromium: Browser, url: str, here: str) -> None:
    """By day, on a phone, on a large screen."""
    day = _page(chromium, url, theme="light")
    day.goto(f"{here}?layout=2&panes=mean,std")
    _shown(day, "std")
    _save(day, "viewer-light")
    phone = _page(chromium, url, (390, 844), density=2)
    phone.goto(f"{here}?overlay=std")
    _shown(phone, "mean", "std")
    _save(phone, "viewer-phone")
    large = _page(chromium, url, (2560, 1440))
    large.goto(f"{here}?layout=3&panes=mean,std,coarse&overlay=std")
    _shown(large, "coarse", "std")
    _save(large, "viewer-large")


def _shown(page: Page, picture: str, overlay: str = "") -> None:
    page.wait_for_selector(
        f'.panes:not([aria-busy]) .stage[data-picture="{picture}"][data-overlay="{overlay}"]'
    )


def _save(page: Page, name: str) -> None:
    page.wait_for_timeout(300)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    image.thumbnail((MOST_PIXELS, MOST_PIXELS))
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
        job = _ended(
            client,
            _submitted(client, folder / "scan.h5", preset="fast", samples="8", label=LABEL),
        )
        if job["state"] != "succeeded":
            raise SystemExit(json.dumps(job["error"]))
        return str(job["id"])


@contextmanager
def _running(url: str) -> Iterator[str]:
    """Id of a reconstruction that is still at work, and is cancelled in the end."""
    with httpx.Client(base_url=url, timeout=120) as client, tempfile.TemporaryDirectory() as folder:
        write_scan(Path(folder) / "scan.h5", _scan(8))
        label = "Phantom, 8 times undersampled"
        job = _submitted(client, Path(folder) / "scan.h5", preset="fast", label=label)
        yield str(job["id"])
        client.post(f"/v1/reconstructions/{job['id']}/cancel")
        _ended(client, job)


def _ended(client: httpx.Client, job: dict[str, Any]) -> dict[str, Any]:
    while job["finished_at"] is None:
        job = client.get(f"/v1/reconstructions/{job['id']}", headers={"Prefer": "wait=60"}).json()
    return job


def _scan(acceleration: int) -> Scan:
    full, _ = simulate(slices=SLICES, rows=SIZE, columns=SIZE)
    return undersample(full, undersampling_mask((SIZE, SIZE), "equispaced", acceleration, 0.08, 0))


def _submitted(
    client: httpx.Client, scan: Path, *, label: str, **parameters: str
) -> dict[str, Any]:
    answer = client.post(
        "/v1/reconstructions",
        params={"voxel_mm": VOXEL, "tag.label": label, **parameters},
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
