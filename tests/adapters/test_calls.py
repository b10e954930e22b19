"""The forms of a call, and answers in the caller's form."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from adapters.calls import read_call
from handler.errors import InvalidPayload

LOAD = {"1": {"class_type": "LoadImage", "inputs": {"image": "in.png", "n": 1, "link": ["2", 0]}}}
BYTES = base64.b64encode(b"bytes").decode()


def output(kind: str, name: str, **more: Any) -> dict[str, Any]:
    return {"kind": kind, "filename": name, "text": None, **more}


@pytest.mark.parametrize(
    "given",
    [
        {"prompt": {"1": {}}, "id": "x", "images": 3},
        {"workflow": "txt2img", "input": {"prompt": "a cat"}},
        {"1": {"class_type": "SaveImage", "inputs": {}}},
    ],
)
def test_ours_and_calls_of_endpoints_go_through_as_they_are(given: dict[str, Any]) -> None:
    """So does a bare graph, which the handler tells better."""
    call = read_call(given)

    assert call.payload is given
    assert not call.worker_comfyui
    assert call.answer(given) is given
    assert call.failure(given) is given


def test_a_json_text_is_read() -> None:
    """Of any of the forms, and of the graph in it."""
    assert read_call(json.dumps({"prompt": LOAD})).payload == {"prompt": LOAD}
    assert read_call(json.dumps({"workflow": LOAD})).payload == {"prompt": LOAD}
    assert read_call({"workflow": json.dumps(LOAD)}).payload == {"prompt": LOAD}


def test_what_is_no_object_is_left_to_the_handler() -> None:
    """It tells what it is."""
    assert read_call([1]).payload == [1]


def test_images_are_placed_where_the_graph_names_them() -> None:
    """In copies: the request's own graph stays as it is; other values and prefixes do, too."""
    graph: dict[str, Any] = {
        **LOAD,
        "2": {"class_type": "LoadImage", "inputs": {"image": "in.png [input]"}},
        "3": {"class_type": "SaveImage", "inputs": {"filename_prefix": "in.png", "x": "other.png"}},
        "4": "no node",
    }
    images = [{"name": "in.png", "image": BYTES}, {"name": "url.png", "image": "https://a/b.png"}]
    placed = read_call({"workflow": graph, "images": images}).payload["prompt"]
    uri = f"data:application/octet-stream;base64,{BYTES}"

    assert placed["1"]["inputs"] == {"image": uri, "n": 1, "link": ["2", 0]}
    assert placed["2"]["inputs"] == {"image": uri}
    assert placed["3"] is graph["3"]
    assert placed["4"] == "no node"
    assert graph["1"]["inputs"]["image"] == "in.png"


@pytest.mark.parametrize("image", [f"data:image/png;base64,{BYTES}", "https://a/b.png"])
def test_data_uris_and_urls_are_taken_as_they_are(image: str) -> None:
    """Bare base64 alone is made a data URI, however short it is."""
    given = {"workflow": LOAD, "images": [{"name": "in.png", "image": image}]}

    assert read_call(given).payload["prompt"]["1"]["inputs"]["image"] == image


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (None, "Please provide input"),
        ("", "Please provide input"),
        ("{", "Invalid JSON format in input"),
        ({"workflow": "{"}, "Invalid JSON format in input"),
        ({}, "Missing 'workflow' parameter"),
        ({"images": []}, "Missing 'workflow' parameter"),
    ],
)
def test_worker_comfyuis_words_are_kept(given: Any, text: str) -> None:
    """Its callers match them."""
    with pytest.raises(InvalidPayload) as told:
        read_call(given)
    assert told.value.message == text


@pytest.mark.parametrize(
    "images", [{}, "x", ["x"], [{"name": "x"}], [{"image": "x"}], [{"name": 1, "image": "x"}]]
)
def test_images_of_another_shape_are_refused(images: Any) -> None:
    """In its words."""
    with pytest.raises(InvalidPayload, match="'images' must be a list of objects with 'name' and"):
        read_call({"workflow": LOAD, "images": images})


@pytest.mark.parametrize("name", ["comfy_org_api_key", "api_key_comfy_org"])
def test_comfy_orgs_key_goes_to_the_engine(name: str) -> None:
    """By either name; the call's own wins over the operator's."""
    call = read_call({"workflow": LOAD, name: "theirs"}, comfy_org_key="ours")

    assert call.payload["extra_data"] == {"api_key_comfy_org": "theirs"}
    assert name not in call.payload


def test_the_operators_key_is_for_calls_without() -> None:
    """Of any form, beside what else is handed on."""
    ours = read_call({"prompt": LOAD, "extra_data": {"x": 1}}, comfy_org_key="k").payload
    named = read_call({"workflow": "txt2img"}, comfy_org_key="k").payload
    odd = read_call({"prompt": LOAD, "extra_data": "text"}, comfy_org_key="k").payload

    assert ours["extra_data"] == {"x": 1, "api_key_comfy_org": "k"}
    assert named["extra_data"] == {"api_key_comfy_org": "k"}
    assert odd["extra_data"] == "text"


def test_an_answer_is_told_in_worker_comfyuis_shape() -> None:
    """Images as it has them, and the rest in lists of their own."""
    answer = {
        "images": ["AAA", "https://s3/b.png", "CCC", "DDD"],
        "outputs": [
            output("image", "a.png"),
            {**output("text", "t.txt"), "text": "words"},
            output("image", "b.png", url="https://s3/b.png"),
            output("video", "c.mp4"),
            output("unheard-of", "d.bin"),
        ],
    }

    assert read_call({"workflow": LOAD}).answer(answer) == {
        "images": [
            {"filename": "a.png", "type": "base64", "data": "AAA"},
            {"filename": "b.png", "type": "s3_url", "data": "https://s3/b.png"},
        ],
        "texts": ["words"],
        "videos": [{"filename": "c.mp4", "type": "base64", "data": "CCC"}],
        "files": [{"filename": "d.bin", "type": "base64", "data": "DDD"}],
    }


def test_an_answer_of_nothing_is_a_success_without_images() -> None:
    """As worker-comfyui says it."""
    told = read_call({"workflow": LOAD}).answer({"images": [], "outputs": []})

    assert told == {"status": "success_no_images", "images": []}


def test_a_failure_is_told_in_worker_comfyuis_shape() -> None:
    """`details` are texts; our own facts are beside them."""
    envelope = {"error": "bad", "hint": "mend it", "details": [{"message": "one"}, {"x": 1}]}
    told = read_call({"workflow": LOAD}).failure(envelope)
    bare = read_call({"workflow": LOAD}).failure({"error": "bad", "hint": None, "details": None})

    assert told["error"] == "bad"
    assert told["details"] == ["one", "mend it"]
    assert told["faults"] == envelope["details"]
    assert bare["details"] == ["bad"]


def test_a_small_call_does_not_become_a_job_of_any_size() -> None:
    """An image may be named more than once, and not so often that its copies fill the memory."""
    images = [{"name": "in.png", "image": "a" * (1 << 20)}]
    graph = {str(node): LOAD["1"] for node in range(60)}
    placed = read_call({"workflow": graph, "images": images}).payload["prompt"]
    assert len({node["inputs"]["image"] for node in placed.values()}) == 1

    graph = {str(node): LOAD["1"] for node in range(200)}
    with pytest.raises(InvalidPayload, match="again and again, 199 MiB") as caught:
        read_call({"workflow": graph, "images": images})
    assert caught.value.location == "images"
