"""A model is seen wherever it lies: in MODEL_DIR, and in every root, at either level."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from behaviour.graphs import picture
from live import COMFY_HOME, COMFY_PYTHON, LiveServer

from handler.engine.preflight import model_folders
from local_server.engine.model_paths import MODEL_FOLDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

# Its entries are folders with a suffix no file can have.
NO_FILES = ("custom_nodes", "diffusers")


def registry(engine: str) -> dict[str, tuple[list[str], str]]:
    """Give, by name, the folders below `models/` and a suffix that is listed there."""
    if engine == "embedded":
        known = {
            name: (list(places), sorted(ends)) for name, (places, ends) in MODEL_FOLDERS.items()
        }
    else:
        found = model_folders(Path(COMFY_PYTHON or sys.executable), Path(COMFY_HOME))
        assert found is not None
        known = {
            name: ([Path(path).name for path in paths], ends)
            for name, (paths, ends) in found["folders"].items()
        }
    return {
        name: (places, (ends or [".safetensors"])[-1])
        for name, (places, ends) in known.items()
        if name not in NO_FILES
    }


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("embedded"),
        pytest.param("comfyui", marks=[pytest.mark.comfyui, pytest.mark.timeout(240)]),
    ],
)
def started(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[LiveServer, Path]]:
    """A server with three roots, and a file for every folder in each of them."""
    engine, tmp_path = str(request.param), tmp_path_factory.mktemp(f"roots-{request.param}")
    roots = {"own": tmp_path / "own", "inner": tmp_path / "a", "outer": tmp_path / "b"}
    for name, (places, end) in registry(engine).items():
        for place in places:
            put(roots["own"] / place / f"own-{name}-{place}{end}")
            put(roots["inner"] / "models" / place / f"inner-{name}-{place}{end}")
            put(roots["outer"] / place / f"outer-{name}-{place}{end}")
    put(roots["inner"] / "models" / "ipadapter" / "pack.bin")
    put(roots["own"] / "sams" / "own.pth")
    put(roots["outer"] / "stuff" / "lost.safetensors")
    server = LiveServer(
        tmp_path / "server",
        engine,
        MODEL_DIR=str(roots["own"]),
        MODEL_ROOTS=f"{roots['inner']}:{roots['outer']}:{tmp_path / 'gone'}",
    )
    try:
        yield server.start(), tmp_path
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop()


def test_a_file_of_every_folder_in_every_root_is_seen(started) -> None:
    """By the engine's own registry, with the folders of node packs that are not there yet."""
    server, _ = started
    listed = server.get("/models").json()
    missing = [
        f"{root}-{name}-{place}{end}"
        for name, (places, end) in registry(server.engine).items()
        for place in places
        for root in ("own", "inner", "outer")
        if f"{root}-{name}-{place}{end}" not in listed[name]
    ]
    assert missing == []
    assert listed["ipadapter"] == ["pack.bin"]
    assert listed["sams"] == ["own.pth"]


def test_the_boot_report_tells_what_lies_where(started) -> None:
    """Counts by root, roots that are missing, and a model where nobody looks."""
    server, home = started
    until = time.monotonic() + 10
    while "models" not in (boot := server.get("/health").json()["boot"]):
        assert time.monotonic() < until
    told = {Path(root["path"]).name: root for root in boot["models"]["roots"]}

    assert told["own"]["models"]["text_encoders"] == 2
    assert told["a"]["models"]["text_encoders"] == 2
    assert told["a"]["models"]["ipadapter"] == 1
    assert told["b"]["models"]["controlnet"] == 2
    assert told["gone"]["problem"] == "No such file or directory"
    assert boot["models"]["not_searched"] == [str(home / "b" / "stuff" / "lost.safetensors")]
    assert "lost.safetensors, but that folder is not searched" in server.log.read_text()


def test_the_boot_report_tells_what_was_read_ahead(start_server, tmp_path) -> None:
    """The warmup's models are found by their names alone, wherever they lie in the roots."""
    model = tmp_path / "volume" / "models" / "checkpoints" / "a.safetensors"
    put(model)
    model.write_bytes(bytes(100_000))
    graph = picture()
    next(iter(graph.values()))["_meta"] = {"title": ["a.safetensors", "no.ckpt"]}
    server = start_server(
        MODEL_ROOTS=str(tmp_path / "volume"), WARMUP_PROMPT_JSON=json.dumps(graph)
    )
    told = server.get("/health").json()["boot"]["read_ahead"]

    assert told["not_found"] == ["no.ckpt"]
    root = told["roots"][str(tmp_path / "volume")]
    assert root["bytes"] + root["resident_bytes"] == 100_000


def test_nothing_is_read_ahead_where_that_is_off(start_server, tmp_path) -> None:
    """READ_AHEAD=false."""
    graph = picture()
    next(iter(graph.values()))["_meta"] = {"title": "a.safetensors"}
    server = start_server(READ_AHEAD="false", WARMUP_PROMPT_JSON=json.dumps(graph))

    assert "read_ahead" not in server.get("/health").json()["boot"]
