"""A real Chromium for tests: where it is, how it is started, and what a page looks like."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
)
_WEBGL2 = ("--enable-unsafe-swiftshader", "--use-gl=angle", "--use-angle=swiftshader")
_NO_WEBGL = ("--disable-3d-apis",)

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
def browser(playwright: Any, *, webgl2: bool = True) -> Iterator[Any]:
    """A headless Chromium, with WebGL2 in software or without any."""
    running = playwright.chromium.launch(
        executable_path=CHROMIUM, args=[*_FLAGS, *(_WEBGL2 if webgl2 else _NO_WEBGL)]
    )
    try:
        yield running
    finally:
        running.close()


def opened(running: Any, url: str, width: int = 1280, height: int = 800) -> Tab:
    """A tab of its own session; what its console says is kept."""
    page = running.new_page(viewport={"width": width, "height": height}, base_url=url)
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
    """Wait until the stage shows this picture, overlay, slice or sample."""
    wanted = "".join(f'[data-{name}="{value}"]' for name, value in shown.items())
    page.wait_for_selector(f".stage{wanted}:not([aria-busy])")


def pixels(page: Any) -> NDArray[np.float64]:
    """The stage as it is on the screen, without what is written on it: (height, width, 3)."""
    hide = """(hidden) => {
        for (const one of document.querySelectorAll(".corner, .readout, .edge, .bars, .regions"))
            one.style.visibility = hidden ? "hidden" : "";
    }"""
    page.evaluate(hide, True)
    shot = page.locator(".stage").screenshot()
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
    box = page.locator(".stage").bounding_box()
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
