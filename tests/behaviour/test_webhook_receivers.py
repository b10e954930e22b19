"""Receivers of webhooks, good, slow and broken: no job is touched, and nothing is lost or doubled.

Every post is verified as receivers do it, by the library of the standard's authors.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.driving import assert_picture, color_of, wait_phase, wait_until
from behaviour.graphs import empty, fault, fresh_color, load, node, picture, save, slow
from behaviour.hooks import (
    Listener,
    accept,
    drips_its_body,
    hangs_up_early,
    hook_env,
    kind_of,
    letters,
    listed,
    listener,
    noted,
    outbox,
    posts_of,
    reads_slowly,
    receiver,
    taken,
    talks_nonsense,
    told,
    wait_gone,
)
from live import LiveServer, alive, free_port, live_server
from PIL import Image
from sources.puts import Store, storing
from sources.threaded import threaded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from receiver import Receiver

MAX_AGE_S = 6.0
"""Then a webhook is given up; every try has a second."""
REFUSED = {"404": 2, "redirect-out": 2, "redirect-in": 2, "410": 1}
"""Answers that mean no, and how often each is asked for."""
SILENT = ["hang", "drip", "cut", "slam"]
DEAF = ["slow-reader", "early-hangup", "nonsense", "tls-nonsense", "nobody"]
LARGE = {"slow-reader", "early-hangup"}
BROKEN = [*REFUSED, *SILENT, *DEAF]
LATE: dict[str, list[Any]] = {
    "429": [(429, "Retry-After: 2\r\n"), 200],
    "500": [500, 500, 200],
    "503-dated": [(503, "Retry-After: Fri, 01 Jan 2021 00:00:00 GMT\r\n"), 204],
    "hang-once": ["hang", 200],
    "cut-once": ["cut", 200],
    "slam-once": ["slam", "slam", 200],
    "redirect-once": [(307, "Location: /elsewhere\r\n"), 200],
}
"""Replies of receivers that come round."""


@dataclass
class Ward:
    """A worker all of whose receivers are ill, each in its own way.

    Attributes:
        good: what comes round; its paths are the keys of LATE.
        bad: what never does; its paths are those of REFUSED and SILENT.
        lured: where a redirect leads.
        colors: of the jobs that were accepted, by id.
        given_up: see the function of that name.
    """

    server: LiveServer
    state: Path
    good: Receiver
    bad: Receiver
    lured: Listener
    store: Store
    listeners: dict[str, Listener]
    colors: dict[str, int] = field(default_factory=dict)
    given_up: dict[str, dict[str, Any]] = field(default_factory=dict)

    def url(self, kind: str) -> str:
        """Give the webhook of a kind."""
        if kind in LATE:
            return self.good.url(f"/{kind}")
        if kind == "nobody":
            return f"http://127.0.0.1:{free_port()}/hook"
        if kind in self.listeners:
            scheme = "https" if kind.startswith("tls") else "http"
            return self.listeners[kind].url(scheme=scheme)
        return self.bad.url(f"/{kind}")

    def begin(self, kind: str) -> None:
        """Have a job accepted whose webhook is of a kind."""
        color = self.colors[kind] = fresh_color()
        graph = picture(color=color)
        if kind in LARGE:  # more than what fits between two sockets
            noise = node("TestNoise", width=1024, height=1024, seed=1)
            graph |= {"2": noise, "3": save("2", "noise")}
        accept(self.server, graph, kind, webhook_v2=self.url(kind))


@pytest.fixture(scope="module")
def ward(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    """Give the worker, with a job begun for each receiver."""
    home = tmp_path_factory.mktemp("ward")
    manners = {
        "slow-reader": reads_slowly,
        "early-hangup": hangs_up_early,
        "nonsense": talks_nonsense,
        "tls-nonsense": talks_nonsense,
        "drips-body": drips_its_body,
    }
    env = hook_env(
        home / "state", WEBHOOK_TIMEOUT_S="1", WEBHOOK_MAX_AGE_S=str(MAX_AGE_S), LOG_LEVEL="info"
    )
    with ExitStack() as stack:
        good, bad = stack.enter_context(receiver()), stack.enter_context(receiver())
        lured = stack.enter_context(listener(talks_nonsense))
        listeners = {name: stack.enter_context(listener(one)) for name, one in manners.items()}
        store = stack.enter_context(threaded(storing()))
        server = stack.enter_context(live_server(home / "server", **env))
        for kind, replies in LATE.items():
            good.replies[f"/{kind}"] = list(replies)
        for kind in SILENT:
            bad.replies[f"/{kind}"] = bad.replies[f"/b-{kind}"] = [kind]
        bad.replies["/404"], bad.replies["/410"] = [404], [410]
        away = f"Location: {lured.url()}\r\n"
        bad.replies["/redirect-out"] = [(302, away)]
        bad.replies["/redirect-in"] = [(307, "Location: http://169.254.169.254/latest/\r\n")]
        one = Ward(server, home / "state", good, bad, lured, store, listeners)
        for kind in [*BROKEN, *LATE, "drips-body"]:
            one.begin(kind)
        yield one


def given_up(ward: Ward) -> dict[str, dict[str, Any]]:
    """Wait until all that cannot arrive is given up; give the letters as the verb lists them."""
    if not ward.given_up:

        def dead() -> bool:
            return {one.message_id for one in letters(ward.state) if one.dead} >= set(BROKEN)

        wait_until("all is given up", dead, 40)
        ward.given_up = {one["message_id"]: one for one in listed(ward.state) if one["dead"]}
    return ward.given_up


def assert_kept(server: LiveServer, job_id: str, color: int) -> None:
    """Make sure that a job's result is all there."""
    record = server.get(f"/jobs/{job_id}").json()
    assert record["status"] == "succeeded"
    assert record["error"] is None
    output = next(one for one in record["outputs"] if one["title"] == "SaveImage")
    file = server.get(f"/jobs/{job_id}/outputs/{output['name']}")
    assert file.status_code == 200
    assert hashlib.sha256(file.content).hexdigest() == output["sha256"]
    assert color_of(Image.open(io.BytesIO(file.content)).convert("RGB")) == color


