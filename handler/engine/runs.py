"""The prompts in one engine's hands, each followed from its submit to its one end.

The WebSocket is for speed; `/queue` and `/history` are the truth, looked at only when messages
may have been lost: after a reconnect, while the socket is down, or after a silence.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from typing import TYPE_CHECKING, Any, TypeVar

from handler.engine.base import EnginePrompt, GraphRefused, NeverStarted, OnEvent
from handler.engine.events import End, Started
from handler.engine.history import HistoryCleaner
from handler.engine.messages import FeatureFlags, Status, Unknown
from handler.engine.run import Run
from handler.engine.socket import EngineSocket
from handler.engine.stopping import take_back
from handler.errors import EngineDied, HandlerError, Stalled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from handler.engine.client import ComfyClient
    from handler.engine.messages import Message

log = logging.getLogger("comfyfn.engine")
T = TypeVar("T")

LOOK_LIMIT_S = 5.0
SHORTEST_LOOK_S = 0.5
# A run that says nothing is looked up this often; ComfyUI answers in a millisecond.
SILENCE_S = 3.0
DISCONNECTED_POLL_S = 0.5
MISSES_OF_A_LOST_ENGINE = 5
# After a stall: an engine that does not even answer is given no more than this.
DEAF_S = 5.0
# A cancel is told to the engine in milliseconds. One that hangs goes on by itself: whoever
# cancels has a grace to measure, which begins now.
CANCEL_WAIT_S = 0.5
SHORTEST_GRACE_S = 1.0
# They come without any work being done, from monitors of node packs for example.
DOES_NOT_TAKE = "the engine does not take the prompt"
NO_ACTIVITY = (Status, FeatureFlags, Unknown)


class Runs:
    """Submits prompts, follows them, and tells their ends.

    Args:
        alive: whether the engine's process lives; None where the process is not ours.
        log_tail: the engine's last lines.
        restart: called with the reason when the engine does not react any more.
        grace_s: how long an engine that answers may take to stop a run.
    """

    def __init__(
        self,
        client: ComfyClient,
        *,
        alive: Callable[[], bool | None],
        log_tail: Callable[[], list[str] | None],
        restart: Callable[[str], Awaitable[None]],
        grace_s: float,
    ) -> None:
        self._client = client
        self._alive = alive
        self._log_tail = log_tail
        self._restart = restart
        self._grace_s = max(grace_s, SHORTEST_GRACE_S)  # enough to be asked at all
        self._runs: dict[str, Run] = {}
        self._last_activity = time.monotonic()
        # Prompts that stalled: nobody waits for them any more, but the engine still has them.
        self._stuck: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._recoveries: set[asyncio.Task[Any]] = set()
        self._closed = False
        self._history = HistoryCleaner(client)
        self.socket = EngineSocket(client, self._on_message, self._on_socket)

    def __len__(self) -> int:
        return len(self._runs)

    async def run(self, prompt: EnginePrompt, on_event: OnEvent) -> End:
        """Run one prompt; see `Engine.run`."""
        run = Run(prompt, on_event)
        self._runs[prompt.prompt_id] = run
        try:
            await self._submit(prompt, run)
            return await self._follow(prompt, run)
        except asyncio.CancelledError:
            if not self._closed:
                self._spawn(self._stop(prompt.prompt_id, run))
            raise
        finally:
            del self._runs[prompt.prompt_id]
            self._history.forget_later(prompt.prompt_id)

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt from the queue or interrupt it; no other is hit.

        Returns within `CANCEL_WAIT_S`: an engine that hangs is asked on in the background.
        """
        run = self._runs.get(prompt_id)
        waits: set[asyncio.Future[Any]] = {self._spawn(self._stop(prompt_id, run))}
        if run is not None:
            waits.add(run.done)
        await asyncio.wait(waits, timeout=CANCEL_WAIT_S, return_when=asyncio.FIRST_COMPLETED)

    async def _stop(self, prompt_id: str, run: Run | None) -> None:
        if run is not None:
            run.unwanted = True
        grace_s = self._grace_s
        await take_back(self._client, prompt_id, run, grace_s=grace_s, deaf_s=grace_s)
        if run is not None and run.submitted and prompt_id in self._runs:
            await self._look_up(run)

    def fail_all(self, why: str) -> None:
        """End all runs: the engine is gone. Those it had not begun may be handed in again."""
        first = self._first()
        self._stuck.clear()
        for recovery in self._recoveries:
            recovery.cancel()  # or it would restart the engine that comes next
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

    def _first(self) -> Run | None:
        """Give the run that the engine works on or takes next: it keeps the order of submits."""
        if self._stuck:
            return None
        return next((run for run in self._runs.values() if not run.done.done()), None)

    async def recovered(self) -> None:
        """Wait until no stalled run is left that the engine is still to be rid of."""
        while self._recoveries:
            await asyncio.wait(self._recoveries)

    async def close(self) -> None:
        """End what works in the background."""
        self._closed = True
        await self._history.close()
        await self.socket.stop()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    # -- messages -------------------------------------------------------------------------------

    def _on_message(self, message: Message) -> None:
        prompt_id = getattr(message, "prompt_id", None)
        now = time.monotonic()
        if prompt_id is None:
            runs = list(self._runs.values())
        else:
            run = self._runs.get(prompt_id)
            runs = [run] if run is not None else []
            if run is not None:
                run.last_activity = now
        if runs and not isinstance(message, NO_ACTIVITY):
            self._last_activity = now
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

    async def _look_up(self, run: Run, limit_s: float = LOOK_LIMIT_S) -> None:
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

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._spawned_ended)
        return task

    def _spawned_ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        # Read in any case: a POST whose caller stopped to wait is no loose end.
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, HandlerError):
            log.error("a fault of ours beside the runs", exc_info=error)

    # -- one prompt -------------------------------------------------------------------------------

    async def _post(self, prompt: EnginePrompt, run: Run) -> dict[str, Any]:
        faults = await self._client.submit(prompt.prompt_id, prompt.graph, prompt.extra_data)
        if run.unwanted:
            # What was to stop it may have overtaken it.
            self._spawn(self._stop(prompt.prompt_id, run))
        return faults

    async def _submit(self, prompt: EnginePrompt, run: Run) -> None:
        run.post = self._spawn(self._post(prompt, run))
        # Never cut short: a prompt that nobody knows of would run all the same.
        done, _ = await asyncio.wait({run.post}, timeout=prompt.no_progress_s or None)
        if not done:
            raise self._stalled(prompt, run, DOES_NOT_TAKE)
        try:
            node_errors = run.post.result()
        except Stalled as error:
            raise self._stalled(prompt, run, DOES_NOT_TAKE) from error
        except EngineDied as error:
            # The answer was lost; whether the prompt was, the queue tells.
            run.sent = not _is_refused(error)
            await self._look_up(run)
            if run.gone:
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

    async def _follow(self, prompt: EnginePrompt, run: Run) -> End:
        limit_s = prompt.no_progress_s
        first_since = time.monotonic()
        while True:
            wait_s = SILENCE_S if self.socket.connected else DISCONNECTED_POLL_S
            if limit_s:
                wait_s = min(wait_s, max(limit_s / 4, 0.05))
            if await run.settled(wait_s):
                break
            now = time.monotonic()
            if run is not self._first():
                first_since = now  # who waits behind another run is not silent
            if now - self._heard_of(run) < wait_s:
                continue
            silent_since = max(self._last_activity, first_since)
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
        if run.gone and not run.sent:
            raise NeverStarted("the engine ended before it took the prompt")
        return run.done.result()

    def _heard_of(self, run: Run) -> float:
        """Tell when a run was last heard of: one that waits is heard of by the work before it."""
        if run.began or run is self._first():
            return run.last_activity
        return max(run.last_activity, self._last_activity)

    def _stalled(self, prompt: EnginePrompt, run: Run, what: str) -> Stalled:
        # Only the run that is at work may cost the engine: it is in the way of all others. It has
        # the same grace as a cancelled one, however short its caller's limit was.
        restart = run is self._first()
        if restart:
            self._stuck.add(prompt.prompt_id)
        run.unwanted = True
        recovery = self._spawn(self._recover(prompt.prompt_id, run, restart=restart))
        self._recoveries.add(recovery)
        recovery.add_done_callback(self._recoveries.discard)
        return Stalled(
            f"{what} (limit {prompt.no_progress_s:g} s)",
            hint="raise NO_PROGRESS_TIMEOUT_S or timeouts.no_progress_s for slow nodes",
            log_tail=self._log_tail(),
        )

    async def _recover(self, prompt_id: str, run: Run, *, restart: bool) -> None:
        """Get an engine that stalled back: interrupt, else restart, so that the next job runs."""
        deaf_s = min(DEAF_S, self._grace_s)
        why = await take_back(self._client, prompt_id, run, grace_s=self._grace_s, deaf_s=deaf_s)
        if why is None:
            self._history.forget_later(prompt_id)  # its entry came after the run was given up
            self._stuck.discard(prompt_id)
        elif restart:
            await self._restart(f"a run stalled, and it {why}")
            if self._alive() is None:  # not ours to restart, so nothing will clear it
                self._stuck.discard(prompt_id)


def _is_refused(error: EngineDied) -> bool:
    """Tell whether nothing listened, so that nothing was sent."""
    return getattr(error.__cause__, "errno", None) == errno.ECONNREFUSED
