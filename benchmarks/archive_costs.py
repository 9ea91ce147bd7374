"""What an archive costs beside the sampling: queueing, the engine, a second worker.

python -m benchmarks.archive_costs [enqueue] [engine] [efficiency] [--items N] [--out FILE.json]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
import torch
from dbos import DBOS

from benchmarks.cluster import (
    ROOT,
    Host,
    command,
    environment,
    postgresql,
    tiny_model,
    until,
    write_scans,
)
from models.denoiser import NetworkPrior
from models.network import UNet
from models.network_configs import UNetConfig
from service.jobs.batches import Batches, NewItem, output_digest
from service.jobs.job import JobState
from service.jobs.job_table import Jobs
from service.jobs.workflows import Queue, launch
from service.requests import Priority, ReconstructionParameters
from service.settings import ServiceSettings, load_settings
from service.store.database import create_database, open_database
from service.store.files import Storage

QUICK = ("--model", "tiny", "--preset", "fast", "--samples", "2", "--no-self-check", "--quiet")


def main() -> None:
    """Measure what was asked for, and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    measured = {"enqueue": enqueue, "engine": engine, "efficiency": efficiency, "shared": shared}
    parser.add_argument("what", nargs="*", choices=list(measured))
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    figures: dict[str, Any] = {}
    for name in asked.what or measured:
        with tempfile.TemporaryDirectory(prefix="costs-") as folder:
            load = [round(value, 1) for value in os.getloadavg()]
            figures[name] = measured[name](Path(folder), asked.items) | {"load_average": load}
        print(json.dumps({name: figures[name]}), flush=True)
    if asked.out is not None:
        asked.out.write_text(json.dumps(figures, indent=1) + "\n")


def enqueue(_folder: Path, _items: int) -> dict[str, Any]:
    """Seconds to queue 10,000 items that have been looked at, in PostgreSQL."""
    with postgresql() as database:
        settings = load_settings(database=database.url)
        create_database(settings.database_url)
        sql = open_database(settings.database_url)
        began, processor = time.perf_counter(), time.process_time()
        server = database.processor_seconds()
        _queued(settings, sql, 10_000)
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        server = database.processor_seconds() - server
        with sql.connect() as connection:
            query = "SELECT pg_database_size('service')"
            size = connection.exec_driver_sql(query).scalar_one()
        sql.dispose()
    return {
        "items": 10_000,
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "database_processor_seconds": round(server, 1),
        "bytes_per_queued_item": round(int(size) / 10_000),
    }


class _NoSampling:
    """The steps of a worker without reading, sampling and writing: what is left is the engine."""

    def __init__(self, jobs: Jobs, storage: Storage) -> None:
        self._jobs = jobs
        self._storage = storage
        self.done = 0

    def prepare(self, job_id: str) -> dict[str, Any]:
        self._note(job_id, "prepare")
        self._jobs.claim(job_id, "worker")
        return {"state": "done", "slices": [0], "plan": None, "part": 8, "share": False}

    def reconstruct_slice(self, job_id: str, index: int, *_: object) -> dict[str, Any]:
        self._note(job_id, f"slice {index}")
        self._jobs.report(job_id, "slice", {"slice": index, "converged": True})
        return {"state": "done", "sha256": "0" * 64, "converged": True, "share": False}

    def reconstruct_volume(self, job_id: str, *_: object) -> dict[str, Any]:
        raise NotImplementedError(f"job {job_id} is of one slice")

    def assemble(self, job_id: str, *_: object) -> dict[str, Any]:
        self._note(job_id, "assemble")
        self._jobs.finish(job_id, JobState.SUCCEEDED, results=[])
        self._storage.remove_traces(job_id)
        self.done += 1
        return {"state": "succeeded"}

    def _note(self, job_id: str, step: str) -> None:
        assert self._jobs.get(job_id) is not None
        self._jobs.state(job_id)
        self._storage.steps(job_id)
        for what in ("started", "finished"):
            self._storage.note_step(job_id, step=step, what=what, worker="worker", at=time.time())


class _NoDeliveries:
    """Nothing is sent."""

    def try_once(self, _delivery_id: str) -> float | None:
        return None


