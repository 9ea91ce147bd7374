"""Who may import whom, how large a file may grow, what a pin may ask: read off the source."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.specifiers import SpecifierSet

from service.jobs.dbos_internals import TESTED

ROOT = Path(__file__).parents[1]
PRODUCT = ("recon", "models", "service")
MAX_LINES = 450

FLOORS = (
    ("service.cli",),
    ("service.commands",),
    ("service.http", "service.scanner", "service.training", "service.worker"),
    (
        *("service.archives", "service.delivery", "service.exports", "service.images"),
        *("service.intake", "service.typical_measurement"),
    ),
    ("service.conformal_measurement", "service.jobs", "service.runs"),
    ("service.finished_slices",),
    ("service.conformal_scaling", "service.store", "service.verdicts"),
    ("service.settings", "service.volume_limits"),
    (
        *(
            "service.client",
            "service.cores",
            "service.gateway_configs",
            "service.logs",
            "service.pictures",
        ),
        *("service.prior_samples", "service.problems", "service.regions", "service.requests"),
        *("service.slices", "service.tracing", "service.volumes"),
    ),
    (
        *("service.bids_names", "service.offers", "service.products", "service.region_answers"),
        "service.report",
    ),
    ("models",),
    ("recon.arrays",),
    ("recon.io",),
    ("recon",),
)
"""Rooms from the top floor down. A room imports those on floors below it, and nothing else."""

DOORS = ("recon/__init__.py", "models/__init__.py")
"""Public names of a package, each loaded when it is asked for: no floor of their own."""

CONFINED = {
    "dbos": (
        "service/jobs/workflows.py",
        "service/jobs/dbos_internals.py",
        "service/store/database.py",
    ),
    "h5py": (
        "recon/io/files.py",
        "recon/io/hdf5_safety.py",
        "recon/io/mrd_hdf5.py",
        "recon/io/mrd_writing.py",
        "recon/io/read_worker.py",
        "models/training_data.py",
        "service/exports/fastmri.py",
        "service/images/files.py",
        "service/training/packed.py",
    ),
    "finufft": ("recon/noncartesian.py",),
    "typer": ("service/",),
    "rich": ("service/",),
    "fastapi": ("service/",),
    "uvicorn": ("service/",),
}


class Import(NamedTuple):
    file: str
    line: int
    name: str
    """Dotted name of what is imported; `from a import b` gives `a.b`."""

    def inside(self, package: str) -> bool:
        return self.name == package or self.name.startswith(package + ".")

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.name}"


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def imports(*folders: str) -> Iterator[Import]:
    for file in sources(*folders):
        name = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                yield from (Import(name, node.lineno, alias.name) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                origin = "." * node.level + (node.module or "")
                yield from (
                    Import(name, node.lineno, f"{origin}.{alias.name}") for alias in node.names
                )


def listing(found: list[Import]) -> str:
    return "\n".join(map(str, found))


def test_there_is_something_to_check() -> None:
    assert sources("recon")
    assert sources("models")


def test_recon_imports_neither_models_nor_service() -> None:
    found = [i for i in imports("recon") if i.inside("models") or i.inside("service")]
    assert not found, listing(found)


def test_models_import_recon_for_the_prior_interface_and_the_names_of_choices_only() -> None:
    found = [
        i
        for i in imports("models")
        if (i.inside("recon") and not (i.inside("recon.prior") or i.inside("recon.choices")))
        or i.inside("service")
    ]
    assert not found, listing(found)


def test_the_product_below_service_does_not_import_it() -> None:
    found = [i for i in imports("recon", "models") if i.inside("service")]
    assert not found, listing(found)


def room_of(module: str) -> tuple[int, str] | None:
    """Floor, counted from the top, and room of a dotted name; None for other people's code."""
    rooms = [(floor, room) for floor, rooms in enumerate(FLOORS) for room in rooms]
    inside = [each for each in rooms if f"{module}.".startswith(f"{each[1]}.")]
    return max(inside, key=lambda each: len(each[1]), default=None)


