"""Counters of this process, and gauges read from the tables when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterable

import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from service.jobs.job import JobState
from service.jobs.job_table import Jobs
from service.jobs.totals import SECONDS, read_totals
from service.jobs.workers import Workers
from service.requests import Priority

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Bounded labels only: never an id, a key or a file name."""

    def __init__(
        self, engine: sa.Engine, jobs: Jobs, workers: Workers, alive_seconds: float
    ) -> None:
        self._registry = CollectorRegistry()
        self.requests = Histogram(
            "http_server_request_duration_seconds",
            "Time to the last byte of an answer",
            ["route", "method", "status"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30),
            registry=self._registry,
        )
        self.uploaded = Counter(
            "recon_upload_bytes", "Bytes of scans received", registry=self._registry
        )
        self.rejected = Counter(
            "recon_rejected_inputs",
            "Uploads that were refused",
            ["reason"],
            registry=self._registry,
        )
        self._registry.register(_Tables(engine, jobs, workers, alive_seconds))

    def text(self) -> bytes:
        """All metrics in the OpenMetrics format."""
        text: bytes = generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return text


class _Tables(Collector):
    def __init__(
        self, engine: sa.Engine, jobs: Jobs, workers: Workers, alive_seconds: float
    ) -> None:
        self._engine = engine
        self._jobs = jobs
        self._workers = workers
        self._alive_seconds = alive_seconds

    def describe(self) -> Iterable[Metric]:
        """Nothing to say before the tables are read."""
        return []

    def collect(self) -> Iterable[Metric]:
        yield from _counted(read_totals(self._engine))
        counts = self._jobs.counts()
        active = GaugeMetricFamily("recon_active_jobs", "Jobs that have not", labels=["state"])
        for state in JobState:
            if not state.terminal:
                active.add_metric([state.value], counts[state.value])
        yield active
        depth = GaugeMetricFamily("recon_queue_depth", "Jobs that wait", labels=["priority"])
        waiting = self._jobs.waiting()
        for priority in Priority:
            depth.add_metric([priority.value], waiting.get(priority.value, (0, 0.0))[0])
        yield depth
        oldest = min((since for _, since in waiting.values()), default=time.time())
        yield GaugeMetricFamily(
            "recon_queue_oldest_seconds",
            "How long the first has waited",
            value=max(0.0, time.time() - oldest),
        )
        up = GaugeMetricFamily("recon_worker_up", "Living workers", labels=["device"])
        living = self._workers.living(self._alive_seconds)
        for device in sorted({worker.device for worker in living}):
            up.add_metric([device], sum(worker.device == device for worker in living))
        yield up
        held: dict[str, int] = {}
        for worker in living:
            if "gpu_bytes" in (worker.load or {}):
                bytes_now = int((worker.load or {})["gpu_bytes"])
                held[worker.device] = held.get(worker.device, 0) + bytes_now
        if held:
            memory = GaugeMetricFamily(
                "recon_gpu_memory_bytes", "GPU memory that workers hold", labels=["device"]
            )
            for device, value in sorted(held.items()):
                memory.add_metric([device], value)
            yield memory


def _counted(totals: dict[str, dict[tuple[str, ...], float]]) -> Iterable[Metric]:
    ended = CounterMetricFamily("recon_jobs", "Jobs that ended", labels=["state", "preset"])
    for (state, preset), value in sorted(totals.get("jobs", {}).items()):
        ended.add_metric([state, preset], value)
    yield ended
    restarts = CounterMetricFamily(
        "recon_worker_restarts", "Workers that were started again", labels=["device"]
    )
    for (device,), value in sorted(totals.get("restarts", {}).items()):
        restarts.add_metric([device], value)
    yield restarts
    samples = totals.get("samples", {}).get((), 0.0)
    yield CounterMetricFamily("recon_samples", "Posterior samples that were drawn", value=samples)
    duration = HistogramMetricFamily(
        "recon_job_duration_seconds", "How long jobs waited and ran", labels=["preset", "phase"]
    )
    found = totals.get("bucket", {})
    for (preset, phase), seconds in sorted(totals.get("seconds", {}).items()):
        buckets, below = [], 0.0
        for end in (*map(str, SECONDS), "+Inf"):
            below += found.get((preset, phase, end), 0.0)
            buckets.append((end if end == "+Inf" else f"{float(end):g}", below))
        duration.add_metric([preset, phase], buckets, seconds)
    yield duration
