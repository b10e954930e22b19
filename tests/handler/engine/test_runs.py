"""Prompts in the engine's hands: lost answers, silence, cancelling, forgetting."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from engine_stub import stub_engine
from lone import lone_engine, prompt, switch
from worker import until

from handler.engine.base import EnginePrompt, GraphRefused, NeverStarted
from handler.engine.events import Gone, Interrupted, Started, Succeeded
from handler.engine.messages import Progress
from handler.engine.runs import CANCEL_WAIT_S, DEAF_S, MISSES_OF_A_LOST_ENGINE, Runs
from handler.errors import EngineDied, Stalled

GRAPH = {"1": {"class_type": "PreviewAny", "inputs": {"source": "x"}}}
SLOW = ("TestSleep", {"seconds": 60.0, "steps": 600})
DEAF = ("TestSleep", {"seconds": 2.0, "steps": 0})


@contextlib.asynccontextmanager
async def stubbed(alive=None, grace_s=10.0):
    """Runs over a stub; `alive` is what is known of the process."""
    async with stub_engine() as (stub, client):
        stub.restarts = []

        async def restart(why):
            stub.restarts.append(why)

        runs = Runs(
            client,
            alive=lambda: alive,
            log_tail=lambda: ["tail"],
            restart=restart,
            grace_s=grace_s,
        )
        try:
            yield runs, stub
        finally:
            await runs.close()


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
        stub.node_errors, stub.running, stub.heeds = {"1": {"errors": []}}, ["p"], True
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


async def test_what_ended_is_forgotten_however_it_ended():
    """The engine's history keeps whole graphs, of refused and given up prompts as well."""
    async with stubbed() as (runs, stub):
        stub.running = ["p"]
        with pytest.raises(Stalled):
            await runs.run(EnginePrompt("p", GRAPH, no_progress_s=0.2), [].append)
        await until(lambda: stub.posted("/history"))
        stub.running = []  # only now it gets to the history
        await until(lambda: len(stub.posted("/history")) == 2)
        assert stub.posted("/history") == [{"delete": ["p"]}] * 2


async def test_a_cancel_of_a_hung_engine_returns_and_goes_on():
    """Whoever cancels has a grace to measure: it is not spent on waiting for an answer."""
    async with stubbed() as (runs, stub):
        stub.running = ["p"]
        run = asyncio.create_task(runs.run(EnginePrompt("p", GRAPH), [].append))
        await until(lambda: stub.posts)
        stub.hang = {"/queue"}
        begun = time.monotonic()
        await runs.cancel("p")
        assert time.monotonic() - begun < CANCEL_WAIT_S + 0.5
        assert {"delete": ["p"]} in stub.posted("/queue")
        run.cancel()


@pytest.mark.parametrize("how", ["cancel", "leave", "stall"])
async def test_a_prompt_whose_post_is_under_way_is_taken_back(how):
    """Delete and interrupt overtake it; it would run, and nobody would know of it."""
    async with stubbed() as (runs, stub):
        stub.heeds = True
        stub.hold.clear()
        limit_s = 0.1 if how == "stall" else 0.0
        run = asyncio.create_task(
            runs.run(EnginePrompt("p", GRAPH, no_progress_s=limit_s), [].append)
        )
        await until(lambda: stub.posted("/prompt"))
        if how == "cancel":
            await runs.cancel("p")
        if how == "leave":
            run.cancel()
        if how == "stall":
            with pytest.raises(Stalled, match="does not take the prompt"):
                await run
        await until(lambda: stub.posted("/queue"))
        stub.hold.set()
        await until(lambda: {"prompt_id": "p"} in stub.posted("/interrupt"))
        await until(lambda: not stub.running)
        await asyncio.gather(run, return_exceptions=True)
        assert stub.restarts == []


async def test_a_post_answered_after_all_patience_is_taken_back_as_well():
    """An attached engine cannot be restarted instead."""
    async with stubbed(grace_s=1.0) as (runs, stub):
        stub.heeds = True
        stub.hold.clear()
        run = asyncio.create_task(runs.run(EnginePrompt("p", GRAPH, no_progress_s=0.1), [].append))
        with pytest.raises(Stalled):
            await run
        await until(lambda: stub.restarts)
        stub.hold.set()
        await until(lambda: {"prompt_id": "p"} in stub.posted("/interrupt"))


async def test_a_stalled_engine_that_answers_has_the_grace_of_a_cancel():
    """One caller's short limit is no reason to kill what a node of others works on."""
    async with stubbed(True, grace_s=1.5) as (runs, stub):
        stub.running = ["p"]
        with pytest.raises(Stalled):
            await runs.run(EnginePrompt("p", GRAPH, no_progress_s=0.2), [].append)
        begun = time.monotonic()
        await runs.recovered()
        assert time.monotonic() - begun > 1
        assert stub.restarts == ["a run stalled, and it did not let go of it within 1.5 s"]


async def test_a_stalled_engine_that_does_not_answer_is_restarted_soon():
    """It is of no use to anybody."""
    async with stubbed(True, grace_s=60.0) as (runs, stub):
        stub.running, stub.hang = ["p"], {"/queue"}
        with pytest.raises(Stalled):
            await runs.run(EnginePrompt("p", GRAPH, no_progress_s=0.2), [].append)
        await runs.recovered()
        assert stub.restarts == [f"a run stalled, and it did not answer for {DEAF_S:g} s"]


async def test_an_engine_that_ended_is_not_restarted_for_a_stalled_run():
    """The one that boots in its place has nothing to do with it."""
    async with stubbed(True, grace_s=60.0) as (runs, stub):
        stub.running, stub.hang = ["p"], {"/queue"}
        with pytest.raises(Stalled):
            await runs.run(EnginePrompt("p", GRAPH, no_progress_s=0.2), [].append)
        runs.fail_all("it ended")
        await runs.recovered()
        assert stub.restarts == []


async def test_a_lost_end_is_found_while_another_run_is_loud():
    """Silence is measured for each run: the end of one is not hidden by the steps of another."""
    async with stubbed() as (runs, stub):
        stub.running = ["p"]
        first = asyncio.create_task(runs.run(EnginePrompt("p", GRAPH), [].append))
        await until(lambda: any(run.began for run in runs._runs.values()))
        second = asyncio.create_task(runs.run(EnginePrompt("q", GRAPH), [].append))
        await until(lambda: len(stub.posted("/prompt")) == 2)
        stub.running, stub.history = ["q"], ended()
        begun = time.monotonic()
        while not first.done():
            runs._on_message(Progress("q", "1", 1, 2))
            assert time.monotonic() - begun < 3
            await asyncio.sleep(0.05)
        assert isinstance(await first, Succeeded)
        second.cancel()


async def test_who_waits_behind_a_loud_run_is_not_looked_up():
    """While messages flow, nothing is polled."""
    async with stubbed() as (runs, stub):
        stub.running, stub.pending = ["p"], ["q"]
        first = asyncio.create_task(runs.run(EnginePrompt("p", GRAPH), [].append))
        await until(lambda: stub.posted("/prompt"))
        second = asyncio.create_task(runs.run(EnginePrompt("q", GRAPH), [].append))
        await until(lambda: len(stub.posted("/prompt")) == 2)
        looked = len(stub.looks)
        for _ in range(30):
            runs._on_message(Progress("p", "1", 1, 2))
            await asyncio.sleep(0.05)
        assert len(stub.looks) - looked <= 1
        first.cancel()
        second.cancel()


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