def engine(folder: Path, items: int) -> dict[str, Any]:
    """Time per item of workflow, database, queue and ledger, all steps doing nothing else."""
    items = max(items, 300)
    with postgresql() as database:
        settings = load_settings(database=database.url, data=folder, jobs_at_once=8)
        create_database(settings.database_url)
        sql = open_database(settings.database_url)
        _queued(settings, sql, items)
        steps = _NoSampling(Jobs(sql), Storage(folder))
        launch(settings, sql, "worker", steps, _NoDeliveries())
        until(lambda: steps.done >= 20, 300)
        first, began, processor = steps.done, time.perf_counter(), time.process_time()
        server = database.processor_seconds()
        until(lambda: steps.done >= items, 1800)
        counted = steps.done - first
        seconds, processor = time.perf_counter() - began, time.process_time() - processor
        server = database.processor_seconds() - server
        DBOS.destroy()
        sql.dispose()
    return {
        "items": counted,
        "processor_ms_per_item": round(1000 * processor / counted, 1),
        "database_processor_ms_per_item": round(1000 * server / counted, 1),
        "wall_ms_per_item": round(1000 * seconds / counted, 1),
    }


def _queued(settings: ServiceSettings, sql: sa.Engine, count: int) -> Batches:
    queue = Queue(settings, sql)
    batches = Batches(sql, queue.enqueue)
    asked = ReconstructionParameters(preset="fast", priority=Priority.ARCHIVE)
    model = "0" * 64
    items = []
    for number in range(count):
        scan = f"{number:064x}"
        place = f"s3://archive/{number}.h5"
        items.append(
            NewItem(f"scan-{number}", "", scan, place, output_digest(scan, model, asked), asked)
        )
    made = batches.create("me", "continue", {})
    for start in range(0, count, 500):
        batches.add(made, items[start : start + 500], start)
    batches.seal(made)
    assert batches.counts(made.id)["queued"] == count
    queue.close()
    return batches


def efficiency(folder: Path, items: int) -> dict[str, Any]:
    """Throughput of two workers on a core each over that of one, on PostgreSQL."""
    models = tiny_model(folder / "model")
    write_scans(folder / "scans", items)
    rates = {}
    for count in (1, 2):
        with postgresql() as database:
            env = environment(models)
            place = folder / f"out-{count}"
            shared = ("--database", database.url, "--storage", place)
            hosts = [
                Host.start(env, folder / f"host-{count}-{k}", *shared, core=k) for k in range(count)
            ]
            try:
                create_database(load_settings(database=database.url).database_url)
                until(lambda: _ready(database.url) == count, 600)  # noqa: B023
                subprocess.run(
                    [
                        *command("batch", folder / "scans", "-o", place, *shared, *QUICK),
                        *("--in-place", "--data", str(folder / "client")),
                    ],
                    env=env, cwd=ROOT, check=True,
                )  # fmt: skip
                with psycopg.connect(database.url) as connection:
                    row = connection.execute(
                        "SELECT max(finished_at) - min(started_at), count(*) FROM service_jobs "
                        "WHERE state = 'succeeded'"
                    ).fetchone()
                assert row is not None
                rates[count] = row[1] / row[0]
            finally:
                for host in hosts:
                    host.stop()
    return {
        "items": items,
        "per_second": {str(count): round(rate, 3) for count, rate in rates.items()},
        "ratio": round(rates[2] / rates[1], 2),
    }


def shared(_folder: Path, _items: int) -> dict[str, Any]:
    """Network time for the images of four slices: one after the other, and in one batch."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for size in (32, 128):
        config = UNetConfig(channels=(32, 64), res_blocks=1, norm_groups=8)
        network = NetworkPrior(UNet(config), (0.01, 5.0))
        images = torch.randn(4, 4, size, size, dtype=torch.complex64)
        levels = torch.full((16,), 0.1, dtype=torch.float64)
        network.denoise_each(images.flatten(0, 1), levels)  # warms up
        times = []
        for act in (
            lambda: [network.denoise(part, 0.1) for part in images],  # noqa: B023
            lambda: network.denoise_each(images.flatten(0, 1), levels),  # noqa: B023
        ):
            best = min(_processor_seconds(act) for _ in range(5))
            times.append(best)
        found[f"{size} x {size}"] = {
            "apart_ms": round(1000 * times[0], 1),
            "together_ms": round(1000 * times[1], 1),
            "gain": round(times[0] / times[1], 2),
        }
    return found


def _processor_seconds(act: Any) -> float:  # noqa: ANN401
    began = time.process_time()
    act()
    return time.process_time() - began


def _ready(url: str) -> int:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT count(*) FROM service_workers WHERE pid > 0").fetchone()
    return int(row[0]) if row else 0


if __name__ == "__main__":
    main()
