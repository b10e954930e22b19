"""`comfyfn run`: one workflow from the shell."""

from __future__ import annotations

import asyncio
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
from handler.job import JobEvent
from handler.records import Output
from handler.wire import Answer
from local_server.cli.run import _Bar, downloads_text, save

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


async def test_the_bar_follows_the_events():
    """It only goes forward, and gives the answer back."""
    answer = Answer("job", {}, [], {})
    with _Bar() as bar:
        for pct in (10.0, 50.0, 40.0):
            event = JobEvent(1, "progress", {"title": None, "overall_pct": pct})
            assert bar.show(event) is None
        assert bar.show(JobEvent(2, "phase", {"phase": "delivering"})) is None
        assert bar.show(JobEvent(3, "output", {})) is None
        assert bar.show(answer) is answer


async def test_without_a_terminal_a_line_comes_now_and_then(capsys):
    """What is done, how far it is, and how long it took so far."""
    with _Bar(said_every_s=0.01) as bar:
        bar.show(JobEvent(1, "progress", {"title": "the picture", "overall_pct": 40.0}))
        async with asyncio.timeout(5):
            while "the picture: 40 %, 0 s so far" not in capsys.readouterr().err:
                await asyncio.sleep(0.01)


async def test_a_download_is_told_on_the_line_until_the_next_phase(capsys):
    """Several are summed up."""

    def news(input_, done, total):
        data = {"node_id": "4", "input": input_, "done": done, "total": total}
        return JobEvent(1, "download", {**data, "bytes_per_s": 50_000_000})

    async def line(beginning):
        async with asyncio.timeout(5):
            while beginning not in capsys.readouterr().err:
                await asyncio.sleep(0.01)

    with _Bar(said_every_s=0.01) as bar:
        bar.show(news("lora", 1_200_000_000, 2_130_000_000))
        await line("fetching lora: 1.20 GB of 2.13 GB, 50.0 MB/s, 0 s so far")
        bar.show(news("vae", 300_000_000, None))
        await line("fetching 2 files: 1.50 GB, 100 MB/s, 0 s so far")
        bar.show(JobEvent(2, "phase", {"phase": "running"}))
        await line("running: 0 %, 0 s so far")


def test_what_is_fetched_whole_has_no_speed():
    """And of nothing nothing is told."""
    whole = {"done": 5, "total": 5, "bytes_per_s": 1000}
    assert downloads_text([whole]) == "5 B of 5 B"
    assert downloads_text([]) == ""


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
