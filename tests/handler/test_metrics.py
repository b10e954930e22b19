"""What is counted of a worker's work."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from handler.errors import InputFailed, JobCancelled
from handler.job import Job
from handler.metrics import MOST_CLASSES, SECONDS, Counts, Metrics, Spread
from handler.outbox.records import Delivery, Posted
from handler.records import Output


def output(size=100, **keys):
    return Output("9", "", "image", "image/png", "a.png", size, "", **keys)


def ended(outcome, error=None, outputs=(), **keys):
    job = Job(uid="u", id="j", **keys)
    if outcome == "succeeded":
        job.succeed(list(outputs))
    else:
        job.fail(error)
    job.stage_s = {"received": 0.001, "running": 2.0, "delivering": 0.5}
    return job


def test_jobs_are_counted_by_outcome_error_and_adapter():
    """Each end once, with the error's code where there is one."""
    metrics = Metrics()
    metrics.job_ended(ended("succeeded"))
    metrics.job_ended(ended("failed", InputFailed("no such file"), adapter="runpod"))
    metrics.job_ended(ended("cancelled", JobCancelled("it was")))

    assert metrics.jobs.values == {
        ("succeeded", "", "http"): 1,
        ("failed", InputFailed.code, "runpod"): 1,
        ("cancelled", JobCancelled.code, "http"): 1,
    }


def test_the_times_of_a_job_are_spread_by_phase_and_in_all():
    """The engine's share is the GPU's."""
    metrics = Metrics()
    metrics.job_ended(ended("succeeded"))
    metrics.job_ended(ended("succeeded"))

    assert metrics.gpu_s == 4.0
    assert metrics.phase_s["delivering"].total == 1.0
    assert metrics.job_s["succeeded"].total == pytest.approx(5.002)
    assert sum(metrics.job_s["succeeded"].counts) == 2


def test_only_what_is_part_of_an_answer_counts_as_inline():
    """Not what was uploaded, not a text, and nothing where nobody waits."""
    path = Path("a.png")
    outputs = [output(path=path), output(7, text="seven"), output(path=path, url="https://x")]
    metrics = Metrics()
    metrics.job_ended(ended("succeeded", outputs=outputs))
    metrics.job_ended(ended("succeeded", outputs=outputs, asynchronous=True))

    assert metrics.bytes_out.values == {("inline",): 100}


def test_a_value_on_a_bound_lies_below_it():
    """As Prometheus has it: `le` is less or equal; what is above all bounds is counted, too."""
    spread = Spread()
    for seconds in (SECONDS[0], SECONDS[1], SECONDS[-1] + 1):
        spread.add(seconds)

    assert (spread.counts[0], spread.counts[1], spread.counts[-1]) == (1, 1, 1)


def test_label_values_are_bounded_and_the_rest_is_one():
    """However many classes a worker's node packs have, a scrape stays small."""
    metrics = Metrics()
    for number in range(MOST_CLASSES + 50):
        metrics.node_ended(f"Node{number}", 0.5)
    metrics.node_ended("Node0", 0.5)

    assert len(metrics.nodes.values) == MOST_CLASSES + 1
    assert metrics.nodes.values[("other",)] == metrics.node_s.values[("other",)] * 2 == 50
    assert metrics.nodes.values[("Node0",)] == 2


def test_each_label_of_a_crowded_family_becomes_other():
    """Values of all labels go together."""
    counts = Counts(most=1)
    counts.add("a", "b")
    counts.add("c", "d", amount=3)

    assert counts.values == {("a", "b"): 1, ("other", "other"): 3}


def test_uploads_webhooks_models_and_bytes_are_counted():
    """By what an operator looks for."""
    metrics = Metrics()
    metrics.upload_ended("s3", stored=True, count=10, seconds=0.5)
    metrics.upload_ended("s3", stored=False)
    metrics.model_had(fetched=True)
    metrics.model_had(fetched=False)
    metrics.took_in("http", 5)
    letter = Posted(
        id="1", message_id="m", kind="k", order_key="", to="http://x", signed=True, bytes=1,
        created=0.0, since=0.0,
    )  # fmt: skip
    for outcome in ("again", "again", "delivered"):
        metrics.webhook(Delivery(letter, outcome, None, 0.25))

    assert metrics.uploads.values == {("s3", "stored"): 1, ("s3", "failed"): 1}
    assert metrics.bytes_out.values == {("s3",): 10}
    assert metrics.upload_s.values == {("s3",): 0.5}
    assert metrics.models.values == {("miss",): 1, ("hit",): 1}
    assert metrics.bytes_in.values == {("http",): 5}
    assert metrics.webhooks.values == {("again",): 2, ("delivered",): 1}
    assert metrics.webhook_s == 0.75


def test_the_first_run_after_a_boot_is_cold_and_those_that_waited_for_it():
    """After a restart again."""
    metrics, early = Metrics(), time.time() - 5
    metrics.engine_changed("ready")
    later = time.time() + 1

    assert [metrics.run_begins(at) for at in (later, later, early)] == [True, False, True]

    metrics.engine_changed("restarting")
    assert metrics.run_begins(later) is False  # a warmup, before the engine is ready
    metrics.engine_changed("ready")
    assert [metrics.run_begins(time.time() + 1) for _ in range(2)] == [True, False]
    assert (metrics.boots, metrics.restarts) == (2, 1)


def test_a_peak_stays():
    """The highest of what was seen."""
    metrics = Metrics()
    assert [metrics.peak("rss", value) for value in (5, 9, 3)] == [5, 9, 9]


def test_counting_a_job_takes_microseconds():
    """A plain request takes 2 ms in all."""
    metrics, job = Metrics(), ended("succeeded")
    began = time.perf_counter()
    for _ in range(1000):
        metrics.job_ended(job)

    assert (time.perf_counter() - began) / 1000 < 200e-6
