"""What a successful answer says: names, order, facts of every output, times."""

from __future__ import annotations

import hashlib
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from contract.disk import assert_nothing_new, files_below
from contract.graphs import (
    data_uri,
    empty,
    encoded,
    files,
    fine,
    inverted,
    photo,
    pictures,
    plain,
    save,
)

if TYPE_CHECKING:
    from live import LiveServer

ENGINES = {"embedded": "embedded", "comfyui": "comfyui"}


def test_an_id_is_echoed(server: LiveServer) -> None:
    """The caller's id names the answer and begins the file names."""
    body = fine(server.prompt(plain("prefix"), id="my-id.7"))

    assert body["id"] == "my-id.7"
    assert body["filenames"] == ["my-id.7_prefix_00001_.png"]


def test_an_id_is_drawn(server: LiveServer) -> None:
    """Without an id the answer has a UUID of version 4, another one each time."""
    first, second = (fine(server.prompt(plain()))["id"] for _ in range(2))

    assert uuid.UUID(first).version == uuid.UUID(second).version == 4
    assert first != second


def test_one_id_twice_gives_two_results(server: LiveServer) -> None:
    """An id need not be unique: nothing of an older job is taken for this one's."""
    for color in (0xFF0000, 0x00FF00, 0xFF0000):
        body = fine(server.prompt(plain(color=color), id="twice"))
        assert body["filenames"] == ["twice_out_00001_.png"]


def test_names_without_the_prefix(unprefixed_server: LiveServer) -> None:
    """With PREPEND_FILENAMES=false the id alone names the file."""
    graph = {
        "1": empty(20, 20),
        "2": empty(30, 30),
        "3": save("1", "dropped"),
        "4": save("2", "sub/dropped too"),
    }

    body = fine(unprefixed_server.prompt(graph, id="only"))

    assert body["filenames"] == ["only_00001_.png", "only_00002_.png"]
    assert [picture.size for picture in pictures(body)] == [(20, 20), (30, 30)]


def test_lists_are_parallel_and_in_node_order(server: LiveServer) -> None:
    """`images`, `filenames` and `outputs` follow the graph as it was written, not as it ran."""
    graph: dict[str, Any] = {name: save("1", f"p{name}") for name in ("9", "10", "2")}
    graph["1"] = empty(batch=2)

    body = fine(server.prompt(graph, id="x"))

    names = [f"x_p{node}_{i:05}_.png" for node in ("9", "10", "2") for i in (1, 2)]
    assert body["filenames"] == names
    assert [output["filename"] for output in body["outputs"]] == names
    assert [output["node_id"] for output in body["outputs"]] == ["9", "9", "10", "10", "2", "2"]
    digests = [hashlib.sha256(content).hexdigest() for content in files(body)]
    assert [output["sha256"] for output in body["outputs"]] == digests


def test_the_facts_of_a_file(server: LiveServer) -> None:
    """Size, hash, type and measures are those of the file; the title is the graph's."""
    graph = {"1": empty(70, 50), "2": save("1", "x", title="The \u00fcber-saver")}

    body = fine(server.prompt(graph, id="facts"))

    (content,), (output,) = files(body), body["outputs"]
    assert output == {
        "node_id": "2",
        "title": "The \u00fcber-saver",
        "kind": "image",
        "mime": "image/png",
        "filename": "facts_x_00001_.png",
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
        "width": 70,
        "height": 50,
        "duration_s": None,
        "text": None,
    }


def test_the_title_is_the_class_where_there_is_none(server: LiveServer) -> None:
    """A node without a title is told by its class."""
    assert fine(server.prompt(plain()))["outputs"][0]["title"] == "SaveImage"


