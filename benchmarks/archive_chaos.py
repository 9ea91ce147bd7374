"""300 scans while workers and the database are killed: is every scan done once, and so reported?

    python -m benchmarks.archive_chaos [--scans 300] [--minutes 2] [--out FILE.json]

PostgreSQL and an S3-compatible server are started here, in temporary folders and on free ports.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.cluster import (
    BUCKET,
    ROOT,
    Host,
    PostgreSQL,
    command,
    environment,
    object_store,
    postgresql,
    s3_client,
    tiny_model,
    until,
    write_broken,
    write_scans,
)

STORAGE = f"s3://{BUCKET}/store"
KILL_SECONDS = 10.0


def main() -> None:
    """Run it and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scans", type=int, default=300)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--hours", type=float, default=2.0, help="given up after so long")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        figures = run(Path(folder), asked.scans, asked.minutes, asked.hours)
    text = json.dumps(figures, indent=1)
    print(text)
    if asked.out is not None:
        asked.out.write_text(text + "\n")


def run(folder: Path, count: int, minutes: float, hours: float) -> dict[str, Any]:
    """All of it; raises AssertionError where something was lost, doubled or misreported."""
    broken = count // 20
    write_scans(folder / "scans", count - broken)
    expected = write_broken(folder / "scans", folder / "scans" / "scan-00000.h5", broken)
    models = tiny_model(folder / "model")
    rng = random.Random(0)
    with postgresql() as database, object_store() as store:
        env = environment(models, **store, MRI_POSTERIOR_MAX_ATTEMPTS="30")
        shared = ("--database", database.url, "--storage", STORAGE)
        hosts = [Host.start(env, folder / f"host-{k}", *shared) for k in range(3)]
        began = time.monotonic()
        batch = subprocess.Popen(
            [
                *command("batch", folder / "scans", "-o", folder / "report", *shared, "--quiet"),
                *("--model", "tiny", "--preset", "fast", "--samples", "2", "--no-self-check"),
                *("--data", str(folder / "client")),
            ],
            env=env,
            cwd=ROOT,
        )
        try:
            until(lambda: _ended(database.url) > 0, 1800)
            kills = _disturb(hosts, database, rng, minutes)
            try:
                status = batch.wait(3600 * hours)
            except subprocess.TimeoutExpired:  # judge what there is
                for host in hosts:
                    host.stop()
                batch.send_signal(signal.SIGINT)
                status = batch.wait(600)
            seconds = time.monotonic() - began
            figures = _judged(folder, store, database.url, expected, count)
        finally:
            if batch.poll() is None:
                batch.kill()
            for host in hosts:
                host.stop()
    load = [round(value, 1) for value in os.getloadavg()]
    return figures | kills | {"status": status, "seconds": round(seconds, 1), "load_average": load}


def _disturb(
    hosts: list[Host], database: PostgreSQL, rng: random.Random, minutes: float
) -> dict[str, int]:
    """Kill a worker every ten seconds, the database once, and one worker for good."""
    rounds = round(60 * minutes / KILL_SECONDS)
    kills = 0
    for number in range(rounds):
        time.sleep(KILL_SECONDS)
        alive = [host for host in hosts if host.process.poll() is None]
        if number == rounds // 2:
            database.kill()
            time.sleep(3)
            database.start()
        if number == rounds - 1:
            alive[-1].kill_for_good()
            kills += 1
        else:
            kills += rng.choice(alive).kill_worker()
    return {"worker_kills": kills, "database_kills": 1, "workers_gone_for_good": 1}


def _ended(url: str) -> int:
    try:
        with psycopg.connect(url) as connection:
            found = connection.execute(
                "SELECT count(*) FROM service_jobs WHERE state = 'succeeded'"
            ).fetchone()
    except psycopg.Error:
        return 0
    return int(found[0]) if found else 0


def _judged(
    folder: Path, store: dict[str, str], url: str, expected: dict[str, str], count: int
) -> dict[str, Any]:
    """Compare report, files and database."""
    (report,) = (folder / "report").glob("*.json")
    rows = {row["name"]: row for row in json.loads(report.read_text())["items"]}
    assert len(rows) == count
    states = Counter(row["state"] for row in rows.values())
    wanted = {name: row for name, row in rows.items() if name not in expected}
    good = {name: row for name, row in wanted.items() if row["state"] == "succeeded"}
    left = {row["state"] for row in wanted.values()} - {"succeeded"}
    assert left <= {"queued", "running"}, states  # not at all unless time was up
    outputs = _objects(store, "store/outputs/")
    complete = {name for name, files in outputs.items() if "report.json" in files}
    assert complete == {row["output"] for row in good.values()}
    assert len(complete) == len(good)
    if not left:
        for name, error in expected.items():
            assert rows[name]["error"] == error, rows[name]
        scans = folder.glob("scans/scan-*.h5")
        digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in scans}
        assert {row["scan_sha256"] for row in good.values()} == digests
    restarted = 0
    for row in good.values():
        files = outputs[row["output"]]
        told = json.loads(files["report.json"])
        assert told["scan_sha256"] == row["scan_sha256"]
        assert {p["name"] for p in told["products"]} | {"report.json"} == set(files)
        for product in told["products"]:
            assert hashlib.sha256(files[product["name"]]).hexdigest() == product["sha256"]
        starts = Counter(e["step"] for e in told["steps"] if e["what"] == "started")
        restarted += sum(number > 1 for number in starts.values())
    with psycopg.connect(url) as connection:
        recorded = connection.execute(
            "SELECT workflow_uuid, function_name, count(*) FROM dbos.operation_outputs "
            "GROUP BY workflow_uuid, function_name"
        ).fetchall()
        jobs = connection.execute("SELECT state, count(*) FROM service_jobs GROUP BY state")
        by_state: dict[str, int] = dict(jobs.fetchall())
    doubled = [row for row in recorded if row[2] > 1]
    assert not doubled, doubled[:3]
    assert by_state["succeeded"] == len(good)
    traces = [key for key in _keys(store, "store/reconstructions/") if "/slices/" in key]
    return {
        "scans": count,
        "states": dict(states),
        "outputs": len(outputs),
        "steps_begun_more_than_once": restarted,
        "steps_recorded_twice": len(doubled),
        "checkpoints_left": len(traces),
        "finished": not left,
        "jobs": by_state,
    }


def _keys(store: dict[str, str], prefix: str) -> list[str]:
    pages = s3_client(store).get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def _objects(store: dict[str, str], prefix: str) -> dict[str, dict[str, bytes]]:
    """All objects of all outputs, as another client sees them."""
    client = s3_client(store)
    found: dict[str, dict[str, bytes]] = defaultdict(dict)
    for key in _keys(store, prefix):
        _, output, name = key.removeprefix(prefix).split("/")
        found[output][name] = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
    return found


if __name__ == "__main__":
    main()
