"""The graphs that a real ComfyUI was recorded with: our results tell what it told then."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import Graph, encoded, files, fine, photo, recorded, refused, tone
from live import walk

if TYPE_CHECKING:
    from live import LiveServer

TRANSCRIPTS = Path(__file__).parent.parent / "recordings" / "transcripts"
# The 24 bytes of the recording: a PNG by its signature, and nothing of one after it.
CORRUPT = b"\x89PNG\r\n\x1a\nnot really a png"
KINDS = {
    ".png": ("image", "image/png"),
    ".webp": ("image", "image/webp"),
    ".mp4": ("video", "video/mp4"),
    ".webm": ("video", "video/webm"),
    ".flac": ("audio", "audio/flac"),
    ".mp3": ("audio", "audio/mpeg"),
    ".opus": ("audio", "audio/opus"),
    ".latent": ("file", "application/x-safetensors"),
}

pytestmark = [
    pytest.mark.comfyui,
    pytest.mark.timeout(300),
    pytest.mark.parametrize("server", ["comfyui"], indirect=True),
]


def entry_of(graph: Graph) -> dict[str, Any]:
    """Find what the recorded ComfyUI's history says of a graph."""
    for path in sorted(TRANSCRIPTS.glob("*.json")):
        for exchange in json.loads(path.read_text())["http"]:
            body = exchange.get("response_body")
            if not exchange["path"].startswith("/history/") or not isinstance(body, dict):
                continue
            for entry in body.values():
                if isinstance(entry, dict) and entry["prompt"][2] == graph:
                    found: dict[str, Any] = entry
                    return found
    raise AssertionError("this graph was not recorded")


def recorded_files(entry: dict[str, Any], *, temp: bool) -> dict[str, list[tuple[str, str]]]:
    """Give what each node told then: kinds and types of its files by extension, by node id."""
    told: dict[str, list[tuple[str, str]]] = {}
    for node_id, output in entry["outputs"].items():
        entries = [item for items in output.values() for item in items]
        for item in entries:
            if isinstance(item, str):
                told.setdefault(node_id, []).append(("text", "text/plain"))
            elif isinstance(item, dict) and (temp or item["type"] != "temp"):
                suffix = PurePosixPath(item["filename"]).suffix
                told.setdefault(node_id, []).append(KINDS[suffix])
    return told


@pytest.fixture(autouse=True)
def inputs(server: LiveServer) -> None:
    """Put the files that the graphs name where ComfyUI looks."""
    (server.input / "corrupt.png").write_bytes(CORRUPT)
    (server.input / "tone.wav").write_bytes(tone(1.0, 44100))
    (server.input / "whole.png").write_bytes(encoded(photo()))


@pytest.mark.parametrize("temp", [False, True], ids=["", "with previews"])
@pytest.mark.parametrize(
    "name",
    [
        "image_invert",
        "two_outputs_and_preview",
        "animated",
        "audio_from_wav",
        "video",
        "text_and_latent",
        "txt2img",
        "slow_save",
    ],
)
def test_outputs_are_those_of_the_recording(server: LiveServer, name: str, temp: bool) -> None:
    """Each node gives as many outputs of the same kind as the recording has, none is lost."""
    graph = recorded(name)
    if name == "txt2img" and "random_sd15.safetensors" not in str(server.get("/models").json()):
        pytest.skip("this ComfyUI has no random_sd15.safetensors")

    body = fine(server.prompt(graph, id="rec", include_temp=temp))

    found: dict[str, list[tuple[str, str]]] = {}
    for output in body["outputs"]:
        found.setdefault(output["node_id"], []).append((output["kind"], output["mime"]))
    expected = recorded_files(entry_of(graph), temp=temp)
    assert found == expected
    assert list(found) == [node_id for node_id in graph if node_id in expected]
    sizes = [output["bytes"] for output in body["outputs"] if output["kind"] != "text"]
    assert sizes == [len(content) for content in files(body)]
    assert all(output["bytes"] > 0 for output in body["outputs"])


@pytest.mark.parametrize("name", ["audio_from_wav", "video"])
def test_lengths_are_told(server: LiveServer, name: str) -> None:
    """Sound and film come with their length, films with their size in pixels."""
    body = fine(server.prompt(recorded(name)))

    for output in body["outputs"]:
        assert output["duration_s"] == pytest.approx(1.0, abs=0.1)
        if output["kind"] == "video":
            assert (output["width"], output["height"]) == (64, 64)


def test_a_graph_of_many_seconds(server: LiveServer) -> None:
    """A run that is silent for seconds, one node at work, comes to its end like any other."""
    body = fine(server.prompt(recorded("slow_image_op"), convert_output={"format": "jpeg"}))

    assert [(o["width"], o["height"]) for o in body["outputs"]] == [(1024, 1024)] * 8


def test_pictures_through_the_socket(server: LiveServer) -> None:
    """The recording has two pictures in frames and nothing in its outputs; both come."""
    graph = recorded("save_image_websocket")

    body = fine(server.prompt(graph))

    assert entry_of(graph)["outputs"] == {}
    assert [output["mime"] for output in body["outputs"]] == ["image/png"] * 2


@pytest.mark.parametrize(
    "name",
    [
        "execution_error_corrupt_image",
        "execution_error_after_first_output",
        "execution_error_allocation",
    ],
)
def test_failures_are_those_of_the_recording(server: LiveServer, name: str) -> None:
    """Node, type and message of the exception are ComfyUI's own; nothing is left behind."""
    graph = recorded(name)
    (then,) = (
        message for kind, message in entry_of(graph)["status"]["messages"] if kind.endswith("error")
    )

    body = refused(server.prompt(graph, id="rec"), 500, "execution_error")

    assert (body["node_id"], body["class_type"]) == (then["node_id"], then["node_type"])
    assert body["location"] == f"prompt.{then['node_id']}"
    assert body["details"]["exception_type"] == then["exception_type"]
    assert body["details"]["exception_message"].strip() == then["exception_message"].strip()
    assert body["details"]["traceback"]
    assert then["exception_message"].strip() in body["error"]
    assert not walk(server.output)


def test_an_allocation_that_fails_is_told_as_such(server: LiveServer) -> None:
    """Running out of memory is the machine's fault, with the remedy named; the next job runs."""
    answer = server.prompt(recorded("execution_error_allocation"))

    body = refused(answer, 500, "execution_error")
    assert (body["blame"], body["details"]["cause"]) == ("platform", "out_of_memory")
    assert body["hint"]
    fine(server.prompt(recorded("image_invert")))


def test_a_literal_for_a_link_is_found_before(server: LiveServer) -> None:
    """ComfyUI accepted that graph and failed in the node; here it is refused at once."""
    body = refused(
        server.prompt(recorded("execution_error_literal_for_link")), 400, "invalid_workflow"
    )

    assert (body["node_id"], body["location"]) == ("1", "prompt.1.inputs.image")
    assert body["details"][0]["type"] == "literal_for_link"


def test_after_a_failure_the_rest_of_the_graph_runs(server: LiveServer) -> None:
    """The same graph with a whole picture in place of the corrupt one is a success."""
    graph = recorded("execution_error_after_first_output")
    refused(server.prompt(graph), 500, "execution_error")
    graph["3"]["inputs"]["image"] = "whole.png"

    body = fine(server.prompt(graph))

    assert [output["node_id"] for output in body["outputs"]] == ["2", "5", "5"]
