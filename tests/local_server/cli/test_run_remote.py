"""`comfyfn run --to`: the same workflow, somewhere else. Real servers, real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from live import REPO, LiveServer
from PIL import Image
from platforms.salad_queue_double import KEY, salad_queue
from shell import comfyfn

from handler.errors import EngineDied, HandlerError, InvalidWorkflow
from local_server.cli.run_remote import run_remote
from local_server.remote.download import Fetch
from local_server.remote.faults import GaveUp
from local_server.remote.result import Result, Thing

SIZE = {"width": 8, "height": 8, "batch_size": 1, "color": 0}
GRAPH = {
    "1": {"class_type": "EmptyImage", "inputs": SIZE, "_meta": {"title": "canvas"}},
    "2": {
        "class_type": "SaveImage",
        "inputs": {"images": ["1", 0], "filename_prefix": "x"},
        "_meta": {"title": "the picture"},
    },
}
SLEEPS = {
    **GRAPH,
    "3": {"class_type": "TestSleep", "inputs": {"image": ["1", 0], "seconds": 60, "steps": 1200}},
    "2": {**GRAPH["2"], "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Give a server of both APIs, with an endpoint."""
    home = tmp_path_factory.mktemp("server")
    (home / "flows").mkdir()
    named = {**GRAPH, "1": {**GRAPH["1"], "_meta": {"title": "$size"}}}
    (home / "flows" / "blank.json").write_text(json.dumps(named))
    server = LiveServer(home, WORKFLOW_DIR=str(home / "flows"))
    server.options = ["--as", "runpod"]
    try:
        yield server.start()
    finally:
        server.stop()


def flow(tmp_path, graph=GRAPH):
    """Write a workflow file."""
    path = tmp_path / "flow.json"
    path.write_text(json.dumps(graph))
    return path


