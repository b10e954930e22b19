"""The prompts in one engine's hands, each followed from its submit to its one end.

The WebSocket is for speed; `/queue` and `/history` are the truth, looked at only when messages
may have been lost: after a reconnect, while the socket is down, or after a silence.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from typing import TYPE_CHECKING, Any

from handler.engine.base import EnginePrompt, GraphRefused, NeverStarted, OnEvent
from handler.engine.events import End, EngineEvent, Failed, Gone, Interrupted, Started, Succeeded
from handler.engine.execution import Execution
from handler.engine.messages import FeatureFlags, Status, Unknown
from handler.engine.socket import EngineSocket
from handler.errors import (
    EngineDied,
    EngineRefused,
    HandlerError,
    PlatformError,
    Stalled,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from handler.engine.client import ComfyClient
    from handler.engine.messages import Message

log = logging.getLogger("comfyfn.engine")

LOOK_LIMIT_S = 5.0
SHORTEST_LOOK_S = 0.5
# A run that says nothing is looked up this often; ComfyUI answers in a millisecond.
SILENCE_S = 3.0
DISCONNECTED_POLL_S = 0.5
MISSES_OF_A_LOST_ENGINE = 5
RECOVERY_S = 5.0
FORGET_BATCH = 16
FORGET_AFTER_S = 1.0
END_TYPES = (Succeeded, Failed, Interrupted, Gone)
# They come without any work being done, from monitors of node packs for example.
NO_ACTIVITY = (Status, FeatureFlags, Unknown)


class _Run:
    """One prompt.

    Attributes:
        sent: the engine may have the prompt; False where nothing listened.
        submitted: the engine has answered that it took the prompt.
        began: the engine was seen to run it.
        misses: looks at the queue in a row that got no answer.
    """

    def __init__(self, prompt: EnginePrompt, on_event: OnEvent) -> None:
        self.execution = Execution(prompt.prompt_id, prompt.graph.keys())
        self.on_event = on_event
        self.done: asyncio.Future[End] = asyncio.get_running_loop().create_future()
        self.sent = True
        self.submitted = False
        self.began = False
        self.misses = 0

    def take(self, events: list[EngineEvent]) -> None:
        """Hand events on; the end settles the run."""
        for event in events:
            if isinstance(event, Started) and self.began:
                continue
            if not self.began and not isinstance(event, Gone):
                self.began = True
                if not isinstance(event, Started):  # known from history alone
                    self.on_event(Started(int(time.time() * 1000)))
            self.on_event(event)
            if isinstance(event, END_TYPES) and not self.done.done():
                self.done.set_result(event)

    def fail(self, error: HandlerError) -> None:
        """Settle the run with an error."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # read once: a run nobody waits for any more is no loose end


