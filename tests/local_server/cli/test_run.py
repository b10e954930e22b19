"""`comfyfn run`: one workflow from the shell."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time

import pytest
from live import REPO
from PIL import Image
from shell import comfyfn
from worker import GRAPH

from handler.engine.memory import PIXEL

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
    ours = [row for row in said.stderr.splitlines() if line in row or "comfyfn.service" in row]
    assert len(ours) == 1
    assert ours[0].startswith(line)
    assert "Traceback" not in said.stderr


def test_a_file_that_is_not_there_is_status_1(tmp_path):
    """Nothing is booted for it."""
    said = comfyfn("run", "none.json", home=tmp_path, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (1, "")
    assert "none.json" in said.stderr
    assert said.stderr.count("\n") == 1


def test_an_input_the_node_does_not_have_is_one_line(tmp_path):
    """Nothing is booted for it, and no other picture made."""
    flow = written(tmp_path / "flow.json", RUNS)
    said = comfyfn("run", flow, "-i", "canvas.widht=16", home=tmp_path, cwd=tmp_path)

    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr == (
        "comfyfn: -i canvas.widht=16: EmptyImage has no input 'widht' in this file; "
        "did you mean width?\n"
    )


def test_an_output_that_is_a_file_is_one_line(tmp_path):
    """It is not overwritten."""
    (tmp_path / "out.png").write_bytes(PIXEL)
    said = comfyfn("run", "-o", "out.png", home=tmp_path, cwd=tmp_path)
    assert said.returncode == 1
    assert said.stderr == "comfyfn: -o must name a folder; out.png is none\n"
    assert (tmp_path / "out.png").read_bytes() == PIXEL


def test_an_engine_that_cannot_start_is_told_once_with_its_words(tmp_path):
    """And with its command, to try by hand; it is not tried again."""
    said = comfyfn("run", home=tmp_path, cwd=tmp_path, CMD="sh -c 'echo no luck; exit 7'")
    lines = said.stderr.splitlines()

    assert (said.returncode, said.stdout) == (1, "")
    assert lines[:2] == ["engine | no luck", "engine command: sh -c 'echo no luck; exit 7'"]
    assert len(lines) == 3
    assert lines[2].startswith("comfyfn: the engine exited with code 7 in its boot")


def test_a_terminated_run_puts_everything_away(tmp_path):
    """As after Ctrl-C: no engine and no scratch folder is left."""
    (tmp_path / "work").mkdir()
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(REPO)}
    env |= {"WORK_DIR": str(tmp_path / "work"), "CMD": f"sh -c 'touch {tmp_path}/up; sleep 60'"}
    env |= {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
    with subprocess.Popen(
        [sys.executable, "-m", "local_server.cli", "run"], cwd=tmp_path, env=env
    ) as process:
        while not (tmp_path / "up").exists():
            time.sleep(0.02)
        process.terminate()
        assert process.wait(20) == 143
    assert list((tmp_path / "work").iterdir()) == []


def test_the_picture_of_the_tests_is_one():
    """It is stored and loaded by many of them."""
    assert size_of(io.BytesIO(PIXEL)) == (8, 8)


def test_a_manifest_with_a_fault_is_refused(tmp_path):
    """Status 2, as for any setting that cannot be used; the fault has its line."""
    said = comfyfn("run", home=tmp_path, MANIFEST_JSON='{"apts": []}')
    assert said.returncode == 2
    assert said.stderr.startswith("comfyfn: settings: MANIFEST_JSON has 1 fault:\n  line 1")
    assert list(tmp_path.rglob("comfyfn-*")) == []
