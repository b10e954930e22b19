"""Tells finished jobs to a collector of traces. A job waits for none of it."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

from handler.masking import masked
from handler.trace import Trace, begin_trace
from handler.tracing.spans import SpanFacts, job_spans

if TYPE_CHECKING:
    from collections.abc import Callable

    from handler.job import Job
    from handler.pipeline.stages import Ran
    from handler.settings import Settings

log = logging.getLogger("comfyfn.tracing")
WAITING_MOST = 1000
_NEEDED = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")


class Exporter(Protocol):
    """Where spans go; used from one thread."""

    def send(self, facts: SpanFacts, trace: Trace) -> None:
        """Take a job's spans; `trace` has the ids of the first one."""

    def close(self) -> None:
        """Send what is left, then end; may block."""

    def give_up(self) -> None:
        """Be quiet from now on: nobody waits any longer. Called from any thread."""


class NullTracer:
    """Where no collector is set: the caller's trace is passed on, and nothing recorded."""

    def begin(self, traceparent: str) -> Trace:
        """Begin a job's span."""
        return begin_trace(traceparent, sampled=False)

    def job_ended(
        self, job: Job, trace: Trace, ran: Ran | None = None, *, adapter: str = "http"
    ) -> None:
        """Forget it."""

    async def close(self, timeout_s: float = 0.0) -> None:
        """Do nothing."""


class Tracer:
    """Hands finished jobs to a thread, which loads the SDK for the first of them.

    Args:
        load: makes the exporter; blocks for the imports.
    """

    def __init__(self, load: Callable[[], Exporter]) -> None:
        self._load = load
        self._waiting: SimpleQueue[tuple[SpanFacts, Trace] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._exporter: Exporter | None = None
        self._complained = False
        self._over = False

    def begin(self, traceparent: str) -> Trace:
        """Begin a job's span: below the caller's, or a trace of its own."""
        return begin_trace(traceparent)

    def job_ended(
        self, job: Job, trace: Trace, ran: Ran | None = None, *, adapter: str = "http"
    ) -> None:
        """Have a job's spans sent; never waits, and never fails.

        Args:
            trace: from `begin`.
            ran: what its run told, as far as it came; None where the engine never had it.
            adapter: who took the payload.
        """
        if self._over:
            return
        if self._waiting.qsize() >= WAITING_MOST:
            self._complain("too many jobs wait for being told")
            return
        try:
            self._waiting.put((job_spans(job, ran, adapter), trace))
            if self._thread is None:
                # Not waited for at the end: a collector that hangs must not hold the process.
                thread = threading.Thread(target=self._work, name="traces", daemon=True)
                thread.start()
                self._thread = thread
        except Exception as fault:
            log.exception("job %s: no trace of it", job.id)
            self._complain(str(fault))

    async def close(self, timeout_s: float = 2.0) -> None:
        """Send what is left, for so many seconds; again is fine."""
        self._over = True
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._waiting.put(None)
        await asyncio.to_thread(thread.join, timeout_s)
        if thread.is_alive() and self._exporter is not None:
            self._exporter.give_up()
            log.warning("the traces of the last jobs were not taken within %g s", timeout_s)

    def _work(self) -> None:
        while (told := self._waiting.get()) is not None:
            try:
                if self._exporter is None:
                    self._exporter = self._load()
                self._exporter.send(*told)
            except Exception as fault:  # noqa: BLE001  of a library; jobs go on
                self._complain(f"{type(fault).__name__}: {fault}")
        if self._exporter is not None:
            self._exporter.close()

    def _complain(self, why: str) -> None:
        if not self._complained:
            self._complained = True
            log.warning("traces of some jobs are lost: %s", masked(why[:1000]))


def make_tracer(settings: Settings, instance: str = "") -> Tracer | NullTracer:
    """Make what the settings ask for; what is missing for it is a warning.

    Args:
        instance: this worker's name in what it sends.
    """
    endpoint = settings.otel_traces_endpoint
    if not endpoint and settings.otel_endpoint:
        endpoint = f"{settings.otel_endpoint.rstrip('/')}/v1/traces"
    if not endpoint:
        return NullTracer()
    if not _is_http(endpoint):
        log.warning(
            "no traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT is no http:// or https:// URL, and "
            "OTLP over HTTP is what is spoken here"
        )
        return NullTracer()
    if not all(map(_installed, _NEEDED)):
        log.warning(
            "no traces are sent: OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not "
            "installed (pip install 'comfyfn[otel]')"
        )
        return NullTracer()

    def load() -> Exporter:
        from handler.tracing.otlp import OtlpExporter

        return OtlpExporter(endpoint, instance)

    return Tracer(load)


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname)
    except ValueError:
        return False


def _installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
