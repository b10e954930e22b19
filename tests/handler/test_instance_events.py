"""What an operator is told of the engine and of files: real posts to a real receiver."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from receiver import SECRET, receiving

from handler.engine.base import EnginePrompt
from handler.inputs.address import AddressPolicy
from handler.instance_events import InstanceEvents
from handler.job import Job
from handler.outbox.sending import Sender
from handler.outbox.system_events import EVENT_TERMS, SystemEvents
from handler.settings import SYSTEM_EVENTS

UID = "0123456789abcdef0123456789abcdef"
KEY = "comfyui-0123456789"


@pytest.fixture
async def receiver():
    async with receiving() as running:
        yield running


@contextlib.asynccontextmanager
async def telling(receiver, **options):
    """Give events that are open, and have all of them sent at the end."""
    sender = Sender(AddressPolicy("127.0.0.1"), secret=SECRET)
    terms = replace(EVENT_TERMS, timeout_s=1)
    events = InstanceEvents(
        SystemEvents(receiver.url(), SYSTEM_EVENTS, sender, terms=terms), **options
    )
    events.open()
    yield events
    await events.close(10)


def follow(events, prompt_id="p", job_id="job-1", extra=None):
    """Have a prompt followed; give what ends its run."""
    over = asyncio.Event()
    run = asyncio.create_task(over.wait())
    events.follow(run, EnginePrompt(prompt_id, {}, extra or {}), Job(uid=UID, id=job_id))
    return run, over


def message(name, **data):
    return {"type": name, "data": data}


def told(receiver):
    return [json.loads(post.body)["data"] for post in receiver.posts]


async def test_messages_of_jobs_have_the_request_id_and_keep_their_order(receiver):
    """As ComfyUI sends them, those after the end included; nobody else's are told."""
    async with telling(receiver) as events:
        run, over = follow(events)
        events.take(message("execution_start", prompt_id="p", timestamp=1))
        events.take(message("executing", prompt_id="else", node="1"))
        events.take(message("progress", prompt_id="p", node="1", value=1, max=2))
        events.take(message("executing", node="1"))  # a greeting after a reconnect
        events.take(message("execution_success", prompt_id="p", timestamp=2))
        over.set()
        await run
        events.take(message("executing", prompt_id="p", node=None))

    names = [(each["type"], each["data"]["prompt_id"]) for each in told(receiver)]
    assert names == [
        (name, "job-1")
        for name in ("execution_start", "progress", "execution_success", "executing")
    ]


async def test_prompt_is_forgotten_some_time_after_its_run(receiver):
    """What came with it may hold keys: it is not kept."""
    async with telling(receiver, kept_s=0.0) as events:
        run, over = follow(events, extra={"api_key_comfy_org": KEY})
        assert "of 1 prompts" in repr(events)
        assert KEY not in repr(events._prompts)
        over.set()
        await run
        async with asyncio.timeout(5):
            while events._prompts:
                await asyncio.sleep(0)
        events.take(message("executing", prompt_id="p", node=None))
    assert receiver.posts == []


async def test_status_is_told_while_the_engine_takes_jobs(receiver):
    """Not while it boots; nor that of a warmup which comes when the worker is ready already."""
    ready = False
    async with telling(receiver, ready=lambda: ready) as events:
        events.take(message("status", status=1))
        events.take(message("execution_start", prompt_id="warmup-1"))
        ready = True
        events.take(message("execution_success", prompt_id="warmup-1"))
        events.take(message("status", status=2))
        events.take(message("executing", prompt_id="warmup-1", node=None))
        events.take(message("status", status=3))
    assert [each["data"] for each in told(receiver)] == [{"status": 3}]


@pytest.mark.parametrize(
    "end", [message("status", status=0, sid="s"), message("execution_start", prompt_id="p")]
)
async def test_lost_end_of_a_warmup_does_not_keep_status_back(receiver, end):
    """A new connection or a job's prompt shows that it is over."""
    async with telling(receiver) as events:
        follow(events)[1].set()
        events.take(message("execution_start", prompt_id="warmup-1"))
        events.take(end)
        # A status that waits gives way to a later one.
        await receiver.got(1)
        events.take(message("status", status=1))
    assert told(receiver)[-1]["data"] == {"status": 1}


