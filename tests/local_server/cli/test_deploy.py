"""`comfyfn deploy` as a user has it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

import pytest
from live import REPO
from platforms.runpod_rest_double import KEY, RunPodRest
from shell import comfyfn

TEXT = "name: sdxl\nimage: ghcr.io/me/comfyfn:1\ngpu: RTX 4090\n"


@pytest.fixture
def runpod():
    with RunPodRest() as double:
        yield double


def test_without_a_terminal_nothing_is_sent(runpod, tmp_path):
    """The plan is shown; `--yes` would do."""
    (tmp_path / "deploy.yaml").write_text(TEXT)
    env = {"RUNPOD_API_KEY": KEY, "RUNPOD_REST_URL": runpod.url}
    said = comfyfn("deploy", "runpod", home=tmp_path, cwd=tmp_path, **env)

    assert said.returncode == 1
    assert "create  endpoint sdxl" in said.stdout
    assert "--yes does without" in said.stderr
    assert runpod.writes == []


@pytest.mark.parametrize(("answer", "sent"), [("n", 0), ("", 0), ("y", 2)])
def test_it_asks_on_a_terminal(runpod, tmp_path, answer, sent):
    """Only a yes is one."""
    (tmp_path / "deploy.yaml").write_text(TEXT)
    env = {"RUNPOD_API_KEY": KEY, "RUNPOD_REST_URL": runpod.url, "PYTHONPATH": str(REPO)}
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        said = subprocess.run(
            [sys.executable, "-m", "local_server.cli", "deploy", "runpod"],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=30,
            cwd=tmp_path,
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), **env},
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert len(runpod.writes) == sent, said.stderr
    assert said.returncode == (0 if sent else 1)
    assert "carry this out? [y/N]" in said.stdout


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    """By its name, before any platform is asked."""
    said = comfyfn("deploy", "salad", "none.yaml", home=tmp_path, cwd=tmp_path)
    assert said.returncode == 1
    assert "none.yaml has 1 fault" in said.stderr
    assert "Traceback" not in said.stderr


def test_an_answer_of_another_shape_is_told(runpod, tmp_path):
    """On one line, and nothing in it is a command to the terminal."""
    (tmp_path / "deploy.yaml").write_text(TEXT)
    env = {"RUNPOD_API_KEY": KEY, "RUNPOD_REST_URL": runpod.url}
    gpu = '{"gpus": [{"pool": 5, "id": 5, "name": null}]}'
    runpod.fail("GET", "/catalog/gpus", (200, gpu))
    said = comfyfn("deploy", "runpod", home=tmp_path, cwd=tmp_path, **env)
    assert (said.returncode, "not understood" in said.stderr) == (1, True)
    assert "Traceback" not in said.stderr

    runpod.heal()
    runpod.fail("GET", "/templates", (500, "\x1b[2Jno"))
    said = comfyfn("deploy", "runpod", home=tmp_path, cwd=tmp_path, **env)
    assert "\ufffd[2Jno" in said.stderr