def test_jobs_go_on_beside_broken_receivers(ward: Ward) -> None:
    """All of them are being tried meanwhile; whoever waits for a picture notices nothing."""
    for number, kind in enumerate((*SILENT, *SILENT)):
        accept(ward.server, picture(), f"beside-{number}", webhook_v2=ward.bad.url(f"/b-{kind}"))
    begun = time.monotonic()
    for _ in range(20):
        color = fresh_color()
        assert_picture(ward.server.prompt(picture(color=color)), color)
    # One try of one webhook takes a second, and there are more than a dozen of them.
    assert time.monotonic() - begun < 10
    accept(ward.server, picture(), "between", webhook_v2=ward.good.url())
    assert told(ward.good, "between")["type"] == "prompt.complete"


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_arrive_is_given_up(ward: Ward, kind: str) -> None:
    """The process lives, the result is intact, and the letter is there and says why."""
    wait_phase(ward.server, kind, "succeeded")
    assert_kept(ward.server, kind, ward.colors[kind])
    letter = given_up(ward)[kind]
    assert letter["kind"] == "prompt.complete"
    assert letter["said"]
    entry = noted(ward.server, kind)
    assert entry == {"status": f"given up: {letter['said']}", "tries": letter["tries"]}
    assert ward.server.process is not None
    assert alive(ward.server.process.pid)
    assert_kept(ward.server, kind, ward.colors[kind])
    if kind in REFUSED:
        assert letter["tries"] == REFUSED[kind]
    else:
        assert letter["tries"] >= 2
    if kind in DEAF:
        assert kind == "nobody" or ward.listeners[kind].connections >= letter["tries"]
    else:
        assert len(posts_of(ward.bad, kind)) >= letter["tries"]
        for post in posts_of(ward.bad, kind):
            post.verify()


def test_redirects_are_never_followed(ward: Ward) -> None:
    """Neither out nor to the inside of the network: nobody was dialled."""
    for kind in ("redirect-out", "redirect-in"):
        assert "redirects are not followed" in given_up(ward)[kind]["said"]
    assert ward.lured.connections == 0
    assert not [post for post in ward.good.posts if post.path == "/elsewhere"]


