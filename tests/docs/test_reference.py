"""What the documentation says by hand agrees with the code it speaks of."""

from __future__ import annotations

import json
import re
from importlib.metadata import version
from pathlib import Path

import h5py
import pytest
import typer
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from typer.core import TyperGroup

from docs.reference_pages import (
    ATTRIBUTES,
    CARRIED_OVER,
    error_codes,
    problems_section,
    products_section,
    result_page,
)
from recon.schedule import PRESETS
from recon.settings import Settings
from service.cli import app as command_line
from service.http.app import api_document
from service.http.context import create_context
from service.problems import PROBLEMS
from service.products import PRODUCTS
from service.runs import choose_device, load_scan, reconstruct_file
from service.settings import ServiceSettings
from service.settings import table as settings_table
from service.store.database import create_database
from tests.service.live import tiny_model, tiny_scan

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
TEXTS = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), ROOT / "docker" / "README.md"])
FOLDERS = "recon|models|service|tests|benchmarks|docs|docker"
VARIABLE = re.compile(r"MRI_POSTERIOR_[A-Z_]+")
OTHER_VARIABLES = {
    "MRI_POSTERIOR_CONFIG",
    "MRI_POSTERIOR_CUDA_GRAPHS",
    "MRI_POSTERIOR_KEY",
    "MRI_POSTERIOR_MODELS",
    "MRI_POSTERIOR_UID_KEY",
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Names of the series that /metrics answers with, by the kind of each family."""
    settings = ServiceSettings(data=tmp_path_factory.mktemp("data"), database="")
    create_database(settings.database_url)
    context = create_context(settings)
    text = context.metrics.text().decode()
    context.close()
    endings = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum"), "gauge": ("",)}
    return {
        family.name + ending
        for family in text_string_to_metric_families(text)
        for ending in endings[family.type]
    }


@pytest.fixture
def result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that was really written."""
    monkeypatch.setenv("MRI_POSTERIOR_MODELS", str(tiny_model(tmp_path)))
    scan, out = load_scan(tiny_scan(tmp_path / "scan.h5")), tmp_path / "result.h5"
    settings = Settings("fast", samples=2)
    reconstruct_file(scan, out, settings, "tiny", choose_device("cpu"), [0])
    return out


def test_the_site_shows_the_advice_on_every_problem() -> None:
    text = problems_section((DOCS / "troubleshooting.md").read_text())
    assert re.findall(r"^### (.*)$", text, re.MULTILINE) == list(PROBLEMS)
    for kind, (status, title, advice) in PROBLEMS.items():
        assert f"### {kind}\n\n*{title} ({status}).* {advice}\n" in text


def test_the_site_has_the_table_of_products() -> None:
    text = products_section((DOCS / "service.md").read_text()).partition("## Products")[2]
    text = text.partition("\n## ")[0]
    assert re.findall(r"^\| `(.+)` \| .*\|$", text, re.MULTILINE) == list(PRODUCTS)
    assert "| `dicom.zip` | mean and standard deviation, the latter as Parametric Map too" in text


def test_the_readme_shows_the_tables_of_the_measurements_page() -> None:
    rows = re.compile(r"^\|.*\d.*\|$", re.MULTILINE)
    shown = rows.findall((ROOT / "README.md").read_text().partition("## What was measured")[2])
    everything = (DOCS / "measurements.md").read_text()
    assert len(shown) > 10
    assert [row for row in shown if row not in everything] == []


def test_presets_cost_what_the_method_page_says() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\d+) \| (\d+) \| (\d+) \|$", (DOCS / "method.md").read_text(), re.M
    )
    assert rows == [
        (name, str(preset.chains), str(preset.draws), str(preset.evaluations))
        for name, preset in PRESETS.items()
    ]


@pytest.mark.parametrize(
    "path",
    [
        *(p.relative_to(ROOT) for p in sorted(DOCS.rglob("*.md"))),
        *(p.relative_to(ROOT) for p in sorted((ROOT / "docker").rglob("*")) if p.is_file()),
    ],
    ids=str,
)
def test_variables_that_are_named_exist(path: Path) -> None:
    known = {setting.variable for setting in settings_table()} | OTHER_VARIABLES
    assert set(VARIABLE.findall((ROOT / path).read_text())) <= known


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_commands_that_a_text_names_exist(path: Path) -> None:
    text = path.read_text()
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", text)
    if path.parent == ROOT:  # MkDocs checks the links of the others
        named += [link for link in re.findall(r"\]\(([^)#:]+)[)#]", text) if link]
    assert [name for name in named if "NAME" not in name and not (ROOT / name).exists()] == []
    top = typer.main.get_command(command_line)
    assert isinstance(top, TyperGroup)
    for name, rest in re.findall(r"mri-posterior ([a-z]+)(?: ([a-z]+))?", text):
        assert name in top.commands
        group = top.commands[name]
        assert not (isinstance(group, TyperGroup) and rest) or rest in group.commands, rest


def test_dashboard_and_alerts_use_metrics_that_are_exported(exported: set[str]) -> None:
    dashboard = json.loads((ROOT / "docker/monitoring/grafana-dashboard.json").read_text())
    alerts = yaml.safe_load((ROOT / "docker/monitoring/alerts.yml").read_text())
    expressions = [t["expr"] for panel in dashboard["panels"] for t in panel["targets"]]
    expressions += [rule["expr"] for group in alerts["groups"] for rule in group["rules"]]
    used = {name for e in expressions for name in re.findall(r"\b(?:recon|http)_\w+", e)}
    assert used <= exported
    families = {re.sub(r"_(bucket|count|sum|total)$", "", name) for name in used}
    assert {"recon_jobs", "recon_queue_depth", "recon_worker_up"} <= families


def test_attributes_of_a_result_are_those_that_are_documented(result: Path) -> None:
    page = result_page()
    with h5py.File(result) as file:
        assert set(file.attrs) - set(CARRIED_OVER) == set(ATTRIBUTES)
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    assert {name for name in names if f"| `{name}` |" not in page} == set()


def test_the_api_page_describes_every_route() -> None:
    paths = set(api_document()["paths"])
    assert {"/v1/scans", "/v1/reconstructions", "/livez", "/metrics"} <= paths


def test_error_codes_are_found_with_their_sentences() -> None:
    codes = {code: (error, message) for code, error, message in error_codes()}
    assert codes["no-calibration-region"][0] == "CalibrationError"
    assert codes["weights-digest"][1].endswith("install the model again")
    assert len(codes) > 100


def test_one_version_everywhere() -> None:
    here = version("mri-posterior")
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == here
    assert f"ARG VERSION={here}\n" in (ROOT / "docker/Dockerfile").read_text()
    assert f"{here}\n" in (ROOT / "CHANGELOG.md").read_text()
