"""The text of `/metrics`: figures -> Prometheus. Imported with the first scrape, not before."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder

from handler.engine.usage import Usage, process_memory
from handler.metrics import SECONDS, Counts, Metrics, Spread
from handler.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from prometheus_client.metrics_core import Metric

    from handler.health import HealthReport
    from handler.pipeline.stages import Parts

BOUNDS = (*map(str, map(float, SECONDS)), "+Inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """What is so at the moment of a scrape; None for what is not known here.

    Attributes:
        worker: who this is, for the info metric.
        ready: a job may be sent here.
        waiting, running: jobs that have the engine before them, and the others in hand.
        boot: seconds of each phase of the engine's last boot; `total` is of all.
        letters: webhooks in the outbox, `pending` and `dead`.
        events_dropped: system events that were given up since the start.
        rss, rss_peak: bytes of this process.
        usage: the engine's memory.
    """

    worker: Mapping[str, str] = field(default_factory=dict)
    ready: bool = False
    waiting: int = 0
    running: int = 0
    boot: Mapping[str, float] = field(default_factory=dict)
    letters: Mapping[str, int] = field(default_factory=dict)
    events_dropped: int = 0
    rss: int | None = None
    rss_peak: int | None = None
    usage: Usage = field(default_factory=Usage)


async def expose(
    parts: Parts,
    health: HealthReport,
    *,
    letters: Mapping[str, int] | None = None,
    events_dropped: int = 0,
    accept: str = "",
) -> tuple[bytes, str]:
    """Make what a scrape is answered with.

    Args:
        letters: webhooks in the outbox, `pending` and `dead`; None where there is no outbox.
        accept: the request's header: OpenMetrics for who asks for it.

    Returns:
        The body, and its content type.
    """
    engine, identity = parts.engine, parts.identity
    worker = {
        "version": VERSION,
        "instance": identity.instance,
        "adapter": identity.adapter,
        "engine": engine.kind,
        "engine_version": engine.version or "",
        "gpu": engine.device.name if engine.device is not None else "",
    }
    boot = health.boot.get("phases") or {}
    rss, rss_peak = process_memory(None)
    gauges = Gauges(
        worker=worker,
        ready=health.ready,
        waiting=health.waiting,
        running=health.running,
        boot={name.removesuffix("_s"): seconds for name, seconds in boot.items()},
        letters=letters or {},
        events_dropped=events_dropped,
        rss=rss,
        rss_peak=rss_peak and parts.metrics.peak("rss", rss_peak),
        usage=await engine.usage(),
    )
    return render(parts.metrics, gauges, accept)


def render(metrics: Metrics, gauges: Gauges, accept: str = "") -> tuple[bytes, str]:
    """Write figures in the form that is accepted: Prometheus' text 0.0.4, or OpenMetrics.

    Returns:
        The body, and its content type.
    """
    # One registry a scrape: the library's own collectors, of its global one, are not ours to tell.
    registry = CollectorRegistry()
    registry.register(_Figures([*_counted(metrics), *_now(gauges)]))
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type


class _Figures:
    """Gives the library what it writes."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def __repr__(self) -> str:
        return f"<_Figures {len(self._families)} families>"

    def collect(self) -> Iterable[Metric]:
        """Give all families."""
        return self._families


