"""`comfyfn run`: one workflow from the shell, on the engine that is found."""

from __future__ import annotations

import asyncio
import logging
import shlex
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from local_server.cli.sizes import size_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Coroutine, Mapping

    from handler.engine.boot import Site
    from handler.errors import BootFailed
    from handler.job import JobEvent
    from handler.service import Handler
    from handler.settings import Settings
    from handler.wire import Answer

LARGEST_TEXT_SHOWN = 2000
LINES_SHOWN = 15
SAID_EVERY_S = 60.0
BOOT_SAID_EVERY_S = 0.5
TERMINATED = 128 + signal.SIGTERM


def add_parser(verbs: Any) -> None:
    """Add the verb."""
    parser = verbs.add_parser("run", help="run a workflow file and save what comes out")
    parser.add_argument(
        "workflow", nargs="?", help="graph in API format (default: the sample that ships with us)"
    )
    parser.add_argument(
        "-i",
        "--input",
        action="append",
        default=[],
        metavar="NODE.INPUT=VALUE",
        help="set an input; NODE is an id or a title; VALUE may be a file, a URL, JSON or text",
    )
    parser.add_argument("-o", "--output", default="out", metavar="DIR", help="default: ./out")
    parser.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Run it; paths go to stdout, everything else to stderr."""
    from handler.settings import Settings
    from local_server.bundled import SAMPLE, bundled
    from local_server.cli.workflow_file import read_graph
    from local_server.logs import configure_logging

    path = Path(options.workflow) if options.workflow else bundled(SAMPLE)
    folder = Path(options.output)
    _make_folder(folder)
    # Quiet, beside whatever serves here already, and told at once if the engine cannot start.
    settings = Settings.from_env(
        log_level="warning", log_format="text", comfy_port=_free_port(), restart_budget=0
    )
    payload = {"prompt": read_graph(path, options.input, _stored(settings))}
    configure_logging(settings)
    if settings.log_level == "warning":  # a job that fails is told by us, once
        logging.getLogger("comfyfn.service").setLevel(logging.ERROR)
    return asyncio.run(_until_terminated(_run(settings, payload, folder)))


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


async def _run(settings: Settings, payload: dict[str, Any], folder: Path) -> int:
    from handler.build import build_handler
    from handler.engine.boot import open_site
    from handler.errors import BootFailed

    begun = time.monotonic()
    site = open_site(settings, embedded_allowed=True)
    try:
        handler = build_handler(site)
    except BaseException:
        site.close()
        raise
    try:
        with _Bar() as bar:
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
            return 1
        async with answer:
            save(answer, folder)
            _report(answer, booted - begun, time.monotonic() - booted)
    finally:
        await handler.stop()
    return 0


async def _boot(handler: Handler, bar: _Bar) -> None:
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


class _Bar:
    """A progress bar on stderr; where that is no terminal, a line a minute."""

    def __init__(self, said_every_s: float = SAID_EVERY_S) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=100.0,
            file=sys.stderr,
            disable=None,
            leave=False,
            bar_format="{desc:24.24} {bar} {percentage:3.0f}% {elapsed}{postfix}",
        )
        self._said_every_s = said_every_s
        self._begun = time.monotonic()
        self._doing = ""
        self._pct = 0.0
        self._files: dict[tuple[str, str], Mapping[str, Any]] = {}
        self._lines: asyncio.Task[None] | None = None

    def __enter__(self) -> Self:
        if self._bar.disable:
            self._lines = asyncio.ensure_future(self._say_lines())
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.cancel()
        self._bar.close()

    async def _say_lines(self) -> None:
        while True:
            await asyncio.sleep(self._said_every_s)
            seconds = time.monotonic() - self._begun
            far = downloads_text(self._files.values()) or f"{self._pct:.0f} %"
            print(f"{self._doing}: {far}, {seconds:.0f} s so far", file=sys.stderr)

    def say(self, text: str) -> None:
        self._doing = text
        self._bar.set_description_str(text)

    def _fetching(self, news: Mapping[str, Any]) -> None:
        self._files[news["node_id"], news["input"]] = news
        several = len(self._files) > 1
        self.say(f"fetching {f'{len(self._files)} files' if several else news['input']}")
        self._bar.set_postfix_str(downloads_text(self._files.values()))

    def _fetched(self) -> None:
        if self._files:
            self._files.clear()
            self._bar.set_postfix_str("")

    def show(self, told: JobEvent | Answer) -> Answer | None:
        """Draw an event; an answer is given back."""
        from handler.job import JobEvent

        if not isinstance(told, JobEvent):
            return told
        if told.type == "download":
            self._fetching(told.data)
        elif told.type == "progress":
            self._fetched()
            self.say(str(told.data.get("title") or "running"))
            further = max(0.0, float(told.data["overall_pct"]) - self._pct)
            self._pct += further
            self._bar.update(further)
        elif told.type == "phase":
            self._fetched()
            self.say(str(told.data["phase"]))
        return None


def downloads_text(files: Collection[Mapping[str, Any]]) -> str:
    """Sum up how far downloads are: 1.20 GB of 2.13 GB, 85.0 MB/s; "" for none.

    Args:
        files: the data of the newest `download` event of each.
    """
    if not files:
        return ""
    done = size_text(sum(news["done"] for news in files))
    totals = [news["total"] for news in files]
    whole = "" if None in totals else f" of {size_text(sum(totals))}"
    under_way = [news for news in files if news["done"] != news["total"]]
    speed = round(sum(news["bytes_per_s"] for news in under_way))
    return f"{done}{whole}" + (f", {size_text(speed)}/s" if speed else "")


def save(answer: Answer, folder: Path) -> None:
    """Copy the outputs to a folder, under new names where theirs are taken; print the paths."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    for output in answer.outputs:
        if output.path is None:
            print(f"{output.title}: {(output.text or '')[:LARGEST_TEXT_SHOWN]}", file=sys.stderr)
            continue
        target = _free_name(folder, output.filename.removeprefix(f"{answer.job_id}_"))
        shutil.copyfile(output.path, target)
        print(target)


def _free_name(folder: Path, name: str) -> Path:
    target, count = folder / name, 1
    while target.exists():
        count += 1
        target = folder / f"{Path(name).stem}-{count}{Path(name).suffix}"
    return target


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
