"""One core behind every adapter: the same payload gives the same answer, over each one's own wire.

No adapter is called in this process. What a platform does differently is a fact of that platform,
and stands in `KNOWN`.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import signal
import threading
import time
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
from behaviour.graphs import picture, slow
from live import COMFY_HOME, COMFY_PYTHON, children
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from contract.wires import Outcome, Wire

pytestmark = pytest.mark.timeout(180)
CEILING_MB = 5
MAIN = {"embedded": b"local_server.engine", "comfyui": b"main.py"}


@dataclass(frozen=True, slots=True)
class Known:
    """What is a platform's own way.

    Attributes:
        tells_cancelled: whether somebody is told the end of a job that was stopped.
        retries: whether the platform is told which failures are worth another try.
        ends_with: exit statuses of a worker that was ended as the platform ends it.
    """

    tells_cancelled: bool = True
    retries: bool = False
    ends_with: tuple[int, ...] = (0,)


WIRES = {"http": "HttpWire", "runpod": "RunPodWire", "modal": "ModalWire", "salad": "SaladWire"}
KNOWN = {
    "http": Known(),
    "runpod": Known(tells_cancelled=False),
    "modal": Known(tells_cancelled=False),  # the client raises, with nothing of ours
    "salad": Known(tells_cancelled=False, retries=True),
}
ENGINES = ["embedded", pytest.param("comfyui", marks=pytest.mark.comfyui)]


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Name the engine."""
    return str(request.param)


def settings(home: Path, engine: str) -> dict[str, str]:
    """Give what every adapter's worker is started with."""
    endpoints = home / "workflows"
    endpoints.mkdir(parents=True)
    graph = picture(color=0x102030)
    graph["1"]["_meta"] = {"title": "$size"}
    (endpoints / "plain.json").write_text(json.dumps(graph))
    given = {"WORKFLOW_DIR": str(endpoints), "INLINE_MAX_MB": str(CEILING_MB)}
    given |= {"STATE_DIR": str(home / "state"), "LOG_LEVEL": "info"}
    if engine == "embedded":
        return {**given, "ENGINE": "embedded", "COMFYFN_TEST_FAULTS": "true"}
    given |= {"ENGINE": "comfyui", "COMFY_HOME": COMFY_HOME, "ALLOW_CPU": "true"}
    return {**given, "COMFY_PYTHON": COMFY_PYTHON} if COMFY_PYTHON else given


@contextlib.contextmanager
def started(name: str, home: Path, engine: str) -> Iterator[Wire]:
    """Run an adapter's worker behind its platform's double."""
    wire: Wire = getattr(import_module(f"contract.wire_{name}"), WIRES[name])(home, engine)
    try:
        wire.start(settings(home, engine))
        yield wire
    finally:
        wire.close()


@pytest.fixture(scope="module", params=list(WIRES))
def wire(
    request: pytest.FixtureRequest, engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Wire]:
    """Give one worker for all rows that leave it as it was."""
    with started(request.param, tmp_path_factory.mktemp(request.param), engine) as running:
        yield running


def image_of(outcome: Outcome) -> Image.Image:
    """Read the only picture of an answer in our form."""
    assert outcome.ok, outcome.body
    (data,) = outcome.body["images"]
    return Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")


def refused(outcome: Outcome | None, status: int, code: str) -> dict[str, Any]:
    """Give the envelope of an error, which is whole on every platform."""
    assert outcome is not None
    assert not outcome.ok
    body = outcome.body
    assert (body["statusCode"], body["code"]) == (status, code), body
    assert {"error", "blame", "retryable", "location", "hint", "details", "node_id"} <= set(body)
    assert "Traceback" not in json.dumps(body)
    return body


def test_good(wire: Wire) -> None:
    """The answer has the same keys, and the picture that was asked for."""
    outcome = wire.send({"prompt": picture(24, 16, 0xC06040)})
    found = image_of(outcome)
    assert (found.size, found.getpixel((5, 5))) == ((24, 16), (0xC0, 0x60, 0x40))
    keys = {"id", "prompt", "images", "filenames", "outputs", "stats", "engine"}
    assert keys <= set(outcome.body)
    assert outcome.body["stats"]["adapter"] == wire.name
    (output,) = outcome.body["outputs"]
    assert (output["kind"], output["mime"], output["node_id"]) == ("image", "image/png", "9")


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        ({"prompt": {"1": 5}}, "invalid_workflow"),
        ({"prompt": "text"}, "invalid_workflow"),
        ({"prompt": picture(), "id": 5}, "invalid_payload"),
        ({"prompt": picture(), "convert_outputs": {}}, "invalid_payload"),
    ],
)
def test_malformed(wire: Wire, payload: dict[str, Any], code: str) -> None:
    """The caller is told, and the platform does not try again."""
    outcome = wire.send(payload)
    body = refused(outcome, 400, code)
    assert (body["blame"], body["retryable"], outcome.retried) == ("caller", False, False)


def test_unknown_node(wire: Wire) -> None:
    """The node is named, with the one that was meant."""
    graph = {**picture(), "5": {"class_type": "SaveImagee", "inputs": {"images": ["1", 0]}}}
    outcome = wire.send({"prompt": graph})
    body = refused(outcome, 400, "invalid_workflow")
    assert "SaveImagee" in json.dumps(body["details"])
    assert "SaveImage" in json.dumps(body).replace("SaveImagee", "")
    assert not outcome.retried