class Runs:
    """Submits prompts, follows them, and tells their ends.

    Args:
        alive: whether the engine's process lives; None where the process is not ours.
        log_tail: the engine's last lines.
        restart: called with the reason when the engine does not react any more.
    """

    def __init__(
        self,
        client: ComfyClient,
        *,
        alive: Callable[[], bool | None],
        log_tail: Callable[[], list[str] | None],
        restart: Callable[[str], Awaitable[None]],
    ) -> None:
        self._client = client
        self._alive = alive
        self._log_tail = log_tail
        self._restart = restart
        self._runs: dict[str, _Run] = {}
        self._last_activity = time.monotonic()
        # Prompts that stalled: nobody waits for them any more, but the engine still has them.
        self._stuck: set[str] = set()
        self._tasks: set[asyncio.Future[Any]] = set()
        self._forget: list[str] = []
        self._forget_timer: asyncio.TimerHandle | None = None
        self.socket = EngineSocket(client, self._on_message, self._on_socket)

    def __len__(self) -> int:
        return len(self._runs)

    async def run(self, prompt: EnginePrompt, on_event: OnEvent) -> End:
        """Run one prompt; see `Engine.run`."""
        run = _Run(prompt, on_event)
        self._runs[prompt.prompt_id] = run
        try:
            await self._submit(prompt, run)
            end = await self._follow(prompt, run)
        finally:
            del self._runs[prompt.prompt_id]
        self._forget_later(prompt.prompt_id)
        return end

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt from the queue or interrupt it; no other is hit."""
        run = self._runs.get(prompt_id)
        with contextlib.suppress(EngineDied, EngineRefused, Stalled):
            await self._client.delete_pending([prompt_id])
            await self._client.interrupt(prompt_id)
            if run is not None and run.submitted:
                await self._look_up(run)

    def fail_all(self, why: str) -> None:
        """End all runs: the engine is gone. Those it had not begun may be handed in again."""
        first = self._first()
        self._stuck.clear()
        for run in list(self._runs.values()):
            lost = run.sent and (run.began or run is first)
            kind = EngineDied if lost else NeverStarted
            run.fail(
                kind(
                    why,
                    log_tail=self._log_tail(),
                    hint="send it again; if it happens again, the graph may need more memory",
                )
            )

    def _first(self) -> _Run | None:
        """Give the run that the engine works on or takes next: it keeps the order of submits."""
        if self._stuck:
            return None
        return next((run for run in self._runs.values() if not run.done.done()), None)

    async def close(self) -> None:
        """End what works in the background."""
        if self._forget_timer is not None:
            self._forget_timer.cancel()
        await self.socket.stop()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- messages -------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        prompt_id = getattr(message, "prompt_id", None)
        if prompt_id is None:
            runs = list(self._runs.values())
        else:
            run = self._runs.get(prompt_id)
            runs = [run] if run is not None else []
        if runs and not isinstance(message, NO_ACTIVITY):
            self._last_activity = time.monotonic()
        for run in runs:
            run.take(run.execution.feed(message))
            if run.submitted and run.execution.needs_history:
                self._spawn(self._look_up(run))

    def _on_socket(self, connected: bool, generation: int) -> None:
        if not connected or generation <= 1:
            return
        for run in list(self._runs.values()):
            run.execution.feed_reconnected()
            if run.submitted:
                self._spawn(self._look_up(run))

    async def _look_up(self, run: _Run, limit_s: float = LOOK_LIMIT_S) -> None:
        """Ask `/queue`, then `/history`: in this order an ended run is never missed."""
        prompt_id, before = run.execution.prompt_id, run.execution.reconnects
        try:
            async with asyncio.timeout(limit_s):
                queue = await self._client.queue()
                entry = await self._client.history(prompt_id)
        except (HandlerError, TimeoutError):
            run.misses += 1
            if self._alive() is None and run.misses >= MISSES_OF_A_LOST_ENGINE:
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

    # -- one prompt -------------------------------------------------------------------------------

    async def _submit(self, prompt: EnginePrompt, run: _Run) -> None:
        try:
            async with asyncio.timeout(prompt.no_progress_s or None):
                node_errors = await self._client.submit(
                    prompt.prompt_id, prompt.graph, prompt.extra_data
                )
        except (TimeoutError, Stalled) as error:
            raise self._stalled(prompt, run, "the engine does not take the prompt") from error
        except EngineDied as error:
            # The answer was lost; whether the prompt was, the queue tells.
            run.sent = not _is_refused(error)
            await self._look_up(run)
            if _is_gone(run):
                raise NeverStarted(error.message, log_tail=self._log_tail()) from error
            node_errors = {}
        run.submitted = True
        if run.execution.needs_history:
            self._spawn(self._look_up(run))
        if node_errors:
            # ComfyUI would run the rest and call it a success.
            await self.cancel(prompt.prompt_id)
            message = "ComfyUI would leave some of the outputs out"
            raise GraphRefused(200, {"message": message}, node_errors)

    async def _follow(self, prompt: EnginePrompt, run: _Run) -> End:
        limit_s = prompt.no_progress_s
        first_since = time.monotonic()
        while True:
            wait_s = SILENCE_S if self.socket.connected else DISCONNECTED_POLL_S
            if limit_s:
                wait_s = min(wait_s, max(limit_s / 4, 0.05))
            if await _settled(run.done, wait_s):
                break
            now = time.monotonic()
            if run is not self._first():
                first_since = now  # who waits behind another run is not silent
            silent_since = max(self._last_activity, first_since)
            if now - self._last_activity < wait_s:
                continue
            was_connected = self.socket.connected
            left_s = max(SHORTEST_LOOK_S, silent_since + limit_s - now) if limit_s else LOOK_LIMIT_S
            await self._look_up(run, min(left_s, LOOK_LIMIT_S))
            silent_s = time.monotonic() - max(self._last_activity, silent_since)
            if run.done.done():
                if was_connected and not run.done.exception():
                    log.warning("the engine's WebSocket was silent about a run that ended")
                    self.socket.reconnect()
            elif limit_s and silent_s >= limit_s:
                raise self._stalled(prompt, run, f"no progress for {silent_s:.1f} s")
        if _is_gone(run) and not run.sent:
            raise NeverStarted("the engine ended before it took the prompt")
        return run.done.result()

    def _stalled(self, prompt: EnginePrompt, run: _Run, what: str) -> Stalled:
        # Only the run that is at work may cost the engine: others are not to suffer for one
        # caller's short limit.
        restart = run is self._first()
        if restart:
            self._stuck.add(prompt.prompt_id)
        self._spawn(self._recover(prompt.prompt_id, restart=restart))
        return Stalled(
            f"{what} (limit {prompt.no_progress_s:g} s)",
            hint="raise NO_PROGRESS_TIMEOUT_S or timeouts.no_progress_s for slow nodes",
            log_tail=self._log_tail(),
        )

    async def _recover(self, prompt_id: str, *, restart: bool) -> None:
        """Get an engine that stalled back: interrupt, else restart, so that the next job runs."""
        with contextlib.suppress(HandlerError, TimeoutError):
            async with asyncio.timeout(RECOVERY_S):
                await self._client.delete_pending([prompt_id])
                await self._client.interrupt(prompt_id)
                while prompt_id in await self._client.queue():  # noqa: ASYNC110
                    await asyncio.sleep(0.2)  # the queue is another process's: no event to await
                self._stuck.discard(prompt_id)
                return
        if restart:
            await self._restart(f"it did not react for {RECOVERY_S:g} s after a stalled run")
            if self._alive() is None:  # not ours to restart, so nothing will clear it
                self._stuck.discard(prompt_id)

    # -- history ----------------------------------------------------------------------------------

    def _forget_later(self, prompt_id: str) -> None:
        self._forget.append(prompt_id)
        if self._forget_timer is None:
            loop = asyncio.get_running_loop()
            self._forget_timer = loop.call_later(FORGET_AFTER_S, self._forget_all)
        if len(self._forget) >= 2 * FORGET_BATCH:
            # Not the newest: ComfyUI writes the entry some milliseconds after it told the end.
            ids, self._forget = self._forget[:FORGET_BATCH], self._forget[FORGET_BATCH:]
            self._spawn(self._forget_history(ids))

    def _forget_all(self) -> None:
        self._forget_timer = None
        ids, self._forget = self._forget, []
        self._spawn(self._forget_history(ids))

    async def _forget_history(self, ids: list[str]) -> None:
        with contextlib.suppress(PlatformError):
            await self._client.forget(ids)


async def _settled(future: asyncio.Future[End], wait_s: float) -> bool:
    done, _ = await asyncio.wait((future,), timeout=wait_s)
    return bool(done)


def _is_refused(error: EngineDied) -> bool:
    """Tell whether nothing listened, so that nothing was sent."""
    return getattr(error.__cause__, "errno", None) == errno.ECONNREFUSED


def _is_gone(run: _Run) -> bool:
    """Tell whether the engine knows nothing of the prompt, and nothing of it was seen."""
    over = run.done.done() and run.done.exception() is None
    return over and not run.began and isinstance(run.done.result(), Gone)
