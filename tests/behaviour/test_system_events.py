"""System events: what the operator is told, in order; never the warmup's; never at a job's cost."""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.driving import assert_picture, later, wait_phase
from behaviour.file_server import FileServer
from behaviour.graphs import fault, fresh_color, load, picture, slow
from receiver import Receiver, receiving
from shell import comfyfn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Give a receiver that answers everything with 200."""
    async with receiving() as running:
        yield running


@pytest.fixture
def source() -> Iterator[FileServer]:
    """Give a server of one picture."""
    files = FileServer()
    yield files
    files.close()


def env(receiver: Receiver, events: str = "all", **more: str) -> dict[str, str]:
    """Give the settings of a worker that tells this receiver."""
    return {"SYSTEM_WEBHOOK_URL": receiver.url(), "SYSTEM_WEBHOOK_EVENTS": events, **more}


def told(receiver: Receiver) -> list[dict[str, Any]]:
    """Give the events, as they came."""
    return [json.loads(post.body) for post in receiver.posts]


async def seen(receiver: Receiver, name: str) -> None:
    """Wait until an event has come."""
    async with asyncio.timeout(60), receiver.news:
        await receiver.news.wait_for(lambda: any(e["event"] == name for e in told(receiver)))


async def test_warmup_is_not_told_and_jobs_are_told_in_order(start_server, engine, receiver):
    """With a warmup that has just ended; the last message comes after the answer."""
    warmup = {"WARMUP_PROMPT_JSON": json.dumps(picture())}
    server = await asyncio.to_thread(start_server, engine, **env(receiver, **warmup))
    color = fresh_color()
    answer = await asyncio.to_thread(server.prompt, picture(color=color), id="mine")
    assert await asyncio.to_thread(server.stop) == 0

    assert_picture(answer, color)
    assert all(
        event["data"]["data"].get("prompt_id", "mine") == "mine"
        for event in told(receiver)
        if event["event"] != "comfy.status"
    )
    milestones = [
        (event["event"], event["data"]["data"].get("node"))
        for event in told(receiver)
        if event["event"] not in {"comfy.status", "comfy.progress_state"}
    ]
    assert milestones == [
        ("comfy.execution_start", None),
        ("comfy.execution_cached", None),
        ("comfy.executing", "1"),
        ("comfy.executing", "9"),
        ("comfy.executed", "9"),
        ("comfy.execution_success", None),
        ("comfy.executing", None),
    ]
    status = [event["data"] for event in told(receiver) if event["event"] == "comfy.status"]
    assert status[-1]["data"]["status"]["exec_info"]["queue_remaining"] == 0


async def test_no_event_names_a_jobs_folder(start_server, receiver, source, tmp_path):
    """Neither where a file is, nor what a node gave or failed of; errors are told, too."""
    volume = tmp_path / "volume"
    volume.mkdir()
    more = {"URL_ALLOW_HOSTS": "127.0.0.1", "ALLOW_VOLUMES": str(volume)}
    server = await asyncio.to_thread(start_server, **env(receiver, **more))
    url = f"{source.url}/a.png?token=canary"
    stored = {"volume": {"path": str(volume)}}
    fine = await asyncio.to_thread(server.prompt, load(url), id="mine", **stored)
    failed = await asyncio.to_thread(server.prompt, fault("TestRaise", message="oh"), id="other")
    assert await asyncio.to_thread(server.stop) == 0

    assert (fine.status_code, failed.status_code) == (200, 500)
    for post in receiver.posts:
        assert b"comfyfn-jobs" not in post.body
        assert b"canary" not in post.body
    events = {event["event"]: event["data"] for event in told(receiver)}
    image = events["comfy.executed"]["data"]["output"]["images"][0]
    assert (image["filename"], image["subfolder"]) == ("mine_out_00001_.png", "")
    assert events["comfy.execution_error"]["data"]["prompt_id"] == "other"
    assert events["comfy.execution_error"]["data"]["exception_message"].strip() == "oh"
    came = events["storage.file_downloaded"]
    assert came["url"] == f"{source.url}/a.png?token=..."
    assert came["local_path"].startswith(str(server.input))
    assert came["size"] == len(source.body)
    assert came["duration"] > 0
    went = events["storage.file_uploaded"]
    assert went["url"] == str(volume / "mine_out_00001_.png")
    assert went["local_path"] == str(server.output / "mine_out_00001_.png")
    assert went["size"] == (volume / "mine_out_00001_.png").stat().st_size


async def test_interrupted_prompt_is_told_though_its_caller_has_gone(
    start_server, engine, receiver
):
    """The engine's own word comes when nobody waits for the job any more."""
    server = await asyncio.to_thread(start_server, engine, **env(receiver))
    running = later(server.prompt, slow(engine, 30), id="mine")
    await asyncio.to_thread(wait_phase, server, "mine", "running")
    answer = await asyncio.to_thread(server.post, "/interrupt", {"id": "mine"})
    await asyncio.to_thread(running.result, 60)
    await seen(receiver, "comfy.execution_interrupted")
    assert await asyncio.to_thread(server.stop) == 0

    assert answer.status_code == 200
    events = {event["event"]: event["data"]["data"] for event in told(receiver)}
    assert events["comfy.execution_interrupted"]["prompt_id"] == "mine"
    assert "comfy.execution_success" not in events


@pytest.mark.parametrize("reply", ["hang", "drip", 500, None])
async def test_broken_receiver_costs_no_job_anything(start_server, receiver, reply):
    """Whatever it does, or where nobody listens; the worker stops in time, too."""
    receiver.replies["/hook"] = [reply]
    settings = env(receiver)
    if reply is None:
        settings["SYSTEM_WEBHOOK_URL"] = "http://127.0.0.1:9/hook"
    server = await asyncio.to_thread(start_server, **settings)
    begun = time.monotonic()
    for _ in range(5):
        color = fresh_color()
        assert_picture(await asyncio.to_thread(server.prompt, picture(color=color)), color)
    assert time.monotonic() - begun < 5  # one try of one event may take ten
    assert await asyncio.to_thread(server.stop) == 0
    assert time.monotonic() - begun < 15


def test_name_that_is_no_events_stops_the_start(tmp_path: Path) -> None:
    """With the names that there are; so does none at all."""
    url = {"SYSTEM_WEBHOOK_URL": "http://127.0.0.1:1/"}
    for names, words in [
        ("executed,nonsense", "SYSTEM_WEBHOOK_EVENTS='executed,nonsense' is neither `all` nor"),
        ("", "SYSTEM_WEBHOOK_URL needs SYSTEM_WEBHOOK_EVENTS"),
    ]:
        said = comfyfn("serve", home=tmp_path, **url, SYSTEM_WEBHOOK_EVENTS=names)
        assert said.returncode == 2
        assert said.stderr.startswith(f"comfyfn: settings: {words}")
        assert said.stderr.count("\n") == 1
