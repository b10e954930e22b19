"""`comfyfn run --to`: the same workflow, somewhere else."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import TYPE_CHECKING, Any

from local_server.cli.plain import plain
from local_server.cli.run_bar import Bar
from local_server.cli.run_saved import tell

if TYPE_CHECKING:
    from pathlib import Path

    from handler.errors import HandlerError
    from local_server.remote.base import Remote
    from local_server.remote.download import Fetch
    from local_server.remote.result import Result, Saved
    from local_server.remote.target import Target

TIMEOUT_S = 3600.0
LOG_LINES_SHOWN = 15


async def run_remote(
    remote: Remote,
    fetch: Fetch,
    payload: dict[str, Any],
    folder: Path,
    *,
    timeout_s: float = TIMEOUT_S,
    where: Target | str = "",
) -> list[Saved]:
    """Run a payload at a remote, and bring its outputs here.

    Args:
        timeout_s: longest time until the job is over, a worker's boot included.
        where: it runs, for the last line.

    Raises:
        HandlerError: as the job ended.
    """
    from handler.errors import HandlerError

    begun = time.monotonic()
    try:
        with Bar() as bar:
            result = await _within(remote, payload, bar, timeout_s)
            over = time.monotonic()
            saved = await _brought(result, folder, fetch, bar)
    except HandlerError as error:
        _explain(error)
        raise
    finally:
        await fetch.close()
        await remote.close()
    for one in saved:
        tell(one)
    _report(result, str(where), over - begun, time.monotonic() - over)
    return saved


async def _within(remote: Remote, payload: dict[str, Any], bar: Bar, timeout_s: float) -> Result:
    from local_server.remote.faults import GaveUp

    try:
        async with asyncio.timeout(timeout_s):
            return await remote.run(payload, bar)
    except TimeoutError as error:
        raise GaveUp(
            f"the job is not over after {timeout_s:g} s; it was told to stop",
            hint="--timeout waits longer",
        ) from error


async def _brought(result: Result, folder: Path, fetch: Fetch, bar: Bar) -> list[Saved]:
    from local_server.remote.result import save

    bar.say("fetching outputs")
    return [one async for one in save(result, folder, fetch)]


def _explain(error: HandlerError) -> None:
    """Tell on stderr what is known beside the message, which the last line has."""
    from handler.errors import CallerError
    from local_server.remote.faults import describe

    for line in (error.log_tail or [])[-LOG_LINES_SHOWN:]:
        print(plain(f"engine | {line}"), file=sys.stderr)
    if not isinstance(error, CallerError):
        print(plain(f"comfyfn: {describe(error)}"), file=sys.stderr)


def _report(result: Result, where: str, job_s: float, fetch_s: float) -> None:
    times = {"job": job_s, "outputs fetched": fetch_s}
    run_ms = result.stats.get("comfy_round_trip_time")
    if isinstance(run_ms, int | float):
        times = {"run": run_ms / 1000, **times}
    figures = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
    engine = " ".join(str(result.engine[k]) for k in ("kind", "version") if result.engine.get(k))
    told = f" ({engine} engine)" if engine else ""
    print(plain(f"{where}{told}: {figures}"), file=sys.stderr)