async def test_outputs_are_told_without_the_jobs_folder(receiver):
    """It is unguessable so that only who has the answer has the file."""
    images = [
        {"filename": "a.png", "subfolder": f"comfyfn-jobs/{UID}", "type": "output"},
        {"filename": "b.png", "subfolder": f"comfyfn-jobs/{UID}/deep", "type": "output"},
    ]
    output = {"images": images, "text": [f"/out/comfyfn-jobs/{UID}/a.png"], "n": [{"x": [UID]}]}
    async with telling(receiver) as events:
        follow(events)[1].set()
        events.take(message("executed", prompt_id="p", node="9", output=output))
        events.take(message("executed", prompt_id="p", node="10", output=None))

    first, second = told(receiver)
    assert UID.encode() not in receiver.posts[0].body
    assert [image["subfolder"] for image in first["data"]["output"]["images"]] == ["", "deep"]
    assert first["data"]["output"]["text"] == ["/out/a.png"]
    assert second["data"]["output"] is None


async def test_errors_are_told_short_and_without_secrets(receiver):
    """A node's inputs may be a picture in base64, a URL with a password, or the caller's key."""
    inputs = {
        "image": ["A" * 5_000_000],
        "url": ["https://me:canary1@e.org/x?token=canary2"],
        "key": [f"Bearer {KEY}"],
        "path": [f"comfyfn-jobs/{UID}/000_1_image.png"],
        "many": list(range(100_000)),
        "rest": ["B" * 5_000] * 100,
        "size": [512],
    }
    error = {
        "node_id": "3",
        "exception_message": f"no {KEY} at https://e.org/?sig=canary3\n",
        "traceback": ["x"] * 3,
        "current_inputs": inputs,
        "current_outputs": ["1"],
    }
    async with telling(receiver) as events:
        follow(events, extra={"api_key_comfy_org": KEY, "preview_method": "auto"})[1].set()
        events.take({"type": "execution_error", "data": {**error, "prompt_id": "p"}, "sid": "s"})

    body = receiver.posts[0].body
    data = told(receiver)[0]["data"]
    assert len(body) < 100_000
    assert not [word for word in (b"canary", KEY.encode(), UID.encode()) if word in body]
    assert data["prompt_id"] == "job-1"
    assert data["exception_message"] == "no … at https://e.org/?sig=…\n"
    assert data["current_inputs"]["path"] == ["000_1_image.png"]
    assert data["current_inputs"]["size"] == [512]
    assert data["current_inputs"]["image"] == ["A" * 1000 + "…"]
    assert len(data["current_inputs"]["many"]) == 100
    assert data["current_inputs"]["rest"][-1] == "…"
    assert data["current_outputs"] == ["1"]


async def test_files_are_told_without_the_jobs_folder(receiver):
    """A path as text, never the bytes; what stays is told where it is; the warmup's is not."""
    scratch = Path("/scratch")
    async with telling(receiver, scratch=scratch) as events:
        media = Path(f"/in/comfyfn-jobs/{UID}/000_1_image")
        events.downloaded("https://e.org/a?sig=canary", media, 7, 0.5)
        events.downloaded("https://e.org/b", Path("/models/vae/b.pt"), 8, 1.5)
        events.downloaded("https://e.org/c", Path("/in/comfyfn-jobs/warmup-1/c"), 8, 1.5)
        events.uploaded("s3://b/k.png", scratch / UID / "converted" / "k.jpg", 9, 2.5)
        events.deleted("", Path("/cache/objects/x"), 10)

    assert told(receiver) == [
        {
            "url": "https://e.org/a?sig=...",
            "local_path": "/in/000_1_image",
            "size": 7,
            "duration": 0.5,
        },
        {
            "url": "https://e.org/b",
            "local_path": "/models/vae/b.pt",
            "size": 8,
            "duration": 1.5,
        },
        {
            "url": "s3://b/k.png",
            "local_path": "/scratch/converted/k.jpg",
            "size": 9,
            "duration": 2.5,
        },
        {"url": "unknown", "local_path": "/cache/objects/x", "size": 10},
    ]


async def test_what_cannot_be_told_does_no_harm(receiver, caplog):
    """A message of another make, or a path that is none."""
    async with telling(receiver) as events:
        follow(events)[1].set()
        events.take({"type": "status"})
        events.take({"type": ["x"], "data": {"prompt_id": ["p"]}})
        events.take({"type": "executing", "data": {"prompt_id": "p", "node": 1 << 80}})
        events.downloaded("https://e.org/a", Path("comfyfn-jobs"), 7, 0.5)
    assert receiver.posts == []
    assert [record.message for record in caplog.records] == [
        "a message of the engine cannot be told",
        "a file cannot be told of",
    ]


async def test_without_a_receiver_nothing_is_done():
    """The absent case is an object, and what stages have by default."""
    events = InstanceEvents()
    events.open()
    run, over = follow(events)
    over.set()
    await run
    events.take(message("status"))
    events.downloaded("https://e.org/a", Path("/a"), 7, 0.5)
    await events.close()
    assert not events.on
    assert repr(events) == "<InstanceEvents None of 0 prompts>"
