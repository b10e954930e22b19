"""Client, socket and execution together, on the embedded engine as a process of its own."""

import asyncio
import contextlib
import socket as sockets
import sys
from pathlib import Path

import httpx
import pytest

from handler.engine.base import GraphRefused
from handler.engine.client import ComfyClient
from handler.engine.events import (
    Failed,
    Gone,
    Interrupted,
    NodeOutput,
    NodeProgress,
    Preview,
    Started,
    Succeeded,
)
from handler.engine.execution import Execution
from handler.engine.progress import ProgressMeter
from handler.engine.socket import EngineSocket
from handler.errors import EngineDied, HandlerError

REPO = Path(__file__).parents[3]
ENDS = (Succeeded, Failed, Interrupted, Gone)


def graph(*chain, width=32):
    """EmptyImage, then the given (class, inputs) nodes on its image, then SaveImage."""
    size = {"width": width, "height": 32, "batch_size": 1, "color": 255}
    nodes = {"1": {"class_type": "EmptyImage", "inputs": size}}
    for number, (class_type, inputs) in enumerate(chain, start=2):
        inputs = {"image": [str(number - 1), 0], **inputs}
        nodes[str(number)] = {"class_type": class_type, "inputs": inputs}
    save = {"filename_prefix": "sub/x", "images": [str(len(nodes)), 0]}
    nodes["save"] = {"class_type": "SaveImage", "inputs": save}
    return nodes


class Follower:
    """Runs prompts over one socket, and asks history whenever an execution wants it."""

    def __init__(self, url, **socket_options):
        self.client = ComfyClient(url, client_id="tests")
        self.socket = EngineSocket(self.client, self.on_message, self.on_state, **socket_options)
        self.states = asyncio.Queue()
        self.runs = {}
        self.events = {}
        self.changed = asyncio.Condition()
        self.tasks = set()

    async def __aenter__(self):
        self.socket.start()
        assert await self.socket.wait_connected(10)
        return self

    async def __aexit__(self, *_):
        await self.socket.stop()
        await self.client.close()

    def take(self, execution, events):
        self.events[execution.prompt_id] += events
        task = asyncio.ensure_future(self.tell())
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def tell(self):
        async with self.changed:
            self.changed.notify_all()

    def on_message(self, message):
        for execution in self.runs.values():
            self.take(execution, execution.feed(message))

    def on_state(self, connected, generation):
        self.states.put_nowait((connected, generation))
        if connected and generation > 1:
            for execution in self.runs.values():
                execution.feed_reconnected()
                self.take(execution, [])

    async def submit(self, prompt_id, nodes, **options):
        self.runs[prompt_id] = Execution(prompt_id, nodes)
        self.events[prompt_id] = []
        assert await self.client.submit(prompt_id, nodes, **options) == {}

    async def until(self, condition):
        async with asyncio.timeout(20), self.changed:
            while not condition():
                await self.changed.wait()

    async def until_event(self, prompt_id, kind):
        await self.until(lambda: any(isinstance(e, kind) for e in self.events[prompt_id]))

    async def end_of(self, prompt_id):
        execution = self.runs[prompt_id]
        await self.until(lambda: execution.ended or execution.needs_history)
        while not execution.ended:
            if execution.needs_history:
                before = execution.reconnects
                queue = await self.client.queue()
                entry = await self.client.history(prompt_id)
                events = execution.feed_history(
                    entry, in_queue=prompt_id in queue, reconnects_before=before
                )
                self.take(execution, events)
            else:
                await self.until(lambda: execution.ended or execution.needs_history)
        ends = [event for event in self.events[prompt_id] if isinstance(event, ENDS)]
        assert len(ends) == 1
        return ends[0]


def free_port():
    with sockets.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.asynccontextmanager
async def embedded(home):
    """Start the engine with its faults; give its URL and its process."""
    port = free_port()
    arguments = ["--port", str(port), "--base-directory", str(home), "--test-faults"]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "local_server.engine", *arguments,
        cwd=REPO, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    client = ComfyClient(f"http://127.0.0.1:{port}", client_id="probe")
    try:
        async with asyncio.timeout(20):
            while True:
                assert process.returncode is None
                with contextlib.suppress(HandlerError):
                    await client.system_stats()
                    break
                await asyncio.sleep(0.02)
        yield client.base_url, process
    finally:
        await client.close()
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture
async def engine(tmp_path):
    async with embedded(tmp_path / "engine") as running:
        yield running


async def test_a_run_ends_with_its_output_on_disk(engine, tmp_path):
    """Submitted, followed, fetched, forgotten; the share done rises to 100."""
    url, _ = engine
    async with Follower(url) as follower:
        nodes = graph(("ImageInvert", {}))
        await follower.submit("a/b c", nodes)
        assert isinstance(await follower.end_of("a/b c"), Succeeded)

        events = follower.events["a/b c"]
        assert isinstance(events[0], Started)
        [output] = [event for event in events if isinstance(event, NodeOutput)]
        assert output.node_id == "save"
        [file] = output.output["images"]
        target = tmp_path / "got.png"
        size = await follower.client.view(file["filename"], file["subfolder"], file["type"], target)
        assert size == target.stat().st_size
        assert target.read_bytes().startswith(b"\x89PNG")

        meter = ProgressMeter(nodes, 0.0)
        shares = [meter.feed(event, 0.0).overall_pct for event in events]
        assert sorted(shares) == shares
        assert shares[-1] == 100.0

        async with asyncio.timeout(10):
            while await follower.client.history("a/b c") is None:
                await asyncio.sleep(0.001)
        await follower.client.forget(["a/b c"])
        assert await follower.client.history("a/b c") is None


