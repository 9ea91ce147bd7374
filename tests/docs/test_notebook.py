"""The notebook of the documentation runs, from its first cell to its last."""

from __future__ import annotations

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from docs.notebook_page import markdown_of

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebooks" / "posterior.ipynb"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own
def test_every_cell_runs_and_shows_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(
        notebook, timeout=500, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    ).execute()
    page, pictures = markdown_of(notebook, "posterior")
    assert "mean (64, 64) complex64" in page
    assert "Region(" in page
    assert len(pictures) == 2
    assert all(content.startswith(b"\x89PNG") for content in pictures.values())


def test_the_page_shows_the_outputs_that_are_stored() -> None:
    page, pictures = markdown_of(nbformat.read(NOTEBOOK, as_version=4), "posterior")
    assert page.startswith("# From arrays to a posterior")
    assert "Posterior" in page
    assert len(pictures) == 2
    for name in pictures:
        assert f"]({name})" in page
