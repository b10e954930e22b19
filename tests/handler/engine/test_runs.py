"""Prompts in the engine's hands: lost answers, silence, cancelling, forgetting."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from aiohttp import web
from lone import lone_engine, prompt, switch
from worker import until

from handler.engine.base import EnginePrompt, GraphRefused, NeverStarted
from handler.engine.client import ComfyClient
from handler.engine.events import Gone, Interrupted, Started, Succeeded
from handler.engine.runs import FORGET_BATCH, MISSES_OF_A_LOST_ENGINE, Runs
from handler.errors import EngineDied, Stalled

GRAPH = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}
SLOW = ("TestSleep", {"seconds": 60.0, "steps": 600})
DEAF = ("TestSleep", {"seconds": 2.0, "steps": 0})


class Stub:
    """Answers like an engine whose state a test sets; it has no WebSocket."""

    def __init__(self):
        self.running, self.pending, self.history = [], [], {}
        self.lose_submits = self.lose_looks = False
        self.node_errors = {}
        self.posts = []

    async def answer(self, request):
        if request.method == "POST":
            body = await request.json()
            self.posts.append((request.path, body))
            if request.path == "/prompt":
                if self.lose_submits:
                    request.transport.abort()
                    return web.Response()
                return web.json_response({"prompt_id": "p", "node_errors": self.node_errors})
            return web.Response()
        if self.lose_looks or request.path == "/ws":
            request.transport.abort()
            return web.Response(status=503)
        if request.path == "/queue":
            queues = {"queue_running": self.running, "queue_pending": self.pending}
            return web.json_response(
                {k: [[0, i, {}, {}, []] for i in v] for k, v in queues.items()}
            )
        return web.json_response(self.history)


@contextlib.asynccontextmanager
async def stubbed(alive=None):
    """Runs over a stub; `alive` is what is known of the process."""
    stub, restarts = Stub(), []
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", stub.answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = ComfyClient(f"http://127.0.0.1:{runner.addresses[0][1]}", client_id="x")

    async def restart(why):
        restarts.append(why)

    runs = Runs(client, alive=lambda: alive, log_tail=lambda: ["tail"], restart=restart)
    try:
        yield runs, stub
    finally:
        await runs.close()
        await client.close()
        await runner.cleanup()


def ended(*messages):
    """Give a history entry of a success."""
    told = [["execution_start", {"prompt_id": "p", "timestamp": 1}], *messages]
    told += [["execution_success", {"prompt_id": "p", "timestamp": 2}]]
    status = {"status_str": "success", "completed": True, "messages": told}
    return {"p": {"prompt": [0, "p", GRAPH, {}, []], "outputs": {}, "status": status, "meta": {}}}


async def test_without_a_socket_history_tells_the_end():
    """Looked up in a short pace."""
    async with stubbed() as (runs, stub):
        stub.history = ended()
        events = []
        end = await runs.run(EnginePrompt("p", GRAPH), events.append)

    assert isinstance(end, Succeeded)
    assert events[-1] is end


async def test_a_lost_answer_is_no_lost_prompt():
    """The queue knows that it was taken."""
    async with stubbed() as (runs, stub):
        stub.lose_submits, stub.running = True, ["p"]
        run = asyncio.create_task(runs.run(EnginePrompt("p", GRAPH), [].append))
        await until(lambda: stub.posts)
        stub.running, stub.history = [], ended()
        assert isinstance(await run, Succeeded)


@pytest.mark.parametrize("alive", [None, True])
async def test_a_prompt_that_never_arrived_may_be_handed_in_again(alive):
    """Queue and history know nothing of it."""
    async with stubbed(alive) as (runs, stub):
        stub.lose_submits = True
        with pytest.raises(NeverStarted):
            await runs.run(EnginePrompt("p", GRAPH), [].append)


async def test_a_dead_process_is_not_asked():
    """Nothing can be there."""
    async with stubbed(alive=False) as (runs, stub):
        stub.lose_submits = True
        with pytest.raises(NeverStarted) as caught:
            await runs.run(EnginePrompt("p", GRAPH), [].append)
    assert caught.value.log_tail == ["tail"]


async def test_an_engine_that_would_drop_outputs_is_not_let_run():
    """ComfyUI would call it a success."""
    async with stubbed() as (runs, stub):
        stub.node_errors = {"1": {"errors": []}}
        with pytest.raises(GraphRefused, match="leave some of the outputs out"):
            await runs.run(EnginePrompt("p", GRAPH), [].append)
        assert ("/queue", {"delete": ["p"]}) in stub.posts
        assert ("/interrupt", {"prompt_id": "p"}) in stub.posts
        assert len(runs) == 0


async def test_an_attached_engine_out_of_reach_ends_its_runs():
    """After several looks; a process of ours would be seen to end."""
    async with stubbed() as (runs, stub):
        stub.running = ["p"]
        run = asyncio.create_task(runs.run(EnginePrompt("p", GRAPH), [].append))
        await until(lambda: stub.posts)
        stub.lose_looks = True
        with pytest.raises(EngineDied, match="out of reach"):
            await run
    assert MISSES_OF_A_LOST_ENGINE > 1


async def test_ended_prompts_are_forgotten_in_batches():
    """The engine's history keeps whole graphs."""
    async with stubbed() as (runs, stub):
        for number in range(2 * FORGET_BATCH + 1):
            runs._forget_later(f"p{number}")
        await until(lambda: any(path == "/history" for path, _ in stub.posts))
        first = next(body["delete"] for path, body in stub.posts if path == "/history")
        assert first[0] == "p0"
        assert len(first) < 2 * FORGET_BATCH
        await until(lambda: sum(len(b.get("delete", [])) for _, b in stub.posts) > 2 * FORGET_BATCH)


async def test_a_cancel_interrupts_and_deletes(tmp_path):
    """By id, and nothing else."""
    async with lone_engine(tmp_path) as (engine, _):
        events = []
        running = asyncio.create_task(engine.run(prompt("r", SLOW), events.append))
        await until(lambda: any(isinstance(event, Started) for event in events))
        queued = asyncio.create_task(engine.run(prompt("q", SLOW), [].append))
        await until(lambda: len(engine._runs) == 2)
        await engine.cancel("q")
        assert isinstance(await queued, Gone)
        await engine.cancel("unknown")
        assert not running.done()
        await engine.cancel("r")
        assert isinstance(await running, Interrupted)


async def test_sockets_that_break_in_a_run_lose_nothing(tmp_path):
    """The end is looked up after the reconnect."""
    short = ("TestSleep", {"seconds": 0.5, "steps": 5})
    async with lone_engine(tmp_path) as (engine, _):
        events = []
        run = asyncio.create_task(engine.run(prompt("r", short), events.append))
        await until(lambda: any(isinstance(event, Started) for event in events))
        await switch(engine, "drop_sockets")
        assert isinstance(await run, Succeeded)
    assert sum(isinstance(event, Started) for event in events) == 1


async def test_a_stalled_run_is_ended_and_the_next_one_runs(tmp_path):
    """The engine is interrupted; it need not be restarted where it heeds that in time."""
    async with lone_engine(tmp_path) as (engine, _):
        pid = engine._process.pid
        with pytest.raises(Stalled, match=r"limit 0\.3 s") as caught:
            await engine.run(prompt("r", DEAF, no_progress_s=0.3), [].append)
        assert caught.value.log_tail
        assert isinstance(await engine.run(prompt("n"), [].append), Succeeded)
        assert engine._process.pid == pid
