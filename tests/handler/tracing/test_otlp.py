"""Spans at a real collector, sent by the real SDK."""

from __future__ import annotations

import logging

import pytest
from collector import BEGAN, fault, make_job, make_ran

from handler.trace import begin_trace
from handler.tracing.otlp import OtlpExporter
from handler.tracing.spans import job_spans

CALLERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
OK, ERROR, SERVER, INTERNAL = 1, 2, 2, 1


@pytest.fixture
def exporter(collector):
    made = OtlpExporter(f"{collector.url}/v1/traces", "worker-7")
    yield made
    made.close()


def attributes(told):
    return {a.key: a.value.string_value or a.value.int_value for a in told.attributes}


def test_a_job_arrives_as_a_tree(collector, exporter):
    """The job below the caller's span and with the id that was told; phases, nodes."""
    trace = begin_trace(CALLERS)
    exporter.send(job_spans(make_job(), make_ran(n3=4, n9=6)), trace)
    exporter.close()
    (path, headers) = collector.headers[0]
    assert (path, headers["content-type"]) == ("/v1/traces", "application/x-protobuf")
    by_name = {span.name: span for span in collector.spans}
    job, running = by_name["comfyfn.job"], by_name["comfyfn.running"]
    assert {span.trace_id.hex() for span in collector.spans} == {trace.trace_id}
    assert (job.span_id.hex(), job.parent_span_id.hex()) == (trace.span_id, trace.parent_id)
    assert (job.kind, running.kind) == (SERVER, INTERNAL)
    assert len(by_name) == len(collector.spans) == 8
    assert len({span.span_id for span in collector.spans}) == 8
    for name in ("received", "fetching", "queued", "running", "delivering"):
        assert by_name[f"comfyfn.{name}"].parent_span_id == job.span_id
    for name in ("node KSampler", "node SaveImage"):
        assert by_name[name].parent_span_id == running.span_id
    assert (job.start_time_unix_nano, job.end_time_unix_nano) == (
        *(int(BEGAN * 1e9), int((BEGAN + 15.5) * 1e9)),
    )
    assert attributes(job)["comfyfn.job.id"] == "a-job"
    resource = attributes(collector.groups[0].resource)
    assert resource["service.name"] == "comfyfn"
    assert resource["service.instance.id"] == "worker-7"
    assert b"secret" not in b"".join(r.SerializeToString() for r in collector.requests)


def test_a_trace_of_our_own_has_the_ids_that_were_told(collector, exporter):
    """What the answer's header says is found at the collector; each job has its own."""
    traces = [begin_trace(), begin_trace()]
    for trace in traces:
        exporter.send(job_spans(make_job(fault()), make_ran(n3=4, n9=6)), trace)
    exporter.close()
    jobs = [span for span in collector.spans if span.name == "comfyfn.job"]
    assert [(span.trace_id.hex(), span.span_id.hex()) for span in jobs] == [
        (trace.trace_id, trace.span_id) for trace in traces
    ]
    assert {span.parent_span_id for span in jobs} == {b""}
    assert {(span.status.code, span.status.message) for span in jobs} == {
        (ERROR, "execution_error")
    }
    assert len(collector.spans) == 16


def test_a_trace_that_its_caller_does_not_record_is_not_sent(collector, exporter):
    """The flag is the caller's to set."""
    exporter.send(job_spans(make_job(), None), begin_trace(CALLERS[:-1] + "0"))
    exporter.close()
    assert collector.requests == []


def test_what_the_operator_says_of_this_service_wins(collector, monkeypatch):
    """The SDK's own variables, for what is no setting of ours."""
    monkeypatch.setenv("OTEL_SERVICE_NAME", "pictures")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=mine,team=a")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-key=canary")
    exporter = OtlpExporter(f"{collector.url}/v1/traces", "worker-7")
    exporter.send(job_spans(make_job(), None), begin_trace())
    exporter.close()
    resource = attributes(collector.groups[0].resource)
    assert (resource["service.name"], resource["service.instance.id"], resource["team"]) == (
        *("pictures", "mine", "a"),
    )
    assert collector.headers[0][1]["x-key"] == "canary"


def test_a_collector_that_refuses_is_told_once(collector, caplog):
    """Not for every batch; the SDK's own lines are back when it is closed."""
    collector.status = 400
    exporter = OtlpExporter(collector.url)
    with caplog.at_level("DEBUG"):
        for _ in range(3):
            exporter.send(job_spans(make_job(), None), begin_trace())
            exporter._processor.force_flush()
        assert len(collector.requests) == 3
        exporter.close()
    told = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert [(r.name, "traces do not reach" in r.message) for r in told] == [
        ("comfyfn.tracing", True)
    ]
    assert collector.url in told[0].message
    assert logging.getLogger("opentelemetry").propagate


def test_a_collector_that_is_not_there_is_told_without_its_password(collector, caplog, monkeypatch):
    """What logs keep must not open anything."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    collector.close()
    url = collector.url.replace("//", "//me:canary@")
    exporter = OtlpExporter(f"{url}/v1/traces?key=canary")
    exporter.send(job_spans(make_job(), None), begin_trace())
    exporter.close()
    assert "traces do not reach http://…@127.0.0.1" in caplog.text
    assert "canary" not in caplog.text


def test_an_exporter_that_nobody_waits_for_is_quiet(collector, caplog, monkeypatch):
    """The process may be on its way out."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    collector.close()
    exporter = OtlpExporter(f"{collector.url}/v1/traces")
    exporter.give_up()
    exporter.send(job_spans(make_job(), None), begin_trace())
    exporter.close()
    assert caplog.records == []
