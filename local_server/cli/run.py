"""`comfyfn run`: one workflow from the shell, on the engine that is found."""

from __future__ import annotations

import asyncio
import base64
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import argparse

    from handler.job import JobEvent
    from handler.settings import Settings
    from handler.wire import Answer

LARGEST_TEXT_SHOWN = 2000


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
    from local_server.serve import configure_logging

    path = Path(options.workflow) if options.workflow else bundled(SAMPLE)
    payload = {"prompt": read_graph(path, options.input)}
    # Quiet, and beside whatever serves here already, unless told otherwise.
    settings = Settings.from_env(log_level="warning", comfy_port=_free_port())
    configure_logging(settings)
    return asyncio.run(_run(settings, payload, Path(options.output)))


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _run(settings: Settings, payload: dict[str, Any], folder: Path) -> int:
    from handler.build import build_handler
    from handler.engine.boot import open_site

    begun = time.monotonic()
    handler = build_handler(open_site(settings, embedded_allowed=True))
    try:
        with _Bar() as bar:
            bar.say("engine boots")
            await handler.start()
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


class _Bar:
    """A progress bar on stderr, silent where that is no terminal."""

    def __init__(self) -> None:
        from tqdm import tqdm

        self._bar = tqdm(
            total=100.0,
            file=sys.stderr,
            disable=None,
            leave=False,
            bar_format="{desc:24.24} {bar} {percentage:3.0f}% {elapsed}",
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def say(self, text: str) -> None:
        self._bar.set_description_str(text)

    def show(self, told: JobEvent | Answer) -> Answer | None:
        """Draw an event; an answer is given back."""
        from handler.job import JobEvent

        if not isinstance(told, JobEvent):
            return told
        if told.type == "progress":
            self.say(str(told.data.get("title") or "running"))
            self._bar.update(max(0.0, float(told.data["overall_pct"]) - self._bar.n))
        elif told.type == "phase":
            self.say(str(told.data["phase"]))
        return None


def read_graph(path: Path, changes: list[str]) -> dict[str, Any]:
    """Read a graph, set inputs, and take files that lie beside it along.

    Raises:
        InvalidWorkflow: the file is no JSON, or a change names no input.
    """
    import orjson

    from handler.errors import InvalidWorkflow

    try:
        graph = orjson.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidWorkflow(f"{path} is no JSON: {error}") from error
    if isinstance(graph, dict) and isinstance(graph.get("prompt"), dict):
        graph = graph["prompt"]
    if not isinstance(graph, dict):
        raise InvalidWorkflow(f"{path} holds no graph")
    for change in changes:
        _change(graph, change)
    for node in graph.values():
        inputs = node.get("inputs") if isinstance(node, dict) else None
        if not isinstance(inputs, dict):
            continue
        for name, value in inputs.items():
            if isinstance(value, str) and 0 < len(value) < 256 and (path.parent / value).is_file():
                inputs[name] = as_data_uri(path.parent / value)
    return graph


def _change(graph: dict[str, Any], change: str) -> None:
    import orjson

    from handler.errors import InvalidWorkflow

    where, mark, text = change.partition("=")
    name, dot, key = where.rpartition(".")
    if not (mark and dot and name and key):
        raise InvalidWorkflow(f"-i {change}: write it as NODE.INPUT=VALUE")
    nodes = [i for i, n in graph.items() if i == name or _title(n) == name]
    if len(nodes) != 1:
        known = ", ".join(f"{i} ({_title(n)})" for i, n in graph.items())
        problem = "is no node" if not nodes else "names several nodes"
        raise InvalidWorkflow(f"-i {change}: {name!r} {problem}; there are {known}")
    value: Any = text
    if Path(text).is_file():
        value = as_data_uri(Path(text))
    else:
        try:
            value = orjson.loads(text)
        except ValueError:
            value = text
    graph[nodes[0]].setdefault("inputs", {})[key] = value


def _title(node: Any) -> str | None:
    meta = node.get("_meta") if isinstance(node, dict) else None
    return meta.get("title") if isinstance(meta, dict) else None


def as_data_uri(path: Path) -> str:
    """Give a file as a data URI."""
    import mimetypes

    mime = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return f"data:{mime};base64,{base64.b64encode(path.read_bytes()).decode()}"


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
