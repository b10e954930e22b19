"""Ran -> Collected: everything the run produced, by shape."""

from __future__ import annotations

import hashlib

import pytest
from worker import GRAPH, parts_in, received

from handler.engine.memory import PIXEL, write_picture
from handler.errors import EngineRefused, InternalFault
from handler.pipeline.collect import SMALL_BYTES, collect
from handler.pipeline.stages import Ran
from handler.records import JOBS_FOLDER

OWN = f"{JOBS_FOLDER}/uid"
SAVE = {"class_type": "SaveImage", "inputs": {"filename_prefix": f"{OWN}/b"}}
ISOLATED = {"9": SAVE, "2": {**GRAPH["2"], "inputs": {"filename_prefix": f"{OWN}/a"}}, "5": {}}


def item(name, subfolder=OWN, kind="output"):
    return {"filename": name, "subfolder": subfolder, "type": kind}


def written(path, data=b"data"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture
def parts(tmp_path):
    """Parts with folders to write into."""
    return parts_in(tmp_path)


async def collected(parts, told, *, graph=ISOLATED, frames=(), **keys):
    ran = Ran(graph, ["9", "2"], told=told, frames=list(frames))
    return await collect(ran, received(**keys), parts)


def names(result):
    return [(output.node_id, output.filename) for output in result.outputs]


async def test_files_under_any_key_are_outputs_in_the_graphs_order(parts, tmp_path):
    """`images`, `gifs`, `3d`, a list or one object; the caller's order of nodes."""
    for name in ("a.png", "b.png", "c.glb", "d.mp4"):
        written(tmp_path / "output" / OWN / name, PIXEL if name[-3:] == "png" else b"x")
    told = {
        "2": {"images": [item("a.png"), item("b.png")], "animated": [True], "n": 5},
        "9": {"3d": [item("c.glb")], "video": item("d.mp4"), "more": [{"filename": 5}, None]},
    }
    result = await collected(parts, told)

    assert names(result) == [("9", "c.glb"), ("9", "d.mp4"), ("2", "a.png"), ("2", "b.png")]
    picture = result.outputs[2]
    assert (picture.title, picture.mime, picture.kind) == ("the picture", "image/png", "image")
    assert (picture.width, picture.height, picture.bytes) == (8, 8, len(PIXEL))
    assert picture.sha256 == hashlib.sha256(PIXEL).hexdigest()


async def test_texts_are_outputs_too(parts):
    """Any list of texts, any text; size in UTF-8."""
    told = {"2": {"text": ["one", "zwölf"], "result": "three", "n": [1]}}
    result = await collected(parts, told)

    assert [(o.filename, o.text, o.bytes, o.kind) for o in result.outputs] == [
        ("2_0.txt", "one", 3, "text"),
        ("2_1.txt", "zwölf", 6, "text"),
        ("2_2.txt", "three", 5, "text"),
    ]


async def test_a_large_file_is_hashed_alike(parts, tmp_path):
    """In a thread, block by block."""
    data = bytes(SMALL_BYTES + 1)
    written(tmp_path / "output" / OWN / "a.bin", data)
    result = await collected(parts, {"2": {"files": [item("a.bin")]}})

    assert result.outputs[0].sha256 == hashlib.sha256(data).hexdigest()


async def test_previews_are_left_out_unless_asked_for(parts, tmp_path):
    """They are no results to most callers."""
    written(tmp_path / "temp" / "p.png", PIXEL)
    told = {"2": {"images": [item("p.png", "", "temp")]}}
    hidden = await collected(parts, told)
    shown = await collected(parts, told, include_temp=True)

    assert hidden.outputs == []
    assert [(output.temp, output.filename) for output in shown.outputs] == [(True, "p.png")]


async def test_inputs_that_a_node_shows_are_no_outputs(parts):
    """They are the caller's own."""
    assert (await collected(parts, {"2": {"images": [item("a", "", "input")]}})).outputs == []


async def test_a_file_outside_of_the_jobs_folder_is_an_output(parts, tmp_path):
    """Some nodes know no subfolder."""
    written(tmp_path / "output" / "loose.png", PIXEL)

    assert names(await collected(parts, {"2": {"images": [item("loose.png", "")]}})) == [
        ("2", "loose.png")
    ]


async def test_what_could_not_be_kept_fails_the_job(parts):
    """An image of the socket that no disk took: never a success with less."""
    ran = Ran(ISOLATED, ["2"], told={"2": {"text": ["x"]}}, fault=OSError(28, "No space left"))
    with pytest.raises(InternalFault, match="No space left") as caught:
        await collect(ran, received(), parts)

    assert caught.value.retryable
    assert "WORK_DIR" in caught.value.hint


async def test_a_texts_name_leads_nowhere(parts):
    """Callers store by it, and a node's id is any text."""
    graph = {"../../evil": {"class_type": "Show", "inputs": {}}}
    result = await collected(parts, {"../../evil": {"text": ["x"]}}, graph=graph)

    assert names(result) == [("../../evil", "_.._evil_0.txt")]


async def test_links_in_the_jobs_folder_are_not_followed(parts, tmp_path):
    """What a node linked there may be any file of the machine."""
    secret = written(tmp_path / "secret.txt")
    own = tmp_path / "output" / OWN
    own.mkdir(parents=True)
    (own / "a_link.txt").symlink_to(secret)

    assert names(await collected(parts, {})) == []


async def test_an_announced_file_that_is_not_there_is_an_error(parts):
    """Never a success with less."""
    with pytest.raises(EngineRefused):
        await collected(parts, {"2": {"images": [item("gone.png")]}})


async def test_files_that_a_node_wrote_without_a_word_are_outputs(parts, tmp_path):
    """Of the node whose prefix they have; its title, too."""
    write_picture(parts.engine.files, f"{OWN}/a")
    result = await collected(parts, {})

    assert names(result) == [("2", "a_00001_.png")]
    assert result.outputs[0].title == "the picture"


async def test_files_of_no_nodes_prefix_come_last_without_a_node(parts, tmp_path):
    """Something wrote them into the job's folder."""
    written(tmp_path / "output" / OWN / "sub" / "z.bin")
    told = {"2": {"text": ["x"]}}
    result = await collected(parts, told)

    assert names(result) == [("2", "2_0.txt"), ("", "z.bin")]
    assert result.outputs[1].title == ""


async def test_a_node_that_announced_files_has_told_all(parts, tmp_path):
    """What else lies there is its own business: masks, workflows, half files."""
    write_picture(parts.engine.files, f"{OWN}/a")
    written(tmp_path / "output" / OWN / "a_extra.png", PIXEL)
    result = await collected(parts, {"2": {"images": [item("a_00001_.png")]}})

    assert names(result) == [("2", "a_00001_.png")]


async def test_a_node_without_a_text_prefix_owns_nothing(parts, tmp_path):
    """Its prefix may be linked to another node."""
    graph = {"2": {"class_type": "SaveImage", "inputs": {"filename_prefix": ["1", 0]}}, "9": {}}
    written(tmp_path / "output" / OWN / "z.bin")

    assert names(await collected(parts, {}, graph=graph)) == [("", "z.bin")]


async def test_pictures_that_came_over_the_socket_are_outputs(parts, tmp_path):
    """Of nodes that are in the graph, or expanded from one."""
    first = written(tmp_path / "scratch" / "uid" / "frames" / "2_00000.png", PIXEL)
    second = written(tmp_path / "scratch" / "uid" / "frames" / "7_00001.png", PIXEL)
    result = await collected(parts, {}, frames=[("7", second), ("2", first)])

    assert names(result) == [("2", "2_00000.png"), ("7", "7_00001.png")]


async def test_a_name_with_folders_in_it_is_told_as_a_leaf(parts, tmp_path):
    """Callers store by it."""
    written(tmp_path / "output" / OWN / "sub" / "a.png", PIXEL)
    result = await collected(parts, {"2": {"images": [item("sub/a.png")]}})

    assert names(result) == [("2", "a.png")]
