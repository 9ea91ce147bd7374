"""OpenTelemetry, for those who install the extra `telemetry` and name an endpoint.

A job carries the `traceparent` of the request that made it, so that the spans of its steps, in
another process and perhaps days later, belong to the same trace. Without the extra, or without
OTEL_EXPORTER_OTLP_ENDPOINT, all of this does nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_propagator = TraceContextTextMapPropagator()


def start_tracing(process: str) -> bool:
    """Send spans of this process to the endpoint of the environment; False without one."""
    if not any(os.environ.get(name) for name in _ENDPOINTS):
        return False
    if find_spec("opentelemetry.sdk") is None:
        return False
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # lazy: an optional extra
        OTLPSpanExporter,
    )
    from opentelemetry.sdk.resources import Resource  # lazy: an optional extra
    from opentelemetry.sdk.trace import TracerProvider  # lazy: an optional extra
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # lazy: an optional extra

    provider = TracerProvider(
        resource=Resource.create({"service.name": "mri-posterior", "process": process})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    return True


@contextmanager
def span(name: str, traceparent: str | None, **attributes: str) -> Iterator[str | None]:
    """A span below the one that `traceparent` names; yields its own traceparent."""
    named = traceparent is not None
    parent = _propagator.extract({"traceparent": traceparent}) if named else None
    tracer = trace.get_tracer("mri-posterior")
    with tracer.start_as_current_span(name, context=parent, attributes=attributes):
        own: dict[str, str] = {}
        _propagator.inject(own)
        # Without a provider there is no span of our own, and the parent is handed on.
        yield own.get("traceparent", traceparent)
