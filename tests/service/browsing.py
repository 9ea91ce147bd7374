"""A real Chromium for tests: where it is, how it is started, and what a page looks like."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.http.view import BUNDLE
from tests.service.live import ROOT

CHROMIUM = shutil.which("chromium")
AXE = ROOT / "service" / "viewer" / "node_modules" / "axe-core" / "axe.min.js"
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--disable-component-update",
    "--disable-sync",
    "--disable-3d-apis",  # the viewer needs no WebGL
)

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
needs_bundle = pytest.mark.skipif(
    not (BUNDLE / "index.html").is_file(), reason="no bundle of the viewer: make viewer"
)


@dataclass
class Tab:
    """A page, and everything that its console said."""

    page: Any
    said: list[str] = field(default_factory=list)


@contextmanager
def browser(playwright: Any) -> Iterator[Any]:
    """A headless Chromium."""
    running = playwright.chromium.launch(executable_path=CHROMIUM, args=list(_FLAGS))
    try:
        yield running
    finally:
        running.close()


def opened(
    running: Any, url: str, width: int = 1280, height: int = 800, theme: str = "dark"
) -> Tab:
    """A tab of its own session; what its console says is kept."""
    size = {"width": width, "height": height}
    page = running.new_page(viewport=size, base_url=url, color_scheme=theme)
    page.set_default_timeout(20_000)
    tab = Tab(page)
    page.on("console", lambda message: tab.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: tab.said.append(f"exception: {error}"))
    return tab


def drop(page: Any, name: str, content: bytes) -> None:
    """Let a file fall on the panel that takes scans, as a hand would."""
    page.evaluate(
        """([name, bytes]) => {
            const carried = new DataTransfer();
            carried.items.add(new File([new Uint8Array(bytes)], name));
            const init = { dataTransfer: carried, bubbles: true, cancelable: true };
            document.querySelector(".drop").dispatchEvent(new DragEvent("drop", init));
        }""",
        [name, list(content)],
    )


def show(page: Any, **shown: str) -> None:
    """Wait until a pane shows this picture, overlay, slice or sample."""
    wanted = "".join(f'[data-{name}="{value}"]' for name, value in shown.items())
    page.wait_for_selector(f".panes:not([aria-busy]) .stage{wanted}")


def pixels(page: Any, pane: int = 0) -> NDArray[np.float64]:
    """A pane's stage as it is on the screen, without what is written on it: (height, width, 3)."""
    hide = """(hidden) => {
        for (const one of document.querySelectorAll(".corner, .readout, .edge, .regions"))
            one.style.visibility = hidden ? "hidden" : "";
        // Neither the frame of the chosen pane nor that of what has the focus.
        document.activeElement?.blur();
        for (const pane of document.querySelectorAll(".pane.active, .pane.was-active")) {
            pane.classList.toggle("active", !hidden);
            pane.classList.toggle("was-active", hidden);
        }
    }"""
    page.evaluate(hide, True)
    shot = page.locator(".stage").nth(pane).screenshot()
    page.evaluate(hide, False)
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB"), float)


def centres(stage: NDArray[Any], rows: int, columns: int) -> NDArray[np.float64]:
    """The colours (rows, columns, 3) at the centres of voxels of a slice that fits the stage."""
    height, width = stage.shape[:2]
    scale = min(height / rows, width / columns)
    y = (height / 2 + (np.arange(rows) - (rows - 1) / 2) * scale).astype(int)
    x = (width / 2 + (np.arange(columns) - (columns - 1) / 2) * scale).astype(int)
    return stage[np.ix_(y, x)]


def voxel_at(page: Any, row: float, column: float, rows: int, columns: int) -> tuple[float, float]:
    """Where on the page a voxel of a slice that fits the stage is."""
    box = page.locator(".stage").first.bounding_box()
    scale = min(box["height"] / rows, box["width"] / columns)
    x = box["x"] + box["width"] / 2 + (column - (columns - 1) / 2) * scale
    y = box["y"] + box["height"] / 2 + (row - (rows - 1) / 2) * scale
    return x, y


def accessibility_problems(page: Any) -> list[str]:
    """What axe finds against WCAG 2.1 AA, contrast included."""
    page.evaluate(AXE.read_text())
    found = page.evaluate(
        """() => axe.run(document, {
            runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"],
        })"""
    )
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary'][:300]}"
        for violation in found["violations"]
        for node in violation["nodes"]
    ]


def saved(page: Any, path: Path) -> None:
    """A screenshot of the window, as a PNG of few colours that a document can hold."""
    image = Image.open(io.BytesIO(page.screenshot()))
    image.convert("RGB").quantize(256).save(path, optimize=True)


def pictures(tab: Tab, done: dict[str, Any], **query: object) -> Any:
    """The page with the pictures, voxels as they are."""
    asked = "&".join(f"{name}={value}" for name, value in ({"pixels": "plain"} | query).items())
    tab.page.goto(f"/view/reconstructions/{done['id']}?{asked}")
    show(tab.page, picture="mean")
    return tab.page


def product(client: httpx.Client, job: dict[str, Any], name: str) -> np.ndarray:
    """An array of the results."""
    content = client.get(f"{job['links']['results']}/{name}").content
    return np.load(io.BytesIO(content), allow_pickle=False)


def grey(image: np.ndarray, high: float) -> np.ndarray:
    """What is seen of values with a window from 0 to `high`."""
    return 255 * np.clip(image / high, 0, 1)
