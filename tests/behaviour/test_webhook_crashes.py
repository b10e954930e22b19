"""The server dies, or is asked to stop, amid jobs with webhooks: each is told one end.

What can be known from outside: a letter leaves the disk only when its receiver has answered. So at
any kill, each job that was accepted has been told already or is on disk; and in its next life a
server tells only of what was on disk, or came since. A receiver may hear twice only of what it had
answered so late that the server died before it noted it; never of two different ends.
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from behaviour.driving import wait_phase, wait_until
from behaviour.graphs import fault, picture, slow
from behaviour.hooks import (
    accept,
    hook_env,
    kind_of,
    letters,
    noted,
    posts_of,
    receiver,
    taken,
    told,
    wait_gone,
)
from behaviour.lone_engine import LoneEngine
from live import LiveServer, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from receiver import Receiver

KILLS = 20
SENDERS = 3
LOST = "worker_lost"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """Give a receiver that answers everything with 200."""
    with receiver() as running:
        yield running


class Lives:
    """One worker after the other on the same folders."""

    def __init__(self, home: Path, **env: str) -> None:
        self._home = home
        self._env = env
        self.state = home / "state"
        self.now: LiveServer | None = None

    def start(self, *, ready: bool = True, **env: str) -> LiveServer:
        """Begin a new life; on other ports, since the last engine may not be gone yet."""
        settings = hook_env(self.state, LOG_LEVEL="info") | self._env | env
        self.now = LiveServer(self._home, **settings)
        return self.now.start(ready=ready)

    def kill(self) -> None:
        """End it by `kill -9`."""
        assert self.now is not None
        assert self.now.process is not None
        self.now.process.kill()
        self.now.process.wait(10)

    def end(self) -> None:
        """End it orderly, where it is still there."""
        if self.now is not None and self.now.process is not None:
            self.now.stop()


@pytest.fixture
def lives(tmp_path: Path) -> Iterator[Lives]:
    """Give a worker that may die; it is not started yet."""
    one = Lives(tmp_path)
    yield one
    one.end()


def status_of(server: LiveServer, job_id: str) -> dict[str, Any]:
    """Give what a server knows of a job."""
    answer = server.get(f"/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    known: dict[str, Any] = answer.json()
    return known


# -- kill -9 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reply", [503, "hang"])
def test_killed_before_the_delivery(lives: Lives, hook: Receiver, reply: Any) -> None:
    """The run has ended, its receiver takes nothing yet: it is told by the next start, once."""
    hook.replies["/hook"] = [reply]
    server = lives.start(WEBHOOK_TIMEOUT_S="1")
    accept(server, picture(), "done", webhook_v2=hook.url())
    wait_phase(server, "done", "succeeded")
    # Not at the first: the record is written just after the letter.
    wait_until("it was tried", lambda: len(posts_of(hook, "done")) > 1)
    lives.kill()
    hook.replies["/hook"] = [200]
    server = lives.start()
    assert told(hook, "done")["type"] == "prompt.complete"
    wait_gone(lives.state)
    assert taken(hook)["done"] == 1
    known = status_of(server, "done")
    assert known["status"] == "succeeded"
    assert server.get(known["outputs"][0]["href"]).status_code == 200
    assert noted(server, "done")["status"] == "delivered"


def test_killed_mid_run(lives: Lives, hook: Receiver) -> None:
    """Those under way have failed, and may be sent again; so do the record and the webhook say."""
    server = lives.start()
    for job_id in ("runs", "waits"):
        accept(server, slow("embedded", 30), job_id, webhook_v2=hook.url(), webhook_extra=job_id)
    headers = {"Prefer": "respond-async"}
    body = {"prompt": slow("embedded", 30), "id": "unhooked"}
    assert server.post("/prompt", body, headers=headers).status_code == 202
    wait_phase(server, "runs", "running")
    lives.kill()
    assert not hook.posts
    server = lives.start()
    for job_id in ("runs", "waits"):
        body = told(hook, job_id)
        assert (body["type"], body["code"]) == ("prompt.failed", LOST)
        assert body["retryable"] is True
        assert body["webhook_extra"] == job_id
    for job_id in ("runs", "waits", "unhooked"):
        known = status_of(server, job_id)
        assert known["status"] == "failed"
        assert (known["error"]["code"], known["error"]["retryable"]) == (LOST, True)
    wait_gone(lives.state)
    assert taken(hook) == {"runs": 1, "waits": 1}
    for job_id in ("runs", "waits"):
        wait_until("it is noted", lambda: status_of(server, job_id)["webhooks"])  # noqa: B023
        assert noted(server, job_id) == {"status": "delivered", "tries": 1}
    # Sent again, as it says, the same id is a new run.
    accept(server, picture(), "runs", webhook_v2=hook.url("/again"))
    wait_until("it is told anew", lambda: taken(hook)["runs"] == 2)
    assert kind_of(posts_of(hook, "runs")[-1]) == "prompt.complete"


def test_engine_that_cannot_start_holds_up_no_webhook(
    lives: Lives, hook: Receiver, tmp_path: Path
) -> None:
    """What killed the worker may keep its successor from running: it tells, all the same."""
    hook.replies["/done"] = ["slam"]
    server = lives.start()
    accept(server, picture(), "done", webhook_v2=hook.url("/done"))
    wait_until("it was tried", lambda: len(posts_of(hook, "done")) > 1)
    accept(server, slow("embedded", 30), "runs", webhook_v2=hook.url("/runs"))
    wait_phase(server, "runs", "running")
    lives.kill()
    hook.replies["/done"] = [200]
    broken = {"ENGINE": "auto", "CMD": quoted(["/bin/sh", "-c", "exit 1"]), "ALLOW_CPU": "true"}
    models = {"ENGINE_RESTARTS": "0", "MODEL_DIR": str(tmp_path / "models")}
    server = lives.start(ready=False, **broken, **models)
    assert told(hook, "done")["type"] == "prompt.complete"
    assert told(hook, "runs")["code"] == LOST
    server.wait_for("/health", status=500)  # nothing that is told waits for that
    assert status_of(server, "done")["status"] == "succeeded"
    assert status_of(server, "runs")["error"]["code"] == LOST


class Stream:
    """Callers who send jobs one after the other, until their server is gone.

    Attributes:
        sent, accepted: ids; of the latter, the 202 was read.
    """

    def __init__(self, server: LiveServer, hook: str, life: int) -> None:
        self.sent: set[str] = set()
        self.accepted: set[str] = set()
        self._server, self._hook, self._life = server, hook, life
        self._threads = [threading.Thread(target=self._send, args=(n,)) for n in range(SENDERS)]
        for thread in self._threads:
            thread.start()

    def _send(self, sender: int) -> None:
        kinds = (picture, lambda: slow("embedded", 0.1), lambda: fault("TestRaise", message="x"))
        with httpx.Client(trust_env=False, verify=False, timeout=20) as client:
            for number in range(1000):
                job_id = f"{self._life}-{sender}-{number}"
                body = {"prompt": kinds[number % 3](), "id": job_id, "webhook_v2": self._hook}
                self.sent.add(job_id)
                try:
                    answer = client.post(f"{self._server.url}/prompt", json=body)
                except httpx.TransportError:
                    return
                assert answer.status_code == 202
                self.accepted.add(job_id)

    def join(self) -> None:
        """Wait until they have seen that it is gone."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def settle(hook: Receiver) -> int:
    """Wait until all that was sent before now is received; tell how many posts there were."""
    answer = httpx.post(hook.url("/settle"), headers={"webhook-id": "settle"}, trust_env=False)
    assert answer.status_code == 200  # connections are taken in order
    wait_until("connections are over", lambda: hook.open == 0)
    return len(hook.posts)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[LoneEngine]:
    """Give an engine that outlives its servers: they start sooner."""
    lone = LoneEngine(tmp_path / "engine").start()
    yield lone
    lone.kill()


