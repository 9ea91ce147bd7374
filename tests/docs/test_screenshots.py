"""The pictures of the viewer in the documentation are of the viewer and weights that are here."""

from __future__ import annotations

import json
import re

from benchmarks.screenshots import AGE, FOLDER, ROOT, SHOWN, digest


def test_they_show_what_there_is() -> None:
    shown = json.loads(AGE.read_text())["shows"]
    assert shown == digest(), "the viewer or the weights have changed: make screenshots"
    for pattern in SHOWN:
        assert list(ROOT.glob(pattern)), pattern


def test_each_of_them_is_in_the_documentation() -> None:
    text = (ROOT / "docs" / "viewer.md").read_text()
    assert set(re.findall(r"images/(viewer-[a-z-]+)\.png", text)) == {
        path.stem for path in FOLDER.glob("viewer-*.png")
    }
