"""The text of `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from dataclasses import replace

import pytest
from live import REPO
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from worker import GRAPH, until, worker

from handler.engine.events import Failed, NodeStarted, Started
from handler.engine.memory import save_pictures
from handler.engine.usage import Device, Usage
from handler.errors import HandlerError, JobCancelled
from handler.exposition import Gauges, expose, render
from handler.identity import Identity
from handler.metrics import Metrics, Spread

OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def samples(text, parse=text_string_to_metric_families):
    """(name, labels in the order of their names) -> value."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


async def script(prompt, files):
    """Fail where the graph says so, hang where it does, else save pictures."""
    wish = prompt.graph["2"]["_meta"]["title"]
    if wish == "fail":
        yield Started(1_000)
        yield NodeStarted("1")
        yield Failed("1", "EmptyImage", "ValueError", "too large", ())
        return
    async for event in save_pictures(prompt, files):
        yield event
        if wish == "hang" and isinstance(event, NodeStarted):
            await asyncio.Event().wait()


def titled(title):
    return {**GRAPH, "2": {**GRAPH["2"], "_meta": {"title": title}}}


async def test_the_text_after_a_job_of_each_outcome_is_read_by_prometheus(tmp_path):
    """One succeeded, one failed, one cancelled; times, nodes and bytes beside."""
    figures = Metrics()
    async with worker(tmp_path, script=script) as (handler, _):
        parts = replace(handler._parts, metrics=figures, identity=Identity("worker-7"))
        for title in ("save", "fail", "hang"):
            job = handler.submit({"prompt": titled(title), "id": title})
            if title == "hang":
                await until(lambda job=job: not job.waiting)
                handler.cancel(title)
            with contextlib.suppress(HandlerError, JobCancelled):
                await (await handler.result(job)).close()
            figures.job_ended(job)
        body, content_type = await expose(
            parts, handler.health(), letters={"pending": 2, "dead": 1}, events_dropped=3
        )
    found = samples(body.decode())

    assert content_type.startswith("text/plain; version=0.0.4")
    jobs = {key[1:]: value for key, value in found.items() if key[0] == "comfyfn_jobs_total"}
    assert jobs == {
        ("http", "", "succeeded"): 1,
        ("http", "execution_error", "failed"): 1,
        ("http", "cancelled", "cancelled"): 1,
    }
    assert found["comfyfn_job_seconds_count", "succeeded"] == 1
    assert found["comfyfn_job_phase_seconds_count", "running"] == 3
    assert found["comfyfn_gpu_seconds_total",] > 0
    assert found["comfyfn_output_bytes_total", "inline"] > 0
    assert found["comfyfn_webhook_letters", "pending"] == 2
    assert found["comfyfn_system_events_dropped_total",] == 3
    assert found["comfyfn_ready",] == 1
    assert found["comfyfn_resident_memory_peak_bytes", "server"] > 1 << 20
    (info,) = [key for key in found if key[0] == "comfyfn_info"]
    assert {"worker-7", "memory", "http"} <= set(info)
    assert not [key for key in found if "vram" in key[0]]


def full():
    """Every figure there is."""
    metrics = Metrics()
    metrics.node_ended('A "quoted"\nclass', 0.5)
    metrics.upload_ended("s3", stored=True, count=10, seconds=0.5)
    metrics.took_in("http", 5)
    metrics.model_had(fetched=True)
    metrics.engine_changed("ready")
    usage = Usage(rss=1, rss_peak=2, vram_used=3, vram_total=4, vram_peak=5)
    boot = {"total": 7.5}
    return metrics, Gauges(worker={"gpu": "H200"}, boot=boot, rss=8, rss_peak=9, usage=usage)


@pytest.mark.parametrize(
    ("accept", "kind", "parse"),
    [
        ("", "text/plain; version=0.0.4", text_string_to_metric_families),
        ("text/html, */*", "text/plain; version=0.0.4", text_string_to_metric_families),
        (
            OPENMETRICS,
            "application/openmetrics-text; version=1.0.0",
            openmetrics.text_string_to_metric_families,
        ),
    ],
)
def test_both_formats_tell_the_same(accept, kind, parse):
    """Each as its own parser reads it; strange class names do no harm."""
    body, content_type = render(*full(), accept)
    found = samples(body.decode(), parse)

    assert content_type.startswith(kind)
    assert found["comfyfn_node_seconds_sum", 'A "quoted"\nclass'] == 0.5
    assert found["comfyfn_uploads_total", "stored", "s3"] == 1
    assert found["comfyfn_input_bytes_total", "http"] == 5
    assert found["comfyfn_boot_seconds", "total"] == 7.5
    assert found["comfyfn_engine_boots_total",] == 1
    assert found["comfyfn_resident_memory_bytes", "engine"] == 1
    assert found["comfyfn_vram_used_peak_bytes",] == 5
    assert found["comfyfn_info", "H200"] == 1


def test_every_family_is_ours_and_says_what_it_is():
    """Names in base units, counters with `_total`, a help text each."""
    body, _ = render(*full())
    families = list(text_string_to_metric_families(body.decode()))

    assert len(families) > 20
    assert len({family.name for family in families}) == len(families)
    for family in families:
        assert family.name.startswith("comfyfn_")
        assert family.documentation
        assert not family.name.endswith(("_ms", "_mb", "_mib"))


def test_buckets_add_up_and_the_last_one_has_all():
    """As a histogram is read."""
    metrics = Metrics()
    spread = metrics.job_s["succeeded"] = Spread()
    for seconds in (0.001, 0.2, 99_999.0):
        spread.add(seconds)
    found = samples(render(metrics, Gauges())[0].decode())
    buckets = [value for key, value in found.items() if key[0] == "comfyfn_job_seconds_bucket"]

    assert buckets == sorted(buckets)
    assert found["comfyfn_job_seconds_bucket", "+Inf", "succeeded"] == 3
    assert found["comfyfn_job_seconds_bucket", "0.005", "succeeded"] == 1
    assert found["comfyfn_job_seconds_sum", "succeeded"] == pytest.approx(99_999.201)


async def test_a_gpu_is_named_with_what_it_has(tmp_path):
    """As the engine told it."""
    async with worker(tmp_path) as (handler, engine):
        engine.device = Device("NVIDIA H200", 4)
        engine.used = Usage(vram_used=3, vram_total=4, vram_peak=3)
        body, _ = await expose(handler._parts, handler.health(), accept=OPENMETRICS)
    found = samples(body.decode(), openmetrics.text_string_to_metric_families)

    assert (found["comfyfn_vram_used_bytes",], found["comfyfn_vram_total_bytes",]) == (3, 4)
    (info,) = [key for key in found if key[0] == "comfyfn_info"]
    assert "NVIDIA H200" in info


def test_prometheus_loads_with_the_first_scrape_only():
    """A worker that nobody scrapes does not pay for it."""
    code = "import sys, handler.build; sys.exit('prometheus_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO, check=False).returncode == 0