@pytest.mark.timeout(150)
def test_killed_at_any_moment(lives: Lives, hook: Receiver, engine: LoneEngine) -> None:
    """Over twenty kills, in streams of jobs and in boots, each job is told one end."""
    dice = random.Random(4)
    attached = {"ENGINE": "auto", "COMFY_URL": engine.url}
    sent: set[str] = set()
    accepted: set[str] = set()
    left: set[str] = set()
    seen = 0
    for life in range(KILLS):
        if life % 4 == 3:
            lives.start(ready=False, **attached)
            time.sleep(dice.uniform(0, 0.5))  # the moment of the kill is the point
            lives.kill()
            came: set[str] = set()
        else:
            stream = Stream(lives.start(**attached), hook.url(), life)
            if life % 4:
                wait_until("jobs are accepted", lambda: stream.accepted)  # noqa: B023
            time.sleep(dice.uniform(0, 0.4))
            lives.kill()
            stream.join()
            came = stream.sent
            accepted |= stream.accepted
        sent |= came
        begun, seen = seen, settle(hook)
        told_now = Counter(post.id for post in hook.posts[begun:seen] if post.id != "settle")
        assert set(told_now) <= left | came, "told again although it was noted as told"
        assert max(told_now.values(), default=1) == 1, "told twice within a life"
        left = {letter.message_id for letter in letters(lives.state)}
        assert not accepted - left - set(taken(hook)), "neither told nor on disk"
    server = lives.start(**attached)
    wait_gone(lives.state)
    assert_one_end_each(server, hook, sent, accepted)


