"""One documented table of settings, the same in the code, on the command line and in the text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from service.cli import app
from service.settings import ServiceSettings, in_force, load_settings, table
from service.worker.process import threads_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "service.md"


@pytest.fixture(autouse=True)
def _no_settings_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MRI_POSTERIOR_CONFIG", raising=False)


def test_the_documentation_has_the_table_of_the_code() -> None:
    printed = CliRunner().invoke(app, ["settings", "--markdown"])
    assert printed.exit_code == 0
    assert len(printed.stdout.splitlines()) == len(table()) + 2
    assert printed.stdout.rstrip() in DOCUMENT.read_text()


def test_every_setting_has_a_meaning() -> None:
    assert all(row.meaning for row in table())
    assert len({row.variable for row in table()}) == len(table())


def test_the_command_shows_what_is_in_force(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "service.toml"
    file.write_text('max_queue = 7\ndatabase = "postgresql://me:secret@db/service"\n')
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["settings", "--config", str(file)])
    assert "MRI_POSTERIOR_CONFIG" not in os.environ
    assert shown.exit_code == 0, shown.output
    (row,) = [line for line in shown.stdout.splitlines() if "MAX_QUEUE" in line]
    assert "1000" in row
    assert " 7 " in row
    assert "secret" not in shown.stdout
    file.write_text("max_queue = 0\n")
    refused = CliRunner().invoke(app, ["settings", "--config", str(file)])
    assert refused.exit_code != 0


def test_a_database_is_shown_without_its_password() -> None:
    settings = load_settings(database="postgresql://me:secret@db/service")
    assert in_force(settings, "database") == "postgresql://me:***@db/service"
    assert in_force(load_settings(), "allowed_hosts") == ""


def test_the_documentation_speaks_of_every_route() -> None:
    text = DOCUMENT.read_text()
    for name in ("/v1/scans", "/v1/uploads", "/v1/reconstructions", "cancel", "retry", "roi",
                 "preview.png", "/v1/models", "/v1/presets", "/v1/limits", "/livez", "/readyz",
                 "/metrics"):  # fmt: skip
        assert name in text, name


@pytest.mark.parametrize(
    ("device", "workers", "asked", "threads"),
    [("cpu", 0, 0, 0), ("cpu", 1, 0, 0), ("cpu", 3, 0, 2), ("cpu", 16, 0, 1), ("cpu", 3, 5, 5),
     ("cuda", 3, 0, 2), ("cuda", 1, 0, 0), ("cuda", 3, 5, 5)],
)  # fmt: skip
def test_workers_share_the_cores_out(device: str, workers: int, asked: int, threads: int) -> None:
    settings = ServiceSettings(workers=workers, worker_threads=asked)
    assert threads_of(settings, torch.device(device), 8) == threads
