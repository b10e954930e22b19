"""One ComfyUI (real, embedded, or attached by URL) kept alive and asked to run prompts.

The WebSocket is for speed; `/history` and `/queue` are the truth, looked at only when messages
may have been lost: after a reconnect, while the socket is down, or after a silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
import uuid
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from handler.engine.base import EnginePrompt, EngineState, NeverStarted, OnEvent, OnState, WarmUp
from handler.engine.boot import Site, launch
from handler.engine.client import ComfyClient, GraphRefused
from handler.engine.events import End, EngineEvent, Failed, Gone, Interrupted, Started, Succeeded
from handler.engine.execution import Execution
from handler.engine.files import EngineFiles
from handler.engine.socket import EngineSocket
from handler.errors import (
    BootFailed,
    EngineDied,
    EngineRefused,
    HandlerError,
    NotReady,
    PlatformError,
    Stalled,
)
from handler.graph.object_info import ObjectInfo

if TYPE_CHECKING:
    from handler.engine.messages import Message
    from handler.engine.process import EngineProcess

log = logging.getLogger("comfyfn.engine")

BOOT_POLL_S = 0.02
CONNECT_LIMIT_S = 5.0
# A run that says nothing is looked up this often; ComfyUI answers in a millisecond.
SILENCE_S = 3.0
DISCONNECTED_POLL_S = 0.5
ATTACHED_MISSES = 5
RECOVERY_S = 5.0
FORGET_BATCH = 16
FORGET_AFTER_S = 1.0
BACKOFF_S = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
END_TYPES = (Succeeded, Failed, Interrupted, Gone)
IMPORT_TIME = re.compile(r"^\s*([\d.]+) seconds( \(IMPORT FAILED\))?:\s+(\S.*)$")


class _Run:
    """One prompt in the engine's hands.

    Attributes:
        submitted: the engine has answered that it took the prompt.
        began: the engine was seen to run it.
        misses: looks at the queue in a row that got no answer.
    """

    def __init__(self, prompt: EnginePrompt, on_event: OnEvent) -> None:
        self.execution = Execution(prompt.prompt_id, prompt.graph.keys())
        self.on_event = on_event
        self.done: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.submitted = False
        self.began = False
        self.misses = 0

    def take(self, events: list[EngineEvent]) -> None:
        for event in events:
            if isinstance(event, Started):
                if self.began:
                    continue
                self.began = True
            self.on_event(event)
            if isinstance(event, END_TYPES) and not self.done.done():
                self.done.set_result(event)

    def fail(self, error: HandlerError) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class ComfyEngine:
    """The engine of the port `handler.engine.base.Engine`, over ComfyUI's protocol."""

    files: EngineFiles

    def __init__(self, site: Site, process: EngineProcess | None = None) -> None:
        """Take the site and, where the caller already started it, the process."""
        self._site = site
        self._settings = site.settings
        self._process = process
        url = site.settings.comfy_url or f"http://127.0.0.1:{site.settings.comfy_port}"
        self._client = ComfyClient(url, client_id=uuid.uuid4().hex)
        self.files = EngineFiles(site.folders, self._client)
        self._socket = EngineSocket(self._client, self._on_message, self._on_socket)
        self._state = EngineState.STARTING
        self._reason: str | None = "the engine boots"
        self._version: str | None = None
        self._runs: dict[str, _Run] = {}
        self._info: ObjectInfo | None = None
        self._last_activity = time.monotonic()
        self._exited = asyncio.Event()
        self._booted = asyncio.Event()
        self._failures = 0
        self._report: dict[str, Any] = {}
        self._on_state: OnState = lambda _state: None
        self._warm_up: WarmUp = _nothing
        self._tasks: set[asyncio.Task[Any]] = set()
        self._lifecycle: asyncio.Task[None] | None = None
        self._forget: list[str] = []
        self._forget_timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<ComfyEngine {self.kind} {self._state.value} runs={len(self._runs)}>"

    # -- what it is ---------------------------------------------------------------------------

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
        self._fail_runs("the engine was stopped")
        await self._socket.stop()
        for task in list(self._tasks):
            task.cancel()
        await self._client.close()
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
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
                await self._exited.wait()
                self._engine_ended()
            except BootFailed as error:
                await self._end_process()
                self._failures += 1
                log.error("the engine did not start (try %d): %s", self._failures, error)
                if not error.retryable or self._over_budget():
                    self._give_up(error)
                    raise
            delay = BACKOFF_S[min(max(self._failures - 1, 0), len(BACKOFF_S) - 1)]
            if self._failures:
                await asyncio.sleep(delay)

    def _engine_ended(self) -> None:
        ended = self._process.describe_exit() if self._process else "was lost"
        log.error("the engine %s", ended)
        self._failures += 1
        self._set_state(EngineState.RESTARTING, f"the engine {ended} and is being restarted")
        self._fail_runs(f"the engine {ended} while it had this job")
        if self._over_budget():
            error = BootFailed(
                f"the engine {ended}, {self._failures} times in a row: given up",
                log_tail=self.log_tail(),
                retryable=False,
            )
            self._give_up(error)
            raise error

    def _over_budget(self) -> bool:
        return not self._settings.always_restart and self._failures > self._settings.restart_budget

    def _give_up(self, error: BootFailed) -> None:
        self._set_state(EngineState.FAILED, str(error))
        self._report = {**self._report, "error": error.envelope()}

    async def _boot(self) -> None:
        begun = time.monotonic()
        phases: dict[str, float] = {}
        self._exited.clear()
        if self._site.kind != "attached":
            if self._process is None:
                self._process = await asyncio.to_thread(launch, self._site)
            begun = self._process.started_at
            loop = asyncio.get_running_loop()
            self._process.watch(lambda _code: _tell(loop, self._exited))
        stats = await self._answered(begun)
        phases["engine_answering_s"] = round(time.monotonic() - begun, 3)
        self._version = (stats.get("system") or {}).get("comfyui_version")
        self._socket.start()
        async with asyncio.timeout(self._settings.boot_limit_s):
            self._info = ObjectInfo(await self._client.object_info())
        phases["node_info_s"] = round(time.monotonic() - begun - phases["engine_answering_s"], 3)
        await self._connected()
        mark = time.monotonic()
        await self._guarded(self._warm_up())
        phases["warmup_s"] = round(time.monotonic() - mark, 3)
        phases["total_s"] = round(time.monotonic() - begun, 3)
        self._report = {"phases": phases, **self._findings(stats)}
        log.info("engine ready: %s", phases)

    async def _answered(self, begun: float) -> dict[str, Any]:
        limit = self._settings.boot_limit_s
        while True:
            if self._exited.is_set() and self._process is not None:
                raise self._boot_failed(f"the engine {self._process.describe_exit()} in its boot")
            with contextlib.suppress(HandlerError, TimeoutError):
                async with asyncio.timeout(CONNECT_LIMIT_S):
                    return await self._client.system_stats()
            if time.monotonic() - begun > limit:
                raise self._boot_failed(f"the engine did not answer within {limit:g} s")
            await asyncio.sleep(BOOT_POLL_S)

    async def _guarded(self, work: Any) -> None:
        """Await the warmup, but not longer than the engine lives."""
        task = asyncio.ensure_future(work)
        exited = asyncio.create_task(self._exited.wait())
        try:
            await asyncio.wait({task, exited}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise self._boot_failed("the engine ended during the warmup")
            await task
        finally:
            task.cancel()
            exited.cancel()

    async def _connected(self) -> None:
        # A socket that cannot be had is no reason to stay down: history answers as well, later.
        if not await self._socket.wait_connected(CONNECT_LIMIT_S):
            log.warning("no WebSocket to the engine; runs are followed by /history until there is")

    def _boot_failed(self, why: str) -> BootFailed:
        return BootFailed(
            why,
            hint="the log tail has the engine's own words; try its command by hand",
            log_tail=self.log_tail(),
            retryable=True,
        )

    def _findings(self, stats: dict[str, Any]) -> dict[str, Any]:
        packs, failed = {}, []
        for line in self.log_tail() or []:
            found = IMPORT_TIME.match(line)
            if found:
                name = PurePosixPath(found[3]).name
                packs[name] = float(found[1])
                if found[2]:
                    failed.append(name)
        devices = [d.get("name") for d in stats.get("devices") or []]
        found_gpu = self._site.preflight
        return {
            "custom_nodes_s": packs,
            "custom_nodes_failed": failed,
            "devices": devices,
            "torch": found_gpu.torch if found_gpu else None,
        }

    async def _end_process(self) -> None:
        await self._socket.stop()
        if self._process is not None:
            await asyncio.to_thread(self._process.stop)
            self._process = None

    def _set_state(self, state: EngineState, reason: str | None) -> None:
        if self._state in (EngineState.STOPPED, EngineState.FAILED):
            return
        self._state, self._reason = state, reason
        self._on_state(state)

    def _fail_runs(self, why: str) -> None:
        for run in list(self._runs.values()):
            kind = EngineDied if run.began else NeverStarted
            run.fail(
                kind(
                    why,
                    log_tail=self.log_tail(),
                    hint="send it again; if it happens again, the graph may need more memory",
                )
            )
        if self._process is not None and not self._process.alive:
            self._process = None

    # -- messages -------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        prompt_id = getattr(message, "prompt_id", None)
        if prompt_id is not None:
            run = self._runs.get(prompt_id)
            runs = [run] if run else []
        else:
            runs = list(self._runs.values())
        for run in runs:
            self._last_activity = time.monotonic()
            run.take(run.execution.feed(message))
            if run.submitted and run.execution.needs_history:
                self._spawn(self._reconcile(run))

    def _on_socket(self, connected: bool, generation: int) -> None:
        if not connected or generation <= 1:
            return
        for run in list(self._runs.values()):
            run.execution.feed_reconnected()
            if run.submitted:
                self._spawn(self._reconcile(run))

    async def _reconcile(self, run: _Run) -> None:
        """Ask `/queue`, then `/history`: in this order an ended run is never missed."""
        prompt_id, before = run.execution.prompt_id, run.execution.reconnects
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                queue = await self._client.queue()
                entry = await self._client.history(prompt_id)
        except (HandlerError, TimeoutError):
            run.misses += 1
            if self._process is None and run.misses >= ATTACHED_MISSES:
                run.fail(EngineDied(f"the ComfyUI at {self._client.base_url} is out of reach"))
            return
        run.misses = 0
        if prompt_id in queue.running:
            run.take([Started(int(time.time() * 1000))])
        run.take(
            run.execution.feed_history(entry, in_queue=prompt_id in queue, reconnects_before=before)
        )

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # -- prompts ----------------------------------------------------------------------------------

    async def run(self, prompt: EnginePrompt, on_event: OnEvent) -> End:
        if self._state in (EngineState.FAILED, EngineState.STOPPED):
            raise NotReady(f"the engine is {self._state.value}: {self._reason}", retryable=True)
        run = _Run(prompt, on_event)
        self._runs[prompt.prompt_id] = run
        self._last_activity = time.monotonic()
        try:
            await self._submit(prompt, run)
            end = await self._follow(prompt, run)
        finally:
            del self._runs[prompt.prompt_id]
            run.done.cancel()
        if isinstance(end, Succeeded):
            self._failures = 0
        self._forget_later(prompt.prompt_id)
        return end

    async def _submit(self, prompt: EnginePrompt, run: _Run) -> None:
        submit = self._client.submit(prompt.prompt_id, prompt.graph, prompt.extra_data)
        try:
            node_errors = await submit
        except EngineDied as error:
            # The answer was lost; whether the prompt was, the queue tells.
            if self._process is not None and not self._process.alive:
                raise NeverStarted(error.message, log_tail=self.log_tail()) from error
            await self._reconcile(run)
            if run.done.done() and isinstance(run.done.result(), Gone):
                raise NeverStarted(error.message, log_tail=self.log_tail()) from error
            run.submitted = True
            return
        run.submitted = True
        if run.execution.needs_history:
            self._spawn(self._reconcile(run))
        if node_errors:
            await self.cancel(prompt.prompt_id)
            raise GraphRefused(
                200, {"message": "ComfyUI would drop some of the outputs"}, node_errors
            )

    async def _follow(self, prompt: EnginePrompt, run: _Run) -> End:
        while True:
            wait = SILENCE_S if self._socket.connected else DISCONNECTED_POLL_S
            if prompt.no_progress_s:
                wait = min(wait, max(prompt.no_progress_s / 4, 0.05))
            done, _ = await asyncio.wait((run.done,), timeout=wait)
            if done:
                return run.done.result()
            silence = time.monotonic() - self._last_activity
            if silence >= wait:
                was_connected = self._socket.connected
                await self._reconcile(run)
                if run.done.done():
                    if was_connected and not run.done.exception():
                        log.warning("the engine's WebSocket was silent about an ended run")
                        self._socket.reconnect()
                    continue
            if prompt.no_progress_s and silence > prompt.no_progress_s:
                self._spawn(self._recover(prompt.prompt_id))
                raise Stalled(
                    f"no progress for {silence:.1f} s (limit {prompt.no_progress_s:g} s)",
                    hint="raise NO_PROGRESS_TIMEOUT_S or timeouts.no_progress_s for slow nodes",
                    log_tail=self.log_tail(),
                )

    async def _recover(self, prompt_id: str) -> None:
        """Get an engine that stalled back: interrupt, else kill it, so that the next job runs."""
        with contextlib.suppress(HandlerError, TimeoutError):
            async with asyncio.timeout(RECOVERY_S):
                await self._client.delete_pending([prompt_id])
                await self._client.interrupt(prompt_id)
                while prompt_id in await self._client.queue():  # noqa: ASYNC110
                    await asyncio.sleep(0.2)  # the queue is another process's: no event to await
                return
        await self.restart(f"it did not react for {RECOVERY_S:g} s after a stalled run")

    async def cancel(self, prompt_id: str) -> None:
        run = self._runs.get(prompt_id)
        with contextlib.suppress(EngineDied, EngineRefused, Stalled):
            await self._client.delete_pending([prompt_id])
            await self._client.interrupt(prompt_id)
            if run is not None:
                await self._reconcile(run)

    def _forget_later(self, prompt_id: str) -> None:
        self._forget.append(prompt_id)
        if len(self._forget) >= FORGET_BATCH:
            self._forget_now()
        elif self._forget_timer is None:
            loop = asyncio.get_running_loop()
            self._forget_timer = loop.call_later(FORGET_AFTER_S, self._forget_now)

    def _forget_now(self) -> None:
        if self._forget_timer is not None:
            self._forget_timer.cancel()
            self._forget_timer = None
        ids, self._forget = self._forget, []
        if ids and self._state is EngineState.READY:
            self._spawn(self._forget_history(ids))

    async def _forget_history(self, ids: list[str]) -> None:
        with contextlib.suppress(PlatformError):
            await self._client.forget(ids)

    # -- nodes and models ---------------------------------------------------------------------

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