async def test_steps_and_previews_name_their_node(engine):
    """Each step once, and each preview with its node."""
    url, _ = engine
    async with Follower(url) as follower:
        await follower.submit("p", graph(("TestSleep", {"seconds": 0.05, "steps": 3})))
        assert isinstance(await follower.end_of("p"), Succeeded)
    steps = [event for event in follower.events["p"] if isinstance(event, NodeProgress)]
    assert steps == [NodeProgress("2", step, 3) for step in (1, 2, 3)]
    for event in follower.events["p"]:
        if isinstance(event, Preview):
            assert event.node_id == "2"


async def test_a_raising_node_fails_the_run(engine):
    """The node, its class and its words are told."""
    url, _ = engine
    async with Follower(url) as follower:
        await follower.submit("p", graph(("TestRaise", {"message": "on purpose"})))
        end = await follower.end_of("p")
    assert isinstance(end, Failed)
    assert (end.node_id, end.class_type, end.message) == ("2", "TestRaise", "on purpose")


async def test_an_interrupt_and_a_delete_end_their_prompts(engine):
    """The running one is interrupted; the one that waited is gone without a message."""
    url, _ = engine
    async with Follower(url) as follower:
        slow = ("TestSleep", {"seconds": 30.0, "steps": 1000})
        await follower.submit("runs", graph(slow))
        await follower.submit("waits", graph(slow, width=64))
        await follower.until_event("runs", NodeProgress)
        queue = await follower.client.queue()
        assert (queue.running, queue.pending) == (("runs",), ("waits",))

        await follower.client.delete_pending(["waits", "runs", "unknown"])
        follower.runs["waits"].feed_reconnected()
        assert await follower.end_of("waits") == Gone()
        await follower.client.interrupt("runs")
        assert await follower.end_of("runs") == Interrupted("2", "TestSleep")


async def test_a_reconnect_in_a_run_loses_nothing(engine):
    """Whatever was sent while the socket was away comes from history."""
    url, _ = engine
    async with Follower(url) as follower:
        await follower.submit("p", graph(("TestSleep", {"seconds": 0.5, "steps": 50})))
        await follower.until_event("p", NodeProgress)
        follower.socket.reconnect()
        await follower.until(lambda: follower.socket.generation == 2)
        assert isinstance(await follower.end_of("p"), Succeeded)
    told = [event for event in follower.events["p"] if isinstance(event, NodeOutput)]
    assert [event.node_id for event in told] == ["save"]


async def test_many_runs_share_one_socket(engine):
    """Messages find their prompt, and each run has one end and one output."""
    url, _ = engine
    async with Follower(url) as follower:
        ids = [f"p{number}" for number in range(20)]
        for number, prompt_id in enumerate(ids):
            await follower.submit(prompt_id, graph(("ImageInvert", {}), width=16 + number))
        ends = [await follower.end_of(prompt_id) for prompt_id in ids]
    assert {Succeeded} == {type(end) for end in ends}
    for prompt_id in ids:
        told = [e for e in follower.events[prompt_id] if isinstance(e, NodeOutput)]
        assert len(told) == 1


async def test_a_refused_graph_is_told_with_its_faults(engine):
    """The engine's own check speaks through."""
    url, _ = engine
    async with Follower(url) as follower:
        with pytest.raises(GraphRefused) as caught:
            await follower.submit("p", graph(("ImageBlur", {"blur_radius": 10**6})))
    assert "2" in caught.value.node_errors


async def test_an_uploaded_picture_is_loaded_by_the_name_given_back(engine, tmp_path):
    """A taken name gives another; both load."""
    url, _ = engine
    async with Follower(url) as follower:
        await follower.submit("make", graph())
        await follower.end_of("make")
        [made] = [e for e in follower.events["make"] if isinstance(e, NodeOutput)]
        file = made.output["images"][0]
        picture = tmp_path / "picture.png"
        await follower.client.view(file["filename"], file["subfolder"], file["type"], picture)

        stored = await follower.client.upload(picture, "é b%20c.png", "in/it")
        assert stored == "é b%20c.png"
        load = {"class_type": "LoadImage", "inputs": {"image": f"in/it/{stored}"}}
        save = {"class_type": "SaveImage", "inputs": {"filename_prefix": "y", "images": ["1", 0]}}
        await follower.submit("p", {"1": load, "2": save})
        assert isinstance(await follower.end_of("p"), Succeeded)


async def test_a_killed_engine_is_died_for_everyone(engine):
    """The socket notices, and every request says so."""
    url, process = engine
    async with Follower(url) as follower:
        await follower.submit("p", graph(("TestSleep", {"seconds": 30.0, "steps": 100})))
        await follower.until_event("p", NodeProgress)
        process.kill()
        await process.wait()
        with pytest.raises(EngineDied):
            await follower.client.queue()
        async with asyncio.timeout(10):
            while follower.socket.connected:
                await asyncio.sleep(0.001)
        assert follower.runs["p"].running


async def test_an_engine_that_stands_still_is_left_and_found_again(engine):
    """The heartbeat fails while the loop is blocked; the new connection gets what the old did."""
    url, _ = engine
    async with Follower(url, heartbeat_s=0.1, pong_timeout_s=0.1) as follower:
        async with httpx.AsyncClient(trust_env=False) as http:
            await http.post(f"{url}/_test/freeze", json={"seconds": 2.0})
        async with asyncio.timeout(15):
            told = [await follower.states.get() for _ in range(3)]
        await follower.submit("p", graph())
        await follower.until(lambda: follower.runs["p"].ended)
    assert told == [(True, 1), (False, 1), (True, 2)]
