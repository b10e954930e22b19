"""`comfyfn run`: one workflow from the shell, on the engine that is found."""

from __future__ import annotations

import asyncio
import logging
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from local_server.cli.run_bar import Bar
from local_server.cli.run_remote import TIMEOUT_S

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Coroutine

    from handler.engine.boot import Site
    from handler.errors import BootFailed
    from handler.service import Handler
    from handler.settings import Settings
    from handler.wire import Answer
    from local_server.cli.run_payload import Wanted
    from local_server.remote.result import Saved

LINES_SHOWN = 15
BOOT_SAID_EVERY_S = 0.5
TERMINATED = 128 + signal.SIGTERM


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("run", help="run a workflow file and save what comes out")
    parser.add_argument(
        "graph", nargs="?", help="graph in API format (default: the sample that ships with us)"
    )
    parser.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="set an input; NODE is an id, a title or a class; VALUE may be a file, a URL, JSON or "
        "text; with --workflow: KEY=VALUE",
    )
    parser.add_argument("-o", "--output", default="out", metavar="DIR", help="default: ./out")
    parser.add_argument("--workflow", metavar="NAME", help="an endpoint of WORKFLOW_DIR")
    parser.add_argument("--replay", metavar="FILE", help="a captured job, run again and compared")
    parser.add_argument(
        "--capture", metavar="FILE", help="write the job to a file, for --replay; never a secret"
    )
    far = parser.add_argument_group("somewhere else")
    far.add_argument(
        "--to",
        metavar="WHERE",
        help="a server's URL, runpod:ENDPOINT, modal:APP[/CLASS], salad:ORGANIZATION/PROJECT/QUEUE",
    )
    far.add_argument(
        "-H",
        "--header",
        action="append",
        default=[],
        metavar="'NAME: VALUE'",
        help="sent to the URL of --to",
    )
    far.add_argument(
        "--timeout",
        type=_seconds,
        default=TIMEOUT_S,
        metavar="SECONDS",
        help=f"longest time there, a worker's boot included (default {TIMEOUT_S:.0f})",
    )
    parser.set_defaults(call=call)


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < 1e9:
        raise ValueError(text)
    return seconds


def call(options: argparse.Namespace) -> int:
    """Run it; paths go to stdout, everything else to stderr."""
    from adapters.logs import configure_logging
    from handler.settings import Settings

    # Quiet, beside whatever serves here already, and told at once if the engine cannot start.
    settings = Settings.from_env(
        log_level="warning", log_format="text", comfy_port=_free_port(), restart_budget=0
    )
    task = _task(options, settings)
    configure_logging(settings)
    if settings.log_level == "warning":  # a job that fails is told by us, once
        logging.getLogger("comfyfn.service").setLevel(logging.ERROR)
    return asyncio.run(_until_terminated(_captured(options, task)))


@dataclass(frozen=True, slots=True)
class _Task:
    """What to do: `run` gives the outputs that were saved."""

    wanted: Wanted
    run: Callable[[], Coroutine[Any, Any, list[Saved]]]


def _task(options: argparse.Namespace, settings: Settings) -> _Task:
    """Read the options, all of them before anything begins."""
    from handler.errors import InvalidPayload
    from local_server.cli.run_payload import wanted

    folder = Path(options.output)
    _make_folder(folder)
    if options.to is None:
        if options.header:
            raise InvalidPayload("--header goes with --to")
        here = wanted(options, _stored(settings))
        return _Task(here, partial(_run, settings, here.payload, folder))
    from local_server.remote.target import parse_target

    target = parse_target(options.to)
    there = wanted(options, None)

    async def run() -> list[Saved]:
        from local_server.cli.run_remote import run_remote
        from local_server.remote.connect import connect

        remote, fetch = connect(target, settings, options.header)
        return await run_remote(
            remote, fetch, there.payload, folder, timeout_s=options.timeout, where=target
        )

    return _Task(there, run)