def test_what_was_given_up_arrives_when_its_receiver_is_mended(ward: Ward) -> None:
    """Once, when it is sent again by the command line, while the server runs."""
    sent = [(kind, given_up(ward)[kind]["id"]) for kind in (*REFUSED, *SILENT)]
    for kind, _ in sent:
        ward.bad.replies[f"/{kind}"] = [200]
    said = outbox(ward.state, "resend", *(letter_id for _, letter_id in sent))
    assert said.startswith(f"{len(sent)} to be sent again")
    for kind, _ in sent:
        assert told(ward.bad, kind)["type"] == "prompt.complete"
    wait_gone(ward.state, *(kind for kind, _ in sent))
    assert all(taken(ward.bad)[kind] == 1 for kind, _ in sent)
    for kind, _ in sent:
        wait_until("it is known", lambda: noted(ward.server, kind)["status"] == "delivered")  # noqa: B023


@pytest.mark.parametrize("kind", LATE)
def test_receiver_that_comes_round_is_told_once(ward: Ward, kind: str) -> None:
    """Each try has the same id and body, and a signature of its own time."""
    body = told(ward.good, kind, 30)
    assert body["type"] == "prompt.complete"
    posts = posts_of(ward.good, kind)
    assert len(posts) == len(LATE[kind])
    assert taken(ward.good)[kind] == 1
    times = [int(post.headers["webhook-timestamp"]) for post in posts]
    assert times == sorted(times)
    assert times[-1] > times[0]
    if kind == "429":
        assert posts[1].at - posts[0].at >= 2
    assert_kept(ward.server, kind, ward.colors[kind])
    wait_gone(ward.state, kind)
    assert noted(ward.server, kind) == {"status": "delivered", "tries": len(posts)}


def test_answer_that_never_ends_is_an_answer(ward: Ward) -> None:
    """The status said it all: it is told once, whatever the receiver goes on to say."""
    wait_phase(ward.server, "drips-body", "succeeded")
    wait_gone(ward.state, "drips-body")
    assert ward.listeners["drips-body"].connections == 1


# -- every end ------------------------------------------------------------------------------------


def test_complete_tells_the_result(ward: Ward) -> None:
    """With what the caller wants back, signed by the caller's own secret."""
    color = fresh_color()
    secret = "whsec_" + "QUJD" * 8
    given = {"webhook_extra": {"mine": [1]}, "webhook_secret": secret}
    accept(ward.server, picture(color=color), "done", webhook_v2=ward.good.url("/own"), **given)
    wait_until("it is told", lambda: taken(ward.good)["done"])
    (post,) = posts_of(ward.good, "done")
    post.verify(secret)
    body = json.loads(post.body)
    assert body["type"] == "prompt.complete"
    assert body["webhook_extra"] == {"mine": [1]}
    assert "webhook_secret" not in body
    assert len(body["images"]) == len(body["filenames"]) == 1
    assert_kept(ward.server, "done", color)


def test_every_kind_of_failure_is_told(ward: Ward) -> None:
    """Of a node, of an input that cannot be had, of a storage that refuses; each exactly once."""
    server, hook = ward.server, ward.good.url()
    ward.store.replies += [(403, {}, "no")] * 8
    graphs: dict[str, tuple[Any, dict[str, Any]]] = {
        "by-node": (fault("TestRaise", message="on purpose"), {}),
        "by-input": (load(f"http://127.0.0.1:{free_port()}/a.png"), {}),
        "by-upload": (picture(), {"http_upload": {"url_prefix": ward.store.url("/at")}}),
    }
    for job_id, (graph, keys) in graphs.items():
        accept(server, graph, job_id, webhook_v2=hook, webhook_extra=job_id, **keys)
    bodies = {job_id: told(ward.good, job_id, 30) for job_id in graphs}
    for job_id, body in bodies.items():
        record = server.get(f"/jobs/{job_id}").json()
        assert (body["type"], record["status"]) == ("prompt.failed", "failed")
        assert body["code"] == record["error"]["code"]
        assert body["error"] == record["error"]["error"]
        assert body["webhook_extra"] == job_id
        assert body["stats"] == record["stats"]
        assert record["stats"]["total_time"] > 0
        assert noted(server, job_id)["status"] == "delivered"
        assert taken(ward.good)[job_id] == len(posts_of(ward.good, job_id)) == 1
    assert bodies["by-node"]["node_id"] == "2"
    assert "on purpose" in bodies["by-node"]["error"]
    assert bodies["by-input"]["code"] == "input_failed"
    assert bodies["by-upload"]["code"] == "upload_failed"
    # What the storage refused is not lost.
    output = server.get("/jobs/by-upload").json()["outputs"][0]
    assert server.get(output["href"]).status_code == 200


