"""Deadlines and wanted accuracies become presets and samples; checkpoints come back as written."""

from __future__ import annotations

from pathlib import Path

import pytest

from recon.phantom import simulate
from recon.pipeline import reconstruct, work
from recon.posterior import SlicePosterior
from recon.settings import Settings
from recon.undersampling import undersample, undersampling_mask
from service.store.files import Storage
from service.worker.budget import (
    Speed,
    plan_for_accuracy,
    plan_for_deadline,
    planned,
    reached_error,
)
from tests.problems import power_law_prior
from tests.recon.scan_files import assert_same

SPEED = Speed(fixed_seconds=1.0, seconds_per_evaluation=0.01)


def test_more_time_never_buys_less() -> None:
    plans = [plan_for_deadline(Settings(), 10.0 * k, 2, SPEED) for k in range(60)]
    costs = [work(planned(Settings(), plan)) for plan in plans]
    assert costs == sorted(costs)
    assert (plans[0].preset, plans[0].samples, plans[0].self_check) == ("fast", 2, False)
    assert (plans[-1].preset, plans[-1].samples) == ("thorough", 16)


def test_a_plan_that_is_not_the_quickest_fits() -> None:
    for seconds in (20.0, 50.0, 200.0):
        plan = plan_for_deadline(Settings(), seconds, 2, SPEED)
        assert plan.expected_seconds is not None
        assert plan.expected_seconds <= seconds


def test_the_self_check_is_not_switched_on_by_a_plan() -> None:
    plan = plan_for_deadline(Settings(self_check=False), 1e6, 1, SPEED)
    assert not plan.self_check


@pytest.mark.parametrize("preset", ["fast", "standard", "thorough"])
def test_the_self_check_costs_about_a_seventh_of_its_run_at_most(preset: str) -> None:
    without = work(Settings(preset, self_check=False))
    assert 0 < work(Settings(preset)) / without - 1 < 0.16


def test_a_sharper_target_costs_more() -> None:
    costs = [
        work(planned(Settings(), plan_for_accuracy(Settings(), target)))
        for target in (0.5, 0.2, 0.1, 0.05)
    ]
    assert costs == sorted(costs)
    assert costs[0] < costs[-1]


def test_checkpoints_come_back_exactly(tmp_path: Path) -> None:
    full, _ = simulate(1, 4, 32, 32, 40)
    scan = undersample(full, undersampling_mask((32, 32), "equispaced", 1.6, 0.5, 0))
    events = reconstruct(scan, power_law_prior(32), Settings(preset="fast"))
    (posterior,) = [event for event in events if isinstance(event, SlicePosterior)]
    storage = Storage(tmp_path)
    assert not storage.has_slice("JOB", 0)
    storage.write_slice("JOB", posterior)
    assert storage.has_slice("JOB", 0)
    assert_same(storage.read_slice("JOB", 0), posterior)
    reached = reached_error([posterior])
    assert reached is not None
    assert 0.01 < reached < 1


def test_names_from_outside_never_become_paths(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    for name in ("../x", "a/b", "", ".", "x" * 65):
        with pytest.raises(ValueError, match="not an id"):
            storage.steps(name)
    for digest in ("../../etc/passwd", "A" * 64, "0" * 63):
        with pytest.raises(ValueError, match="digest"):
            storage.scan(digest)
    with pytest.raises(ValueError, match="product"):
        storage.product("JOB", "steps.jsonl")


def test_a_ledger_line_cut_short_is_left_out(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.note_step("JOB", step="prepare", what="started")
    with (tmp_path / "reconstructions" / "JOB" / "steps.jsonl").open("a") as file:
        file.write('{"step":"pre')
    assert storage.steps("JOB") == [{"step": "prepare", "what": "started"}]
