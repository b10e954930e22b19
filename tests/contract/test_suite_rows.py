"""The rows of comfyui-api's own test suite that need no storage and no webhook, as black boxes."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import pytest
from contract.graphs import (
    assert_same_pixels,
    empty,
    encoded,
    fine,
    inverted,
    negative,
    photo,
    pictures,
    plain,
    recorded,
    save,
)

if TYPE_CHECKING:
    from live import LiveServer

CHECKPOINT = "random_sd15.safetensors"


def checked(body: dict[str, Any], count: int, size: tuple[int, int]) -> None:
    """Hold an answer against what the suite asserts: counts, sizes, real format by extension."""
    found = pictures(body)

    assert (len(body["filenames"]), len(body["images"])) == (count, count)
    assert [picture.size for picture in found] == [size] * count
    by_extension = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
    forms = [by_extension[name.rpartition(".")[2]] for name in body["filenames"]]
    assert [picture.format for picture in found] == forms


def test_row_1_one_picture(server: LiveServer) -> None:
    """A graph with one picture gives one file and one image."""
    checked(fine(server.prompt(plain(width=512, height=512))), 1, (512, 512))


def test_row_2_a_batch_of_four(server: LiveServer) -> None:
    """A batch of four gives four files, each with a name of its own."""
    body = fine(server.prompt(plain(width=512, height=512, batch=4)))

    checked(body, 4, (512, 512))
    assert len(set(body["filenames"])) == 4


@pytest.mark.parametrize(("form", "size"), [("PNG", (768, 768)), ("JPEG", (640, 480))])
def test_rows_3_and_4_a_picture_as_base64(
    server: LiveServer, form: str, size: tuple[int, int]
) -> None:
    """A picture sent as base64 is what the graph loads."""
    sent = photo(*size)
    content = encoded(sent, form)

    body = fine(server.prompt(inverted(base64.b64encode(content).decode())))

    checked(body, 1, size)
    if form == "PNG":
        assert_same_pixels(pictures(body)[0], negative(sent))


def test_row_11_two_savers(server: LiveServer) -> None:
    """Two SaveImage nodes with different prefixes give two files."""
    graph = {"1": empty(512, 512), "2": save("1", "one"), "3": save("1", "two")}

    body = fine(server.prompt(graph, id="row11"))

    checked(body, 2, (512, 512))
    assert body["filenames"] == ["row11_one_00001_.png", "row11_two_00001_.png"]


@pytest.mark.parametrize("form", ["jpeg", "webp"])
def test_rows_14_and_15_converted(server: LiveServer, form: str) -> None:
    """A converted file has the extension as the format was written, and is of that format."""
    graph = plain(width=512, height=512)

    body = fine(server.prompt(graph, convert_output={"format": form}))

    checked(body, 1, (512, 512))
    assert body["filenames"][0].endswith(f".{form}")
    assert getattr(pictures(body)[0], "n_frames", 1) == 1


@pytest.mark.comfyui
@pytest.mark.timeout(300)
@pytest.mark.parametrize("server", ["comfyui"], indirect=True)
@pytest.mark.parametrize("batch", [1, 4])
def test_rows_1_and_2_with_a_checkpoint(server: LiveServer, batch: int) -> None:
    """A real txt2img graph, sampled on a real ComfyUI, gives as many pictures as its batch."""
    if CHECKPOINT not in server.get("/models").json().get("checkpoints", []):
        pytest.skip(f"this ComfyUI has no {CHECKPOINT}")
    graph = recorded("txt2img")
    graph["5"]["inputs"]["batch_size"] = batch

    body = fine(server.prompt(graph, id=f"batch{batch}"))

    checked(body, batch, (64, 64))
    times = body["stats"]["comfy_execution"]
    assert set(times["nodes"]) | set(body["stats"]["cached_nodes"]) == set(graph)
    assert times["duration"] > 0