def test_cancelled_jobs_are_told_as_such(ward: Ward) -> None:
    """One that runs and one that waits for it."""
    hook = ward.good.url()
    for job_id in ("runs", "waits"):
        accept(ward.server, slow("embedded", 30), job_id, webhook_v2=hook)
    wait_phase(ward.server, "runs", "running")
    for job_id in ("waits", "runs"):
        assert ward.server.post(f"/jobs/{job_id}/cancel", {}).status_code == 200
    for job_id in ("runs", "waits"):
        body = told(ward.good, job_id)
        assert (body["type"], body["code"]) == ("prompt.cancelled", "cancelled")
        assert ward.server.get(f"/jobs/{job_id}").json()["status"] == "cancelled"
        assert taken(ward.good)[job_id] == 1


def test_legacy_posts_arrive_in_order_and_once(ward: Ward) -> None:
    """One for each output, the first of them at the second try; then the other webhook's."""
    ward.good.replies["/legacy"] = [500, 200]
    graph = {"1": empty(16, 16, fresh_color())}
    graph |= {str(9 + n): save("1", f"out{n}") for n in range(3)}
    keys = {"webhook": ward.good.url("/legacy"), "webhook_v2": ward.good.url("/v2")}
    accept(ward.server, graph, "legacy", **keys)
    assert told(ward.good, "legacy")["type"] == "prompt.complete"
    arrived = [post for post in ward.good.taken if post.path == "/legacy"]
    assert [post.id for post in arrived] == ["legacy-1", "legacy-2", "legacy-3"]
    assert [json.loads(post.body)["event"] for post in arrived] == ["output.complete"] * 3
    last = next(post for post in ward.good.taken if post.id == "legacy")
    assert kind_of(last) == "prompt.complete"
    assert last.at >= arrived[-1].at
    assert noted(ward.server, "legacy")["status"] == "delivered"
    entry = noted(ward.server, "legacy", "webhook")
    assert (entry["status"], entry["posts"], entry["delivered"]) == ("delivered", 3, [1, 2, 3])


def test_dead_receiver_leaves_room_for_others(tmp_path: Path) -> None:
    """It fills the outbox; whoever has a healthy one is promised a post all the same, and told."""
    env = hook_env(tmp_path / "state", OUTBOX_MAX="6", LOG_LEVEL="info")
    with receiver() as good, live_server(tmp_path / "server", **env) as server:
        dead = f"http://127.0.0.1:{free_port()}/hook"
        for number in range(6):
            accept(server, picture(), f"dead-{number}", webhook_v2=dead)
        full = server.prompt(picture(), webhook_v2=good.url())
        if full.status_code != 202:  # none of them has failed often enough by now
            assert full.json()["code"] == "outbox_full"
            assert int(full.headers["retry-after"]) > 0

        def tried() -> bool:
            return all(one.tries >= 3 for one in letters(tmp_path / "state"))

        wait_until("they have failed", tried, 40)
        for number in range(4):
            accept(server, picture(), f"good-{number}", webhook_v2=good.url())
        for number in range(4):
            assert told(good, f"good-{number}")["type"] == "prompt.complete"
        assert noted(server, "dead-0")["status"].startswith("given up: the outbox is full")
        assert server.get("/jobs/dead-5").json()["webhooks"]["webhook_v2"]["status"] == "pending"
        assert f"to {dead.removesuffix('/hook')} is dropped after" in server.log.read_text()
