"""One ComfyUI (real, embedded, or attached by URL), booted, watched, and booted again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from handler.engine.base import EnginePrompt, EngineState, OnEvent, OnState, WarmUp
from handler.engine.boot import Site, launch
from handler.engine.client import ComfyClient
from handler.engine.events import End, Succeeded
from handler.engine.files import EngineFiles
from handler.engine.runs import Runs
from handler.errors import BootFailed, HandlerError, NotReady
from handler.graph.object_info import ObjectInfo

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from handler.engine.process import EngineProcess

log = logging.getLogger("comfyfn.engine")

BOOT_POLL_S = 0.02
ANSWER_LIMIT_S = 5.0
ATTACHED_POLL_S = 0.2
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
# How ComfyUI's log tells of each node pack.
IMPORT_TIME = re.compile(r"^\s*([\d.]+) seconds( \(IMPORT FAILED\))?:\s+(\S.*)$")


class ComfyEngine:
    """The engine of the port `handler.engine.base.Engine`, over ComfyUI's protocol."""

    def __init__(self, site: Site, process: EngineProcess | None = None) -> None:
        """Take the site and, where the caller already started it, the process."""
        self._site = site
        self._settings = site.settings
        self._process = process
        url = site.settings.comfy_url or f"http://127.0.0.1:{site.settings.comfy_port}"
        self._client = ComfyClient(url, client_id=uuid.uuid4().hex)
        self._files = EngineFiles(site.folders, self._client)
        self._runs = Runs(
            self._client, alive=self._alive, log_tail=self.log_tail, restart=self.restart
        )
        self._state = EngineState.STARTING
        self._reason: str | None = "the engine boots"
        self._version: str | None = None
        self._info: ObjectInfo | None = None
        self._exited = asyncio.Event()
        self._booted = asyncio.Event()
        self._failures = 0
        self._report: dict[str, Any] = {}
        self._on_state: OnState = lambda _state: None
        self._warm_up: WarmUp = _nothing
        self._lifecycle: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<ComfyEngine {self.kind} {self._state.value} runs={len(self._runs)}>"

    @property
    def files(self) -> EngineFiles:
        return self._files

    @property
    def kind(self) -> str:
        return self._site.kind

    @property
    def version(self) -> str | None:
        return self._version

    @property
    def state(self) -> EngineState:
        return self._state

    @property
    def reason(self) -> str | None:
        return self._reason

    @property
    def boot_report(self) -> dict[str, Any]:
        return dict(self._report)

    def log_tail(self) -> list[str] | None:
        """Give the engine's last lines; None for one we did not start."""
        return self._process.log_tail() if self._process else None

    # -- life -----------------------------------------------------------------------------------

    def prepare(self, on_state: OnState, warm_up: WarmUp) -> None:
        self._on_state, self._warm_up = on_state, warm_up

    async def start(self) -> None:
        self._lifecycle = asyncio.create_task(self._live(), name="engine-life")
        booted = asyncio.create_task(self._booted.wait())
        await asyncio.wait({self._lifecycle, booted}, return_when=asyncio.FIRST_COMPLETED)
        booted.cancel()
        if self._lifecycle.done():
            await self._lifecycle

    async def stop(self) -> None:
        self._set_state(EngineState.STOPPED, "the server stops")
        if self._lifecycle is not None:
            self._lifecycle.cancel()
            with contextlib.suppress(asyncio.CancelledError, HandlerError):
                await self._lifecycle
        self._runs.fail_all("the engine was stopped")
        await self._runs.close()
        await self._client.close()
        await self._end_process()
        await asyncio.to_thread(self._site.close)

    async def restart(self, why: str) -> None:
        if self._process is None:
            log.error("the attached ComfyUI is stuck and cannot be restarted from here: %s", why)
            return
        log.error("restarting the engine: %s", why)
        self._process.kill()

    async def _live(self) -> None:
        while True:
            try:
                await self._boot()
                self._set_state(EngineState.READY, None)
                self._booted.set()
                await self._until_gone()
                await self._engine_ended()
            except BootFailed as error:
                self._failures += 1
                log.error("the engine did not start (try %d): %s", self._failures, error)
                await self._end_process()
                if not error.retryable or self._over_budget():
                    self._give_up(error)
                    raise
            # A run that ends in the same moment may have set the count back already.
            await asyncio.sleep(BACKOFF_S[min(max(self._failures, 1), len(BACKOFF_S)) - 1])

    async def _until_gone(self) -> None:
        if self._site.kind != "attached":
            await self._exited.wait()
            return
        while True:
            await asyncio.sleep(ATTACHED_POLL_S)
            if self._runs.socket.connected:
                continue
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    await self._client.system_stats()
            except (HandlerError, TimeoutError):
                return

    async def _engine_ended(self) -> None:
        ended = self._process.describe_exit() if self._process else "is out of reach"
        log.error("the engine %s", ended)
        self._failures += 1
        self._set_state(EngineState.RESTARTING, f"the engine {ended}; waiting for it to be back")
        self._runs.fail_all(f"the engine {ended} while it had this job")
        if self._over_budget():
            raise BootFailed(
                f"the engine {ended}, {self._failures} times in a row: given up",
                log_tail=self.log_tail(),
                retryable=False,
            )
        await self._end_process()

    def _over_budget(self) -> bool:
        return not self._settings.always_restart and self._failures > self._settings.restart_budget

    def _give_up(self, error: BootFailed) -> None:
        self._report = {**self._report, "error": error.envelope()}
        self._set_state(EngineState.FAILED, str(error))

    async def _boot(self) -> None:
        self._exited.clear()
        begun = time.monotonic()
        if self._site.kind != "attached":
            if self._process is None:
                self._process = await asyncio.to_thread(launch, self._site)
            begun = self._process.started_at
            loop = asyncio.get_running_loop()
            self._process.watch(lambda _code: _tell(loop, self._exited))
        stats = await self._answered(begun)
        answering = time.monotonic()
        self._version = (stats.get("system") or {}).get("comfyui_version")
        self._runs.socket.start()
        await self._while_alive(self._learn_nodes())
        learnt = time.monotonic()
        await self._while_alive(self._warm_up())
        ended = time.monotonic()
        phases = {
            "process_s": self._site.process_s or 0.0,
            "engine_answering_s": answering - begun,
            "node_info_s": learnt - answering,
            "warmup_s": ended - learnt,
            "total_s": ended - begun + (self._site.process_s or 0.0),
        }
        phases = {name: round(seconds, 3) for name, seconds in phases.items()}
        self._report = {"phases": phases, **self._findings(stats)}
        log.info("engine ready: %s", phases)

    async def _answered(self, begun: float) -> dict[str, Any]:
        limit = self._settings.boot_limit_s
        while True:
            if self._exited.is_set() and self._process is not None:
                raise self._boot_failed(f"the engine {self._process.describe_exit()} in its boot")
            with contextlib.suppress(HandlerError, TimeoutError):
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    return await self._client.system_stats()
            if time.monotonic() - begun > limit:
                raise self._boot_failed(f"the engine did not answer within {limit:g} s")
            await asyncio.sleep(BOOT_POLL_S)

    async def _learn_nodes(self) -> None:
        try:
            async with asyncio.timeout(self._settings.boot_limit_s):
                self._info = ObjectInfo(await self._client.object_info())
        except (HandlerError, TimeoutError) as error:
            raise self._boot_failed(f"the engine does not tell its nodes: {error}") from error
        # A socket that cannot be had is no reason to stay down: history answers as well, later.
        if not await self._runs.socket.wait_connected(ANSWER_LIMIT_S):
            log.warning("no WebSocket to the engine; runs are followed by /history until there is")

    async def _while_alive(self, work: Awaitable[None]) -> None:
        """Await a part of the boot, but not longer than the engine lives."""
        task = asyncio.ensure_future(work)
        exited = asyncio.create_task(self._exited.wait())
        try:
            await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and self._process is not None:
                raise self._boot_failed(f"the engine {self._process.describe_exit()} in its boot")
            await task
        finally:
            task.cancel()
            exited.cancel()
            await asyncio.gather(task, exited, return_exceptions=True)

    def _boot_failed(self, why: str) -> BootFailed:
        return BootFailed(
            why,
            hint="the log tail has the engine's own words; try its command by hand",
            log_tail=self.log_tail(),
            retryable=True,
        )

    def _findings(self, stats: dict[str, Any]) -> dict[str, Any]:
        packs, failed = {}, []
        for line in self._process.tail if self._process else ():
            found = IMPORT_TIME.match(line)
            if found:
                name = PurePosixPath(found[3]).name
                packs[name] = float(found[1])
                if found[2]:
                    failed.append(name)
        preflight = self._site.preflight
        return {
            "custom_nodes_s": packs,
            "custom_nodes_failed": failed,
            "devices": [device.get("name") for device in stats.get("devices") or []],
            "torch": preflight.torch if preflight else None,
        }

    async def _end_process(self) -> None:
        """Stop the socket and whatever is left of the process and its children."""
        await self._runs.socket.stop()
        process, self._process = self._process, None
        if process is not None:
            await asyncio.to_thread(process.stop)

    def _set_state(self, state: EngineState, reason: str | None) -> None:
        if self._state in (EngineState.STOPPED, EngineState.FAILED):
            return
        self._state, self._reason = state, reason
        self._on_state(state)

    def _alive(self) -> bool | None:
        if self._site.kind == "attached":
            return None
        return self._process is not None and self._process.alive

    # -- prompts and nodes ------------------------------------------------------------------------

    async def run(self, prompt: EnginePrompt, on_event: OnEvent) -> End:
        if self._state in (EngineState.FAILED, EngineState.STOPPED):
            raise NotReady(f"the engine is {self._state.value}: {self._reason}")
        end = await self._runs.run(prompt, on_event)
        if isinstance(end, Succeeded):
            self._failures = 0
        return end

    async def cancel(self, prompt_id: str) -> None:
        await self._runs.cancel(prompt_id)

    async def object_info(self) -> ObjectInfo:
        if self._info is None:
            raise NotReady("the engine has not told its nodes yet")
        return self._info

    async def refresh_class(self, class_type: str) -> None:
        found = await self._client.object_info(class_type)
        (await self.object_info()).replace(class_type, found.get(class_type) or {})

    async def models(self) -> dict[str, list[str]]:
        names = await self._client.models()
        lists = await asyncio.gather(*(self._client.models_in(name) for name in names))
        return dict(zip(names, lists, strict=True))


async def _nothing() -> None:
    """Warm up nothing."""


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody to tell
        loop.call_soon_threadsafe(event.set)
