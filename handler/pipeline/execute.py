"""Prepared -> Ran: one prompt through the engine, its events told to the job's followers."""

from __future__ import annotations

import base64
import logging
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from handler.engine.base import EnginePrompt
from handler.engine.events import (
    EngineEvent,
    Failed,
    Gone,
    Interrupted,
    NodeOutput,
    NodesCached,
    NodeStarted,
    Preview,
    Started,
    Succeeded,
)
from handler.engine.progress import ProgressMeter
from handler.errors import EngineDied, HandlerError, JobCancelled
from handler.graph.rewrite import node_title, safe_leaf
from handler.job import Job, Phase
from handler.pipeline.faults import execution_failed
from handler.pipeline.node_times import NodeTimes
from handler.pipeline.stages import Parts, Prepared, Ran
from handler.pipeline.told import announced_files, joined, without_folder

if TYPE_CHECKING:
    from handler.engine.events import End

log = logging.getLogger("comfyfn.job")
PROGRESS_EVERY_S = 0.25
PREVIEW_EVERY_S = 0.5


class Recorder:
    """Listens to one run: notes what matters for the answer, tells followers, throttled."""

    def __init__(self, prepared: Prepared, job: Job, parts: Parts) -> None:
        cold = parts.metrics.run_begins(job.created_at)
        self.ran = Ran(prepared.graph, prepared.output_nodes, cold=cold)
        self._nodes = NodeTimes(prepared.graph, parts.metrics)
        self._uploads = prepared.uploads
        self._job = job
        self._parts = parts
        self._meter = ProgressMeter(
            prepared.graph, time.monotonic(), output_nodes=prepared.output_nodes
        )
        self._frames_into = parts.scratch / job.uid / "frames"
        self._told_progress = 0.0
        self._told_preview = 0.0

    def __call__(self, event: EngineEvent) -> None:
        """Take one event of the run; never raises: a fault is told by the stage that collects."""
        try:
            self._take(event, time.monotonic())
        except Exception as error:
            log.exception("job %s: an event was not taken in", self._job.id)
            self.ran.fault = error

    def _take(self, event: EngineEvent, now: float) -> None:
        self._note(event)
        self._nodes.feed(event, now)
        view = self._meter.feed(event, now)
        if isinstance(event, Preview):
            self._preview(event, now)
        elif now - self._told_progress >= PROGRESS_EVERY_S or isinstance(
            event, NodeStarted | Succeeded
        ):
            self._told_progress = now
            self._job.progress = asdict(view)
            self._job.tell("progress", self._job.progress)

    def _note(self, event: EngineEvent) -> None:
        ran = self.ran
        match event:
            case Started(at_ms):
                ran.started_ms = at_ms
                self._job.enter(Phase.RUNNING)
            case NodesCached(nodes):
                ran.cached = nodes
            case NodeStarted(node_id):
                ran.node_ms.setdefault(node_id, int(time.time() * 1000))
            case NodeOutput(node_id, output):
                told = ran.told.get(node_id)
                ran.told[node_id] = joined(told, output) if told else output
                self._strays(output)
                if self._uploads is not None:
                    self._uploads.announce(node_id, output, ran.graph)
                title = node_title(ran.graph, node_id) if node_id in ran.graph else ""
                shown = without_folder(output, self._job.uid)
                self._job.tell("output", {"node_id": node_id, "title": title, "output": shown})
            case Succeeded(at_ms):
                ran.ended_ms = at_ms
                ran.end = event
            case Failed() | Interrupted() | Gone():
                ran.end = event
            case _:
                pass

    def _strays(self, output: dict[str, Any]) -> None:
        """Note files outside the job's own folder: they go with it, however the job ends."""
        files = self._parts.engine.files
        if not files.shared:
            return
        for item in announced_files(output):
            path = files.locate(item) if item.get("type") != "input" else None
            if path is not None and not files.is_of(self._job.uid, path):
                self._job.strays.add(path)

    def _preview(self, event: Preview, now: float) -> None:
        # Nodes like SaveImageWebsocket send their result the way others send previews.
        if event.node_id is not None and event.node_id in self.ran.output_nodes:
            self._frames_into.mkdir(parents=True, exist_ok=True)
            suffix = ".png" if event.mime == "image/png" else ".jpg"
            name = f"{safe_leaf(event.node_id)}_{len(self.ran.frames):05}{suffix}"
            path = self._frames_into / name
            path.write_bytes(event.data)
            self.ran.frames.append((event.node_id, path))
        elif self._job.wants_previews and now - self._told_preview >= PREVIEW_EVERY_S:
            self._told_preview = now
            data = base64.b64encode(event.data).decode()
            self._job.tell("preview", {"node_id": event.node_id, "mime": event.mime, "data": data})


def engine_prompt(prepared: Prepared, prompt_id: str, parts: Parts) -> EnginePrompt:
    """Make the engine's prompt of a prepared job."""
    limits, extra = prepared.request.timeouts, prepared.request.extra_data or {}
    if prepared.request.previews:
        # Newer ComfyUI takes it per prompt; older ones by --preview-method only.
        extra = {"preview_method": "auto", **extra}
    no_progress = limits and limits.no_progress_s
    return EnginePrompt(
        prompt_id,
        prepared.graph,
        extra,
        no_progress or parts.settings.no_progress_timeout_s,
    )


def judge_end(end: End, ran: Ran) -> Ran:
    """Let a success pass.

    Raises:
        ExecutionFailed, JobCancelled, EngineDied: as the run ended.
    """
    match end:
        case Succeeded():
            return ran
        case Failed():
            raise execution_failed(end, ran.graph)
        case Interrupted():
            raise JobCancelled(
                "the run was interrupted",
                node_id=end.node_id,
                class_type=end.class_type,
            )
        case _:
            error: HandlerError = EngineDied(
                "the engine lost the prompt: its queue and its history know nothing of it"
            )
            raise error
