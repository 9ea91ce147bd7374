"""The tutorials' commands run, in the order in which a reader runs them.

Every block marked bash or python is executed, in one shell and one Python session per page, in an
empty folder. Blocks marked console are for other machines (Docker, several GPUs) and are not.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs" / "tutorials"
PAGES = sorted(page.stem for page in TUTORIALS.glob("*.md"))
QUICK = {"first-reconstruction"}
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SESSION = """
import pathlib, sys
names, answers, sys.stdout = {"__name__": "__main__"}, sys.stdout, sys.stderr
for path in map(str.strip, sys.stdin):
    exec(compile(pathlib.Path(path).read_text(), path, "exec"), names)
    print("done", file=answers, flush=True)
"""
PREAMBLE = f"""
set -euo pipefail
coproc PYTHON {{ python -c '{SESSION.replace("'", chr(34))}'; }}
trap 'kill $(jobs -p) 2> /dev/null || true' EXIT
block() {{
    echo "$1" >&"${{PYTHON[1]}}"
    read -r answer <&"${{PYTHON[0]}}"
}}
"""


def script(page: str, blocks: Path) -> str:
    """One shell script; Python blocks go, one after the other, to one session beside it."""
    parts = [PREAMBLE]
    for number, (kind, code) in enumerate(BLOCK.findall((TUTORIALS / f"{page}.md").read_text())):
        if kind == "python":
            path = blocks / f"{number}.py"
            path.write_text(code)
            code = f"block {path}\n"
        parts.append(code)
    return "\n".join(parts)


@pytest.mark.parametrize(
    "page",
    [page if page in QUICK else pytest.param(page, marks=pytest.mark.slow) for page in PAGES],
)
def test_the_commands_of_a_tutorial_do_what_it_says(page: str, tmp_path: Path) -> None:
    reader, blocks = tmp_path / "reader", tmp_path / "blocks"
    reader.mkdir()
    blocks.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MRI_POSTERIOR_")}
    surroundings = kept | {
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_DATA_HOME": str(tmp_path / "home"),
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-c", script(page, blocks)],
        cwd=reader,
        env=surroundings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_every_tutorial_has_commands_that_run() -> None:
    assert len(PAGES) == 8
    for page in PAGES:
        assert BLOCK.search((TUTORIALS / f"{page}.md").read_text()), page