@contextlib.contextmanager
def begun(*arguments, home, **env):
    """Run the command in the background."""
    given = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(REPO), **env}
    given |= {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
    command = [sys.executable, "-m", "local_server.cli", "run", *map(str, arguments)]
    with subprocess.Popen(
        command, cwd=home, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def until(true, limit_s=15):
    """Wait for what another process does."""
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def jobs(server, query):
    return server.get(f"/jobs?{query}").json()["jobs"]


def test_a_workflow_runs_on_a_server(server, tmp_path):
    """As here: the path alone on stdout, figures on stderr, files beside the workflow are sent."""
    Image.new("RGB", (20, 10)).save(tmp_path / "in.png")
    graph = {"1": {"class_type": "LoadImage", "inputs": {"image": "in.png"}}, "2": GRAPH["2"]}
    out = tmp_path / "o"
    said = comfyfn("run", flow(tmp_path, graph), "--to", server.url, "-o", out, home=tmp_path)

    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{out / 'x_00001_.png'}\n"
    with Image.open(out / "x_00001_.png") as image:
        assert image.size == (20, 10)
    assert said.stderr.splitlines()[-1].startswith(f"{server.url}: job ")


def test_an_endpoint_is_called_by_its_name(server, tmp_path):
    """There, and here."""
    folder = str(server.home / "flows")
    for more, env in (
        (["--to", server.url], {}),
        ([], {"ENGINE": "embedded", "WORKFLOW_DIR": folder}),
    ):
        said = comfyfn(
            *("run", "--workflow", "blank", "-i", "size_width=16", "-o", tmp_path / "o", *more),
            home=tmp_path,
            **env,
        )
        assert said.returncode == 0, said.stderr
        with Image.open(said.stdout.strip()) as image:
            assert image.size == (16, 8)
    said = comfyfn("run", "--workflow", "blanc", "--to", server.url, home=tmp_path, cwd=tmp_path)
    assert said.returncode == 1
    assert "did you mean blank?" in said.stderr


def test_a_workflow_runs_on_runpod(server, tmp_path):
    """The key is in nobody's words."""
    env = {"RUNPOD_API_KEY": "hush-hush", "RUNPOD_ENDPOINT_BASE_URL": f"{server.url}/v2"}
    said = comfyfn(
        *("run", flow(tmp_path), "--to", "runpod:mine", "-o", tmp_path / "o"),
        home=tmp_path,
        LOG_LEVEL="debug",
        **env,
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{tmp_path / 'o' / 'x_00001_.png'}\n"
    assert "runpod:mine" in said.stderr
    assert "hush" not in said.stderr


def test_a_workflow_runs_in_a_queue_of_salad(server, tmp_path):
    """A server of ours does it there."""
    with salad_queue(server.url) as queue:
        env = {"SALAD_API_KEY": KEY, "SALAD_API_URL": queue.url}
        said = comfyfn(
            *("run", flow(tmp_path), "--to", "salad:acme/art/pictures", "-o", tmp_path / "o"),
            home=tmp_path,
            **env,
        )
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{tmp_path / 'o' / 'x_00001_.png'}\n"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_stops_the_job_there(server, tmp_path, number, status):
    """Only that one."""
    later = {"Prefer": "respond-async"}
    assert server.post("/prompt", {"prompt": SLEEPS, "id": "other"}, headers=later).is_success
    until(lambda: jobs(server, "status=running"))
    with begun(flow(tmp_path, SLEEPS), "--to", server.url, home=tmp_path) as process:
        ours = until(lambda: [one for one in jobs(server, "status=active") if one["id"] != "other"])
        process.send_signal(number)
        assert process.wait(15) == status
    until(lambda: server.get(f"/jobs/{ours[0]['id']}").json()["status"] == "cancelled")
    assert server.get("/jobs/other").json()["status"] == "running"
    server.post("/jobs/other/cancel", {})


def test_a_job_that_lasts_too_long_is_stopped(server, tmp_path):
    """By --timeout."""
    path = flow(tmp_path, SLEEPS)
    said = comfyfn("run", path, "--to", server.url, "--timeout", "6", home=tmp_path, cwd=tmp_path)
    assert said.returncode == 1
    assert "not over after 6 s; it was told to stop (--timeout waits longer)" in said.stderr
    until(lambda: not jobs(server, "status=active"))


def test_an_error_there_is_told_as_here(server, tmp_path):
    """One line with its hint, after what is known beside it."""
    inputs = {"image": ["1", 0], "message": "no luck"}
    raising = {
        **GRAPH,
        "3": {"class_type": "TestRaise", "inputs": inputs, "_meta": {"title": "bad"}},
        "2": {**GRAPH["2"], "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    }
    said = comfyfn("run", flow(tmp_path, raising), "--to", server.url, home=tmp_path, cwd=tmp_path)
    lines = said.stderr.splitlines()
    assert (said.returncode, said.stdout) == (1, "")
    assert "node 3 (bad, TestRaise)" in lines[-2]
    assert "code execution_error, blame " in lines[-2]
    assert "no luck" in lines[-1]
    assert "Traceback" not in said.stderr


def test_a_booting_worker_is_waited_for(tmp_path):
    """The command is faster than the server."""
    server = LiveServer(tmp_path / "late")
    with begun(flow(tmp_path), "--to", server.url, "-o", tmp_path / "o", home=tmp_path) as process:
        try:
            server.start()
            assert process.wait(20) == 0, process.stderr.read()
        finally:
            server.stop()
    assert (tmp_path / "o" / "x_00001_.png").exists()


def test_a_captured_job_is_run_again_and_compared(server, tmp_path):
    """Captured here, run there; the same picture is the same, whatever its file is called."""
    job = tmp_path / "job.json"
    here = comfyfn(
        *("run", flow(tmp_path), "--capture", job, "-o", tmp_path / "o"),
        home=tmp_path,
        ENGINE="embedded",
    )
    assert here.returncode == 0, here.stderr
    there = comfyfn("run", "--replay", job, "--to", server.url, "-o", tmp_path / "o", home=tmp_path)
    assert there.returncode == 0, there.stderr
    assert there.stdout == f"{tmp_path / 'o' / 'x_00001_-2.png'}\n"
    assert there.stderr.splitlines()[-1] == "the same outputs as captured"

    told = json.loads(job.read_bytes())
    told["payload"]["prompt"]["1"]["inputs"]["color"] = 255
    job.write_text(json.dumps(told))
    other = comfyfn("run", "--replay", job, "--to", server.url, "-o", tmp_path / "o", home=tmp_path)
    assert other.returncode == 0
    assert "differs: the picture" in other.stderr.splitlines()[-1]
    assert "other pixels" in other.stderr.splitlines()[-1]


def test_an_answer_of_a_server_is_run_again_here(server, tmp_path):
    """It repeats its request; webhooks and stores are left out."""
    answer = server.prompt(GRAPH, id="once").json()
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    said = comfyfn(
        *("run", "--replay", tmp_path / "answer.json", "-o", tmp_path / "o"),
        home=tmp_path,
        ENGINE="embedded",
    )
    assert said.returncode == 0, said.stderr
    assert said.stderr.splitlines()[-1] == "the same outputs as captured"


def test_a_failed_job_is_captured_as_well(server, tmp_path):
    """To be run again where it can be looked at."""
    job = tmp_path / "job.json"
    bad = {**GRAPH, "1": {"class_type": "Nope", "inputs": {}}}
    said = comfyfn(
        *("run", flow(tmp_path, bad), "--to", server.url, "--capture", job),
        home=tmp_path,
        cwd=tmp_path,
    )
    told = json.loads(job.read_bytes())
    assert said.returncode == 1
    assert told["payload"] == {"prompt": bad}
    assert told["answered"]["error"]["code"] == "invalid_workflow"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--to", "ftp://x"], "comfyfn: --to ftp://x: it is none of a URL, runpod:ENDPOINT"),
        (["--to", "runpod:a"], "comfyfn: runpod:a needs RUNPOD_API_KEY, which is not set"),
        (["-H", "A: b"], "comfyfn: --header goes with --to"),
        (["--to", "http://127.0.0.1:9", "-H", "hush"], "comfyfn: --header no. 1"),
        (["--replay", "x", "--workflow", "y"], "comfyfn: run a file, or --workflow NAME, or"),
        (["--replay", "none.json"], "comfyfn: no such file: none.json"),
    ],
)
def test_wrong_usage_is_one_line(tmp_path, arguments, line):
    """Nothing is begun for it."""
    said = comfyfn("run", *arguments, home=tmp_path, cwd=tmp_path)
    assert (said.returncode, said.stdout) == (1, "")
    assert said.stderr.splitlines()[-1].startswith(line)
    assert "hush" not in said.stderr


class Given:
    """A remote that gives what it is given."""

    def __init__(self, end):
        self.end = end

    async def run(self, payload, teller):
        if isinstance(self.end, BaseException):
            raise self.end
        return self.end

    async def close(self):
        pass


async def test_what_is_known_of_an_error_is_told(tmp_path, capsys):
    """The engine's last words too; of a fault of usage the line alone."""
    for error, lines in (
        (EngineDied("it died", log_tail=["first", "last"]), 3),
        (InvalidWorkflow("no such class"), 0),
    ):
        with pytest.raises(HandlerError):
            await run_remote(Given(error), Fetch(), {}, tmp_path)
        assert len(capsys.readouterr().err.splitlines()) == lines


async def test_time_that_is_over_ends_it(tmp_path):
    """And is an error of the platform."""

    class Slow(Given):
        async def run(self, payload, teller):
            import asyncio

            await asyncio.Event().wait()

    with pytest.raises(GaveUp) as caught:
        await run_remote(Slow(None), Fetch(), {}, tmp_path, timeout_s=0.01)
    assert caught.value.code == "timed_out"


async def test_figures_of_the_answer_are_told(tmp_path, capsys):
    """Where there are any."""
    result = Result(
        "j",
        [Thing({"text": "said", "title": "words"})],
        stats={"comfy_round_trip_time": 1500},
        engine={"kind": "comfyui", "version": "1"},
    )
    await run_remote(Given(result), Fetch(), {}, tmp_path, where="there")
    err = capsys.readouterr().err.splitlines()
    assert err[0] == "words: said"
    assert err[1].startswith("there (comfyui 1 engine): run 1.50 s, job 0.0")
