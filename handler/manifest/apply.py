"""Carries a plan out: every step as soon as those it waits for are over, and a record of it all."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Protocol

from handler.errors import HandlerError
from handler.manifest.faults import InstallFailed
from handler.manifest.timeline import Timeline

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from handler.manifest.plan import Gate, Task
    from handler.manifest.timeline import Outcome

log = logging.getLogger("comfyfn.manifest")


class Runner(Protocol):
    """Does one step. The port; `Installer` is the real one."""

    async def __call__(self, task: Task) -> str:
        """Do it, and say in a few words what it came to.

        Raises:
            HandlerError: it cannot be done.
        """
        ...


class ColdStart:
    """A plan under way.

    Args:
        plan: from `make_plan`.
        timeline: where the steps are noted; others may note theirs there too.
    """

    def __init__(self, plan: Sequence[Task], run: Runner, timeline: Timeline | None = None) -> None:
        self.timeline = timeline or Timeline()
        self.faults: dict[str, HandlerError] = {}
        self._plan = {task.name: task for task in plan}
        self._run = run
        self._outcomes: dict[str, Outcome] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def __repr__(self) -> str:
        return f"<ColdStart {len(self._outcomes)} of {len(self._plan)} steps over>"

    def begin(self) -> None:
        """Start everything that waits for nothing. Returns at once."""
        for name, task in self._plan.items():
            self._tasks[name] = asyncio.create_task(self._step(task), name=f"manifest: {name}")

    async def before_engine(self) -> None:
        """Wait for what must be there before ComfyUI is started.

        Raises:
            InstallFailed: naming every step that failed.
        """
        await self._pass(("engine",))

    async def before_warmup(self) -> None:
        """Wait for what must be there before the warmup, ComfyUI's own needs included.

        Raises:
            InstallFailed: naming every step that failed.
        """
        await self._pass(("engine", "warmup"))

    async def finished(self) -> None:
        """Wait for everything, after_start included. Raises nothing but its own cancellation."""
        await self._wait(list(self._tasks))

    async def stop(self) -> None:
        """Cancel what still runs, and wait until it is gone."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def outcome(self, name: str) -> Outcome | None:
        """Tell how a step ended; None while it has not."""
        return self._outcomes.get(name)

    async def _pass(self, gates: tuple[Gate, ...]) -> None:
        names = [name for name, task in self._plan.items() if task.gate in gates]
        await self._wait(names)
        required = self._required(names)
        if required:
            raise _joined(required)
        if any(self._outcomes.get(name) == "cancelled" for name in names):
            raise InstallFailed("the installation was stopped", blame="platform", retryable=True)

    def joined(self, name: str, fault: InstallFailed) -> InstallFailed:
        """Give a fault from elsewhere together with those of the steps that failed by now.

        Args:
            name: of the step that the fault is of.
        """
        failed = self._required(self._plan)
        return _joined({name: fault, **failed}) if failed else fault

    def _required(self, names: Iterable[str]) -> dict[str, HandlerError]:
        """Give the faults of those steps, so far, that are not optional."""
        failed = {name: self.faults[name] for name in names if name in self.faults}
        return {name: e for name, e in failed.items() if not self._plan[name].optional}

    async def _wait(self, names: list[str]) -> None:
        if names:  # their ends are in `faults`; waiting itself never raises for them
            await asyncio.wait([self._tasks[name] for name in names])

    async def _step(self, task: Task) -> None:
        try:
            await self._wait([*task.needs, *task.follows])
            lacking = [n for n in task.needs if self._outcomes.get(n) not in ("done", "warned")]
            broken = [n for n in task.needs if self._outcomes.get(n) == "warned"]
            if lacking or (broken and task.optional):
                self._outcomes[task.name] = "skipped"
                self.timeline.skip(task.name, f"after {(lacking or broken)[0]}")
                return
            await self._perform(task)
        except asyncio.CancelledError:
            self._outcomes.setdefault(task.name, "cancelled")
            raise

    async def _perform(self, task: Task) -> None:
        number = self.timeline.begin(task.name)
        begun = time.monotonic()
        outcome: Outcome = "done"
        try:
            note = await self._run(task)
        except asyncio.CancelledError:
            self.timeline.end(number, "cancelled")
            raise
        except HandlerError as error:
            outcome, note = self._failed(task, error)
        except Exception as error:
            log.exception("%s: a fault of ours", task.name)
            outcome, note = self._failed(task, InstallFailed(f"{task.name}: {error!r}"))
        self._outcomes[task.name] = outcome
        self.timeline.end(number, outcome, note)
        if outcome == "done":  # a failure has been told
            log.info("%s: %s %s (%.2f s)", task.name, outcome, note, time.monotonic() - begun)

    def _failed(self, task: Task, error: HandlerError) -> tuple[Outcome, str]:
        self.faults[task.name] = error
        if task.optional:
            log.warning("%s failed, and goes without: %s", task.name, error.message)
            return "warned", error.message.splitlines()[0]
        # An error in the log is what stops the worker: whoever waits for this step raises it.
        log.warning("%s failed: %s", task.name, error.message)
        return "failed", error.message.splitlines()[0]


def _joined(faults: dict[str, HandlerError]) -> InstallFailed:
    errors = list(faults.values())
    hints = dict.fromkeys(error.hint for error in errors if error.hint)
    tails = [line for error in errors for line in error.log_tail or []]
    return InstallFailed(
        "\n".join(error.message for error in errors),
        hint="; ".join(hints) or None,
        details=[
            {"step": name, "message": error.message, "details": error.details}
            for name, error in faults.items()
        ],
        log_tail=tails or None,
        retryable=all(error.retryable for error in errors),
    )
