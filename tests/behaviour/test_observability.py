"""What a worker tells of itself: figures, lines of the log, traces. One job of each outcome."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.conftest import BOTH
from behaviour.driving import assert_error, later, wait_phase, wait_until
from behaviour.graphs import fault, node, picture, save, slow
from collector import Collector
from live import COMFY_HOME, LiveServer, live_server
from prometheus_client.parser import text_string_to_metric_families
from receiver import SECRET, Receiver, receiving
from sources.puts import storing
from sources.threaded import threaded

if TYPE_CHECKING:
    from collections.abc import Iterator

CALLERS = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CANARY = "canary4711"
JOBS = ("plain", "raised", "refused", "stopped", "told", "given-up", "stored")


@dataclass(frozen=True, slots=True)
class Lived:
    """What there was to see of a server that is gone.

    Attributes:
        answers: of all jobs, by their ids: headers and bodies.
        figures: sample name and labels -> value, while it still ran.
        lines: of the log, as they were written.
        posts: what the receiver got.
        spans: what the collector got, by the job's id: the job's own and those below it.
        uids: of the jobs.
    """

    engine: str
    answers: dict[str, Any]
    figures: dict[tuple[str, ...], float]
    scrape: Any
    lines: list[str]
    posts: list[Any]
    spans: list[Any]
    uids: set[str]

    @property
    def parsed(self) -> list[dict[str, Any]]:
        """Give the lines as objects."""
        return [json.loads(line) for line in self.lines]

    def figure(self, name: str, *labels: str) -> float:
        """Give one sample; 0 where there is none."""
        return self.figures.get((f"comfyfn_{name}", *labels), 0.0)


def failing(engine: str) -> dict[str, Any]:
    """Give a graph whose node raises: a picture without any memory for it on a real engine."""
    if engine == "embedded":
        return fault("TestRaise", message="raised here")
    inputs = {"width": 16384, "height": 16384, "batch_size": 4096, "color": 0}
    return {"1": node("EmptyImage", **inputs), "9": save("1")}


def live(server: LiveServer, receiver: Receiver, store: Any) -> dict[str, Any]:
    """Run a job of each outcome; secrets go in wherever there is a place for them."""
    token = f"?token={CANARY}"
    hook = {"webhook_secret": f"whsec_{CANARY}aaaaaaaaaaaaaa", "webhook_extra": CANARY}
    trace, told = {"traceparent": CALLERS}, {**hook, "webhook_v2": receiver.url(f"/told{token}")}
    gone = f"{receiver.url('/gone', host=f'me:{CANARY}@127.0.0.1')}{token}"
    receiver.replies[f"/gone{token}"] = [410]
    answers: dict[str, Any] = {}

    def post(job_id: str, graph: dict[str, Any], status: int, **keys: Any) -> None:
        body = {"prompt": graph, "id": job_id, **keys}
        answers[job_id] = server.post("/prompt", body, headers=trace)
        assert answers[job_id].status_code == status, answers[job_id].text[:2000]

    post("plain", picture(), 200)
    post("raised", failing(server.engine), 500)
    post("refused", {"1": node("Nope")}, 400)
    running = later(post, "stopped", slow(server.engine, 30), 499)
    wait_phase(server, "stopped", "running")
    assert server.post("/jobs/stopped/cancel", None).status_code == 200
    running.result(20)
    post("told", picture(), 202, **told)
    post("given-up", picture(), 202, **{**told, "webhook_v2": gone})
    target = store.url(f"/up-{CANARY}", user=f"me:{CANARY}@")
    post("stored", picture(), 200, http_upload={"url_prefix": target})
    for job_id in ("told", "given-up"):
        wait_phase(server, job_id, "succeeded")
    wait_until("both were tried", lambda: len(receiver.posts) == 2)
    wait_until("one is given up", lambda: figures(server).get(DEAD) == 1)
    return answers


DEAD = ("comfyfn_webhook_letters", "dead")


def figures(server: LiveServer) -> dict[tuple[str, ...], float]:
    """Scrape the figures: by the sample's name and its labels' values, in the labels' order."""
    families = text_string_to_metric_families(server.get("/metrics").text)
    return {
        (one.name, *(one.labels[name] for name in sorted(one.labels))): one.value
        for family in families
        for one in family.samples
    }


