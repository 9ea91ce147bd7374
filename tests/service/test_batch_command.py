"""`mri-posterior batch` on this machine: interrupted, started again, broken scans among good."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.cluster import BROKEN, Host, command, until, write_broken, write_scans
from benchmarks.cluster import environment as quiet_environment
from recon.io.files import read_result
from tests.recon.scan_files import assert_same
from tests.service.live import ROOT

pytestmark = pytest.mark.slow  # whole workers started and killed: `make proofs`

QUICK = ("--model", "tiny", "--preset", "fast", "--samples", "2", "--no-self-check", "--quiet")


def cli(environment: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """A whole run, which takes its time on a machine that has much else to do."""
    return subprocess.run(
        command(*arguments),
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1800,
        check=False,
    )


def outputs(target: Path) -> dict[str, dict[str, Any]]:
    """Reports of the complete outputs of a folder, by digest."""
    return {
        file.parent.name: json.loads(file.read_text())
        for file in target.glob("outputs/*/*/report.json")
    }


def starts(report: dict[str, Any]) -> Counter[str]:
    return Counter(e["step"] for e in report["steps"] if e["what"] == "started")


def test_nothing_finished_is_computed_twice_whatever_ends_the_command(
    tmp_path: Path, models: Path
) -> None:
    write_scans(tmp_path / "scans", 8)
    target = tmp_path / "out"
    env = quiet_environment(models)
    line = [*command("batch", tmp_path / "scans", "-o", target, "--workers", 1), *QUICK]
    for number, (ending, before) in enumerate([(signal.SIGINT, 2), (signal.SIGKILL, 4)]):
        process = subprocess.Popen(line, env=env, cwd=ROOT)
        until(lambda before=before: len(outputs(target)) >= before, 900)
        process.send_signal(ending)
        status = process.wait(120)
        assert status == (130 if number == 0 else -signal.SIGKILL)
    kept = {
        output: (target / "outputs" / output[:2] / output / "result.h5").stat().st_mtime_ns
        for output in outputs(target)
    }
    assert len(kept) < 8
    assert subprocess.run(line, env=env, cwd=ROOT, check=False).returncode == 0
    found = outputs(target)
    assert len(found) == 8
    for output, when in kept.items():
        file = target / "outputs" / output[:2] / output / "result.h5"
        assert file.stat().st_mtime_ns == when
    for report in found.values():  # a step that was cut short may have begun again, no other
        assert {step for step, count in starts(report).items() if count > 2} == set()
    before = {p: p.stat().st_mtime_ns for p in target.glob("outputs/*/*/*")}
    assert subprocess.run(line, env=env, cwd=ROOT, check=False).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in target.glob("outputs/*/*/*")} == before


def test_other_settings_make_new_outputs_and_broken_scans_are_told_by_kind(
    tmp_path: Path, models: Path
) -> None:
    write_scans(tmp_path / "scans", 1)
    good = tmp_path / "scans" / "scan-00000.h5"
    expected = write_broken(tmp_path / "scans", good, len(BROKEN))
    target = tmp_path / "out"
    env = quiet_environment(models)
    for seed in (0, 1):
        run = cli(env, "batch", tmp_path / "scans", "-o", target, *QUICK, "--seed", seed)
        assert run.returncode == 1, run.stderr
    assert len(outputs(target)) == 2
    assert len({report["scan_sha256"] for report in outputs(target).values()}) == 1
    reports = sorted(target.glob("report-*.json"))
    assert len(reports) == 2
    for file in reports:
        rows = {row["name"]: row for row in json.loads(file.read_text())["items"]}
        assert rows.pop(good.name)["state"] == "succeeded"
        assert {name: row["error"] for name, row in rows.items()} == expected
        page = file.with_suffix(".html").read_text()
        assert page.count('src="data:image/png;base64,') == 2
        assert page.count("<tr class=") == len(rows) + 1
        assert "http" not in page.split("</style>")[1]
        assert len(file.with_suffix(".csv").read_text().splitlines()) == len(rows) + 2
    run = cli(env, "batch", tmp_path / "scans", "-o", target, "--model", "tiny", "--dry-run")
    assert run.returncode == 2
    # Whether values are finite, or zero throughout, only reading them tells.
    assert "3 to run" in run.stderr
    assert "external-link" in run.stderr


def test_a_volume_is_shared_by_workers_that_have_nothing_to_do(
    tmp_path: Path, models: Path
) -> None:
    write_scans(tmp_path / "scans", 1, slices=8)
    env = quiet_environment(models, MRI_POSTERIOR_SLICES_PER_PART="2")
    target = tmp_path / "out"
    run = cli(env, "batch", tmp_path / "scans", "-o", target, "--workers", 2, *QUICK)
    assert run.returncode == 0, run.stderr
    (report,) = outputs(target).values()
    assert [entry["slice"] for entry in report["slices"]] == list(range(8))
    workers = {e["worker"] for e in report["steps"] if e["step"].startswith("slice")}
    assert len(workers) == 2
    assert set(starts(report).values()) == {1}
    alone = tmp_path / "alone.h5"
    (scan,) = (tmp_path / "scans").iterdir()
    options = ("--model", "tiny", "--preset", "fast", "--samples", 2, "--no-self-check", "--quiet")
    assert cli(env, "reconstruct", scan, "-o", alone, *options).returncode == 0
    ours = next(target.glob("outputs/*/*/result.h5"))
    for one, other in zip(read_result(ours)[0], read_result(alone)[0], strict=True):
        assert_same(one, other)


def test_workers_join_are_listed_and_leave(tmp_path: Path, models: Path) -> None:
    env = quiet_environment(models)
    data = tmp_path / "shared"
    hosts = [Host.start(env, data) for _ in range(2)]

    def alive() -> list[dict[str, Any]]:
        run = cli(env, "workers", "--data", data, "--json")
        found: list[dict[str, Any]] = json.loads(run.stdout)["workers"] if run.stdout else []
        return [worker for worker in found if worker["state"] == "alive"]

    try:
        until(lambda: len(alive()) == 2, 300)
        assert {worker["host"] for worker in alive()} == {os.uname().nodename}
        hosts[0].stop()
        until(lambda: len(alive()) == 1, 60)
        assert "alive" in cli(env, "workers", "--data", data).stdout
    finally:
        for host in hosts:
            host.stop()
