"""The command as a whole: verbs, statuses, errors of one line."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import pytest
from live import REPO
from shell import comfyfn

from handler.errors import InvalidWorkflow
from handler.settings import SettingsError
from handler.version import VERSION
from local_server.cli import VERBS, main, run_verb


def test_the_version_is_told(tmp_path):
    """On stdout."""
    said = comfyfn("--version", home=tmp_path)
    assert (said.returncode, said.stdout) == (0, f"comfyfn {VERSION}\n")


@pytest.mark.parametrize("arguments", [[], ["dance"], ["serve", "--port", "x"]])
def test_wrong_usage_is_status_2(arguments, capsys):
    """With the verbs that there are."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "usage: comfyfn" in capsys.readouterr().err


def test_help_names_every_verb(capsys):
    """With a line for each."""
    with pytest.raises(SystemExit) as caught:
        main(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"    {verb} " in shown for verb in VERBS)


def raising(error):
    def call(_options):
        raise error

    return argparse.Namespace(call=call)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (SettingsError("PORT='x' is no number"), 2, "comfyfn: settings: PORT='x' is no number\n"),
        (InvalidWorkflow("bad"), 1, "comfyfn: bad\n"),
        (InvalidWorkflow("bad", hint="do so"), 1, "comfyfn: bad (do so)\n"),
        (FileNotFoundError(2, "No such file", "x.json"), 1,
         "comfyfn: [Errno 2] No such file: 'x.json'\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)  # fmt: skip
def test_errors_are_one_line_and_a_status(error, status, line, capsys):
    """A traceback is for faults of ours only."""
    assert run_verb(raising(error)) == status
    assert capsys.readouterr().err == line


def test_a_fault_of_ours_is_not_hidden():
    """It shows its traceback."""
    with pytest.raises(ZeroDivisionError):
        run_verb(raising(ZeroDivisionError()))


def test_settings_that_cannot_be_used_are_status_2(tmp_path):
    """All of them on one line."""
    said = comfyfn("doctor", home=tmp_path, PORT="x", ENGINE="none")
    assert said.returncode == 2
    assert said.stderr.count("\n") == 1
    assert "PORT" in said.stderr
    assert "ENGINE" in said.stderr


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path):
    """As `comfyfn doctor | head`; the status is that of any program that lost its reader."""
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(REPO)}
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "local_server.cli", "doctor", "--quick"],
        cwd=REPO, env=env, stdout=writing, stderr=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
