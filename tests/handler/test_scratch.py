"""Scratch folders: ours while we live, swept when we were killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest
from live import REPO

from handler.scratch import make_scratch, sweep_stale

HOLDS = """
import sys, pathlib
from handler.scratch import make_scratch
made = make_scratch(pathlib.Path(sys.argv[1]))
(made.path / "file").write_text("x")
print(made.path, flush=True)
sys.stdin.read()
"""


def holder(base):
    """Another process with a scratch folder of its own."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(base)],
        cwd=REPO,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    return process, Path(process.stdout.readline().strip())


def end(process):
    """Kill it, as nothing can be cleaned up after."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_folder_is_ours_until_it_is_closed(tmp_path):
    """It begins empty; closing twice is fine."""
    made = make_scratch(tmp_path)
    assert made.path.parent == tmp_path
    assert list(made.path.iterdir()) == []
    held = made.lock

    made.close()
    made.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(held)


def test_the_systems_temporary_folder_is_the_default():
    """WORK_DIR need not be set."""
    made = make_scratch(None)
    try:
        assert made.path.parent == Path(tempfile.gettempdir())
        sweep_stale(None)
        assert made.path.is_dir()
    finally:
        made.close()


def test_the_folder_of_a_killed_process_is_swept_and_that_of_a_living_one_is_not(tmp_path):
    """The lock tells them apart, and goes with its process."""
    mine = make_scratch(tmp_path)
    process, path = holder(tmp_path)
    try:
        sweep_stale(tmp_path)
        assert (path / "file").is_file()
        assert mine.path.is_dir()
    finally:
        end(process)
    sweep_stale(tmp_path)

    assert list(tmp_path.iterdir()) == [mine.path]
    mine.close()


def test_what_is_not_of_this_host_is_left_alone(tmp_path):
    """Its locks may not be seen from here."""
    folder = tmp_path / "comfyfn-0another-x"
    folder.mkdir()
    sweep_stale(tmp_path)
    assert folder.is_dir()


def test_links_and_files_are_stepped_over(tmp_path):
    """What a link leads to is not ours, whatever its name."""
    process, path = holder(tmp_path)
    end(process)
    elsewhere = tmp_path / "elsewhere"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)
    path.with_name(f"{path.name}2").touch()
    sweep_stale(tmp_path)

    assert (elsewhere / "file").is_file()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_is_never_lost_to_a_sweep_beside(tmp_path):
    """Making and locking are two steps: what a sweep takes between them is made again."""
    over = threading.Event()

    def sweep():
        while not over.is_set():
            sweep_stale(tmp_path)

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        made = [make_scratch(tmp_path) for _ in range(200)]
    finally:
        over.set()
        thread.join()
    assert all(scratch.path.is_dir() and scratch.lock is not None for scratch in made)
    for scratch in made:
        scratch.close()


def test_a_base_that_is_not_there_has_nothing_to_sweep(tmp_path):
    """The first server of a machine."""
    sweep_stale(tmp_path / "none")
