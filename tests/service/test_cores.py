"""Cores of a container, by either version of cgroups; what libraries are told of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from service.cores import available_cores, memory_limit, prepare_threads

HERE = len(os.sched_getaffinity(0))


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", HERE), ("9900000 100000", HERE)],
)
def test_the_quota_of_a_container_bounds_the_cores(tmp_path: Path, quota: str, cores: int) -> None:
    (tmp_path / "own").write_text("0::/system.slice/job\n")
    write(tmp_path / "groups" / "system.slice" / "job", cpu__max="max 100000\n")
    write(tmp_path / "groups", cpu__max=quota + "\n", memory__max="max\n")
    assert available_cores(tmp_path / "groups", tmp_path / "own") == cores
    assert memory_limit(tmp_path / "groups", tmp_path / "own") is None


def test_the_older_cgroups_are_understood(tmp_path: Path) -> None:
    (tmp_path / "own").write_text("5:memory:/job\n4:cpu,cpuacct:/host/path\n1:name=systemd:/\n")
    write(
        tmp_path / "groups" / "cpu,cpuacct",
        cpu__cfs_quota_us="150000\n",
        cpu__cfs_period_us="100000\n",
    )
    write(tmp_path / "groups" / "memory" / "job", memory__limit_in_bytes="2147483648\n")
    assert available_cores(tmp_path / "groups", tmp_path / "own") == 1
    assert memory_limit(tmp_path / "groups", tmp_path / "own") == 2 << 30


def test_without_groups_it_is_the_affinity(tmp_path: Path) -> None:
    assert available_cores(tmp_path, tmp_path / "none") == HERE


def test_what_somebody_chose_stays() -> None:
    chosen = {"OMP_NUM_THREADS": "7"}
    prepare_threads(chosen)
    assert chosen == {
        "OMP_NUM_THREADS": "7", "OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0",
        "GOMP_SPINCOUNT": "1000",
    }  # fmt: skip


def test_who_chose_how_to_wait_is_not_made_to_spin() -> None:
    chosen = {"OMP_WAIT_POLICY": "ACTIVE"}
    prepare_threads(chosen)
    assert "GOMP_SPINCOUNT" not in chosen


def test_torch_hears_of_it() -> None:
    """The command line prepares the threads before torch reads the environment."""
    script = (
        "import sys, os; os.environ.pop('OMP_NUM_THREADS', None); import service.cli;"
        "assert 'torch' not in sys.modules;"
        "import service.cores; service.cores.available_cores = lambda: 1;"
        "sys.argv = ['mri-posterior', '--version']\n"
        "try: service.cli.main()\n"
        "except SystemExit: pass\n"
        "import torch; print(torch.get_num_threads(), os.environ['OMP_WAIT_POLICY'])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, check=True, timeout=600, capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "1 PASSIVE"
