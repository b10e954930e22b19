"""The port to a platform that runs a job, and how a job there is begun, followed and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from handler.errors import JobCancelled
from handler.job import JobEvent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from local_server.remote.result import Result

log = logging.getLogger("comfyfn.remote")
STOP_S = 8.0
"""So long a stopped job is waited for to be told; then it is given up on."""

Ticket = TypeVar("Ticket")
T = TypeVar("T")


class Teller(Protocol):
    """Who is told how a job is."""

    def say(self, text: str) -> None:
        """Tell in words what is waited for."""

    def show(self, told: JobEvent, /) -> object:
        """Tell an event of the job."""


class Remote(Protocol):
    """A place where jobs run."""

    async def run(self, payload: dict[str, Any], teller: Teller) -> Result:
        """Run a payload there; being cancelled cancels the job there.

        Raises:
            HandlerError: as the job ended, or because it could not be brought there.
        """

    async def close(self) -> None:
        """Let go of connections."""


async def stoppable(
    submit: Coroutine[Any, Any, Ticket],
    follow: Callable[[Ticket], Awaitable[T]],
    stop: Callable[[Ticket], Awaitable[None]],
    *,
    early: Callable[[], Awaitable[bool]] | None = None,
    quit_: Callable[[], None] | None = None,
) -> T:
    """Begin a job and follow it to its end; whoever cancels this stops the job.

    A job whose beginning is under way is stopped as soon as its ticket is there.

    Args:
        early: stops it without a ticket, where its beginning lasts as long as the job; tells
            whether it could.
        quit_: has a beginning that waits for another try end.
    """
    beginning = asyncio.ensure_future(submit)
    try:
        return await follow(await asyncio.shield(beginning))
    except asyncio.CancelledError:
        try:
            async with asyncio.timeout(STOP_S):
                begun = beginning.done()
                if begun or early is None or not await early():
                    if quit_ is not None and not begun:
                        quit_()
                    await stop(await beginning)
        except JobCancelled:
            log.debug("the job was stopped before it began")
        except Exception as error:  # noqa: BLE001 - whoever stops is not stopped by it
            log.warning("the job may still run there: %s", str(error) or type(error).__name__)
        raise
    finally:
        if not beginning.done():
            beginning.cancel()
        await asyncio.wait({beginning})
        if not beginning.cancelled():
            beginning.exception()  # nobody else asks


def named(payload: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Give a payload a name of its own, under which it is the same job however often it is sent."""
    job_id = str(uuid.uuid4())
    return {**payload, "id": job_id}, job_id


def told_by(news: Any, teller: Teller) -> None:
    """Show what a platform passes on of a job; what is none of our reports is left alone.

    Args:
        news: `{"status", "percent", ...}` of the RunPod worker, or an event with its type.
    """
    if not isinstance(news, dict):
        return
    if isinstance(news.get("percent"), int | float):
        data = {**news, "overall_pct": news["percent"], "phase": news.get("status")}
        kind = "progress" if news.get("status") in (None, "running") else "phase"
        show(kind, data, teller)
    elif isinstance(news.get("type"), str) and isinstance(news.get("data"), dict):
        show(news["type"], news["data"], teller)


def show(kind: str, data: dict[str, Any], teller: Teller) -> None:
    """Show an event that came from elsewhere: its data may be anything."""
    with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError):
        teller.show(JobEvent(0, kind, data))


class Pace:
    """The time between two questions: short at first and after news, then longer."""

    def __init__(self, first_s: float = 0.3, longest_s: float = 3.0, growth: float = 1.4) -> None:
        self._first_s, self._longest_s, self._growth = first_s, longest_s, growth
        self._next_s = first_s
        self._last: Any = None

    async def wait(self, news: Any) -> None:
        """Wait; `news` is what the last answer told."""
        if news != self._last:
            self._last, self._next_s = news, self._first_s
        await asyncio.sleep(self._next_s)
        self._next_s = min(self._next_s * self._growth, self._longest_s)