async def _captured(options: argparse.Namespace, task: _Task) -> int:
    """Do it, with the job on disk from its beginning where that is wanted."""
    from handler.errors import HandlerError
    from local_server.cli.run_saved import compare
    from local_server.remote.capture import write_captured

    payload = task.wanted.payload
    path = Path(options.capture) if options.capture is not None else None
    if path is not None:
        await asyncio.to_thread(write_captured, path, payload)
    try:
        saved = await task.run()
    except HandlerError as error:
        if path is not None:
            await asyncio.to_thread(write_captured, path, payload, error=error)
        raise
    if path is not None:
        await asyncio.to_thread(write_captured, path, payload, saved)
    if options.replay is not None:
        await asyncio.to_thread(compare, task.wanted.expected, saved)
    return 0


def _make_folder(folder: Path) -> None:
    from handler.errors import InvalidPayload

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InvalidPayload(f"-o must name a folder; {folder} is none") from error


def _stored(settings: Settings) -> Path | None:
    """Name the engine's input folder; None where it is out of reach."""
    from handler.engine.command import engine_kind, folders

    kind = engine_kind(settings, embedded_allowed=True)
    return None if kind == "attached" else folders(settings, kind, Path()).input


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _until_terminated(work: Coroutine[Any, Any, int]) -> int:
    """Do the work; SIGTERM ends it as Ctrl-C does, with everything put away."""
    task = asyncio.ensure_future(work)
    loop, terminated = asyncio.get_running_loop(), False

    def terminate() -> None:
        nonlocal terminated
        terminated = True
        task.cancel()

    loop.add_signal_handler(signal.SIGTERM, terminate)
    try:
        return await task
    except asyncio.CancelledError:
        if not terminated:
            raise
        return TERMINATED
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


async def _run(settings: Settings, payload: dict[str, Any], folder: Path) -> list[Saved]:
    from handler.build import build_handler
    from handler.endpoints import Endpoints, calls_endpoint
    from handler.engine.boot import open_site
    from handler.errors import BootFailed, InternalFault
    from local_server.cli.run_saved import save

    if calls_endpoint(payload):
        payload = await Endpoints(settings.workflow_dir).resolve(payload)
    begun = time.monotonic()
    site = open_site(settings, embedded_allowed=True)
    try:
        handler = build_handler(site)
    except BaseException:
        site.close()
        raise
    try:
        with Bar() as bar:
            try:
                await _boot(handler, bar)
            except BootFailed as error:
                _tell_boot(site, error)
                raise
            booted = time.monotonic()
            answer: Answer | None = None
            async for told in handler.stream(payload):
                answer = bar.show(told)
        if answer is None:
            raise InternalFault("the job ended without an answer")
        async with answer:
            saved = save(answer, folder)
            _report(answer, booted - begun, time.monotonic() - booted)
    finally:
        await handler.stop()
    return saved


async def _boot(handler: Handler, bar: Bar) -> None:
    """Start the handler; meanwhile the bar tells what is waited for."""

    async def tell() -> None:
        while True:
            bar.say(handler.health().reason or "engine boots")
            await asyncio.sleep(BOOT_SAID_EVERY_S)

    telling = asyncio.ensure_future(tell())
    try:
        await handler.start()
    finally:
        telling.cancel()


def _tell_boot(site: Site, error: BootFailed) -> None:
    """Show what the engine said last, and how it was started."""
    for line in (error.log_tail or [])[-LINES_SHOWN:]:
        print(f"engine | {line}", file=sys.stderr)
    if site.command:
        print(f"engine command: {shlex.join(site.command)}", file=sys.stderr)


def _report(answer: Answer, boot_s: float, job_s: float) -> None:
    stats = answer.tail["stats"]
    engine = answer.tail["engine"]
    times = {
        "engine boot": boot_s,
        "inputs": stats["preprocess_time"] / 1000,
        "run": stats["comfy_round_trip_time"] / 1000,
        "outputs": stats["postprocess_time"] / 1000,
        "job": job_s,
    }
    figures = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in times.items())
    print(f"{engine['kind']} engine {engine['version']}: {figures}", file=sys.stderr)
