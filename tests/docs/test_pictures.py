"""Pictures of the pages: each is in the repository, so that a fresh clone shows it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_PICTURE = re.compile(r"!\[[^\]]*\]\((?!https?:)([^)\s#]+)\)")


def tracked() -> frozenset[Path]:
    """Files that git knows of."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True
    )
    return frozenset(ROOT / name for name in listed.stdout.split("\0") if name)


def test_every_picture_of_a_page_is_in_the_repository() -> None:
    known = tracked()
    shown = [
        (page, (page.parent / place).resolve())
        for page in sorted(known)
        if page.suffix == ".md"
        for place in _PICTURE.findall(page.read_text())
    ]
    assert shown
    assert [(str(page), str(picture)) for page, picture in shown if picture not in known] == []
