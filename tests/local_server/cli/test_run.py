"""`comfyfn run`: one workflow from the shell."""

from __future__ import annotations

import base64
import io
import json

import pytest
from PIL import Image
from shell import comfyfn
from worker import GRAPH

from handler.engine.memory import PIXEL
from handler.errors import InvalidWorkflow
from handler.job import JobEvent
from handler.records import Output
from handler.wire import Answer
from local_server.cli.run import _Bar, as_data_uri, read_graph, save

SIZE = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
RUNS = {
    "1": {"class_type": "EmptyImage", "inputs": SIZE, "_meta": {"title": "canvas"}},
    "2": {**GRAPH["2"], "_meta": {"title": "the picture"}},
}


def size_of(picture):
    """Give width and height of a path or a file."""
    with Image.open(picture) as image:
        return image.size


def written(path, graph):
    """Write a workflow file."""
    path.write_text(json.dumps(graph))
    return path


def test_the_path_alone_is_on_stdout(tmp_path):
    """A script can take it; figures and the rest go to stderr."""
    flow = written(tmp_path / "flow.json", RUNS)
    out = tmp_path / "o"
    said = comfyfn("run", flow, "-i", "canvas.width=16", "-o", out, home=tmp_path)

    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{out / 'x_00001_.png'}\n"
    assert size_of(out / "x_00001_.png") == (16, 8)
    assert said.stderr.splitlines()[-1].startswith("embedded engine ")
    assert "engine boot" in said.stderr


def test_the_sample_runs_without_an_argument(tmp_path):
    """The first try of a newcomer; the picture lies in ./out."""
    said = comfyfn("run", home=tmp_path, cwd=tmp_path)

    assert said.returncode == 0, said.stderr
    (path,) = said.stdout.split()
    assert size_of(tmp_path / path) == (900, 600)


@pytest.mark.parametrize(
    ("graph", "line"),
    [
        ({"1": RUNS["1"]}, "comfyfn: Prompt must contain a node"),
        ({"1": {"class_type": "Nope", "inputs": {}}, "2": RUNS["2"]}, "comfyfn: "),
    ],
)
def test_a_job_that_fails_is_status_1_and_one_line(tmp_path, graph, line):
    """With its hint, and nothing on stdout."""
    said = comfyfn("run", written(tmp_path / "flow.json", graph), home=tmp_path, cwd=tmp_path)

    assert (said.returncode, said.stdout) == (1, "")
    ours = [row for row in said.stderr.splitlines() if row.startswith("comfyfn: ")]
    assert len(ours) == 1
    assert ours[0].startswith(line)
    assert "Traceback" not in said.stderr


def test_a_file_that_is_not_there_is_status_1(tmp_path):
    """Nothing is booted for it."""
    said = comfyfn("run", "none.json", home=tmp_path, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (1, "")
    assert "none.json" in said.stderr
    assert said.stderr.count("\n") == 1


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
    ],
)
def test_an_input_is_set_by_id_or_title(tmp_path, change, node, value):
    """JSON where it is JSON, else text."""
    dotted = {"class_type": "X", "_meta": {"title": "a.dotted.title"}}
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
    ],
)
def test_a_change_that_fits_nothing_is_an_error(tmp_path, change, said):
    """The nodes that there are, are told."""
    twins = {"3": {"_meta": {"title": "twin"}}, "4": {"_meta": {"title": "twin"}}}
    graph = {**RUNS, **(twins if "twin" in change else {})}
    with pytest.raises(InvalidWorkflow) as caught:
        read_graph(written(tmp_path / "flow.json", graph), [change])
    assert said in caught.value.message


def test_files_come_along(tmp_path):
    """One named by -i, and one that lies beside the workflow."""
    (tmp_path / "beside.png").write_bytes(PIXEL)
    (tmp_path / "given.bin").write_bytes(b"\x01")
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "beside.png", "n": 5, "t": ""}},
        "2": {"class_type": "LoadImage", "inputs": {}},
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


@pytest.mark.parametrize(("text", "said"), [("{", "is no JSON"), ("[1]", "holds no graph")])
def test_a_file_that_is_no_workflow_is_named(tmp_path, text, said):
    """By its path."""
    flow = tmp_path / "flow.json"
    flow.write_text(text)
    with pytest.raises(InvalidWorkflow, match=f"flow.json {said}"):
        read_graph(flow, [])


def test_outputs_get_new_names_where_theirs_are_taken(tmp_path, capsys):
    """Nothing of the user's is overwritten; texts are shown on stderr."""
    source = tmp_path / "source"
    source.write_bytes(PIXEL)

    def output(name, **fields):
        kind = "text" if "text" in fields else "image"
        return Output("2", "the title", kind, "x/y", name, 1, "00", **fields)

    files = [output("job_a.png", path=source), output("b.png", path=source)]
    answer = Answer("job", {}, [*files, output("t.txt", text="said")], {})
    for _ in range(3):
        save(answer, tmp_path / "new" / "out")
    shown = capsys.readouterr()

    names = sorted(path.name for path in (tmp_path / "new" / "out").iterdir())
    assert names == ["a-2.png", "a-3.png", "a.png", "b-2.png", "b-3.png", "b.png"]
    assert shown.out.split() == [
        str(tmp_path / "new" / "out" / n)
        for n in ("a.png", "b.png", "a-2.png", "b-2.png", "a-3.png", "b-3.png")
    ]
    assert shown.err == "the title: said\n" * 3


def test_the_bar_follows_the_events():
    """It only goes forward, and gives the answer back."""
    answer = Answer("job", {}, [], {})
    with _Bar() as bar:
        for pct in (10.0, 50.0, 40.0):
            event = JobEvent(1, "progress", {"title": None, "overall_pct": pct})
            assert bar.show(event) is None
        assert bar.show(JobEvent(2, "phase", {"phase": "delivering"})) is None
        assert bar.show(JobEvent(3, "output", {})) is None
        assert bar.show(answer) is answer


def test_the_picture_of_the_tests_is_one():
    """It is stored and loaded by many of them."""
    assert size_of(io.BytesIO(PIXEL)) == (8, 8)


def test_a_manifest_is_refused_in_one_line(tmp_path):
    """Nothing is run without what it names."""
    said = comfyfn("run", home=tmp_path, MANIFEST_JSON="{}")
    assert said.returncode == 2
    assert said.stderr.startswith("comfyfn: settings: MANIFEST_JSON is not applied at the start")
    assert said.stderr.count("\n") == 1
