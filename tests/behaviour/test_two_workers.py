"""Two workers that share STATE_URL: whichever is asked, it is as if there were one."""

from __future__ import annotations

import base64
import contextlib
import secrets
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson
import pytest
from behaviour.driving import assert_error, later, wait_phase, wait_until
from behaviour.graphs import Graph, empty, fresh_color, node, picture, save, slow
from behaviour.test_events import follow
from live import LiveServer
from prometheus_client.parser import text_string_to_metric_families
from receiver import SECRET, receiving
from sources.stores import s3_store
from sources.threaded import threaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import httpx

KEYS = {
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "AK",
    "AWS_SECRET_ACCESS_KEY": "canary4711secret",
}


@dataclass(frozen=True, slots=True)
class Workers:
    """Servers with folders of their own and one STATE_URL.

    Attributes:
        env: what they share.
    """

    home: Path
    env: dict[str, str]
    servers: list[LiveServer] = field(default_factory=list)

    def start(self, name: str, **env: str) -> LiveServer:
        """Start one more."""
        server = LiveServer(self.home / name, INSTANCE_ID=name, **{**self.env, **env})
        self.servers.append(server)
        return server.start()


@contextlib.contextmanager
def workers(home: Path, place: str) -> Iterator[Workers]:
    """Run workers for the time of a block, over a folder or over a store that speaks S3."""
    with contextlib.ExitStack() as stack:
        env = {"STATE_URL": str(home / "state")}
        if place == "s3":
            store = stack.enter_context(s3_store())
            store.put("state", "others", b"")
            env = {"STATE_URL": "s3://state/jobs", "AWS_ENDPOINT_URL": store.endpoint, **KEYS}
        env |= {"URL_ALLOW_HOSTS": "127.0.0.1", "WEBHOOK_SECRET": SECRET}
        running = Workers(home, env)
        try:
            yield running
        finally:
            for server in running.servers:
                if server.process is not None and server.process.poll() is None:
                    server.stop()


@pytest.fixture(scope="module", params=["directory", "s3"])
def two(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, LiveServer]]:
    """Give two workers that live as long as the tests."""
    with workers(tmp_path_factory.mktemp(f"two-{request.param}"), request.param) as running:
        yield running.start("a"), running.start("b")


@pytest.fixture
def job_id() -> str:
    """An id of the test's own."""
    return f"job {secrets.token_hex(4)}/ü"


def keyed(server: LiveServer, key: str, graph: Graph, **headers: str) -> httpx.Response:
    """POST a graph under an idempotency key."""
    headers = {"Idempotency-Key": key, **headers}
    return server.post("/prompt", {"prompt": graph}, headers=headers)


def runs(*servers: LiveServer) -> int:
    """Count the saves that the engines of servers have run."""
    text = "".join(server.get("/metrics").text for server in servers)
    return sum(
        int(one.value)
        for family in text_string_to_metric_families(text)
        for one in family.samples
        if one.name == "comfyfn_node_seconds_count" and one.labels["class_type"] == "SaveImage"
    )


