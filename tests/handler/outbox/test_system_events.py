"""Events for the operator."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace

import pytest
from receiver import SECRET, receiving

from handler.inputs.address import AddressPolicy
from handler.outbox.sending import Sender
from handler.outbox.system_events import EVENT_TERMS, SystemEvents
from handler.settings import SYSTEM_EVENTS

TERMS = replace(EVENT_TERMS, first_wait_s=0.01, refusal_wait_s=0.01, timeout_s=0.5)


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running


@contextlib.asynccontextmanager
async def telling(receiver, names=SYSTEM_EVENTS, **options):
    sender = Sender(AddressPolicy("127.0.0.1"), secret=SECRET)
    events = SystemEvents(receiver.url(), names, sender, **{"terms": TERMS, **options})
    events.open()
    yield events
    await events.close(10)


def progress(value, node="3"):
    return {"type": "progress", "data": {"value": value, "prompt_id": "p", "node": node}}


def executing(node):
    return {"type": "executing", "data": {"node": node, "prompt_id": "p"}}


def bodies(receiver):
    return [json.loads(post.body) for post in receiver.posts]


async def test_events_are_as_the_contract_has_them(receiver):
    """Name, ComfyUI's message with the request's id, metadata, and a signature."""
    async with telling(receiver, metadata={"Region": "eu"}) as events:
        events.tell_comfy({"type": "executing", "data": {"node": "3", "prompt_id": "p"}}, "job-1")
        state = {"3": {"value": 1, "prompt_id": "p"}, "4": {"value": 0}}
        data = {"prompt_id": "p", "nodes": state}
        events.tell_comfy({"type": "progress_state", "data": data, "sid": "s"}, "job-1")
        events.tell_comfy({"type": "execution_cached", "data": {"nodes": ["1"]}}, "job-1")
        events.tell_comfy({"type": "status", "data": {"status": {}}}, None)
    for post in receiver.posts:
        post.verify()

    first, second, third, fourth = bodies(receiver)
    assert first == {
        "event": "comfy.executing",
        "data": {"type": "executing", "data": {"node": "3", "prompt_id": "job-1"}},
        "metadata": {"Region": "eu"},
    }
    assert second["data"] == {
        "type": "progress_state",
        "data": {
            "prompt_id": "job-1",
            "nodes": {"3": {"value": 1, "prompt_id": "job-1"}, "4": {"value": 0}},
        },
        "sid": "s",
    }
    assert third["data"]["data"] == {"nodes": ["1"]}
    assert fourth["event"] == "comfy.status"
    assert len({post.id for post in receiver.posts}) == 4


async def test_files_are_told_without_secrets_and_without_their_bytes(receiver):
    """Where they came from, where they are, how large, how long."""
    async with telling(receiver) as events:
        url = "https://u:canary@e.org/a.bin?sig=canary"
        events.tell_file("file_downloaded", url=url, local_path="/m/a", size=7, duration_s=0.5)
        events.tell_file("file_deleted", url="unknown", local_path="/m/a", size=7)

    first, second = bodies(receiver)
    assert first["event"] == "storage.file_downloaded"
    assert first["data"] == {
        "url": "https://e.org/a.bin?sig=...",
        "local_path": "/m/a",
        "size": 7,
        "duration": 0.5,
    }
    assert second["data"] == {"url": "unknown", "local_path": "/m/a", "size": 7}


async def test_only_what_is_wanted_is_sent(receiver):
    """A name that there is not is never wanted, and a file's is no message's."""
    names = ("executing", "file_deleted")
    async with telling(receiver, names) as events:
        events.tell_comfy(progress(1), "job-1")
        events.tell_comfy({"type": "file_deleted", "data": {}}, "job-1")
        events.tell_file("executing", url="x", local_path="x", size=1)
        events.tell_comfy(executing("3"), "job-1")
    assert [body["event"] for body in bodies(receiver)] == ["comfy.executing"]


async def test_what_is_told_before_it_is_open_is_sent_then(receiver):
    """A start may evict models before the loop has time for anything."""
    sender = Sender(AddressPolicy("127.0.0.1"), secret=SECRET)
    events = SystemEvents(receiver.url(), SYSTEM_EVENTS, sender, terms=TERMS)
    events.tell_file("file_deleted", url="unknown", local_path="/m/a", size=7)
    events.open()
    events.tell_comfy(executing("3"), "job-1")
    await events.close(10)

    names = [body["event"] for body in bodies(receiver)]
    assert names == ["storage.file_deleted", "comfy.executing"]


async def test_order_is_kept_over_faults(receiver):
    """An event that needs three tries holds those after it."""
    receiver.replies["/hook"] = [500, "cut", 200]
    async with telling(receiver) as events:
        for node in "abc":
            events.tell_comfy(executing(node), "job-1")

    nodes = [body["data"]["data"]["node"] for body in bodies(receiver)]
    assert nodes == ["a", "a", "a", "b", "c"]
    assert len({post.id for post in receiver.posts}) == 3


async def test_progress_that_waits_is_replaced_by_later_progress(receiver):
    """Of the same node and request; what is between keeps its order."""
    receiver.delay_s = 0.2
    async with telling(receiver) as events:
        events.tell_comfy(executing("3"), "job-1")
        await receiver.got(1)
        for value in range(50):
            events.tell_comfy(progress(value), "job-1")
            events.tell_comfy(progress(value), "job-2")
        events.tell_comfy(executing("4"), "job-1")
        events.tell_comfy(progress(50), "job-1")

    told = [
        (data["data"]["prompt_id"], data["data"].get("value"))
        for data in (body["data"] for body in bodies(receiver))
    ]
    assert told == [("job-1", None), ("job-2", 49), ("job-1", None), ("job-1", 50)]
    assert events.dropped == 0


@pytest.mark.parametrize("bound", [{"most": 3}, {"most_bytes": 350}])
async def test_oldest_events_are_dropped_where_there_are_too_many(receiver, caplog, bound):
    """By number and by bytes; whoever tells them never waits."""
    receiver.delay_s = 0.2
    async with telling(receiver, **bound) as events:
        events.tell_comfy(executing("first"), "job-1")
        await receiver.got(1)
        for number in range(20):
            events.tell_comfy(executing(str(number)), "job-1")
        assert (events.dropped, len(events._waiting)) == (17, 3)
        assert repr(events) == "<SystemEvents 3 waiting, 17 dropped>"

    nodes = [body["data"]["data"]["node"] for body in bodies(receiver)]
    assert nodes == ["first", "17", "18", "19"]
    assert events._bytes == 0
    assert len(caplog.records) == 5  # at 1, 2, 4, 8 and 16


async def test_event_that_cannot_be_delivered_is_dropped(receiver, caplog):
    """After a few tries; the next one has its own."""
    receiver.replies["/hook"] = [404, 404, 500, 500, 500, 500, 200]
    async with telling(receiver) as events:
        for node in "abc":
            events.tell_comfy(executing(node), "job-1")

    nodes = [body["data"]["data"]["node"] for body in bodies(receiver)]
    assert nodes == [*"aa", *"bbbb", "c"]
    assert events.dropped == 2
    assert "404 Not Found" in caplog.text


async def test_close_ends_in_time(receiver):
    """Whatever the receiver does; nothing is told afterwards."""
    receiver.replies["/hook"] = ["hang"]
    async with telling(receiver, terms=replace(TERMS, timeout_s=60)) as events:
        events.tell_comfy(executing("3"), "job-1")
        await receiver.got(1)
        await events.close(0.05)
        events.tell_comfy(executing("4"), "job-1")
    assert len(receiver.posts) == 1


async def test_without_a_url_nothing_is_done():
    """The absent case is an object."""
    events = SystemEvents("", SYSTEM_EVENTS, Sender(AddressPolicy()))
    events.open()
    events.tell_comfy(executing("3"), "job-1")
    await events.close(1)
    assert repr(events) == "<SystemEvents 0 waiting, 0 dropped>"
