"""The table of formats: every row has a test that is there, every format and layout a row."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from recon.io.formats import FORMATS
from recon.io.layouts import LAYOUTS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "formats.md").read_text()


def rows() -> list[list[str]]:
    """Of the tables of what is read and what is written."""
    sections = [part for part in PAGE.split("\n## ") if part.startswith(("In\n", "Out\n"))]
    assert len(sections) == 2
    lines = [line for part in sections for line in part.splitlines() if line.startswith("| ")]
    cells = [line.strip("|").split(" | ") for line in lines]
    return [row for row in cells if row[-1].strip() != "test"]


def test_every_row_names_a_test_that_is_there() -> None:
    found = rows()
    assert len(found) > 50
    for row in found:
        named = re.fullmatch(r"`(\S+)::(test_\w+)`", row[-1].strip())
        if row[-1].strip() == "the same":
            continue
        assert named is not None, row
        tree = ast.parse((ROOT / "tests" / named[1]).read_text())
        tests = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert named[2] in tests, row


def test_every_format_and_layout_has_a_row() -> None:
    files = " ".join(row[0] for row in rows() if len(row) == 4).lower()
    names = [known.name for known in FORMATS] + [layout.name for layout in LAYOUTS]
    for name in names:
        words = re.split(r"[ -]", name.lower())
        assert all(word in files for word in words), name
