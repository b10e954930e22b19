"""The routes of prompts, queue and history beyond what test_replay.py asks."""

from __future__ import annotations

from typing import Any

import pytest

NOISE = {"class_type": "TestNoise", "inputs": {"width": 8, "height": 8, "seed": 1}}
TEXT = {"1": {"class_type": "TestText", "inputs": {"text": "a"}}}


def slow(seed: int = 1) -> dict[str, Any]:
    """Build a graph that runs until it is interrupted."""
    sleep = {"image": ["1", 0], "seconds": 60, "steps": 6000}
    return {
        "1": {"class_type": "TestNoise", "inputs": {**NOISE["inputs"], "seed": seed}},
        "2": {"class_type": "TestSleep", "inputs": sleep},
        "3": {"class_type": "PreviewImage", "inputs": {"images": ["2", 0]}},
    }


async def numbers(client: Any) -> list[Any]:
    pending = (await client.get("/queue"))["queue_pending"]
    return sorted(item[0] for item in pending)


async def test_the_queue_runs_by_number(client: Any) -> None:
    """The front is a negated count, numbers are taken as they are, others wait their turn."""
    socket = await client.connect("c")
    running = await client.submit(slow(), "c")
    await socket.until_type("progress")
    for name, more in (
        ("plain", {}),
        ("front", {"front": True}),
        ("half", {"number": 0.5}),
        ("first", {"number": -100}),
    ):
        await client.submit(TEXT, "c", prompt_id=name, **more)

    assert await numbers(client) == [-100.0, -2, 0.5, 1]
    assert await client.get("/prompt") == {"exec_info": {"queue_remaining": 5}}
    assert (await client.get("/queue"))["queue_running"][0][1] == running
    assert await client.get(f"/history/{running}") == {}
    await client.post("/interrupt", {"prompt_id": running})
    await socket.until_end("plain")
    started = [told["prompt_id"] for told in socket.of("execution_start")]
    assert started == [running, "first", "front", "half", "plain"]


async def test_deleted_prompts_leave_no_trace(client: Any) -> None:
    """Waiting prompts go, the running one and unknown ones are ignored."""
    socket = await client.connect("c")
    running = await client.submit(slow(), "c")
    await socket.until_type("progress")
    waiting = [await client.submit(TEXT, "c") for _ in range(3)]
    await client.post("/queue", {"delete": [waiting[0], running, "unknown"]})
    assert await client.get("/prompt") == {"exec_info": {"queue_remaining": 3}}
    await client.post("/queue", {"clear": True})
    assert await client.get("/prompt") == {"exec_info": {"queue_remaining": 1}}
    await client.post("/interrupt", {"prompt_id": waiting[1]})
    await client.post("/interrupt", {})
    await socket.until_end(running)

    assert list(await client.get("/history")) == [running]
    assert waiting[0] not in str(socket.messages)


async def test_the_same_number_and_id_while_one_waits(client: Any) -> None:
    """The second is answered with 500, and yet both run."""
    socket = await client.connect("c")
    running = await client.submit(slow(), "c")
    await socket.until_type("progress")
    same = {"prompt_id": "same", "number": 500, "client_id": "c"}
    await client.post("/prompt", {"prompt": TEXT, **same})
    refused = await client.post("/prompt", {"prompt": slow(), **same}, status=500)

    assert refused == "500 Internal Server Error\n\nServer got itself in trouble"
    assert await numbers(client) == [500.0, 500.0]
    await client.post("/queue", {"clear": True})
    await client.post("/interrupt", {})
    await socket.until_end(running)


async def test_extra_data_must_be_an_object(client: Any) -> None:
    """Another value is answered with 500, and nothing is queued."""
    await client.post("/prompt", {"prompt": TEXT, "extra_data": None}, status=500)

    assert await client.get("/history") == {}
    assert (await client.get("/_test/state"))["prompts_run"] == 0


async def test_secrets_are_seen_in_the_queue_but_not_in_the_history(client: Any) -> None:
    """They are dropped when the prompt ends."""
    socket = await client.connect("c")
    extra = {"api_key_comfy_org": "secret", "custom": {"a": 1}}
    running = await client.submit(slow(), "c", extra_data=extra)
    await socket.until_type("progress")
    shown = (await client.get("/queue"))["queue_running"][0][3]
    await client.post("/interrupt", {})
    entry = await client.ended(running)

    assert shown == {**extra, "client_id": "c"}
    assert entry["prompt"][3] == {"custom": {"a": 1}, "client_id": "c"}


async def test_the_history_can_be_paged_and_forgotten(client: Any) -> None:
    """The newest are given by default; single entries and all can be dropped."""
    for name in "abcd":
        await client.run(TEXT, prompt_id=name)
    assert list(await client.get("/history?max_items=2")) == ["c", "d"]
    assert list(await client.get("/history?max_items=2&offset=1")) == ["b", "c"]
    await client.post("/history", {"delete": ["b", "unknown"]})
    assert list(await client.get("/api/history")) == ["a", "c", "d"]
    await client.post("/history", {"clear": True})

    assert await client.get("/history") == {}


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        (None, "http://evil.example", 403),
        (None, "null", 200),
        (None, "", 200),
        (None, "http://127.0.0.1", 200),
        ("localhost:99", "http://localhost:98", 403),
        ("localhost", "http://localhost:98", 200),
        ("[::1]:8188", "http://[::1]:8188", 200),
        ("engine.example", "http://evil.example", 200),
        ("no-such-host.invalid", "http://evil.example", 200),
    ],
)
async def test_other_origins_are_refused_on_loopback(
    client: Any, host: str | None, origin: str, status: int
) -> None:
    """A page of another site cannot queue prompts on the visitor's machine."""
    headers = {"Origin": origin} | ({"Host": host} if host else {})
    async with client.session.get("/prompt", headers=headers) as answer:
        assert answer.status == status


async def test_options_are_answered(client: Any) -> None:
    """A preflight of the same origin gets an empty 200."""
    async with client.session.options("/prompt") as answer:
        assert (answer.status, await answer.read()) == (200, b"")


async def test_a_body_over_the_limit_is_refused(start: Any) -> None:
    """The answer is 413 and names the limit; the limit is told to clients."""
    client = await start(max_upload_bytes=2000)
    refused = await client.post("/prompt", {"prompt": "x" * 3000}, status=413)

    assert refused == "Maximum request body size 2000 exceeded."
    assert (await client.get("/features"))["max_upload_size"] == 2000


async def test_the_page_says_what_this_is(client: Any) -> None:
    """A browser is told that this is no ComfyUI."""
    async with client.session.get("/") as answer:
        assert answer.content_type == "text/html"
        assert "embedded engine" in await answer.text()
    assert repr(client.engine).startswith(f"Engine(port {client.engine.port}, PromptQueue(")
