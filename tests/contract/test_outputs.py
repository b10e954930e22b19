"""Everything that nodes produce comes back, whatever they call it and wherever they put it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from contract.disk import assert_nothing_new, files_below
from contract.graphs import animation, empty, files, fine, pictures, plain, recorded, save

if TYPE_CHECKING:
    from live import LiveServer

embedded_only = pytest.mark.parametrize("server", ["embedded"], indirect=True)


def file_node(name: str, key: str = "gifs", size: int = 40, prefix: str = "f") -> dict[str, Any]:
    """Give a node that writes a file and tells of it under a key."""
    inputs = {"name": name, "size_bytes": size, "key": key, "filename_prefix": prefix}
    return {"class_type": "TestFile", "inputs": inputs}


def test_a_prefix_with_folders(server: LiveServer) -> None:
    """Files in subfolders are found; the name is the leaf, the id stands before it."""
    graph = {"1": empty(batch=2), "2": save("1", "a/b/c/deep"), "3": save("1", "a/flat")}

    body = fine(server.prompt(graph, id="x"))

    assert body["filenames"] == [
        "x_deep_00001_.png",
        "x_deep_00002_.png",
        "x_flat_00001_.png",
        "x_flat_00002_.png",
    ]
    assert len(pictures(body)) == 4


def test_equal_leaf_names_in_two_folders(server: LiveServer) -> None:
    """Two files of one name in different folders are two outputs."""
    graph = {
        "1": empty(20, 20),
        "2": empty(30, 30),
        "3": save("1", "a/same"),
        "4": save("2", "b/same"),
    }

    body = fine(server.prompt(graph, id="x"))

    assert body["filenames"] == ["x_same_00001_.png"] * 2
    assert [picture.size for picture in pictures(body)] == [(20, 20), (30, 30)]


@pytest.mark.parametrize(
    "prefix", ["../../out", "/tmp/out", "a/../../../out", "..", "~/out", "C:\\out", "a\x00b", "\n"]
)
def test_a_prefix_cannot_leave_the_folder(server: LiveServer, prefix: str) -> None:
    """A prefix that leads out gives a result like any other, and writes nothing elsewhere."""
    before = files_below(server.home)

    body = fine(server.prompt({"1": empty(), "2": save("1", prefix)}, id="x"))

    assert len(pictures(body)) == 1
    assert all("/" not in name and ".." not in name for name in body["filenames"])
    assert_nothing_new(before, server.home)


@pytest.mark.parametrize(
    "prefix", ["%date:yyyy-MM-dd%/x", "%width%x%height%", "caf\u00e9 \u4e2d\u6587", "a b", "%year%"]
)
def test_prefixes_of_all_kinds(server: LiveServer, prefix: str) -> None:
    """Placeholders, blanks and other scripts in a prefix do no harm."""
    body = fine(server.prompt({"1": empty(), "2": save("1", prefix)}, id="x"))

    assert len(pictures(body)) == 1
    assert body["filenames"][0].startswith("x_")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_linked_prefix_cannot_leave_the_folder(server: LiveServer, wrapped: bool) -> None:
    """Its text is known at run time only: the class's own prefix takes its place."""
    text = {"class_type": "PrimitiveString", "inputs": {"value": "../../escaped"}}
    saver = save("1")
    saver["inputs"]["filename_prefix"] = {"__value__": "../../escaped"} if wrapped else ["5", 0]
    before = files_below(server.home)

    body = fine(server.prompt({"1": empty(), "2": saver, "5": text}, id="x"))

    assert body["filenames"] == ["x_escaped_00001_.png" if wrapped else "x_ComfyUI_00001_.png"]
    assert len(pictures(body)) == 1
    assert body["prompt"]["2"]["inputs"]["filename_prefix"].startswith("comfyfn-jobs/")
    assert_nothing_new(before, server.home)


@pytest.mark.parametrize("prefix", [None, ""])
def test_a_prefix_left_out_is_the_classs_own(server: LiveServer, prefix: str | None) -> None:
    """Where a class declares one, what it writes still lies in the job's folder."""
    inputs = {"images": ["1", 0], "filename_prefix": prefix}
    saver = {"class_type": "SaveImage", "inputs": inputs}
    before = files_below(server.home)

    body = fine(server.prompt({"1": empty(), "2": saver}, id="x"))

    assert body["filenames"] == ["x_ComfyUI_00001_.png"]
    assert_nothing_new(before, server.home)


def test_previews_come_when_asked_for(server: LiveServer) -> None:
    """Temporary pictures are outputs with `include_temp` alone, in node order."""
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    graph = {"1": empty(batch=2), "2": preview, "3": save("1", "kept")}

    hidden = fine(server.prompt(graph, id="x"))
    shown = fine(server.prompt(graph, id="x", include_temp=True))

    assert [output["node_id"] for output in hidden["outputs"]] == ["3", "3"]
    assert [output["node_id"] for output in shown["outputs"]] == ["2", "2", "3", "3"]
    assert [picture.size for picture in pictures(shown)] == [(64, 48)] * 4
    assert len(shown["filenames"]) == 4