def _counted(metrics: Metrics) -> Iterable[Metric]:
    yield _counter(
        "jobs",
        "Jobs that ended, by outcome, error code and adapter.",
        metrics.jobs,
        ("outcome", "code", "adapter"),
    )
    about = "Payloads that no job was made of, by error code and adapter."
    yield _counter("refused", about, metrics.refusals, ("code", "adapter"))
    yield _spread("job_seconds", "Time of jobs, from arrival to end.", metrics.job_s, "outcome")
    yield _spread("job_phase_seconds", "Time of jobs in each phase.", metrics.phase_s, "phase")
    yield _one("gpu_seconds", "Time that the engine worked on jobs.", metrics.gpu_s)
    yield _node_seconds(metrics)
    about = "Bytes of inputs and models that were fetched, by kind of source."
    yield _counter("input_bytes", about, metrics.bytes_in, ("source",))
    about = "Bytes of outputs, inline (before base64) or by target of uploads."
    yield _counter("output_bytes", about, metrics.bytes_out, ("target",))
    about = "Models asked for by URL or name: a hit was in the cache, a miss was fetched."
    yield _counter("model_requests", about, metrics.models, ("result",))
    about = "Files at a target, after their last try."
    yield _counter("uploads", about, metrics.uploads, ("target", "outcome"))
    yield _counter("upload_seconds", "Time of uploads.", metrics.upload_s, ("target",))
    about = "Tries to deliver webhooks; after `again` another one follows."
    yield _counter("webhook_tries", about, metrics.webhooks, ("outcome",))
    yield _one("webhook_seconds", "Time of tries to deliver webhooks.", metrics.webhook_s)
    yield _one("engine_boots", "How often the engine became ready.", metrics.boots)
    yield _one("engine_restarts", "How often the engine ended and was restarted.", metrics.restarts)


def _now(gauges: Gauges) -> Iterable[Metric]:
    usage = gauges.usage
    yield InfoMetricFamily("comfyfn", "This worker.", value=dict(gauges.worker))
    yield _gauge("ready", "1 when a job may be sent here.", int(gauges.ready))
    yield _gauge("jobs_waiting", "Jobs that have the engine before them.", gauges.waiting)
    yield _gauge("jobs_running", "Jobs that the engine has, or has had.", gauges.running)
    about = "Time of each phase of the engine's last boot; `total` is all of it."
    yield _gauges("boot_seconds", about, gauges.boot, "phase")
    about = "Webhooks in the outbox."
    yield _gauges("webhook_letters", about, gauges.letters, "state")
    about = "System events that were given up."
    yield _one("system_events_dropped", about, gauges.events_dropped)
    about = "Memory of processes; of the engine, its first process alone."
    taken = {"server": gauges.rss, "engine": usage.rss}
    yield _gauges("resident_memory_bytes", about, taken, "process")
    highest = {"server": gauges.rss_peak, "engine": usage.rss_peak}
    about = "Most memory of processes so far; of the engine, over its restarts."
    yield _gauges("resident_memory_peak_bytes", about, highest, "process")
    vram = {"": usage.vram_used}
    yield _gauges("vram_used_bytes", "Memory of the GPU in use, by whomever.", vram)
    yield _gauges("vram_total_bytes", "Memory of the GPU.", {"": usage.vram_total})
    about = "Most memory of the GPU in use, as seen at scrapes and after runs."
    yield _gauges("vram_used_peak_bytes", about, {"": usage.vram_peak})


def _counter(name: str, about: str, counts: Counts, labels: Sequence[str]) -> Metric:
    family = CounterMetricFamily(f"comfyfn_{name}", about, labels=labels)
    for values, total in counts.values.items():
        family.add_metric(values, total)
    return family


def _one(name: str, about: str, value: float) -> Metric:
    return CounterMetricFamily(f"comfyfn_{name}", about, value=value)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(f"comfyfn_{name}", about, value=value)


def _gauges(
    name: str, about: str, values: Mapping[str, float | None], label: str | None = None
) -> Metric:
    """Make a gauge of what is known, by the values of a label or without one."""
    family = GaugeMetricFamily(f"comfyfn_{name}", about, labels=[label] if label else [])
    for key, value in values.items():
        if value is not None:
            family.add_metric([key] if label else [], value)
    return family


def _spread(name: str, about: str, spreads: Mapping[str, Spread], label: str) -> Metric:
    family = HistogramMetricFamily(f"comfyfn_{name}", about, labels=[label])
    for key, spread in spreads.items():
        up_to = zip(BOUNDS, accumulate(spread.counts), strict=True)
        family.add_metric([key], [(bound, count) for bound, count in up_to], spread.total)
    return family


def _node_seconds(metrics: Metrics) -> Metric:
    about = "Time of nodes that ran, by class."
    family = SummaryMetricFamily("comfyfn_node_seconds", about, labels=["class_type"])
    for labels, count in metrics.nodes.values.items():
        family.add_metric(labels, int(count), metrics.node_s.values[labels])
    return family
