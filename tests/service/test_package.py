"""The package as others install it: its own modules alone, and the viewer in the wheel."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from service.jobs.supervisor import _module

ROOT = Path(__file__).parents[2]


def test_files_of_the_same_names_where_the_service_runs_do_not_shadow_it(tmp_path: Path) -> None:
    for name in ("models", "recon", "service", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    done = subprocess.run(
        [*_module("service.slices")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_wheel_holds_the_viewer_and_an_sdist_what_a_wheel_needs(tmp_path: Path) -> None:
    """Both are built in an environment of their own, Node.js with it where there is none."""
    built = tmp_path / "source"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(built)], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path)]
    made = subprocess.run([*command, str(built)], capture_output=True, text=True, check=False)
    if made.returncode and "Could not find a version" in made.stderr:
        pytest.skip("no package index can be reached")
    assert made.returncode == 0, made.stderr[-2000:]
    [wheel] = tmp_path.glob("mri_posterior-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"service/viewer/dist/index.html", "recon/py.typed", "service/py.typed"} <= names
    assert any(name.endswith("weights.safetensors") for name in names)
    assert not any("node_modules" in name or name.startswith("tests/") for name in names)
    script = (
        "import sys; sys.path[:0] = ['service/viewer']; import wheel_backend as b; "
        "print(b.build_sdist(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        cwd=built, capture_output=True, text=True, check=True,
    )  # fmt: skip
    with tarfile.open(tmp_path / done.stdout.split()[-1]) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {"service/viewer/dist/index.html", "service/viewer/package-lock.json"} <= inside