@pytest.fixture(scope="module", params=BOTH)
def lived(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lived]:
    """Run a server from its start to its end, and give what was seen."""
    if request.param == "comfyui" and not COMFY_HOME:
        pytest.skip("no real ComfyUI: COMFY_HOME is not set")
    collector = Collector()
    env = {
        "LOG_FORMAT": "json",
        "INSTANCE_ID": "worker-7",
        "URL_ALLOW_HOSTS": "127.0.0.1",
        "WEBHOOK_SECRET": SECRET,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    home = tmp_path_factory.mktemp(f"seen-{request.param}")
    try:
        with threaded(receiving()) as receiver, threaded(storing()) as store:
            with live_server(home, request.param, **env) as server:
                answers = live(server, receiver, store)
                scrape = server.get("/metrics")
                seen = figures(server)
            spans = collector.spans
        found = re.compile(r"comfyfn-jobs/([\da-f]{32})/")
        bodies = [answer.text for answer in answers.values()]
        bodies += [post.body.decode() for post in receiver.posts]
        uids = {uid for body in bodies for uid in found.findall(body)}
        yield Lived(
            request.param,
            answers,
            seen,
            scrape,
            server.log.read_text().splitlines(),
            receiver.posts,
            spans,
            uids,
        )
    finally:
        collector.close()


# -- figures --------------------------------------------------------------------------------------


def test_each_outcome_is_counted_once(lived: Lived) -> None:
    """By outcome, code and adapter: the library's own parser reads it."""
    counted = {key: value for key, value in lived.figures.items() if key[0] == "comfyfn_jobs_total"}
    assert counted == {
        ("comfyfn_jobs_total", "http", "", "succeeded"): 4,
        ("comfyfn_jobs_total", "http", "execution_error", "failed"): 1,
        ("comfyfn_jobs_total", "http", "invalid_workflow", "failed"): 1,
        ("comfyfn_jobs_total", "http", "cancelled", "cancelled"): 1,
    }
    for outcome, count in (("succeeded", 4), ("failed", 2), ("cancelled", 1)):
        assert lived.figure("job_seconds_count", outcome) == count
    assert (lived.figure("jobs_running"), lived.figure("jobs_waiting")) == (0, 0)


def test_stages_nodes_and_bytes_are_counted(lived: Lived) -> None:
    """Each phase of each job, each node that ran, what went where."""
    assert lived.figure("job_phase_seconds_count", "received") == 7
    assert lived.figure("job_phase_seconds_count", "delivering") == 4
    assert lived.figure("node_seconds_count", "SaveImage") == 4
    assert 0 < lived.figure("gpu_seconds_total") < 60
    body = lived.answers["plain"].json()
    stored = lived.answers["stored"].json()
    assert lived.figure("output_bytes_total", "inline") == body["outputs"][0]["bytes"]
    assert lived.figure("output_bytes_total", "http_upload") == stored["outputs"][0]["bytes"]
    assert lived.figure("uploads_total", "stored", "http_upload") == 1
    assert lived.figure("upload_seconds_total", "http_upload") > 0


def test_webhooks_engine_and_memory_are_counted(lived: Lived) -> None:
    """What was delivered, what was given up, boots, and who this is."""
    assert lived.figure("webhook_tries_total", "delivered") == 1
    assert lived.figure("webhook_tries_total", "dead") == 1
    assert lived.figure("webhook_letters", "pending") == 0
    assert lived.figure("webhook_letters", "dead") == 1
    assert lived.figure("engine_boots_total") == 1
    assert lived.figure("engine_restarts_total") == 0
    assert lived.figure("boot_seconds", "total") > 0
    assert lived.figure("ready") == 1
    for process in ("server", "engine"):
        now = lived.figure("resident_memory_bytes", process)
        assert 10e6 < now <= lived.figure("resident_memory_peak_bytes", process)
    about = [key for key in lived.figures if key[0] == "comfyfn_info"]
    assert len(about) == 1
    assert "worker-7" in about[0]
    assert lived.scrape.headers["content-type"].startswith("text/plain; version=0.0.4")


# -- lines of the log -----------------------------------------------------------------------------


def test_every_line_is_json(lived: Lived) -> None:
    """The engine's own lines, too, from the first to the last."""
    assert len(lived.parsed) == len(lived.lines) > 20
    for line in lived.parsed:
        assert {"time", "level", "logger", "message", "instance"} <= set(line)
        assert line["instance"] == "worker-7"
    assert {line["logger"] for line in lived.parsed} >= {"comfyfn.comfyui", "comfyfn.service"}


def test_lines_of_a_job_carry_its_id_and_its_trace(lived: Lived) -> None:
    """Ours of its end, of its webhook, and what ComfyUI prints while it runs."""
    by_job: dict[str, list[dict[str, Any]]] = {name: [] for name in JOBS}
    for line in lived.parsed:
        if "job_id" in line:
            by_job[line["job_id"]].append(line)
    for line in lived.parsed:
        named = re.match(r"job ([\w-]+):", line["message"])
        assert named is None or line["job_id"] == named[1]
        if line["logger"] == "comfyfn.outbox" and "to http" in line["message"]:
            assert line["job_id"] in {"told", "given-up"}
    for name, lines in by_job.items():
        assert any(line["logger"] == "comfyfn.service" for line in lines), name
        assert {line["trace_id"] for line in lines if "trace_id" in line} == {CALLERS[3:35]}
    for name in ("plain", "told", "stored"):
        printed = [one for one in by_job[name] if one["logger"] == "comfyfn.comfyui"]
        assert any("executed in" in line["message"] for line in printed), name
    raised = [one for one in by_job["raised"] if one["logger"] == "comfyfn.comfyui"]
    word = "raised here" if lived.engine == "embedded" else "Traceback"
    assert any(word in line["message"] for line in raised)
    (stored,) = [one for one in by_job["stored"] if one["logger"] == "comfyfn.delivery"]
    assert stored["message"].startswith("stored ")
    (given_up,) = [one for one in by_job["given-up"] if "given up" in one["message"]]
    assert (given_up["level"], given_up["logger"]) == ("error", "comfyfn.outbox")


def test_no_line_and_no_figure_has_what_is_secret(lived: Lived) -> None:
    """Neither the names of jobs' folders, which nobody may guess, nor what callers entrusted."""
    text = "\n".join(lived.lines) + lived.scrape.text

    assert len(lived.uids) == 4
    assert not [uid for uid in lived.uids if uid in text]
    assert CANARY not in text
    assert SECRET not in text
    assert SECRET.removeprefix("whsec_") not in text


# -- traces ---------------------------------------------------------------------------------------


def test_callers_trace_goes_on(lived: Lived) -> None:
    """In the answer, whatever it is, and to the receiver of the webhook: the same trace, a span."""
    for name, answer in lived.answers.items():
        theirs = answer.headers.get("traceparent", "")
        assert re.fullmatch(rf"00-{CALLERS[3:35]}-[\da-f]{{16}}-01", theirs), name
        assert theirs != CALLERS
    headers = [post.headers["traceparent"] for post in lived.posts]
    answers = [lived.answers[name].headers["traceparent"] for name in ("told", "given-up")]
    assert sorted(headers) == sorted(answers)


def test_spans_reach_the_collector(lived: Lived) -> None:
    """One of each job below the caller's, with its outcome; its phases and nodes below that."""
    jobs = {
        attribute.value.string_value: span
        for span in lived.spans
        for attribute in span.attributes
        if attribute.key == "comfyfn.job.id"
    }
    assert set(jobs) == set(JOBS)
    assert {span.trace_id.hex() for span in lived.spans} == {CALLERS[3:35]}
    for name, span in jobs.items():
        assert span.name == "comfyfn.job"
        assert span.parent_span_id.hex() == CALLERS[36:52]
        assert lived.answers[name].headers["traceparent"].split("-")[2] == span.span_id.hex()
    facts = {attribute.key: attribute.value for attribute in jobs["raised"].attributes}
    assert facts["comfyfn.error.code"].string_value == "execution_error"
    below = [one for one in lived.spans if one.parent_span_id == jobs["plain"].span_id]
    assert {one.name for one in below} >= {"comfyfn.received", "comfyfn.running"}
    (running,) = [one for one in below if one.name == "comfyfn.running"]
    nodes = [one.name for one in lived.spans if one.parent_span_id == running.span_id]
    assert nodes == ["node EmptyImage", "node SaveImage"]
    assert CANARY not in str(lived.spans)


def test_trace_of_its_own_where_the_callers_cannot_be_read(server: LiveServer) -> None:
    """A header that is none is as good as no header; the answer of an error has one as well."""
    for sent in ("", "00-nonsense", CALLERS.replace("0af7", "xxxx")):
        answer = server.post(
            "/prompt", {"prompt": {"1": node("Nope")}}, headers={"traceparent": sent}
        )
        assert_error(answer, 400, "invalid_workflow")
        theirs = answer.headers["traceparent"]
        assert re.fullmatch(r"00-[\da-f]{32}-[\da-f]{16}-0[01]", theirs)
        assert CALLERS[3:35] not in theirs
