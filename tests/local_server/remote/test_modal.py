"""Jobs on a deployed Modal app: its real client, the real container, and our double between."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from live import REPO
from platforms.modal_world import World, settings_in
from shell import comfyfn

from local_server.remote.modal import ModalRemote
from local_server.remote.target import ModalTarget

EMPTY = {
    "class_type": "EmptyImage",
    "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
}
SAVED = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}}
GRAPH = {"1": EMPTY, "2": SAVED}
SLEEP = {"class_type": "TestSleep", "inputs": {"image": ["1", 0], "seconds": 60, "steps": 600}}
SLEEPS = {
    "1": EMPTY,
    "2": {**SAVED, "inputs": {"images": ["3", 0], "filename_prefix": "x"}},
    "3": SLEEP,
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Give a deployed app with a container."""
    home = tmp_path_factory.mktemp("modal")
    with World(home) as world:
        world.deploy(settings_in(home, "embedded"))
        world.container(snapshot=True).ready()
        yield world


def flow(tmp_path, graph):
    """Write a workflow file."""
    (tmp_path / "flow.json").write_text(json.dumps(graph))
    return tmp_path / "flow.json"


def env_of(world, home):
    """Give what Modal's client is told by."""
    return {name: text for name, text in world.modal.env(home).items() if name != "HOME"}


def ran(world, home, graph, *more):
    """Run the command."""
    env = env_of(world, home)
    return comfyfn("run", flow(home, graph), "--to", "modal:comfyfn", *more, home=home, **env)


def test_a_job_is_run_and_its_picture_brought(world, tmp_path):
    """By spawn, and by its result."""
    said = ran(world, tmp_path, GRAPH, "-o", tmp_path / "o")
    assert said.returncode == 0, said.stderr
    assert said.stdout == f"{tmp_path / 'o' / 'x_00001_.png'}\n"
    assert "modal:comfyfn/Worker" in said.stderr


def test_an_error_is_the_worker_s_envelope(world, tmp_path):
    """A failed job is a result on Modal, too."""
    said = ran(world, tmp_path, {"1": {"class_type": "Nope", "inputs": {}}}, "-o", tmp_path / "o")
    assert (said.returncode, said.stdout) == (1, "")
    assert "code " in said.stderr
    assert "Traceback" not in said.stderr


def test_an_app_that_is_not_there_is_told(world, tmp_path):
    """With the way to look."""
    said = comfyfn(
        *("run", flow(tmp_path, GRAPH), "--to", "modal:comfyfn/Nothing", "-o", tmp_path / "o"),
        home=tmp_path,
        **env_of(world, tmp_path),
    )
    assert said.returncode == 1
    assert said.stderr.splitlines()[-1].startswith("comfyfn: modal:comfyfn/Nothing: ")
    assert "is it deployed?" in said.stderr
    assert "Traceback" not in said.stderr


def test_ctrl_c_cancels_the_call(world, tmp_path):
    """Modal is told, and the container stops the job."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(REPO)}
    env |= {k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")}
    env |= env_of(world, tmp_path)
    before = set(world.modal.calls)
    command = [sys.executable, "-m", "local_server.cli", "run", str(flow(tmp_path, SLEEPS))]
    with (
        subprocess.Popen(
            [*command, "--to", "modal:comfyfn"], cwd=tmp_path, env=env, stderr=subprocess.DEVNULL
        ) as process,
        contextlib.ExitStack() as stack,
    ):
        stack.callback(process.kill)
        deadline = time.monotonic() + 20
        while not [c for k, c in world.modal.calls.items() if k not in before and c.deliveries]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.wait(15) == 130
    (call,) = [call for name, call in world.modal.calls.items() if name not in before]
    assert call.cancelled


def test_its_client_loads_with_the_first_job():
    """Whoever runs elsewhere does not wait for it."""
    program = (
        "import sys, local_server.remote.connect, local_server.cli.run; "
        "print([m for m in ('modal', 'runpod', 'salad_cloud_sdk') if m in sys.modules])"
    )
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=REPO, capture_output=True, text=True, check=True
    )
    assert said.stdout == "[]\n"
    assert ModalRemote(ModalTarget("a"))
