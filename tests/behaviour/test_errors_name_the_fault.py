"""Every error says which node, what, whose fault, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from behaviour.driving import assert_error, assert_picture
from behaviour.graphs import empty, fault, fresh_color, node, picture, save

if TYPE_CHECKING:
    from live import LiveServer


def checkpoint(name: str) -> dict:
    """Give a graph that loads a checkpoint and decodes an empty latent."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=name),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "3": node("VAEDecode", samples=["2", 0], vae=["1", 2]),
        "9": save("3"),
    }


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_node_that_raises(server: LiveServer) -> None:
    """The node, its exception and its words come through; the next job runs."""
    graph = fault("TestRaise", message="no such luck")
    graph["2"]["_meta"] = {"title": "The one that fails"}
    body = assert_error(server.prompt(graph), 500, "execution_error")
    assert (body["node_id"], body["class_type"]) == ("2", "TestRaise")
    assert (body["node_title"], body["location"]) == ("The one that fails", "prompt.2")
    assert "no such luck" in body["error"]
    assert body["blame"] == "caller"
    assert "NodeFaultError" in body["details"]["exception_type"]
    assert "no such luck" in body["details"]["exception_message"]
    assert isinstance(body["details"]["traceback"], list)
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


@pytest.mark.comfyui
@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_node_of_a_real_engine_that_raises(server: LiveServer) -> None:
    """A picture that no machine has the memory for: the machine is to blame, and goes on."""
    graph = {
        "1": node("EmptyImage", width=16384, height=16384, batch_size=4096, color=0),
        "9": save("1"),
    }
    body = assert_error(server.prompt(graph), 500, "execution_error")
    assert (body["node_id"], body["class_type"]) == ("1", "EmptyImage")
    assert body["details"]["exception_type"]
    assert body["details"]["cause"] == "out_of_memory"
    assert body["blame"] == "platform"
    color = fresh_color()
    assert_picture(server.prompt(picture(color=color)), color)


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_node_without_memory(server: LiveServer) -> None:
    """Too little memory is the machine's fault, and the hint says what helps."""
    body = assert_error(server.prompt(fault("TestOutOfMemory")), 500, "execution_error")
    assert body["blame"] == "platform"
    assert "memory" in body["hint"]
    assert body["details"]["cause"] == "out_of_memory"


@pytest.mark.parametrize("server", ["embedded"], indirect=True)
def test_node_that_fails_at_once(server: LiveServer) -> None:
    """However fast a run ends, its error is whole: fifty times in a row."""
    for index in range(50):
        graph = {
            "1": node("PrimitiveInt", value=index),
            "2": node("TestRaise", image=["1", 0], message=f"fault {index}"),
            "9": node("PreviewAny", source=["2", 0]),
        }
        body = assert_error(server.prompt(graph), 500, "execution_error")
        assert (body["node_id"], body["class_type"]) == ("2", "TestRaise")
        assert body["details"]["exception_message"] == f"fault {index}"


def test_unknown_node(server: LiveServer) -> None:
    """A class that is nearly right is told with what was perhaps meant."""
    graph = picture()
    graph["2"] = node("ImageInvrt", image=["1", 0])
    graph["9"]["inputs"]["images"] = ["2", 0]
    body = assert_error(server.prompt(graph), 400, "invalid_workflow")
    assert (body["node_id"], body["class_type"]) == ("2", "ImageInvrt")
    assert body["location"] == "prompt.2"
    assert "ImageInvert" in body["hint"]
    assert "ImageInvert" in body["details"][0]["choices_near"]


def test_misspelt_choice(server: LiveServer) -> None:
    """A choice that does not exist is told with the nearest that do."""
    graph = picture()
    scale = {"upscale_method": "lanzcos", "width": 8, "height": 8, "crop": "disabled"}
    graph["2"] = node("ImageScale", image=["1", 0], **scale)
    graph["9"]["inputs"]["images"] = ["2", 0]
    body = assert_error(server.prompt(graph), 400, "invalid_workflow")
    assert body["location"] == "prompt.2.inputs.upscale_method"
    assert "lanczos" in body["details"][0]["choices_near"]
    assert body["blame"] == "caller"


@pytest.mark.comfyui
@pytest.mark.timeout(240)
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
def test_misspelt_checkpoint(server: LiveServer) -> None:
    """A model file that is not there is told with those that are."""
    have = server.get("/models").json()["checkpoints"]
    assert have
    body = assert_error(
        server.prompt(checkpoint(have[0].replace("1", "l"))), 400, "invalid_workflow"
    )
    assert body["location"] == "prompt.1.inputs.ckpt_name"
    assert have[0] in body["details"][0]["choices_near"]


def test_all_faults_are_told_at_once(server: LiveServer) -> None:
    """Who fixes one fault after the other needs as many requests."""
    graph = {
        "1": node("EmptyImage", width=0, height=16, batch_size=1, color=0),
        "2": node("ImageInvert"),
        "9": save("2"),
        "8": save("1"),
        "7": node("NoSuchThingAtAll"),
    }
    body = assert_error(server.prompt(graph), 400, "invalid_workflow")
    assert {fault["location"] for fault in body["details"]} == {
        "prompt.1.inputs.width",
        "prompt.2.inputs.image",
        "prompt.7",
    }


def test_graph_of_the_editor(server: LiveServer) -> None:
    """A file of "Save" instead of "Export (API)" is told as such."""
    graph = {"last_node_id": 1, "nodes": [{"id": 1, "type": "SaveImage"}], "links": []}
    body = assert_error(server.post("/prompt", {"prompt": graph}), 400, "workflow_format_ui")
    assert "Export" in body["hint"]


@pytest.mark.parametrize("graph", [[], "a text", None, 7, {}, {"1": "x"}, {"1": {"inputs": {}}}])
def test_graph_that_is_none(server: LiveServer, graph: object) -> None:
    """Whatever is sent as a graph gets a 400 with words."""
    body = server.post("/prompt", {"prompt": graph})
    assert body.status_code == 400, body.text
    assert_error(body, 400, body.json()["code"])
    assert body.json()["code"] in {"invalid_workflow", "invalid_payload", "no_output_node"}


def test_graph_without_an_output(server: LiveServer) -> None:
    """The text is the one that clients of comfyui-api match."""
    body = assert_error(server.prompt({"1": empty(8, 8, 0)}), 400, "no_output_node")
    text = 'Prompt must contain a node with a "filename_prefix" input, such as "SaveImage"'
    assert (body["error"], body["location"]) == (text, "prompt")
