"""One ComfyUI (real, embedded, or attached by URL), booted, watched, and booted again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handler.engine import command as commands
from handler.engine.base import (
    EnginePrompt,
    EngineState,
    MayLaunch,
    OnEvent,
    OnState,
    Tap,
    WarmUp,
)
from handler.engine.boot import Site, launch
from handler.engine.boot_report import findings, phases
from handler.engine.client import ComfyClient
from handler.engine.events import End, Succeeded
from handler.engine.files import EngineFiles
from handler.engine.model_folders import NO_MODELS, ModelFolders
from handler.engine.model_report import in_words, model_report
from handler.engine.patience import patience_for
from handler.engine.runs import Runs
from handler.engine.snapshot import differences
from handler.engine.usage import Device, Usage, UsageMeter
from handler.errors import BootFailed, EngineRefused, HandlerError, NotFound, NotReady
from handler.graph.object_info import ObjectInfo
from handler.settings import inherited_environment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from handler.engine.process import EngineProcess

log = logging.getLogger("comfyfn.engine")

# Often at first, where a cold start is felt; an engine that takes long is left to boot in peace.
BOOT_POLL_S = 0.02
LONGEST_BOOT_POLL_S = 0.5
POLLED_OFTEN_S = 10.0
ANSWER_LIMIT_S = 5.0
ATTACHED_POLL_S = 0.2
TOLD_LINES = 15
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)


class ComfyEngine:
    """The engine of the port `handler.engine.base.Engine`, over ComfyUI's protocol."""

    def __init__(self, site: Site, process: EngineProcess | None = None) -> None:
        """Take the site and, where the caller already started it, the process."""
        self._site = site
        self._settings = site.settings
        self._process = process
        self._url = site.settings.comfy_url or f"http://127.0.0.1:{site.settings.comfy_port}"
        self._client = ComfyClient(self._url, client_id=uuid.uuid4().hex)
        self._files = EngineFiles(site.folders, self._client)
        self._runs = Runs(
            self._client,
            alive=self._alive,
            log_tail=self.log_tail,
            restart=self.restart,
            grace_s=site.settings.cancel_grace_s,
        )
        self._meter = UsageMeter(
            self._client.system_stats, lambda: self._process.pid if self._process else None
        )
        self._state = EngineState.STARTING
        self._reason: str | None = "the engine boots"
        self._version: str | None = None
        self._info: ObjectInfo | None = None
        self._model_folders: ModelFolders | None = None
        self._exited = asyncio.Event()
        self._booted = asyncio.Event()
        self._failures = 0
        # Why we killed the present process; None where it may end by itself only.
        self._killed_for: str | None = None
        self._first_boot = True
        self._report: dict[str, Any] = {}
        self._on_state: OnState = lambda _state: None
        self._warm_up: WarmUp = _nothing
        self._may_launch: MayLaunch = _nothing
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
    def device(self) -> Device | None:
        return self._meter.device

    @property
    def boot_report(self) -> dict[str, Any]:
        return dict(self._report)

    def log_tail(self) -> list[str] | None:
        """Give the engine's last lines; None for one we did not start."""
        return self._process.log_tail() if self._process else None

    # -- life -----------------------------------------------------------------------------------

    def prepare(
        self, on_state: OnState, warm_up: WarmUp, may_launch: MayLaunch | None = None
    ) -> None:
        self._on_state, self._warm_up = on_state, warm_up
        self._may_launch = may_launch or _nothing

    def listen(self, tap: Tap) -> None:
        self._runs.socket.tap = tap

    async def start(self) -> None:
        self._lifecycle = asyncio.create_task(self._live(), name="engine-life")
        await self._until_booted()

    async def _until_booted(self) -> None:
        """Wait for the next boot that succeeds.

        Raises:
            BootFailed: it was given up.
        """
        assert self._lifecycle is not None
        booted = asyncio.create_task(self._booted.wait())
        await asyncio.wait({self._lifecycle, booted}, return_when=asyncio.FIRST_COMPLETED)
        booted.cancel()
        if self._lifecycle.done():
            await self._lifecycle

    async def stop(self) -> None:
        self._set_state(EngineState.STOPPED, "the server stops")
        if self._lifecycle is not None:
            self._lifecycle.cancel()
            # Whatever it ended with was told; the engine must go in any case.
            await asyncio.gather(self._lifecycle, return_exceptions=True)
        self._runs.fail_all("the engine was stopped")
        await self._runs.close()
        await self._meter.close()
        await self._client.close()
        await self._end_process()
        await asyncio.to_thread(self._site.close)

    async def pause(self) -> None:
        await self._runs.socket.stop()
        self._client.renew()
        await self._client.hang_up()

    async def revive(self) -> None:
        if self._state is not EngineState.READY:
            return  # its boot connects by itself
        idle = not len(self._runs)
        if idle:
            await self.pause()
        else:  # they are followed on, over the next connection
            self._client.renew()
            self._runs.socket.reconnect()
        self._runs.socket.start()
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                self._meter.booted(await self._client.system_stats())  # another GPU, or none
        except (HandlerError, TimeoutError) as error:
            if self._site.kind == "attached":
                return  # who watches it sees that, too
            log.error("after a freeze the engine does not answer: %s", error)
            self._booted.clear()
            await self.restart("it does not answer after a freeze")
            await self._until_booted()
        else:
            if idle:
                await self._runs.socket.wait_connected(ANSWER_LIMIT_S)

    async def wake(self) -> dict[str, Any]:
        node = self._site.node
        if node is None:
            return {}
        self._site.begin_read_ahead()  # what was in memory of files is not in a snapshot
        now = commands.engine_environment(self._settings, inherited_environment())
        changed = differences(self._site.environment, now)
        told = await self._client.wake(changed, node.token)
        # The next launch, after a crash, is one with the GPU.
        self._site.node = replace(node, hides_gpu=False)
        info, stats = await asyncio.gather(self._client.object_info(), self._client.system_stats())
        self._info = ObjectInfo(info)  # some nodes list devices
        self._meter.booted(stats)
        devices = [device.get("name") for device in stats.get("devices") or []]
        vram_mb = int(told.get("vram_total") or 0) >> 20
        self._report = {**self._report, "devices": devices, "vram_mb": vram_mb}
        return told

    async def restart(self, why: str) -> None:
        if self._site.kind == "attached":
            log.error("the attached ComfyUI is stuck and cannot be restarted from here: %s", why)
        elif self._process is None or not self._process.alive:
            log.info("the engine is being restarted already: %s", why)
        else:
            log.error("restarting the engine: %s", why)
            self._killed_for = why
            self._process.kill()

    async def _live(self) -> None:
        try:
            await self._boot_and_boot_again()
        except BootFailed as error:
            self._give_up(error)
            raise
        except Exception as error:
            log.exception("a fault in the engine's life")
            fault = BootFailed(
                f"the engine was given up for {type(error).__name__}: {error}",
                hint="see the log; if it is no matter of this machine, please report it",
                log_tail=self.log_tail(),
                retryable=True,
            )
            self._runs.fail_all(str(fault))
            self._give_up(fault)
            await self._end_process()
            raise fault from error

    async def _boot_and_boot_again(self) -> None:
        while True:
            try:
                await self._boot()
                self._set_state(EngineState.READY, None)
                self._booted.set()
                self._look_at_models()
                await self._until_gone()
                await self._engine_ended()
            except BootFailed as error:
                self._failures += 1
                self._runs.fail_all(str(error))
                await self._end_process()
                given_up = not error.retryable or self._over_budget()
                if not given_up or self._booted.is_set():  # else whoever awaits the start is told
                    log.error("the engine did not start (try %d): %s", self._failures, error)
                    tell_tail(error.log_tail)
                if given_up:
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
        ended = self._how_it_ended()
        log.error("the engine %s", ended)
        tell_tail(self.log_tail())
        if self._killed_for is None:  # what we ordered is no failure of the engine's
            self._failures += 1
        self._set_state(EngineState.RESTARTING, f"the engine {ended}; waiting for it to be back")
        self._runs.fail_all(f"while it had this job, the engine {ended}")
        if self._over_budget():
            raise BootFailed(
                f"the engine {ended}, {self._failures} times in a row: given up",
                log_tail=self.log_tail(),
                retryable=False,
            )
        await self._end_process()

    def _how_it_ended(self) -> str:
        if self._process is None:
            return "is out of reach"
        if self._killed_for is not None:
            return f"was killed by us: {self._killed_for}"
        return self._process.describe_exit()

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
                await self._may_launch()
                self._process = await asyncio.to_thread(launch, self._site)
            begun = self._process.started_at
            self._killed_for = None
            loop = asyncio.get_running_loop()
            self._process.watch(lambda _code: _tell(loop, self._exited))
        stats = await self._answered(begun)
        answering = time.monotonic()
        self._version = (stats.get("system") or {}).get("comfyui_version")
        self._meter.booted(stats)
        self._runs.socket.start()
        await self._while_alive(self._learn_nodes())
        learnt = time.monotonic()
        # Before the warmup: what it is told of node packs decides whether there is one.
        self._report = {**self._report, **self._findings(stats)}
        await self._while_alive(self._warm_up())
        await self._while_alive(self._unstuck())
        ended = time.monotonic()
        own_s = self._site.process_s or 0.0 if self._first_boot else 0.0
        self._first_boot = False
        told = phases(own_s, begun=begun, answering=answering, learnt=learnt, ended=ended)
        self._report = {**self._report, "phases": told}
        if (read := self._site.end_read_ahead()) is not None:
            self._report["read_ahead"] = read
        log.debug("engine ready: %s", told)

    def _look_at_models(self) -> None:
        """Have the boot report tell what lies in the roots, a moment later: no start waits."""
        site, known = self._site, self._model_folders
        if site.kind == "attached" or known is None:
            return

        def look() -> None:
            found = model_report(site.tried_roots(), known.paths)
            self._report = {**self._report, "models": found}
            for line in in_words(found):
                log.warning("models: %s", line)

        # No thread of the loop's: those are waited for at the end, and a network mount may hang.
        threading.Thread(target=look, name="model-report", daemon=True).start()

    def _findings(self, stats: dict[str, Any]) -> dict[str, Any]:
        lines = self._process.log_lines() if self._process else []
        if self._process is not None:
            self._process.booted()
        return findings(lines, stats, self._site.preflight)

    async def _answered(self, begun: float) -> dict[str, Any]:
        limit = self._settings.boot_limit_s
        patience = patience_for(self._url, limit, started=self._site.kind != "attached")
        while True:
            if self._exited.is_set() and self._process is not None:
                raise self._boot_failed(f"the engine {self._how_it_ended()} in its boot")
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    return await self._client.system_stats()
            except (HandlerError, TimeoutError) as error:
                waited_s = time.monotonic() - begun
                patience.told(waited_s, error)
                if waited_s > limit:
                    why = f"the engine did not answer within {limit:g} s"
                    raise self._boot_failed(why) from error
            await asyncio.sleep(boot_poll_s(waited_s))

    async def _learn_nodes(self) -> None:
        try:
            async with asyncio.timeout(self._settings.boot_limit_s):
                info, folders = await asyncio.gather(self._client.object_info(), self._registry())
            self._info, self._model_folders = ObjectInfo(info), folders
        except (HandlerError, TimeoutError) as error:
            raise self._boot_failed(f"the engine does not tell its nodes: {error}") from error
        # A socket that cannot be had is no reason to stay down: history answers as well, later.
        if not await self._runs.socket.wait_connected(ANSWER_LIMIT_S):
            log.warning("no WebSocket to the engine; runs are followed by /history until there is")

    async def _registry(self) -> ModelFolders:
        """Read where the engine looks for models; nowhere on this machine when it is attached."""
        preferred = self._site.folders.models
        try:
            told = await self._client.folder_paths()
        except (NotFound, EngineRefused):
            # No such route, or a node pack broke it: its folders' names, below ours.
            names = await self._client.models()
            told = {name: [str(preferred / name)] if preferred else [] for name in names}
        shared = self._site.folders.shared
        paths = {name: tuple(map(Path, given if shared else ())) for name, given in told.items()}
        return ModelFolders(paths, preferred)

    async def _unstuck(self) -> None:
        """Wait out what a stalled warmup left: an engine killed for it never was ready."""
        await self._runs.recovered()
        if self._killed_for is not None:
            await asyncio.Event().wait()  # until its end is seen

    async def _while_alive(self, work: Awaitable[None]) -> None:
        """Await a part of the boot, but not longer than the engine lives."""
        task = asyncio.ensure_future(work)
        exited = asyncio.create_task(self._exited.wait())
        try:
            await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done() and self._process is not None:
                raise self._boot_failed(f"the engine {self._how_it_ended()} in its boot")
            await task
        finally:
            task.cancel()
            exited.cancel()
            await asyncio.gather(task, exited, return_exceptions=True)

    def _boot_failed(self, why: str) -> BootFailed:
        ours = "the log tail has the engine's own words; try its command by hand"
        theirs = f"COMFY_URL is {self._url}: does ComfyUI run there?"
        return BootFailed(
            why,
            hint=theirs if self._site.kind == "attached" else ours,
            log_tail=self.log_tail(),
            retryable=True,
        )

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
        lines = None if self._process is None else self._process.lines.listening(on_event)
        with lines or contextlib.nullcontext(on_event) as heard:
            end = await self._runs.run(prompt, heard)
        self._meter.ran()
        if isinstance(end, Succeeded):
            self._failures = 0
        return end

    async def cancel(self, prompt_id: str) -> None:
        await self._runs.cancel(prompt_id)

    async def usage(self) -> Usage:
        return await self._meter.usage()

    async def object_info(self) -> ObjectInfo:
        if self._info is None:
            raise NotReady("the engine has not told its nodes yet")
        return self._info

    async def refresh_class(self, class_type: str) -> None:
        found = await self._client.object_info(class_type)
        (await self.object_info()).replace(class_type, found.get(class_type) or {})

    async def model_folders(self) -> ModelFolders:
        if self._model_folders is None:
            raise NotReady("the engine has not told its model folders yet")
        return self._model_folders

    def read_ahead(self, names: Iterable[str]) -> None:
        self._site.read_ahead(names)

    async def models_in(self, folder: str) -> list[str]:
        return await self._client.models_in(folder)

    async def models(self) -> dict[str, list[str]]:
        # Every file of a node pack would be told as a model.
        names = [name for name in await self._client.models() if name not in NO_MODELS]
        lists = await asyncio.gather(*(self._client.models_in(name) for name in names))
        return dict(zip(names, lists, strict=True))


def tell_tail(lines: list[str] | None) -> None:
    """Log the engine's last lines: while all is well they are for DEBUG only."""
    for line in (lines or [])[-TOLD_LINES:]:
        log.error("engine | %s", line)


def boot_poll_s(waited_s: float) -> float:
    """Give the pause before the next look at an engine that boots: at most 3 % of the boot."""
    over_s = waited_s - POLLED_OFTEN_S
    return min(max(BOOT_POLL_S, over_s / 20), LONGEST_BOOT_POLL_S)


async def _nothing() -> None:
    """Warm up nothing."""


def _tell(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody to tell
        loop.call_soon_threadsafe(event.set)