def module_of(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def test_every_file_is_in_a_room() -> None:
    names = [module_of(file.relative_to(ROOT).as_posix()) for file in sources(*PRODUCT)]
    apart = {"service", "service.viewer.wheel_backend"}  # the latter builds the package
    assert {name for name in names if room_of(name) is None} <= apart


def test_no_import_leads_upward_or_across() -> None:
    found = []
    for i in imports(*PRODUCT):
        own, other = room_of(module_of(i.file)), room_of(i.name)
        if i.file not in DOORS and own and other and own[1] != other[1] and own[0] >= other[0]:
            found.append(i)
    assert not found, listing(found)


def test_no_files_import_each_other_in_a_circle() -> None:
    names = {module_of(file.relative_to(ROOT).as_posix()) for file in sources(*PRODUCT)}
    graph: dict[str, set[str]] = {name: set() for name in names}
    for i in imports(*PRODUCT):
        target = i.name if i.name in names else i.name.rpartition(".")[0]
        if i.file not in DOORS and target in names and target != module_of(i.file):
            graph[module_of(i.file)].add(target)
    assert len(list(TopologicalSorter(graph).static_order())) == len(names)


def test_nothing_imports_the_tests() -> None:
    found = [i for i in imports(*PRODUCT, "benchmarks") if i.inside("tests")]
    assert not found, listing(found)


def test_tests_share_by_files_that_are_no_tests() -> None:
    found = [i for i in imports("tests", "docs", "benchmarks") if ".test_" in i.name]
    assert not found, listing(found)


def test_libraries_stay_where_they_are_confined() -> None:
    found = [
        i
        for i in imports(*PRODUCT)
        for library, homes in CONFINED.items()
        if i.inside(library) and not i.file.startswith(homes)
    ]
    assert not found, listing(found)


def test_no_relative_imports() -> None:
    found = [i for i in imports(*PRODUCT, "benchmarks", "tests") if i.name.startswith(".")]
    assert not found, listing(found)


def test_imports_inside_functions_say_why() -> None:
    found = []
    for file in sources(*PRODUCT):
        lines = file.read_text().splitlines()
        for function in ast.walk(ast.parse("\n".join(lines))):
            if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            found += [
                f"{file.relative_to(ROOT)}:{node.lineno}"
                for node in ast.walk(function)
                if isinstance(node, ast.Import | ast.ImportFrom)
                and not re.search(r"# lazy: \S+", lines[node.lineno - 1])
            ]
    assert not found, "\n".join(found)


def test_no_file_outgrows_its_reader() -> None:
    sizes = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for file in sources(*PRODUCT, "benchmarks", "tests")
    }
    assert not {file: lines for file, lines in sizes.items() if lines > MAX_LINES}


def test_the_product_never_loads_torchvision_or_lightning() -> None:
    modules = [
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for file in sources(*PRODUCT)
        if file.stem != "__main__"
    ]
    assert loaded_of(modules, ("torch", "torchvision", "pytorch_lightning")) == "['torch']"


def test_requests_are_answered_and_jobs_are_known_without_science() -> None:
    """Torch alone takes 250 MB, and it is of no use there; `service.worker` has it."""
    heavy = (
        *("torch", "scipy", "sigpy", "monai", "matplotlib", "skimage", "finufft"),
        *("nibabel", "pydicom", "highdicom", "fastmri", "pandas"),
    )
    known = [
        module_of(file.relative_to(ROOT).as_posix())
        for file in sources("service/jobs", "service/intake")
    ]
    assert len(known) > 10
    assert loaded_of(["service.http.server", *known], heavy) == "[]"


def loaded_of(modules: list[str], names: tuple[str, ...]) -> str:
    """Which of the names a process has loaded that has imported these modules, as a list."""
    script = (
        "import importlib, sys\n"
        "names = sys.argv[1].split(',')\n"
        "for module in sys.argv[2:]: importlib.import_module(module)\n"
        "print([name for name in names if name in sys.modules])"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, ",".join(names), *modules],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip().splitlines()[-1]


def test_what_is_pinned_installs_on_every_python_that_is_promised() -> None:
    """A pin that refuses one of them lets pip search for hours there: Debian has 3.11.2."""
    lowest = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    versions = (lowest.removeprefix(">=") + ".2", "3.12.0", "3.13.0")
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M))
    refusing = {}
    for name, pin in pins.items():
        try:
            installed = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        needed = SpecifierSet(installed.get("Requires-Python") or "")
        if installed["Version"].partition("+")[0] == pin and not all(v in needed for v in versions):
            refusing[name] = str(needed)
    assert len(pins) > 100
    assert refusing == {}


def test_private_parts_of_dbos_are_used_in_one_file_within_the_tested_versions() -> None:
    private = re.compile(r"\b(?:DBOS|_client|client|system)\._\w+")
    users = {
        file.relative_to(ROOT).as_posix()
        for file in sources("service", "benchmarks")
        if "dbos" in (text := file.read_text()) and private.search(text)
    }
    assert users == {"service/jobs/dbos_internals.py"}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [asked] = [each for each in project["dependencies"] if each.startswith("dbos")]
    assert asked == f"dbos{TESTED}"
    assert metadata.version("dbos") in SpecifierSet(TESTED)
