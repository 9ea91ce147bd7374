"""The tables of batches, and the routes on them, without any reconstruction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from service.archives.report import COLUMNS, csv_text, rows_of
from service.jobs.batches import Batch, Batches, EndedItems, NewItem, output_digest, stop_batches_of
from service.jobs.job_table import Jobs, JobState
from service.requests import ReconstructionParameters
from service.store.database import create_database, events, open_database
from service.store.files import Storage

ASKED = ReconstructionParameters(preset="fast")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    url = f"sqlite:///{tmp_path / 'x.sqlite'}"
    create_database(url)
    made = open_database(url)
    yield made
    made.dispose()


@pytest.fixture
def queued() -> list[str]:
    return []


@pytest.fixture
def batches(engine: sa.Engine, queued: list[str]) -> Batches:
    return Batches(engine, lambda connection, job_id, priority: queued.append(job_id))


def item(number: int, **more: object) -> NewItem:
    digest = f"{number:064x}"
    values = {"output": digest, "parameters": ASKED} | more
    return NewItem(f"scan {number}", "", digest, None, **values)  # type: ignore[arg-type]


def made(batches: Batches, items: list[NewItem], on_error: str = "continue") -> Batch:
    batch = batches.create("me", on_error, {})
    batches.add(batch, items)
    return batch


def test_adding_again_changes_nothing(batches: Batches, queued: list[str]) -> None:
    batch = batches.create("me", "continue", {})
    refused = NewItem("bad", error={"type": "/problems/not-hdf5", "detail": "no"})
    items = [item(1), refused, item(2), item(1), item(3, there=True)]
    assert batches.add(batch, items) == 3
    assert batches.add(batch, items) == 0
    assert len(queued) == 2  # the same output twice is one job
    counts = batches.counts(batch.id)
    assert (counts["queued"], counts["refused"], counts["succeeded"]) == (3, 1, 1)
    found = batches.items(batch.id)
    assert [one.state for one in found] == ["queued", "refused", "queued", "queued", "succeeded"]
    assert [one.position for one in batches.items(batch.id, states=["refused"])] == [1]


def test_a_second_batch_waits_for_the_jobs_of_the_first(
    batches: Batches, engine: sa.Engine, queued: list[str]
) -> None:
    first = made(batches, [item(1), item(2)])
    second = made(batches, [item(2), item(3)])
    assert len(queued) == 3
    batches.cancel(first.id)  # scan 2 is wanted by the second still
    assert batches.counts(first.id)["cancelled"] == 1
    assert batches.counts(second.id)["queued"] == 2
    Jobs(engine).finish(queued[1], JobState.SUCCEEDED)
    assert batches.counts(second.id)["succeeded"] == 1
    third = made(batches, [item(2)])  # ended: made anew, as its files may be gone
    assert len(queued) == 4
    assert batches.counts(third.id)["queued"] == 1


def test_failed_items_are_tried_again_as_new_jobs(
    batches: Batches, engine: sa.Engine, queued: list[str]
) -> None:
    batch = made(batches, [item(1), item(2)])
    Jobs(engine).finish(queued[0], JobState.FAILED, error={"type": "/problems/internal"})
    assert batches.retry_failed(batch) == 1
    assert batches.counts(batch.id)["queued"] == 2
    assert batches.items(batch.id)[0].job.id == queued[2] != queued[0]  # type: ignore[union-attr]
    assert batches.retry_failed(batch) == 0


def test_a_batch_that_is_to_stop_stops_at_the_first_failure(
    batches: Batches, engine: sa.Engine, queued: list[str]
) -> None:
    careful = made(batches, [item(1), item(2)], "stop")
    bold = made(batches, [item(1), item(3)])
    Jobs(engine).finish(queued[0], JobState.FAILED)
    assert stop_batches_of(engine, queued[0]) == [queued[1]]
    assert batches.counts(careful.id)["cancelled"] == 1
    assert batches.counts(bold.id)["queued"] == 1


def test_an_output_is_named_by_all_that_makes_it_and_nothing_else() -> None:
    scan, model = "a" * 64, "b" * 64
    first = output_digest(scan, model, ASKED)
    same = ReconstructionParameters(preset="fast", priority="scanner", tags={"a": "b"})
    assert output_digest(scan, model, same) == first
    others = [
        output_digest(model, model, ASKED),
        output_digest(scan, scan, ASKED),
        output_digest(scan, model, ReconstructionParameters(preset="fast", seed=1)),
        output_digest(scan, model, ReconstructionParameters(preset="thorough")),
        output_digest(scan, model, ASKED, "somebody"),
    ]
    assert len({first, *others}) == 6
    default = ReconstructionParameters()
    standard = ReconstructionParameters(preset="standard")
    assert output_digest(scan, model, default) == output_digest(scan, model, standard)


def test_the_report_says_why_and_runs_no_formula(
    batches: Batches, engine: sa.Engine, queued: list[str], tmp_path: Path
) -> None:
    error = {"type": "/problems/invalid-scan", "detail": "no values", "reason": "empty-dataset"}
    batch = made(batches, [item(1), NewItem("=cmd()", error=error)])
    rows = rows_of(batches.items(batch.id), Storage(tmp_path))
    head, first, second = "".join(csv_text(rows)).splitlines()
    assert head == ",".join(COLUMNS)
    assert first.startswith("scan 1,queued,")
    assert second.startswith("'=cmd(),refused,invalid-scan/empty-dataset,no values,")


def test_an_older_database_is_brought_up_to_date(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'old.sqlite'}"
    create_database(url)
    engine = open_database(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP INDEX service_jobs_output")
        connection.exec_driver_sql("ALTER TABLE service_jobs DROP COLUMN output")
    engine.dispose()
    create_database(url)
    engine = open_database(url)
    assert Jobs(engine).uses_output("0" * 64) is False
    engine.dispose()


def test_an_end_that_appears_behind_later_ones_is_told(batches: Batches, engine: sa.Engine) -> None:
    """As PostgreSQL may show them: it gives ids before it commits."""
    batch = made(batches, [item(number) for number in range(4)])
    ids = [found.job.id for found in batches.items(batch.id) if found.job is not None]

    def end(position: int, event_id: int) -> None:
        with engine.begin() as connection:
            values = {"id": event_id, "job_id": ids[position], "type": "end", "data": {}}
            connection.execute(sa.insert(events).values(**values))

    def told(follower: EndedItems, *, last_look: bool = False) -> list[int]:
        return [found.position for _, found in follower.more(last_look=last_look)]

    follower = EndedItems(batches, batch, after=0, overlap=8)
    end(1, 100)
    assert told(follower) == [1]
    end(0, 95)
    assert told(follower) == [0]
    assert told(follower) == []
    end(2, 50)  # long behind: the last look finds it
    assert told(follower) == []
    end(3, 120)
    assert told(follower) == [3]
    assert told(follower, last_look=True) == [2]
    assert told(follower, last_look=True) == []
    again = EndedItems(batches, batch, after=100, overlap=0)  # SQLite shows all in order
    assert told(again, last_look=True) == [3]
