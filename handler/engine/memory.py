"""An engine in memory that plays a script: no process, no network, real files.

It keeps the port's promises (one run at a time, an end for every run), so that whatever drives an
engine can be tested or tried by hand without one.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

from handler.engine.base import EnginePrompt, EngineState, NeverStarted
from handler.engine.client import ComfyClient
from handler.engine.command import Folders
from handler.engine.events import (
    End,
    EngineEvent,
    Failed,
    Gone,
    Interrupted,
    NodeOutput,
    NodeStarted,
    Started,
    Succeeded,
)
from handler.engine.files import EngineFiles
from handler.engine.memory_models import MemoryModels
from handler.engine.usage import Usage
from handler.errors import EngineDied, HandlerError, NotReady

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from handler.engine.base import MayLaunch, OnEvent, OnState, Tap, WarmUp
    from handler.engine.model_folders import ModelFolders
    from handler.engine.usage import Device
    from handler.graph.object_info import ObjectInfo

Script = Callable[[EnginePrompt, EngineFiles], AsyncIterator[EngineEvent]]
"""What a run tells. It may wait, write files, and raise what `Engine.run` may raise."""

END_TYPES = (Succeeded, Failed, Interrupted, Gone)
ENDED_FOR_GOOD = (EngineState.FAILED, EngineState.STOPPED)
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAEUlEQVR42mMwTjuDFTEMLQkAuYZZQW4mhPwAAAAA"
    "SUVORK5CYII="
)
"""A PNG of 8 by 8 pixels."""

NODES: dict[str, Any] = {
    "LoadImage": {
        "input": {"required": {"image": [[], {"image_upload": True}]}},
        "output": ["IMAGE", "MASK"],
        "output_node": False,
        "python_module": "nodes",
    },
    "EmptyImage": {
        "input": {
            "required": {
                "width": ["INT", {"default": 512, "min": 1, "max": 16384}],
                "height": ["INT", {"default": 512, "min": 1, "max": 16384}],
            }
        },
        "output": ["IMAGE"],
        "output_node": False,
        "python_module": "nodes",
    },
    "SaveImage": {
        "input": {"required": {"images": ["IMAGE"], "filename_prefix": ["STRING"]}},
        "output": [],
        "output_node": True,
        "python_module": "nodes",
    },
}
"""The few classes it knows, in the form of `GET /object_info`."""


async def save_pictures(prompt: EnginePrompt, files: EngineFiles) -> AsyncIterator[EngineEvent]:
    """Write one picture for every node with a prefix, as SaveImage does."""
    yield Started(1_000)
    for node_id, node in prompt.graph.items():
        yield NodeStarted(node_id)
        prefix = node.get("inputs", {}).get("filename_prefix")
        if isinstance(prefix, str):
            yield NodeOutput(node_id, {"images": [write_picture(files, prefix)]})
    yield Succeeded(2_000)


def write_picture(files: EngineFiles, prefix: str, data: bytes = PIXEL) -> dict[str, str]:
    """Write `<prefix>_00001_.png` below the output folder; give how an engine tells of it."""
    folder, _, leaf = prefix.rpartition("/")
    name = f"{leaf}_00001_.png"
    told = {"filename": name, "subfolder": folder, "type": "output"}
    path = files.locate(told)
    assert path is not None, "a prefix stays inside the output folder"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return told


class MemoryEngine:
    """The port `handler.engine.base.Engine` over a script.

    Attributes:
        script: what runs tell from now on.
        boot_error: raised by every boot while it is set.
        findings: what its boot reports tell besides.
        device: what it says that it computes on.
        used: what it says that it takes of memory.
        stubborn: runs do not heed `cancel`, as a node that computes for minutes.
        prompts: every prompt handed in, in order.
        read_names: the models that it was asked to read ahead.
        cancelled: prompt ids that `cancel` was called with.
        restarts: why it was restarted, each time.
        freezes: `paused`, `revived` and `woken`, in order.
        revive_error, woken: raised by `revive`, given by `wake`.
        tap: where a script may send messages as ComfyUI's.
    """

    files: EngineFiles
    device: Device | None

    def __init__(
        self,
        home: Path,
        *,
        script: Script = save_pictures,
        nodes: Mapping[str, Any] | None = None,
        model_folders: Sequence[str] = ("checkpoints",),
    ) -> None:
        """Take the folder that its input, output, temp and model folders are made in."""
        folders = Folders(home / "input", home / "output", home / "temp", home / "models")
        for folder in (folders.input, folders.output, folders.temp):
            folder.mkdir(parents=True, exist_ok=True)
        # A client that is never asked: the folders are shared.
        self.files = EngineFiles(folders, ComfyClient("http://127.0.0.1:1", client_id="memory"))
        self.script = script
        self.boot_error: HandlerError | None = None
        self.findings: dict[str, Any] = {}
        self.device = None
        self.used = Usage()
        self._error: HandlerError | None = None
        self.stubborn = False
        self.prompts: list[EnginePrompt] = []
        self.read_names: list[str] = []
        self.cancelled: list[str] = []
        self.restarts: list[str] = []
        self.freezes: list[str] = []
        self.revive_error: HandlerError | None = None
        self.woken: dict[str, Any] = {}
        self.tap: Tap | None = None
        known = NODES if nodes is None else nodes
        self._models = MemoryModels(home / "models", model_folders, known)
        self._state = EngineState.STARTING
        self._reason: str | None = "the engine boots"
        self._on_state: OnState = lambda _state: None
        self._warm_up: WarmUp = _nothing
        self._may_launch: MayLaunch = _nothing
        self._turn = asyncio.Lock()
        self._ends: dict[str, asyncio.Future[End]] = {}
        self._began: set[str] = set()

    def __repr__(self) -> str:
        return f"<MemoryEngine {self._state.value} runs={len(self._ends)}>"

    @property
    def kind(self) -> str:
        """Always `memory`."""
        return "memory"

    @property
    def version(self) -> str | None:
        """Its version is no ComfyUI's."""
        return "0"

    @property
    def state(self) -> EngineState:
        """Where it is in its life."""
        return self._state

    @property
    def reason(self) -> str | None:
        """Why it is not ready."""
        return self._reason

    @property
    def boot_report(self) -> dict[str, Any]:
        """Phases with nothing in them, `findings`, and why it was given up."""
        told = {"error": self._error.envelope()} if self._error else {}
        return {"phases": {}, **self.findings, **told}

    def prepare(
        self, on_state: OnState, warm_up: WarmUp, may_launch: MayLaunch | None = None
    ) -> None:
        """Set who is told of state changes, and what runs before and after each boot."""
        self._on_state, self._warm_up = on_state, warm_up
        self._may_launch = may_launch or _nothing

    def listen(self, tap: Tap) -> None:
        """Have `tap` called; its messages are what a script hands to it."""
        self.tap = tap

    async def start(self) -> None:
        """Boot and warm up.

        Raises:
            HandlerError: `boot_error`, or what the warmup raised.
        """
        try:
            if self.boot_error is not None:
                raise self.boot_error
            await self._may_launch()
            await self._warm_up()
        except HandlerError as error:
            self._error = error
            self.enter(EngineState.FAILED, str(error))
            raise
        self.enter(EngineState.READY, None)

    async def stop(self) -> None:
        """End it; runs in hand fail with EngineDied."""
        self.enter(EngineState.STOPPED, "the server stops")
        self.drop_runs("the engine was stopped")

    async def restart(self, why: str) -> None:
        """Drop all runs and boot again."""
        self.restarts.append(why)
        self.enter(EngineState.RESTARTING, why)
        self.drop_runs(why)
        await self.start()

    def enter(self, state: EngineState, reason: str | None) -> None:
        """Go to a state and tell it; FAILED and STOPPED are final."""
        if self._state not in ENDED_FOR_GOOD:
            self._state, self._reason = state, reason
            self._on_state(state)

    def drop_runs(self, why: str) -> None:
        """End every run as a process that dies does."""
        for prompt_id, end in self._ends.items():
            kind = EngineDied if prompt_id in self._began else NeverStarted
            if not end.done():
                end.set_exception(kind(why))

    async def run(self, prompt: EnginePrompt, on_event: OnEvent) -> End:
        """Play the script for one prompt; prompts run one after the other."""
        if self._state in ENDED_FOR_GOOD:
            raise NotReady(f"the engine is {self._state.value}: {self._reason}")
        self.prompts.append(prompt)
        told: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self._ends[prompt.prompt_id] = told
        play = asyncio.ensure_future(self._play(prompt, on_event))
        try:
            await asyncio.wait({play, told}, return_when=asyncio.FIRST_COMPLETED)
            if not told.done():
                return play.result()
            end = told.result()
            on_event(end)
            return end
        finally:
            del self._ends[prompt.prompt_id]
            told.cancel()
            play.cancel()
            await asyncio.gather(play, return_exceptions=True)

    async def _play(self, prompt: EnginePrompt, on_event: OnEvent) -> End:
        async with self._turn:
            self._began.add(prompt.prompt_id)
            async for event in self.script(prompt, self.files):
                on_event(event)
                if isinstance(event, END_TYPES):
                    return event
        end = Gone()
        on_event(end)
        return end

    async def cancel(self, prompt_id: str) -> None:
        """End a run by `Gone` while it waits, by `Interrupted` while it runs."""
        self.cancelled.append(prompt_id)
        told = self._ends.get(prompt_id)
        if told is None or told.done() or self.stubborn:
            return
        began = prompt_id in self._began
        told.set_result(Interrupted(None, None) if began else Gone())

    async def pause(self) -> None:
        """Note it."""
        self.freezes.append("paused")

    async def revive(self) -> None:
        """Note it; raise `revive_error` where there is one."""
        if self.revive_error is not None:
            raise self.revive_error
        self.freezes.append("revived")

    async def wake(self) -> dict[str, Any]:
        """Note it, and give `woken`."""
        self.freezes.append("woken")
        return dict(self.woken)

    async def usage(self) -> Usage:
        """Give `used`."""
        return self.used

    async def object_info(self) -> ObjectInfo:
        """Give its classes."""
        return self._models.info

    async def refresh_class(self, class_type: str) -> None:
        """Read one class anew; `learn` may have changed it, and files may have come."""
        self._answering()
        self._models.refresh(class_type)

    def learn(self, class_type: str, entry: Mapping[str, Any]) -> None:
        """Change a class behind the back of who has read it, as a node pack's reload does."""
        self._models.nodes[class_type] = dict(entry)

    async def models(self) -> dict[str, list[str]]:
        """List the model files of every folder."""
        return {name: self._models.files_in(name) for name in self._models.folders.names}

    async def models_in(self, folder: str) -> list[str]:
        """List the files of one model folder.

        Raises:
            NotFound: it has no such folder.
        """
        self._answering()
        return self._models.files_in(folder)

    def _answering(self) -> None:
        if self._state is EngineState.RESTARTING:
            raise EngineDied("the engine does not answer")

    async def model_folders(self) -> ModelFolders:
        """Give its model folders, below `models`."""
        return self._models.folders

    def read_ahead(self, names: Iterable[str]) -> None:
        """Note what would be read."""
        self.read_names += names


async def _nothing() -> None:
    """Warm up nothing."""
