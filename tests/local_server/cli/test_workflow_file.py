"""A workflow file as the shell gives it."""

from __future__ import annotations

import base64
import json

import pytest

from handler.engine.memory import PIXEL
from handler.errors import InvalidWorkflow
from local_server.cli.workflow_file import as_data_uri, read_graph

SIZE = {"width": 8, "height": 8}
RUNS = {
    "1": {"class_type": "EmptyImage", "inputs": SIZE, "_meta": {"title": "canvas"}},
    "2": {"class_type": "X", "inputs": {"width": 1}, "_meta": {"title": "the picture"}},
}


def written(path, graph):
    """Write a workflow file."""
    path.write_text(json.dumps(graph))
    return path


@pytest.mark.parametrize(
    ("change", "node", "value"),
    [
        ("1.width=5", "1", 5),
        ("canvas.width=5", "1", 5),
        ("the picture.width=x y", "2", "x y"),
        ('1.width=["2", 0]', "1", ["2", 0]),
        ("1.width=true", "1", True),
        ("1.width=", "1", ""),
        ("1.width=a=b", "1", "a=b"),
        ('1.width="5"', "1", "5"),
        ("a.dotted.title.width=5", "3", 5),
        ("EmptyImage.width=5", "1", 5),
    ],
)
def test_an_input_is_set_by_id_or_title(tmp_path, change, node, value):
    """Or by a class that occurs once. JSON where it is JSON, else text."""
    dotted = {"class_type": "X", "inputs": {"width": 0}, "_meta": {"title": "a.dotted.title"}}
    flow = written(tmp_path / "flow.json", {**RUNS, "3": dotted})

    assert read_graph(flow, [change])[node]["inputs"]["width"] == value


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("width=5", "write it as NODE.INPUT=VALUE"),
        ("1.width", "write it as NODE.INPUT=VALUE"),
        ("1.=5", "write it as NODE.INPUT=VALUE"),
        (".width=5", "write it as NODE.INPUT=VALUE"),
        ("9.width=5", "'9' is no node; there are 1 (canvas), 2 (the picture)"),
        ("twin.width=5", "'twin' names several nodes"),
        ("Twin.width=5", "'Twin' names several nodes"),
    ],
)
def test_a_change_that_fits_nothing_is_an_error(tmp_path, change, said):
    """The nodes that there are, are told."""
    twin = {"class_type": "Twin", "_meta": {"title": "twin"}}
    graph = {**RUNS, **({"3": twin, "4": twin} if "win" in change else {})}
    with pytest.raises(InvalidWorkflow) as caught:
        read_graph(written(tmp_path / "flow.json", graph), [change])
    assert said in caught.value.message


def test_files_come_along(tmp_path):
    """One named by -i, and one that lies beside the workflow."""
    (tmp_path / "beside.png").write_bytes(PIXEL)
    (tmp_path / "given.bin").write_bytes(b"\x01")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "beside.png", "n": 5, "t": ""}},
        "2": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "3": {"class_type": "Y"},
        "4": "no node",
    }
    flow = written(tmp_path / "flow.json", {"prompt": graph})
    read = read_graph(flow, [f"2.image={tmp_path / 'given.bin'}"])

    assert read["1"]["inputs"]["image"] == as_data_uri(tmp_path / "beside.png")
    assert read["1"]["inputs"]["image"].startswith("data:image/png;base64,")
    octets = "data:application/octet-stream;base64," + base64.b64encode(b"\x01").decode()
    assert read["2"]["inputs"]["image"] == octets
    assert read["4"] == "no node"


@pytest.mark.parametrize(
    "value",
    ["model.safetensors", "notes.txt", "LICENSE", "{folder}/beside.png", "../beside/beside.png"],
)
def test_only_media_beside_the_workflow_come_along(tmp_path, value):
    """Models, texts and what lies elsewhere are names and texts as they stand."""
    folder = tmp_path / "beside"
    folder.mkdir()
    for name in ("model.safetensors", "notes.txt", "LICENSE", "beside.png"):
        (folder / name).write_bytes(PIXEL)
    value = value.format(folder=folder)
    graph = {"1": {"class_type": "X", "inputs": {"name": value}}}
    read = read_graph(written(folder / "flow.json", graph), [])
    assert read["1"]["inputs"]["name"] == value


def test_media_in_a_folder_beside_the_workflow_come_along(tmp_path):
    """The prefix of an output is no input, whatever lies there."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "A.PNG").write_bytes(PIXEL)
    inputs = {"image": "in/A.PNG", "filename_prefix": "in/A.PNG"}
    graph = {"1": {"class_type": "X", "inputs": inputs}}
    read = read_graph(written(tmp_path / "flow.json", graph), [])["1"]["inputs"]

    assert read["image"].startswith("data:image/png;base64,")
    assert read["filename_prefix"] == "in/A.PNG"


def test_a_model_named_by_hand_stays_a_name(tmp_path):
    """Gigabytes are not sent along, wherever the command is run."""
    (tmp_path / "m.safetensors").write_bytes(b"x")
    flow = written(tmp_path / "flow.json", {"1": {"class_type": "X", "inputs": {"ckpt_name": ""}}})
    read = read_graph(flow, [f"1.ckpt_name={tmp_path / 'm.safetensors'}"])
    assert read["1"]["inputs"]["ckpt_name"] == str(tmp_path / "m.safetensors")


def test_texts_longer_than_any_name_are_texts(tmp_path):
    """A prompt of a page, in the file and by -i; it may end like a picture's name."""
    long = "a red boat, " * 100 + "x.png"
    flow = written(
        tmp_path / "flow.json", {"1": {"class_type": "X", "inputs": {"a": long, "b": ""}}}
    )
    assert read_graph(flow, [f"1.b={long}"])["1"]["inputs"] == {"a": long, "b": long}


