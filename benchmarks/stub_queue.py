"""The stand-in engine's queue: one prompt after another, told in ComfyUI's order of events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from stub_nodes import NODES, OUTPUT_NODES, NodeFailedError, execution_order, perform

if TYPE_CHECKING:
    from aiohttp import web
    from stub_nodes import Folders, Graph

HISTORY_LIMIT = 10_000


@dataclass(slots=True)
class Job:
    """A prompt in the queue. `received` is on the monotonic clock, in seconds."""

    number: float
    prompt_id: str
    graph: Graph
    extra: dict[str, Any]
    outputs: list[str]
    received: float
    messages: list[list[Any]] = field(default_factory=list)
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def client(self) -> str | None:
        return self.extra.get("client_id")

    def listing(self) -> list[Any]:
        """The five items that /queue and /history show."""
        return [self.number, self.prompt_id, self.graph, self.extra, self.outputs]


def refusal(kind: str, message: str, details: str = "") -> dict[str, Any]:
    """An error as ComfyUI shapes it."""
    return {"type": kind, "message": message, "details": details, "extra_info": {}}


class Engine:
    """The queue and what it tells; routes are in `Routes`."""

    def __init__(self, folders: Folders, delay_ms: float) -> None:
        self.folders, self.delay_s = folders, delay_ms / 1000
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.pending: deque[Job] = deque()
        self.arrived = asyncio.Event()
        self.running: Job | None = None
        self.task: asyncio.Task[None] | None = None
        self.history: dict[str, dict[str, Any]] = {}
        self.timings: deque[float] = deque(maxlen=100_000)
        self.number = 0
        self.interrupts = 0

    async def send(self, event: str, data: dict[str, Any], client: str | None) -> None:
        """To one client; None: to all."""
        text = json.dumps({"type": event, "data": data})
        sockets = list(self.sockets.values()) if client is None else [self.sockets.get(client)]
        for socket in sockets:
            if socket is not None and not socket.closed:
                with contextlib.suppress(ConnectionError, RuntimeError):
                    await socket.send_str(text)

    def exec_info(self) -> dict[str, Any]:
        waiting = len(self.pending) + (self.running is not None)
        return {"exec_info": {"queue_remaining": waiting}}

    def enqueue(self, job: Job, *, front: bool = False) -> None:
        (self.pending.appendleft if front else self.pending.append)(job)
        self.arrived.set()

    async def tell(self, job: Job, event: str, data: dict[str, Any]) -> None:
        """An event that also stands in the history."""
        data = {**data, "prompt_id": job.prompt_id, "timestamp": int(time.time() * 1000)}
        job.messages.append([event, data])
        if job.client is not None:
            await self.send(event, data, job.client)

    def check(self, graph: Graph) -> tuple[dict[str, Any] | None, list[str]]:
        """The answer for a graph that is refused, else None and its output nodes."""

        def refused(error: dict[str, Any], nodes: dict[str, Any] | None = None) -> dict[str, Any]:
            return {"error": error, "node_errors": nodes or {}}

        for node_id, node in graph.items():
            if node.get("class_type") not in NODES:
                error = refusal("invalid_prompt", "No such node class", f"Node ID '#{node_id}'")
                return refused(error), []
        outputs = [n for n, node in graph.items() if node["class_type"] in OUTPUT_NODES]
        if not outputs:
            return refused(refusal("prompt_no_outputs", "No node has an output")), []
        for node_id in execution_order(graph, outputs):
            node = graph[node_id]
            name = node.get("inputs", {}).get("image", "")
            if node["class_type"] == "LoadImage" and not (self.folders.input / name).is_file():
                error = refusal("custom_validation_failed", "Refused by the node", "no such image")
                entry = {"errors": [error], "dependent_outputs": outputs, "class_type": "LoadImage"}
                whole = refusal("prompt_outputs_failed_validation", "Outputs cannot run")
                return refused(whole, {node_id: entry}), []
        return None, outputs

    async def work(self) -> None:
        """Run prompts one after another, for ever."""
        while True:
            await self.arrived.wait()
            if not self.pending:
                self.arrived.clear()
                continue
            await self.send("status", {"status": self.exec_info()}, None)
            if not self.pending:
                continue  # deleted while that was sent
            job = self.running = self.pending.popleft()
            await self.send("status", {"status": self.exec_info()}, None)
            await self.tell(job, "execution_start", {})
            await self.tell(job, "execution_cached", {"nodes": []})
            completed = await self.finish(job)
            self.timings.append((time.perf_counter() - job.received) * 1000)
            self.remember(job, completed)
            self.running = self.task = None
            await self.send("status", {"status": self.exec_info()}, None)
            if job.client is not None:
                await self.send("executing", {"node": None, "prompt_id": job.prompt_id}, job.client)

    async def finish(self, job: Job) -> bool:
        """Run a prompt to its end and tell which; True for a success."""
        self.task = asyncio.create_task(self.run(job))
        await asyncio.wait([self.task])
        if self.task.cancelled():
            where: dict[str, Any] = {"node_id": job.outputs[0], "node_type": "SaveImage"}
            await self.tell(job, "execution_interrupted", {**where, "executed": []})
            return False
        error = self.task.exception()
        if isinstance(error, NodeFailedError):
            told: dict[str, Any] = {"node_id": error.node_id, "node_type": error.class_type}
            told |= {"exception_message": f"{error}\n", "exception_type": "RuntimeError"}
            told |= {"executed": [], "traceback": [], "current_inputs": {}, "current_outputs": []}
            await self.tell(job, "execution_error", told)
            return False
        if error is not None:
            raise error  # a fault of the stand-in itself: better seen than answered
        await self.tell(job, "execution_success", {})
        return True

    async def run(self, job: Job) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        values: dict[str, bytes] = {}
        states: dict[str, dict[str, Any]] = {}

        async def progress(node_id: str, state: str) -> None:
            states[node_id] = {
                "value": float(state == "finished"),
                "max": 1.0,
                "state": state,
                "node_id": node_id,
                "prompt_id": job.prompt_id,
                "display_node_id": node_id,
                "parent_node_id": None,
                "real_node_id": node_id,
            }
            told = {"prompt_id": job.prompt_id, "nodes": states}
            await self.send("progress_state", told, job.client)

        for node_id in execution_order(job.graph, job.outputs):
            about = {"node": node_id, "display_node": node_id, "prompt_id": job.prompt_id}
            await progress(node_id, "running")
            if job.client is not None:
                await self.send("executing", about, job.client)
            shown = await perform(node_id, job.graph[node_id], values, self.folders)
            if shown is not None:
                job.results[node_id] = shown
                if job.client is not None:
                    await self.send("executed", {**about, "output": shown}, job.client)
            await progress(node_id, "finished")

    def remember(self, job: Job, completed: bool) -> None:
        self.history[job.prompt_id] = {
            "prompt": job.listing(),
            "outputs": job.results,
            "status": {
                "status_str": "success" if completed else "error",
                "completed": completed,
                "messages": job.messages,
            },
            "meta": {},
        }
        while len(self.history) > HISTORY_LIMIT:
            self.history.pop(next(iter(self.history)))
