"""What the command line loads before it works: counted, as time depends on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from service.cli import app

ROOT = Path(__file__).parents[2]
MOST = 450
"""Modules of Python, typer, rich, and our own; all at once they were 3480."""
HEAVY = frozenset(
    {"torch", "numpy", "scipy", "h5py", "matplotlib", "pandas", "sqlalchemy", "dbos", "fastapi"}
    | {"httpx", "pydicom", "highdicom", "nibabel", "skimage", "sigpy", "fastmri"}
)
SCRIPT = """
import sys
from service.cli import main
sys.argv = ["mri-posterior", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    status = end.code
print()
print(f"{status or 0} {len(sys.modules)} {' '.join(sorted(set(sys.modules) & set(%r)))}")
"""


def loaded(*arguments: str, forbidden: frozenset[str] = HEAVY) -> tuple[int, int, set[str]]:
    """Exit status, number of modules, and which of those that are forbidden were loaded."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT % (sorted(forbidden),), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    status, count, *names = done.stdout.strip().splitlines()[-1].split()
    return int(status), int(count), set(names)


def every_command() -> list[tuple[str, ...]]:
    top = typer.main.get_command(app)
    assert isinstance(top, TyperGroup)
    found: list[tuple[str, ...]] = []
    for name, command in top.commands.items():
        found.append((name,))
        if isinstance(command, TyperGroup):
            found += [(name, inner) for inner in command.commands]
    return found


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("reconstrct",), ("reconstruct", "--presett", "x")]
)
def test_the_program_itself_answers_without_loading_anything_heavy(
    arguments: tuple[str, ...],
) -> None:
    status, count, heavy = loaded(*arguments)
    assert status == (0 if arguments[0].startswith("--") else 2)
    assert heavy == set()
    assert count < MOST


def test_help_of_every_command_loads_nothing_heavy() -> None:
    """In one process: what one of them loads, the last count shows."""
    script = "\n".join(
        [
            "import sys, io, contextlib",
            "from service.cli import app",
            f"for names in {every_command()!r}:",
            "    with contextlib.redirect_stdout(io.StringIO()) as said:",
            "        try: app([*names, '--help'])",
            "        except SystemExit as end: assert not end.code, names",
            "    assert 'Usage:' in said.getvalue(), names",
            f"print(len(sys.modules), *(set(sys.modules) & {set(HEAVY)!r}))",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=600,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, *heavy = done.stdout.split()
    assert heavy == []
    assert int(count) < MOST
    assert len(every_command()) > 25


@pytest.mark.parametrize(
    "arguments",
    [
        ("settings",),
        ("info", "{folder}/scan.h5"),
        ("keys", "list", "--data", "{folder}"),
        ("workers", "--data", "{folder}"),
        ("submit", "{folder}/scan.h5", "--server", "http://127.0.0.1:9"),
        ("reconstruct", "{folder}/missing.h5", "-o", "{folder}/out.h5"),
        ("reconstruct", "{folder}/scan.h5", "-o", "{folder}/scan.h5"),
        ("undersample", "{folder}/scan.h5", "-o", "{folder}/nowhere/out.h5"),
        ("models", "list"),
        ("models", "show", "brain-small"),
        ("batch", "{folder}", "--out", "{folder}/out", "--dry-run"),
    ],
)
def test_commands_that_need_no_torch_do_not_load_it(
    arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "scan.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    monkeypatch.setattr("time.sleep", lambda _: None)
    given = (argument.format(folder=tmp_path) for argument in arguments)
    _, _, heavy = loaded(*given, forbidden=frozenset({"torch", "scipy", "matplotlib"}))
    assert heavy == set()