@pytest.mark.parametrize("changes", [[], ["nodes.x=1"]])
def test_the_editors_own_format_is_told(tmp_path, changes):
    """With how to export the other one."""
    flow = written(tmp_path / "ui.json", {"nodes": [{"id": 1}], "links": [], "version": 0.4})
    with pytest.raises(InvalidWorkflow, match=r"ui\.json: .*Export \(API\)"):
        read_graph(flow, changes)


@pytest.mark.parametrize("node", [["a list"], {"class_type": "X", "inputs": ["a list"]}])
def test_a_change_of_what_is_no_node_is_an_error(tmp_path, node):
    """Not a traceback."""
    flow = written(tmp_path / "flow.json", {"nodes": node})
    with pytest.raises(InvalidWorkflow, match=r"-i nodes\.x=1"):
        read_graph(flow, ["nodes.x=1"])


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[1]", "holds no graph")])
def test_a_file_that_is_no_workflow_is_named(tmp_path, text, said):
    """By its path."""
    flow = tmp_path / "flow.json"
    flow.write_text(text)
    with pytest.raises(InvalidWorkflow, match=f"flow.json {said}"):
        read_graph(flow, [])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("1.widht=5", "EmptyImage has no input 'widht' in this file; did you mean width?"),
        ("1.zzz=5", "EmptyImage has no input 'zzz' in this file; it has width, height"),
        ("3.zzz=5", "X has no input 'zzz' in this file; it has none"),
    ],
)
def test_an_input_the_node_does_not_have_is_an_error(tmp_path, change, said):
    """The engine would drop it, and the picture be another than was asked for."""
    flow = written(tmp_path / "flow.json", {**RUNS, "3": {"class_type": "X"}})
    with pytest.raises(InvalidWorkflow) as caught:
        read_graph(flow, [change])
    assert caught.value.message == f"-i {change}: {said}"


LOADS = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png", "text": "b"}}}


def test_a_media_file_that_is_nowhere_is_an_error(tmp_path):
    """Before anything boots; a typo in a path is not taken for a stored name."""
    flow = written(tmp_path / "flow.json", LOADS)
    with pytest.raises(InvalidWorkflow, match=r"no file cat\.jpg here, nor in the input folder"):
        read_graph(flow, ["1.image=cat.jpg"], tmp_path / "input")


@pytest.mark.parametrize(
    "change",
    ["1.image=kept.jpg", "1.image=http://host/cat.jpg", "1.text=about cat.jpg", "1.image=x"],
)
def test_what_need_not_be_a_file_here_is_taken(tmp_path, change):
    """The engine's stored files, URLs, texts, and names without a medium's ending."""
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "kept.jpg").write_bytes(PIXEL)
    flow = written(tmp_path / "flow.json", LOADS)
    where, _, value = change.partition("=")
    read = read_graph(flow, [change], tmp_path / "input")
    assert read["1"]["inputs"][where.removeprefix("1.")] == value


def test_where_the_input_folder_is_out_of_reach_any_name_is_taken(tmp_path):
    """An attached engine may have the file."""
    flow = written(tmp_path / "flow.json", LOADS)
    assert read_graph(flow, ["1.image=cat.jpg"])["1"]["inputs"]["image"] == "cat.jpg"


def test_a_binary_file_is_no_workflow(tmp_path):
    """Somebody gave the picture in place of the graph."""
    (tmp_path / "flow.png").write_bytes(PIXEL)
    with pytest.raises(InvalidWorkflow, match=r"flow\.png is not a workflow \(binary file\)"):
        read_graph(tmp_path / "flow.png", [])


@pytest.mark.parametrize(
    ("name", "said"), [("none.json", "no such workflow file: "), ("", "cannot be read: Is a dir")]
)
def test_a_file_that_cannot_be_read_is_told(tmp_path, name, said):
    """In words, with its path."""
    with pytest.raises(InvalidWorkflow, match=said):
        read_graph(tmp_path / name, [])


def test_nodes_without_a_title_are_told_by_their_class(tmp_path):
    """In the list of those that a change may name."""
    flow = written(tmp_path / "flow.json", {"1": {"class_type": "EmptyImage", "inputs": SIZE}})
    with pytest.raises(InvalidWorkflow, match=r"there are 1 \(EmptyImage\)$"):
        read_graph(flow, ["9.lora=x"])
