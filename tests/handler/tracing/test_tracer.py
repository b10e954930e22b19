"""Finished jobs on their way to a collector."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time

import pytest
from collector import make_job, make_ran
from live import REPO

from handler.job import Job
from handler.settings import Settings
from handler.trace import begin_trace
from handler.tracing.tracer import WAITING_MOST, NullTracer, Tracer, make_tracer

CALLERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Taking:
    """An exporter that keeps what it is given; it takes nothing while `gate` is closed."""

    def __init__(self, fails=0):
        self.told, self.fails, self.closed, self.quiet = [], fails, False, False
        self.begun, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def send(self, facts, trace):
        self.begun.set()
        self.gate.wait(20)
        self.fails -= 1
        if self.fails >= 0:
            raise OSError("http://me:canary@host is away")
        self.told.append((facts.attributes["comfyfn.job.id"], trace))

    def close(self):
        self.closed = True

    def give_up(self):
        self.quiet = True


async def test_a_finished_job_reaches_the_collector(collector):
    """Loaded, sent and flushed on the way down; the base URL gets OTLP's path."""
    tracer = make_tracer(Settings(otel_endpoint=f"{collector.url}/"), "worker-7")
    trace = tracer.begin(CALLERS)
    tracer.job_ended(make_job(), trace, make_ran(n3=4), adapter="runpod")
    await tracer.close(10)
    assert collector.headers[0][0] == "/v1/traces"
    (job,) = [span for span in collector.spans if span.name == "comfyfn.job"]
    assert job.span_id.hex() == trace.span_id
    await tracer.close()


async def test_a_whole_url_wins(collector):
    """As OpenTelemetry has it."""
    base, whole = "http://127.0.0.1:9", f"{collector.url}/own/path"
    tracer = make_tracer(Settings(otel_endpoint=base, otel_traces_endpoint=whole))
    tracer.job_ended(make_job(), tracer.begin(""))
    await tracer.close(10)
    assert collector.headers[0][0] == "/own/path"


async def test_a_collector_that_hangs_holds_neither_jobs_nor_the_end(collector, caplog):
    """A job's end costs nothing; the stop waits for its limit."""
    collector.gate.clear()
    tracer = make_tracer(Settings(otel_endpoint=collector.url))
    tracer.job_ended(make_job(), tracer.begin(""))
    begun = time.monotonic()
    await tracer.close(1.5)
    assert time.monotonic() - begun < 4
    assert "not taken within 1.5 s" in caplog.text


async def test_nothing_is_loaded_before_a_job_has_ended():
    """A cold start does without it, and so does a worker that gets no job."""
    loads = []
    tracer = Tracer(lambda: loads.append(1) or Taking())
    tracer.begin(CALLERS)
    await tracer.close()
    assert loads == []
    tracer.job_ended(make_job(), begin_trace())
    assert loads == []


async def test_faults_of_the_exporter_are_told_once_and_touch_nothing(caplog):
    """The next job is told all the same; of the fault, nothing secret."""
    exporter = Taking(fails=2)
    tracer = Tracer(lambda: exporter)
    for _ in range(3):
        tracer.job_ended(make_job(), tracer.begin(""))
    await tracer.close(10)
    assert len(exporter.told) == 1
    assert exporter.closed
    assert caplog.text.count("traces of some jobs are lost: OSError") == 1
    assert "canary" not in caplog.text


async def test_a_job_that_makes_no_sense_is_a_fault_of_ours_alone(caplog):
    """Whatever it holds, who ends it is not disturbed."""
    tracer = Tracer(Taking)
    broken = Job(uid="u", id="a", stage_s={"running": None})
    tracer.job_ended(broken, tracer.begin(""))
    assert "job a: no trace of it" in caplog.text
    await tracer.close()


async def test_what_waits_is_bounded(caplog):
    """A collector that hangs for hours fills no memory."""
    exporter = Taking()
    exporter.gate.clear()
    tracer = Tracer(lambda: exporter)
    job, trace = make_job(), tracer.begin("")
    tracer.job_ended(job, trace)
    assert exporter.begun.wait(10)
    for _ in range(WAITING_MOST + 5):
        tracer.job_ended(job, trace)
    exporter.gate.set()
    await tracer.close(20)
    assert len(exporter.told) == WAITING_MOST + 1
    assert caplog.text.count("too many jobs wait") == 1


@pytest.mark.parametrize("settings", [{}, {"otel_endpoint": ""}])
async def test_without_a_collector_the_callers_trace_goes_on(settings, caplog):
    """And a trace of our own says that nobody records it."""
    tracer = make_tracer(Settings(**settings))
    assert isinstance(tracer, NullTracer)
    assert tracer.begin(CALLERS).header.startswith(CALLERS[:36])
    assert tracer.begin(CALLERS).header.endswith("-01")
    assert tracer.begin("").header.endswith("-00")
    tracer.job_ended(make_job(), tracer.begin(""))
    await tracer.close()
    assert caplog.records == []


@pytest.mark.parametrize("url", ["collector:4317", "grpc://collector:4317", "http://[", "http://"])
def test_a_collector_of_another_protocol_is_a_warning(url, caplog):
    """The variable may be set for others on this machine: the server starts."""
    assert isinstance(make_tracer(Settings(otel_endpoint=url)), NullTracer)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "no http:// or https:// URL" in caplog.text


@pytest.mark.parametrize("absent", ["opentelemetry", "opentelemetry.exporter"])
def test_a_missing_library_is_one_warning(absent):
    """In a process that has none: what to install, and jobs as ever."""
    program = (
        f"import sys; sys.modules[{absent!r}] = None\n"
        "import logging; logging.basicConfig(format='%(levelname)s %(message)s')\n"
        "from handler.settings import Settings\n"
        "from handler.tracing.tracer import make_tracer\n"
        "print(type(make_tracer(Settings(otel_endpoint='http://127.0.0.1:9'))).__name__)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "NullTracer\n"
    assert said.stderr.count("\n") == 1
    assert said.stderr.startswith("WARNING no traces are sent")
    assert "comfyfn[otel]" in said.stderr


def test_making_a_tracer_loads_no_sdk():
    """It takes a fifth of a second, which a cold start has not."""
    program = (
        "import sys\n"
        "from handler.settings import Settings\n"
        "from handler.tracing.tracer import make_tracer\n"
        "print(type(make_tracer(Settings(otel_endpoint='http://127.0.0.1:9'))).__name__,\n"
        "      [m for m in ('opentelemetry.sdk.trace', 'requests') if m in sys.modules])\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "Tracer []\n"