def test_the_engine_dies(wire: Wire, engine: str) -> None:
    """The job is told so, retryable, and the next one finds a new engine."""
    ticket = wire.begin({"prompt": slow(engine, 20)})
    until(lambda: engine_pids(wire, engine))
    time.sleep(3)  # let the run begin: an engine that dies before is asked again, unseen
    for pid in engine_pids(wire, engine):
        os.kill(pid, signal.SIGKILL)
    outcome = wire.outcome(ticket, 90)
    body = refused(outcome, 502, "engine_died")
    assert (body["blame"], body["retryable"]) == ("platform", True)
    assert outcome is not None
    assert outcome.retried == KNOWN[wire.name].retries
    assert image_of(wire.send({"prompt": picture()}, timeout_s=120)).size == (16, 16)


def test_cancelled(wire: Wire, engine: str) -> None:
    """That job ends, and the engine is free for the next one at once."""
    ticket = wire.begin({"prompt": slow(engine, 60)})
    time.sleep(3)  # RunPod's SDK asks once a second, and heeds no stop of a job it has just taken
    wire.cancel(ticket)
    outcome = wire.outcome(ticket, 30)
    if KNOWN[wire.name].tells_cancelled:
        refused(outcome, 499, "cancelled")
    else:
        assert outcome is None
    begun = time.monotonic()
    assert image_of(wire.send({"prompt": picture()})).size == (16, 16)
    assert time.monotonic() - begun < 20


def test_late(wire: Wire, engine: str) -> None:
    """A job's own limit ends it, wherever it runs."""
    outcome = wire.send({"prompt": slow(engine, 30), "timeouts": {"total_s": 1.5}})
    refused(outcome, 504, "timed_out")
    assert outcome.retried == KNOWN[wire.name].retries


def test_too_big(wire: Wire, engine: str) -> None:
    """A result over the ceiling is refused with both sizes, before the platform drops it."""
    if engine == "embedded":
        inputs = {"name": "clip.mp4", "size_bytes": (CEILING_MB + 1) << 20, "seed": 4}
        graph: dict[str, Any] = {"1": {"class_type": "TestNoiseFile", "inputs": inputs}}
    else:
        noise = {"image": ["1", 0], "seed": 7, "strength": 1.0}
        graph = {
            **picture(2048, 2048),
            "2": {"class_type": "ImageAddNoise", "inputs": noise},
        }
        graph["9"]["inputs"]["images"] = ["2", 0]
    outcome = wire.send({"prompt": graph})
    body = refused(outcome, 422, "result_too_large")
    assert "OUTPUT_STORAGE" in json.dumps(body)
    assert not outcome.retried


def test_endpoint_call(wire: Wire) -> None:
    """An endpoint is called by its name."""
    call = {"workflow": "plain", "input": {"size_width": 48, "size_height": 32}}
    assert image_of(wire.send(call)).size == (48, 32)


def test_unknown_endpoint(wire: Wire) -> None:
    """The nearest is named."""
    body = refused(wire.send({"workflow": "plaine", "input": {}}), 404, "unknown_workflow")
    assert "plain" in body["hint"]


def test_worker_comfyuis_form(wire: Wire) -> None:
    """Its clients send a graph with images by name, and read a list of files."""
    picture_in = Image.new("RGB", (20, 10), (10, 200, 30))
    sink = io.BytesIO()
    picture_in.save(sink, "PNG")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "mine.png"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
    }
    images = [{"name": "mine.png", "image": base64.b64encode(sink.getvalue()).decode()}]
    outcome = wire.send({"workflow": graph, "images": images})
    assert outcome.ok, outcome.body
    (entry,) = outcome.body["images"]
    assert (set(entry), entry["type"]) == ({"filename", "type", "data"}, "base64")
    shown = Image.open(io.BytesIO(base64.b64decode(entry["data"]))).convert("RGB")
    assert (shown.size, shown.getpixel((3, 3))) == ((20, 10), (10, 200, 30))


@pytest.mark.parametrize("name", list(WIRES))
def test_draining(name: str, engine: str, tmp_path: Path) -> None:
    """A worker that is ended gives the job in hand to its end, and leaves nothing running."""
    with started(name, tmp_path, engine) as wire:
        ticket = wire.begin({"prompt": slow(engine, 4)})
        until(lambda: engine_pids(wire, engine))
        pids = engine_pids(wire, engine)
        time.sleep(1)
        found: list[int] = []
        ending = threading.Thread(target=lambda: found.append(wire.terminate()))
        ending.start()
        outcome = wire.outcome(ticket, 60)
        ending.join(60)
        assert outcome is not None
        assert image_of(outcome).size == (16, 16)
        assert found[0] in KNOWN[name].ends_with
        until(lambda: not any(alive(pid) for pid in pids))


# -- looking ---------------------------------------------------------------------------------------


def until(what: Any, limit_s: float = 30.0) -> None:
    """Wait until a call gives something true."""
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie does not."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"
    return False


def engine_pids(wire: Wire, engine: str) -> list[int]:
    """List the engine's processes below a worker's."""
    found, left = [], [wire.pid]
    while left:
        for child in children(left.pop()):
            left.append(child)
            with contextlib.suppress(OSError), open(f"/proc/{child}/cmdline", "rb") as command:
                words = command.read()
                if MAIN[engine] in words and b"comfyfn-watchdog" not in words:
                    found.append(child)
    return found
