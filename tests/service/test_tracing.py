"""The trace of a request goes on in the worker."""

from __future__ import annotations

import pytest
from opentelemetry import trace

from service.tracing import span, start_tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_without_an_endpoint_the_parent_is_handed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert not start_tracing("test")
    with span("step", PARENT) as own:
        assert own == PARENT
    with span("step", None) as own:
        assert own is None


def test_spans_of_two_processes_make_one_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    seen = memory.InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(export.SimpleSpanProcessor(seen))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    with span("submit", PARENT) as carried:
        pass
    with span("slice 0", carried, job="1"):
        pass
    submit, step = seen.get_finished_spans()
    assert f"{submit.context.trace_id:032x}" == PARENT.split("-")[1]
    assert step.context.trace_id == submit.context.trace_id
    assert step.parent.span_id == submit.context.span_id
    assert dict(step.attributes) == {"job": "1"}
