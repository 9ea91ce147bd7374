"""Counters of this process, and gauges read from the tables when somebody asks."""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from service.jobs.records import Jobs, JobState
from service.jobs.workers import Workers
from service.requests import Priority

CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics:
    """Bounded labels only: never an id, a key or a file name."""

    def __init__(self, jobs: Jobs, workers: Workers, alive_seconds: float) -> None:
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
        self._registry.register(_Tables(jobs, workers, alive_seconds))

    def text(self) -> bytes:
        """All metrics in the OpenMetrics format."""
        text: bytes = generate_latest(self._registry)  # type: ignore[no-untyped-call]
        return text


class _Tables(Collector):
    def __init__(self, jobs: Jobs, workers: Workers, alive_seconds: float) -> None:
        self._jobs = jobs
        self._workers = workers
        self._alive_seconds = alive_seconds

    def describe(self) -> Iterable[Metric]:
        """Nothing to say before the tables are read."""
        return []

    def collect(self) -> Iterable[Metric]:
        counts = self._jobs.counts()
        ended = CounterMetricFamily("recon_jobs", "Jobs that ended", labels=["state"])
        active = GaugeMetricFamily("recon_active_jobs", "Jobs that have not", labels=["state"])
        for state in JobState:
            family = ended if state.terminal else active
            family.add_metric([state.value], counts[state.value])
        yield ended
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
        starts = CounterMetricFamily("recon_worker_starts", "Starts of workers", labels=["device"])
        living = self._workers.living(self._alive_seconds)
        for device in sorted({worker.device for worker in living}):
            same = [worker for worker in living if worker.device == device]
            up.add_metric([device], len(same))
            starts.add_metric([device], sum(worker.starts for worker in same))
        yield up
        yield starts
