"""`mri-posterior benchmark NAME`: experiments of the source tree, which is not installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from recon.errors import ScanError

SOURCE = Path(__file__).resolve().parents[2]
"""The root of the source tree, when the package runs from one (`pip install --editable`)."""

Names = Annotated[
    list[str] | None, typer.Argument(help="Experiments, or all; without a name they are listed.")
]


def benchmark(names: Names = None) -> None:
    """Reproduce the figures and tables of the documentation."""
    sys.exit(run_benchmarks(SOURCE, names or []))


def run_benchmarks(source: Path, names: list[str]) -> int:
    """Exit code of the experiments, run from the tree at `source`.

    Raises ScanError where there is no such tree.
    """
    if not (source / "benchmarks" / "__main__.py").is_file():
        raise ScanError(
            "no-benchmarks",
            "the benchmarks belong to the source and not to the installed package; get the "
            "source and run `make benchmark` or `python -m benchmarks NAME` there",
        )
    command = [sys.executable, "-m", "benchmarks", *names]
    return subprocess.run(command, cwd=source, check=False).returncode
