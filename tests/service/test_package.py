"""The package as others install it: in its own name, and the viewer in the wheel."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy
import pytest

import recon
from service.jobs.supervisor import _module
from tests.service.live import tiny_scan

ROOT = Path(__file__).parents[2]


def test_files_of_the_same_names_where_the_service_runs_do_not_shadow_it(tmp_path: Path) -> None:
    for name in ("models", "recon", "service", "torch"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(3)")
    done = subprocess.run(
        [*_module("slices")], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_installed_names_are_those_of_the_folders_here() -> None:
    import mri_posterior.recon as longer
    from mri_posterior.recon.errors import ScanError as Longer

    import recon.errors as shorter

    assert longer is recon
    assert Longer is shorter.ScanError
    assert shorter.__spec__.name == "recon.errors"
    with pytest.raises(ModuleNotFoundError):
        import_module("mri_posterior.numpy")
    with pytest.raises(ModuleNotFoundError):
        import_module("mri_posterior.recon.nothing")


@pytest.mark.parametrize(
    ("written", "becomes"),
    [
        ("from recon.io import files", "from mri_posterior.recon.io import files"),
        ("    from service import x  # lazy", "    from mri_posterior.service import x  # lazy"),
        ("import models, recon, service", "from mri_posterior import models, recon, service"),
        ("import recon", "from mri_posterior import recon"),
        ("from models_of_others import x", "from models_of_others import x"),
        ("import service_identity", "import service_identity"),
        ("# what comes from recon.io is", "# what comes from recon.io is"),
    ],
)
def test_imports_are_written_anew(written: str, becomes: str) -> None:
    """By the lines of setup.py, which runs where it is imported."""
    source = (ROOT / "setup.py").read_text().partition("\nfound = ")[0]
    names: dict[str, Any] = {}
    exec(compile(source, "setup.py", "exec"), names)
    assert names["moved"](f"{written}\n") == f"{becomes}\n"


def shadowing(folder: Path) -> Path:
    """A folder of a user with modules that are called as ours are."""
    folder.mkdir()
    for name in ("models", "recon", "service"):
        (folder / f"{name}.py").write_text("raise SystemExit('the wrong one')")
    return folder


def outside(wheel: zipfile.ZipFile) -> list[str]:
    """Imports in a wheel that lead to the names that the folders have in a checkout."""
    found = []
    for name in wheel.namelist():
        if name.endswith(".py"):
            for node in ast.walk(ast.parse(wheel.read(name))):
                modules = []
                if isinstance(node, ast.ImportFrom):
                    modules = [node.module or ""]
                elif isinstance(node, ast.Import):
                    modules = [alias.name for alias in node.names]
                wrong = {"recon", "models", "service"} & {m.partition(".")[0] for m in modules}
                found += [f"{name}: {module}" for module in wrong]
    return found


def run_installed(wheel: Path, folder: Path) -> None:
    """Install the wheel beside the libraries that are here, and use it where names are shadowed."""
    python = folder / "venv/bin/python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "-q", "--no-deps"]
    subprocess.run([*pip, str(wheel)], check=True)
    [packages] = python.parents[1].glob("lib/python*/site-packages")
    (packages / "libraries.pth").write_text(f"{Path(numpy.__file__).parents[1]}\n")
    scan = tiny_scan(folder / "scan.h5")
    place = shadowing(folder / "user")
    asked = [str(python.with_name("mri-posterior")), "reconstruct", str(scan), "-o", "result.h5"]
    quick = ["--preset", "fast", "--samples", "2", "--no-self-check", "--quiet"]
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [*asked, *quick], cwd=place, env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    script = (
        "from mri_posterior.recon import open_result; from mri_posterior.models import list_models;"
        "import sys; print(open_result('result.h5').mean.shape, list_models());"
        "assert not {'recon', 'models', 'service'} & set(sys.modules)"
    )
    used = subprocess.run(
        [str(python), "-c", script],
        cwd=place,
        env=kept,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "brain-small" in used.stdout, used.stderr


def test_the_viewers_bundle_has_the_licences_of_what_others_wrote() -> None:
    viewer = ROOT / "service" / "viewer"
    if not (viewer / "dist" / "index.html").exists():
        pytest.skip("the viewer is not built: make viewer")
    _, *parts = (viewer / "dist" / "licences.md").read_text().split("\n## ")
    named = {part.split(" - ")[0] for part in parts}
    assert set(json.loads((viewer / "package.json").read_text())["dependencies"]) <= named
    for part in parts:
        assert "Copyright" in part, part.partition("\n")[0]
        assert "WITHOUT WARRANTY" in part or "ANY EXPRESS OR IMPLIED WARRANTIES" in part


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
    wanted = ("service/viewer/dist/index.html", "recon/py.typed", "service/py.typed", "py.typed")
    wanted += ("service/viewer/dist/licences.md",)
    assert {f"mri_posterior/{name}" for name in wanted} <= names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert {name.partition("/")[0] for name in names if "dist-info" not in name} == {
        "mri_posterior"
    }
    assert outside(zipfile.ZipFile(wheel)) == []
    assert any(name.endswith("weights.safetensors") for name in names)
    assert not any("node_modules" in name or name.startswith("tests/") for name in names)
    run_installed(wheel, tmp_path)
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


def test_the_image_is_made_of_all_that_a_wheel_is() -> None:
    for place in ("docker/Dockerfile", ".dockerignore"):
        text = (ROOT / place).read_text()
        for name in ("setup.py", "pyproject.toml", "mri_posterior", "recon", "models", "service"):
            assert name in text.replace("mri-posterior", ""), (place, name)