def background(server: LiveServer, job_id: str, graph: Graph, **keys: Any) -> None:
    """Begin a job that nobody waits for."""
    body = {"prompt": graph, "id": job_id, **keys}
    answer = server.post("/prompt", body, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202, answer.text


def path_of(job_id: str) -> str:
    """Escape an id for a URL."""
    return quote(job_id, safe="")


def pictures(width: int = 256) -> Graph:
    """Give a graph of two pictures."""
    first, second = fresh_color(), fresh_color()
    return {
        "1": empty(width, 64, first),
        "2": empty(32, 32, second),
        "8": save("1", "one"),
        "9": save("2", "two"),
    }


def test_same_key_at_once_on_both_is_one_run(two) -> None:
    """Both callers get the same pictures, and one of them is told that it was no run of its own."""
    a, b = two
    before, graph = runs(a, b), slow("embedded", 0.7)
    waiting = [later(keyed, server, "at-once", graph) for server in (a, b, a, b)]
    answers = [one.result(50) for one in waiting]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({tuple(answer.json()["images"]) for answer in answers}) == 1
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert (replayed.count("true"), replayed.count(None)) == (3, 1)
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert runs(a, b) == before + 1


def test_other_worker_answers_from_what_is_stored(two) -> None:
    """The same key again, as JSON and raw: byte for byte what the first caller got."""
    a, b = two
    graph = pictures()
    first = keyed(a, "stored", graph)
    before = runs(a, b)
    again = keyed(b, "stored", graph)
    raw = keyed(b, "stored", graph, Accept="image/png")

    assert (first.status_code, again.status_code, raw.status_code) == (200, 200, 200)
    assert again.headers["idempotent-replayed"] == "true"
    told, known = first.json(), again.json()
    for key in ("id", "images", "filenames", "outputs"):
        assert known[key] == told[key], key
    assert raw.content == base64.b64decode(told["images"][0])
    assert runs(a, b) == before


def test_same_key_with_another_payload_is_a_conflict(two) -> None:
    """On whichever worker; a key never stands for two things."""
    a, b = two
    assert keyed(a, "conflict", picture()).status_code == 200

    body = assert_error(keyed(b, "conflict", picture()), 409, "conflict")
    assert not body["retryable"]


def test_other_worker_tells_the_job_and_gives_its_outputs(two, job_id: str) -> None:
    """Its record, the list, a whole output and a part of one, all of them, and its result."""
    a, b = two
    background(a, job_id, pictures())
    path = f"/jobs/{path_of(job_id)}"
    wait_until("it is over on the other", lambda: b.get(path).json()["status"] == "succeeded")
    here, there = a.get(path).json(), b.get(path).json()

    assert (there["id"], there["instance"], here["instance"]) == (job_id, "a", "a")
    for key in ("status", "outputs", "error", "created_at", "finished_at"):
        assert there[key] == here[key], key
    assert job_id in [one["id"] for one in b.get("/jobs?status=over").json()["jobs"]]
    for output in there["outputs"]:
        whole = b.get(output["href"]).content
        assert whole == a.get(output["href"]).content
        assert (len(whole), whole[:4]) == (output["bytes"], b"\x89PNG")
        part = b.get(output["href"], headers={"Range": "bytes=10-29"})
        assert (part.status_code, part.content) == (206, whole[10:30])
        assert part.headers["content-range"] == f"bytes 10-29/{len(whole)}"
    result = b.get(f"{path}/result").json()
    assert result["images"] == [
        base64.b64encode(a.get(output["href"]).content).decode() for output in there["outputs"]
    ]
    assert b.get(f"{path}/archive").content[:2] == b"PK"


def test_other_worker_tells_the_events(two) -> None:
    """What happened, while it runs and after it, to a listener who comes again, too."""
    a, b = two
    job_id = f"events-{secrets.token_hex(4)}"
    background(a, job_id, slow("embedded", 1.5))
    wait_until("the other knows it", lambda: b.get(f"/jobs/{job_id}").status_code == 200)
    events = follow(b, job_id)

    kinds = [kind for _, kind, _ in events]
    assert kinds[-1] == "succeeded"
    phases = [data["phase"] for _, kind, data in events if kind == "phase"]
    order = ["fetching", "running", "collecting", "delivering"]
    assert [phase for phase in phases if phase in order] == order
    seqs = [seq for seq, _, _ in events]
    assert seqs == sorted(set(seqs))
    assert follow(b, job_id, seqs[2]) == events[3:]
    assert events[-1] == follow(a, job_id)[-1]


def test_cancel_on_the_other_worker_stops_it(two) -> None:
    """The worker that has it heeds it within seconds; the engine is free for the next."""
    a, b = two
    job_id = f"stop-{secrets.token_hex(4)}"
    background(a, job_id, slow("embedded", 60))
    wait_phase(a, job_id, "running")
    told = b.post(f"/jobs/{job_id}/cancel", None)

    assert (told.status_code, told.json()["cancelled"]) == (200, True)
    wait_phase(a, job_id, "cancelled", limit_s=15)
    wait_phase(b, job_id, "cancelled", limit_s=15)
    assert a.prompt(picture()).status_code == 200
    assert_error(b.get(f"/jobs/{job_id}/result"), 499, "cancelled")


def test_nobody_knows_an_id_that_never_came(two) -> None:
    """Both say so, and that they would know it."""
    for server in two:
        body = assert_error(server.get("/jobs/nobody"), 404, "not_found")
        assert body["details"]["shared"] is True


@pytest.mark.parametrize("place", ["directory", "s3"])
def test_worker_that_was_killed_tells_its_jobs_at_its_next_start(
    tmp_path: Path, place: str
) -> None:
    """At once, on both, retryable; its receiver is told, and the key may be run anew."""
    with threaded(receiving()) as receiver, workers(tmp_path, place) as running:
        a, b = running.start("a"), running.start("b")
        graph = slow("embedded", 40)
        told = {"id": "lost", "webhook_v2": receiver.url()}
        key = {"Idempotency-Key": "lost"}
        assert a.post("/prompt", {"prompt": graph, **told}, headers=key).status_code == 202
        wait_phase(a, "lost", "running")
        wait_phase(b, "lost", "running")
        a.stop(signal.SIGKILL)
        assert b.get("/jobs/lost").json()["status"] == "running"  # it cannot know yet
        a.start()

        for server in (a, b):
            wait_phase(server, "lost", "failed", limit_s=2)
            error = server.get("/jobs/lost").json()["error"]
            assert (error["code"], error["retryable"]) == ("worker_lost", True)
        wait_until("the receiver is told", lambda: receiver.posts)
        (post,) = receiver.posts
        post.verify()
        body = orjson.loads(post.body)
        assert (body["type"], body["id"]) == ("prompt.failed", "lost")
        assert (body["code"], body["retryable"]) == ("worker_lost", True)
        again = b.post("/prompt", {"prompt": graph, **told}, headers=key)
        assert again.status_code == 202
        wait_phase(b, "lost", "running")
        assert b.post("/jobs/lost/cancel", None).json()["cancelled"] is True


def test_with_state_of_its_own_a_worker_says_why_it_cannot_know(tmp_path: Path) -> None:
    """An unknown id is a 404 that names the instance, and what would have to be set."""
    server = LiveServer(tmp_path, INSTANCE_ID="lonely")
    try:
        server.start()
        for path in ("/jobs/nobody", "/jobs/nobody/events", "/jobs/nobody/outputs/a.png"):
            body = assert_error(server.get(path), 404, "not_found")
            assert body["details"] == {"instance": "lonely", "shared": False}
            assert "lonely" in body["error"]
            assert "STATE_URL" in body["hint"]
        stop = server.post("/jobs/nobody/cancel", None)
        assert_error(stop, 404, "not_found")
    finally:
        server.stop()


def test_state_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A STATE_URL that cannot be reached: the worker is not ready, and says why."""
    env = {"STATE_URL": "s3://state/jobs", "AWS_ENDPOINT_URL": "http://127.0.0.1:9", **KEYS}
    server = LiveServer(tmp_path, **env)
    try:
        server.start(ready=False)
        wait_until("it has given up", lambda: server.get("/health").status_code == 500, 40)
        report = server.get("/health").json()
        assert "STATE_URL" in report["reason"] or "s3://state" in report["reason"], report
        refused = server.prompt({"1": node("EmptyImage")})
        assert refused.status_code == 503
        assert KEYS["AWS_SECRET_ACCESS_KEY"] not in server.log.read_text()
    finally:
        server.stop()
