"""Progress as others see it: often enough, never too often, however quick the slices are."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from recon.pipeline import Progress
from service.http.context import Context
from service.worker.watch import Stopped, Watch
from tests.service.in_process import OFFERS, ask
from tests.service.live import HDF5


@pytest.fixture
def watched(make: Callable[..., Context], scan: Path) -> tuple[Context, Watch]:
    context = make(progress_seconds=0.2)
    context.workers.enter("one", "cpu", 1, OFFERS)
    answer = ask(context, "POST", "/v1/reconstructions", content=scan.read_bytes(), headers=HDF5)
    job = context.jobs.claim(answer.json()["id"], "one")
    assert job is not None
    return context, Watch(context.jobs, context.storage, context.settings, job)


def test_quick_slices_do_not_speak_more_often(watched: tuple[Context, Watch]) -> None:
    context, watch = watched
    before = context.jobs.page(None)[0].revision
    began = time.monotonic()
    for position in range(50):
        watch.begin_slice(position, 50)
        for fraction in (0.1, 0.5, 0.9):
            watch.see(Progress(position, "annealing", fraction))
            time.sleep(0.005)
        watch.end_slice()
    said = context.jobs.page(None)[0].revision - before
    assert 2 <= said <= 1 + (time.monotonic() - began) / 0.2
    progress = context.jobs.page(None)[0].progress
    assert progress is not None
    assert progress.phase == "sampling"
    assert progress.slices == 50
    assert progress.fraction == pytest.approx((progress.position + 0.5) / 50, abs=0.01)


def test_time_left_is_told_from_the_slices_that_are_done(watched: tuple[Context, Watch]) -> None:
    context, watch = watched
    watch.begin_slice(0, 4)
    watch.see(Progress(0, "annealing", 0.001))
    first = context.jobs.page(None)[0].progress
    assert first is not None
    assert first.eta_s is None  # a moment says nothing yet
    time.sleep(0.25)
    watch.end_slice()
    watch.begin_slice(1, 4)
    watch.see(Progress(1, "annealing", 0.0))
    told = context.jobs.page(None)[0].progress
    assert told is not None
    assert 0.7 <= told.eta_s <= 2.0


def test_a_cancelled_job_is_stopped(watched: tuple[Context, Watch]) -> None:
    context, watch = watched
    watch.look()
    context.jobs.cancel(context.jobs.page(None)[0].id)
    time.sleep(0.11)
    with pytest.raises(Stopped):
        watch.see(Progress(0, "annealing", 0.5))
