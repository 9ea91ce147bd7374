"""One server for all tests that only talk to it, and the tiny model and scan."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import sync_playwright

from service.http.context import Context, create_context
from service.settings import load_settings
from service.store.database import create_database
from tests.service.browsing import Tab, browser, opened
from tests.service.live import Server, ended, serving, submitted, tiny_model, tiny_scan


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two slices."""
    return tiny_scan(tmp_path_factory.mktemp("scan") / "scan.h5", slices=2)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("service"), models) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as open_client:
        yield open_client


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Context]]:
    monkeypatch.delenv("MRI_POSTERIOR_CONFIG", raising=False)
    made: list[Context] = []

    def make_context(**settings: Any) -> Context:
        chosen = load_settings(data=tmp_path, **settings)
        create_database(chosen.database_url)
        context = create_context(chosen, busy_milliseconds=100)
        context.storage.prepare()
        made.append(context)
        return context

    yield make_context
    for context in made:
        context.close()


@pytest.fixture(scope="module")
def driver() -> Iterator[Any]:
    """Of this module alone: while it lives, its thread has an event loop."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="module")
def chromium(driver: Any) -> Iterator[Any]:
    with browser(driver) as running:
        yield running


@pytest.fixture(scope="session")
def viewed(server: Server, scan: Path) -> dict[str, Any]:
    """A finished reconstruction of two slices, six samples."""
    with server.client() as client:
        label = {"tag.label": "Two slices", "samples": 6, "self_check": True}
        label["voxel_mm"] = "1.5,1.5,4"
        return ended(client, submitted(client, scan, **label))


@pytest.fixture
def tab(chromium: Any, server: Server) -> Iterator[Tab]:
    made = opened(chromium, server.url)
    yield made
    made.page.close()
    assert not [line for line in made.said if "Content Security Policy" in line]
    assert not [line for line in made.said if line.startswith("exception: ")]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "none", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be mounted by root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