def assert_one_end_each(
    server: LiveServer, hook: Receiver, sent: set[str], accepted: set[str]
) -> None:
    """Make sure that every job was told one end, and that its record does not say otherwise."""
    assert not accepted - set(taken(hook))
    ends: dict[str, dict[str, Any]] = {}
    for post in hook.taken:
        if post.id != "settle":
            post.verify()
            body = json.loads(post.body)
            assert ends.setdefault(post.id, body)["type"] == body["type"]
    with httpx.Client(base_url=server.url, trust_env=False, verify=False) as client:
        for job_id in sent:
            answer = client.get(f"/jobs/{job_id}")
            if job_id not in accepted and answer.status_code == 404:
                assert job_id not in ends
                continue
            status, error = answer.json()["status"], answer.json()["error"]
            if job_id not in ends:
                assert job_id not in accepted
                assert (status, error["code"]) == ("failed", LOST)
            elif status == "succeeded":
                assert ends[job_id]["type"] == "prompt.complete"
            else:  # the letter is written before the record, and a kill may come between
                assert status == "failed"
                assert error["code"] in {LOST, ends[job_id].get("code")}
    assert any(end["type"] == "prompt.complete" for end in ends.values())
    assert any(end.get("code") == LOST for end in ends.values())


# -- SIGTERM --------------------------------------------------------------------------------------

UNDER_WAY = 20


def begin_deliveries(lives: Lives, hook: Receiver, **env: str) -> LiveServer:
    """Have twenty jobs done, whose receiver takes a second for each post."""
    hook.delay_s = 1.0
    server = lives.start(**env)
    for number in range(UNDER_WAY):
        accept(server, picture(), f"job-{number}", webhook_v2=hook.url())
    for number in range(UNDER_WAY):
        wait_phase(server, f"job-{number}", "succeeded")
    wait_until("some are under way", lambda: hook.open > 2)
    return server


def test_sigterm_waits_for_deliveries(lives: Lives, hook: Receiver) -> None:
    """There is time enough: all are delivered, each once, before the server is gone."""
    server = begin_deliveries(lives, hook)
    assert len(taken(hook)) < UNDER_WAY
    assert server.stop() == 0
    assert taken(hook) == {f"job-{number}": 1 for number in range(UNDER_WAY)}
    assert not letters(lives.state)


def test_sigterm_without_time_leaves_them_to_the_next_start(lives: Lives, hook: Receiver) -> None:
    """None is lost; only one that was answered as it was given up may come twice."""
    server = begin_deliveries(lives, hook, DRAIN_TIMEOUT_S="1")
    begun = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - begun < 8
    settle(hook)
    left = {letter.message_id for letter in letters(lives.state)}
    assert left
    assert all(not letter.promise and not letter.dead for letter in letters(lives.state))
    before = taken(hook)
    hook.delay_s = 0.0
    lives.start()
    wait_gone(lives.state)
    for number in range(UNDER_WAY):
        job_id = f"job-{number}"
        assert taken(hook)[job_id] == (before[job_id] + 1 if job_id in left else 1)


def test_sigterm_while_a_job_runs(lives: Lives, hook: Receiver) -> None:
    """It ends within the limit, and so is told before the server is gone."""
    server = lives.start(DRAIN_TIMEOUT_S="20")
    accept(server, slow("embedded", 1), "runs", webhook_v2=hook.url())
    accept(server, picture(), "waits", webhook_v2=hook.url())
    wait_phase(server, "runs", "running")
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(15) == 0
    for job_id in ("runs", "waits"):
        assert kind_of(posts_of(hook, job_id)[0]) == "prompt.complete"
    assert taken(hook) == {"runs": 1, "waits": 1}
    assert not letters(lives.state)
    server = lives.start()
    assert [status_of(server, one)["status"] for one in ("runs", "waits")] == ["succeeded"] * 2


def test_sigterm_over_a_jobs_head(lives: Lives, hook: Receiver) -> None:
    """A job that is longer than the limit has failed, is told so at once, and may be sent again."""
    server = lives.start(DRAIN_TIMEOUT_S="0.5")
    accept(server, slow("embedded", 60), "long", webhook_v2=hook.url())
    wait_phase(server, "long", "running")
    assert server.stop() == 0
    assert taken(hook)["long"] == 1
    body = told(hook, "long")
    assert (body["type"], body["code"], body["retryable"]) == ("prompt.failed", "draining", True)
    assert not letters(lives.state)
    assert status_of(lives.start(), "long")["status"] == "failed"