def test_the_facts_of_a_text(server: LiveServer) -> None:
    """A text is an output beside the files, not among `images`."""
    text = "words: \u00e4\u00f6\u00fc \U0001f600\nand a line"
    show = {"class_type": "PreviewAny", "inputs": {"source": text}, "_meta": {"title": "Shown"}}

    body = fine(server.prompt({**plain(), "7": show}))

    _, output = body["outputs"]
    assert len(body["images"]) == len(body["filenames"]) == 1
    assert (output["kind"], output["mime"]) == ("text", "text/plain")
    assert (output["title"], output["node_id"]) == ("Shown", "7")
    assert output["text"] == text
    assert output["bytes"] == len(text.encode())
    assert output["sha256"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_graph_of_texts_alone(server: LiveServer) -> None:
    """A graph that only shows a text is a success without files."""
    body = fine(server.prompt({"1": {"class_type": "PreviewAny", "inputs": {"source": "alone"}}}))

    assert (body["images"], body["filenames"]) == ([], [])
    assert [output["text"] for output in body["outputs"]] == ["alone"]


def test_the_graph_is_shown_as_it_ran(server: LiveServer) -> None:
    """`prompt` has the rewritten names in place of the data, everything else as it was sent."""
    graph = inverted(data_uri(encoded(photo())))

    shown = fine(server.prompt(graph, id="shown"))["prompt"]

    assert list(shown) == list(graph)
    assert "base64" not in str(shown)
    assert shown["1"]["inputs"]["image"].endswith(".png")
    assert shown["2"] == graph["2"]
    assert shown["3"]["inputs"]["filename_prefix"].endswith("/shown_inv")


def test_times_are_milliseconds_and_fit_each_other(server: LiveServer) -> None:
    """`stats` has comfyui-api's keys; its parts sum up to the whole, its clock is Unix time."""
    begun = time.time()
    body = fine(server.prompt(plain(width=256, height=256)))
    taken_ms = (time.time() - begun) * 1000

    stats = body["stats"]
    run = stats["comfy_execution"]
    parts = [
        stats[key]
        for key in ("preprocess_time", "comfy_round_trip_time", "postprocess_time", "upload_time")
    ]
    assert all(isinstance(part, int | float) and part >= 0 for part in parts)
    assert stats["upload_time"] in {0, 1}
    assert sum(parts) <= stats["total_time"] * 1.001 + 0.01
    assert stats["total_time"] <= taken_ms
    assert run["start"] <= run["end"]
    assert run["duration"] == run["end"] - run["start"] <= stats["comfy_round_trip_time"] + 2
    assert run["total"] == {key: run[key] for key in ("start", "end", "duration")}
    for at in (run["start"], run["end"], *(node["start"] for node in run["nodes"].values())):
        assert (begun - 1) * 1000 <= at <= (time.time() + 1) * 1000
    assert set(run["nodes"]) <= {"1", "2"}
    assert stats["queue_time"] >= 0


def test_cached_nodes_have_no_time(server: LiveServer) -> None:
    """A node that did not run again is told as cached and not among the timed ones."""
    graph = plain(width=33, height=21)
    fine(server.prompt(graph))

    stats = fine(server.prompt(graph))["stats"]

    assert stats["cached_nodes"] == ["1"]
    assert set(stats["comfy_execution"]["nodes"]) == {"2"}


def test_the_engine_is_named(server: LiveServer) -> None:
    """The answer says which engine ran the graph."""
    engine = fine(server.prompt(plain()))["engine"]

    assert engine["kind"] == ENGINES[server.engine]
    assert engine["version"]


def test_secrets_are_nowhere(server: LiveServer) -> None:
    """What is handed to ComfyUI for partner nodes is in no answer, record, file or log."""
    secret = "hidden-word-in-extra-data"
    extra = {"api_key_comfy_org": secret, "auth_token_comfy_org": secret}

    answer = server.prompt(plain(), id="secretive", extra_data=extra)
    failed = server.prompt({"1": {"class_type": "Nothing", "inputs": {}}}, extra_data=extra)

    body = fine(answer)
    assert secret not in answer.text
    assert secret.encode() not in files(body)[0]
    assert secret not in failed.text
    assert secret not in server.get("/jobs/secretive").text
    assert secret not in server.get("/jobs/secretive/events").text
    assert secret not in server.log.read_text()
    assert "extra_data" not in body


def test_extra_data_reaches_the_file(server: LiveServer) -> None:
    """`extra_pnginfo` is written into the PNG, as ComfyUI's own page does."""
    extra = {"extra_pnginfo": {"workflow": {"made": "by a test"}}}

    body = fine(server.prompt(plain(), extra_data=extra))

    assert '"by a test"' in pictures(body)[0].info["workflow"]


@pytest.mark.parametrize("key", ["unknown", "client_id", "number", "front"])
def test_unknown_keys_are_ignored(server: LiveServer, key: str) -> None:
    """A key that is not ours changes nothing and is not echoed."""
    body = fine(server.prompt(plain(), **{key: "x"}))

    assert key not in body


@pytest.mark.parametrize(
    ("key", "meant"), [("Prompt", "prompt"), ("convert_outptu", "convert_output")]
)
def test_misspelt_keys_are_refused(server: LiveServer, key: str, meant: str) -> None:
    """A key that is nearly one of ours was meant to be it: ignored, it looks like a success."""
    answer = server.prompt(plain(), **{key: "x"})

    assert answer.status_code == 400
    assert answer.json()["hint"] == f"did you mean {meant}?"


def test_nothing_is_left_behind(server: LiveServer) -> None:
    """After the answer no file of the job is on the disk, previews included."""
    before = files_below(server.home)
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}

    graph = {**inverted(data_uri(encoded(photo()))), "4": preview}
    fine(server.prompt(graph, convert_output={"format": "webp"}))

    assert_nothing_new(before, server.home)