def test_previews_alone(server: LiveServer) -> None:
    """A graph that only previews runs; its pictures come when asked for."""
    preview = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    graph = {"1": empty(), "2": preview}

    assert fine(server.prompt(graph))["images"] == []
    for _ in range(2):
        assert len(pictures(fine(server.prompt(graph, include_temp=True)))) == 1


def test_pictures_through_the_socket_are_outputs(server: LiveServer) -> None:
    """SaveImageWebsocket writes no file: what it sends is taken, one output a picture."""
    body = fine(server.prompt(recorded("save_image_websocket")))

    assert [(o["node_id"], o["kind"], o["mime"]) for o in body["outputs"]] == [
        ("2", "image", "image/png")
    ] * 2
    assert len(set(body["filenames"])) == 2
    for picture in pictures(body):
        assert picture.size == (64, 64)
        assert picture.getpixel((0, 0)) == (0, 0, 255)


def test_pictures_through_the_socket_beside_files(server: LiveServer) -> None:
    """Frames take their node's place in the order, and are converted like files."""
    through = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["1", 0]}}
    graph = {"1": empty(), "2": through, "3": save("1")}

    body = fine(server.prompt(graph, convert_output={"format": "webp"}))

    assert [output["node_id"] for output in body["outputs"]] == ["2", "3"]
    assert [picture.format for picture in pictures(body)] == ["WEBP", "WEBP"]


def test_an_animation_is_told_with_its_length(server: LiveServer) -> None:
    """An animated picture is one image with a length in seconds."""
    (output,) = fine(server.prompt(animation(5)))["outputs"]

    assert (output["kind"], output["mime"]) == ("image", "image/webp")
    assert output["duration_s"] == pytest.approx(0.625)


@embedded_only
@pytest.mark.parametrize(
    ("name", "key", "kind", "mime"),
    [
        ("clip.mp4", "gifs", "video", "video/mp4"),
        ("clip.webm", "images", "video", "video/webm"),
        ("scene.glb", "3d", "model3d", "model/gltf-binary"),
        ("mesh.obj", "result", "model3d", "model/obj"),
        ("sound.flac", "audio", "audio", "audio/flac"),
        ("sound.mp3", "audio", "audio", "audio/mpeg"),
        ("data.json", "files", "text", "application/json"),
        ("data", "latents", "file", "application/octet-stream"),
        ("x.unheardof", "whatever", "file", "application/octet-stream"),
    ],
)
def test_any_key_is_an_output(
    server: LiveServer, name: str, key: str, kind: str, mime: str
) -> None:
    """A file is an output under whatever key its node tells of it."""
    body = fine(server.prompt({"1": file_node(name, key)}, id="x"))

    (output,) = body["outputs"]
    assert (output["kind"], output["mime"]) == (kind, mime)
    assert output["filename"] == f"x_f_00001_{name}"
    assert files(body) == [bytes(40)]


@embedded_only
def test_files_that_nobody_tells_of(server: LiveServer) -> None:
    """A node that writes a file and keeps silent has its file found by its prefix."""
    silent = {"name": "quiet.bin", "size_bytes": 7, "filename_prefix": "sub/quiet"}
    graph = {
        **plain(),
        "3": {
            "class_type": "TestSilentFile",
            "inputs": silent,
            "_meta": {"title": "Quiet"},
        },
    }

    body = fine(server.prompt(graph, id="x"))

    assert body["filenames"] == ["x_out_00001_.png", "x_quiet_00001_quiet.bin"]
    output = body["outputs"][1]
    assert (output["node_id"], output["title"], output["bytes"]) == ("3", "Quiet", 7)


@embedded_only
@pytest.mark.parametrize("size", [0, 1, 2, 3, 262_144, 262_145, 5_000_000])
def test_files_of_any_size(server: LiveServer, size: int) -> None:
    """Base64 made block by block is whole, whatever the size."""
    body = fine(server.prompt({"1": file_node("data.bin", size=size)}))

    assert files(body) == [bytes(size)]
    assert body["outputs"][0]["bytes"] == size


@embedded_only
def test_files_of_several_nodes_are_not_mixed(server: LiveServer) -> None:
    """Files of many nodes with one prefix go each to their node."""
    graph = {str(n): file_node("d.bin", size=n, prefix="same") for n in (5, 3, 4)}

    body = fine(server.prompt(graph))

    assert [(o["node_id"], o["bytes"]) for o in body["outputs"]] == [("5", 5), ("3", 3), ("4", 4)]
    assert [len(content) for content in files(body)] == [5, 3, 4]
