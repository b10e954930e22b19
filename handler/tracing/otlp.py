"""Spans to a collector, by the OpenTelemetry SDK. Loaded with the first job that has ended."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from opentelemetry import trace as otel
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import (
    SERVICE_INSTANCE_ID,
    SERVICE_NAME,
    OTELResourceDetector,
    Resource,
)
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

from handler.masking import masked
from handler.version import VERSION

if TYPE_CHECKING:
    from handler.trace import Trace
    from handler.tracing.spans import SpanFacts

log = logging.getLogger("comfyfn.tracing")
COMPLAINTS_EVERY_S = 3600.0


class OtlpExporter:
    """Sends spans in batches, from a thread of the SDK's.

    What OTEL_* variables set beside the endpoint (headers, resource, sampler, batches), the SDK
    reads by itself.
    """

    def __init__(self, endpoint: str, instance: str = "") -> None:
        """Begin to send.

        Args:
            endpoint: the whole URL, `http://host:4318/v1/traces`.
            instance: this worker's name.
        """
        self._ids = _Ids()
        self._complaints = _Complaints(endpoint)
        self._complaints.attach()
        self._processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint))
        self._provider = TracerProvider(
            resource=_resource(instance), id_generator=self._ids, shutdown_on_exit=False
        )
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("comfyfn", VERSION)

    def send(self, facts: SpanFacts, trace: Trace) -> None:
        """Hand a job's spans in; the first one gets the ids of `trace`. Never waits."""
        self._ids.next = (int(trace.trace_id, 16), int(trace.span_id, 16))
        above = Context()
        if trace.parent_id:
            parent = otel.SpanContext(
                int(trace.trace_id, 16),
                int(trace.parent_id, 16),
                is_remote=True,
                trace_flags=otel.TraceFlags(int(trace.sampled)),
            )
            above = otel.set_span_in_context(otel.NonRecordingSpan(parent), above)
        self._span(facts, above, otel.SpanKind.SERVER)

    def _span(self, facts: SpanFacts, above: Context, kind: otel.SpanKind) -> None:
        span = self._tracer.start_span(
            facts.name,
            context=above,
            kind=kind,
            attributes=facts.attributes,
            start_time=_ns(facts.begun),
        )
        below = otel.set_span_in_context(span, above)
        for part in facts.parts:
            self._span(part, below, otel.SpanKind.INTERNAL)
        if facts.fault:
            span.set_status(otel.StatusCode.ERROR, facts.fault)
        span.end(end_time=_ns(facts.ended))

    def close(self) -> None:
        """Send what is left. Blocks while the collector may still take it."""
        self._provider.shutdown()
        self._complaints.detach()

    def give_up(self) -> None:
        """Say nothing more: nobody waits for what is left any longer."""
        self._complaints.muted = True


class _Ids(RandomIdGenerator):
    """Draws ids, but gives the ones that were told to the world to the span they belong to."""

    def __init__(self) -> None:
        self.next: tuple[int, int] | None = None

    def generate_trace_id(self) -> int:
        return self.next[0] if self.next else super().generate_trace_id()

    def generate_span_id(self) -> int:
        told, self.next = self.next, None
        return told[1] if told else super().generate_span_id()


class _Complaints(logging.Handler):
    """Takes what the SDK logs, which is a line for every batch of a collector that is away."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(logging.WARNING)
        self._endpoint = masked(endpoint)
        self._told_at: float | None = None
        self._sdk = logging.getLogger("opentelemetry")
        self._propagated = self._sdk.propagate
        self.muted = False

    def attach(self) -> None:
        """Stand between the SDK and the log."""
        self._sdk.addHandler(self)
        self._sdk.propagate = False

    def detach(self) -> None:
        """Let the SDK speak for itself again."""
        self._sdk.removeHandler(self)
        self._sdk.propagate = self._propagated

    def emit(self, record: logging.LogRecord) -> None:
        now = time.monotonic()
        lately = self._told_at is not None and now - self._told_at < COMPLAINTS_EVERY_S
        if self.muted or lately:
            return
        self._told_at = now
        log.warning(
            "traces do not reach %s: %s (jobs are not affected; told once an hour)",
            self._endpoint,
            masked(record.getMessage()[:1000]),
        )


def _resource(instance: str) -> Resource:
    """Describe this worker; what OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say wins."""
    ours = {SERVICE_NAME: "comfyfn", "service.version": VERSION}
    if instance:
        ours[SERVICE_INSTANCE_ID] = instance
    return Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
