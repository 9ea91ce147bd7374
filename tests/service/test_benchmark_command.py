"""The benchmark command: finds the experiments beside the source, or says where they are."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.__main__ import EXPERIMENTS
from recon.errors import ScanError
from service.commands.benchmark import run_benchmarks

ROOT = Path(__file__).parents[2]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service.cli", "benchmark", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=ROOT,
    )


def test_experiments_are_listed_without_a_name() -> None:
    run = command()
    assert run.returncode == 0, run.stderr
    assert [line.split()[0] for line in run.stdout.splitlines()] == [*EXPERIMENTS, "all"]


def test_an_unknown_experiment_is_refused_by_name() -> None:
    run = command("no-such-thing")
    assert run.returncode == 2
    assert "no experiment 'no-such-thing'" in run.stderr


def test_every_experiment_listed_is_there() -> None:
    for name in EXPERIMENTS:
        assert (ROOT / "benchmarks" / f"{name}.py").is_file()


def test_without_the_source_it_says_where_the_experiments_are(tmp_path: Path) -> None:
    with pytest.raises(ScanError, match="make benchmark") as caught:
        run_benchmarks(tmp_path, [])
    assert caught.value.code == "no-benchmarks"
