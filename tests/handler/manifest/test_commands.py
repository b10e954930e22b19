"""Programs: their ends, their output, and that nothing of them stays behind."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

import pytest

from handler.manifest import commands
from handler.manifest.faults import InstallFailed

ENV = {"PATH": os.environ["PATH"]}


async def gone(pid, within_s=5.0):
    """Wait until a process is gone, or only a dead entry of the table."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return True
        except FileNotFoundError:
            return True
        await asyncio.sleep(0.02)
    return False


async def test_output_and_log_lines_come_as_written(caplog):
    """stdout is given whole, and every line of both streams is in the log."""
    caplog.set_level(logging.INFO)
    done = await commands.run(["sh", "-c", "echo one; echo two >&2"], what="try", env=ENV)

    assert (done.returncode, done.output) == (0, "one\n")
    assert set(done.tail) == {"one", "two"}
    assert {"try | one", "try | two"} <= set(caplog.messages)


async def test_a_failure_tells_step_status_and_last_line():
    """The likeliest reason is in the message, the rest in the tail."""
    with pytest.raises(InstallFailed, match=r"build of x failed \(exit status 3\): because") as got:
        await commands.run(
            ["sh", "-c", "echo a; echo because >&2; exit 3"], what="build of x", env=ENV
        )
    assert "because" in got.value.log_tail


async def test_status_may_be_looked_at_instead():
    """Without `check` the status is an answer."""
    done = await commands.run(["sh", "-c", "exit 4"], what="try", env=ENV, check=False)
    assert done.returncode == 4


async def test_a_program_that_is_not_there_is_our_error():
    """No foreign exception comes out."""
    with pytest.raises(InstallFailed, match="cannot be run"):
        await commands.run(["/nonexistent/program"], what="try", env=ENV)


async def test_secrets_of_addresses_are_blotted_out(caplog):
    """A token that git prints does not reach the log."""
    caplog.set_level(logging.INFO)
    done = await commands.run(
        ["echo", "cloning https://me:s3cret@host/x and https://ghp_1@host/y"], what="try", env=ENV
    )
    assert done.tail == ("cloning https://...@host/x and https://...@host/y",)
    assert "s3cret" not in caplog.text


async def test_time_limit_ends_the_whole_group(tmp_path):
    """A grandchild dies with its program."""
    mark = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {mark}; wait"
    with pytest.raises(InstallFailed, match="longer than 1 s"):
        await commands.run(["sh", "-c", script], what="try", env=ENV, timeout_s=1)
    assert await gone(int(mark.read_text()))


async def test_cancelling_ends_the_whole_group(tmp_path):
    """Whoever stops waiting stops the program, and is cancelled only when it is gone."""
    mark = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {mark}.new; mv {mark}.new {mark}; wait"
    task = asyncio.create_task(commands.run(["sh", "-c", script], what="try", env=ENV))
    while not mark.exists():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(int(mark.read_text()))


async def test_cancelling_while_it_is_started_ends_the_group_as_well(tmp_path):
    """It may have children before we hold its pipes."""
    mark = tmp_path / "pid"
    script = f"sleep 60 & echo $! > {mark}.new; mv {mark}.new {mark}; wait"
    task = asyncio.create_task(commands.run(["sh", "-c", script], what="try", env=ENV))
    await asyncio.sleep(0)
    # The loop stands still until the program is under way: its start cannot be over before.
    await asyncio.sleep(0)
    until = time.monotonic() + 10
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await gone(int(mark.read_text()))


async def test_a_program_that_ignores_the_wish_is_killed():
    """SIGTERM first, SIGKILL after the grace."""
    script = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"
    begun = time.monotonic()
    with pytest.raises(InstallFailed, match="longer than"):
        await commands.run(
            [sys.executable, "-c", script], what="try", env=ENV, timeout_s=1, grace_s=0.2
        )
    assert time.monotonic() - begun < 10


async def test_a_child_left_behind_is_not_waited_for():
    """What a program leaves in its group is ended with it, also when it holds the pipe."""
    begun = time.monotonic()
    done = await commands.run(["sh", "-c", "sleep 60 & echo $!"], what="try", env=ENV)

    assert time.monotonic() - begun < 10
    assert await gone(int(done.output))


async def test_a_signal_is_named():
    """A program that was killed says so."""
    done = await commands.run(["sh", "-c", "kill -9 $$"], what="try", env=ENV, check=False)

    assert done.returncode == -signal.SIGKILL
    assert "signal 9" in commands.failure("try", done).message


def test_the_reason_is_the_line_that_is_called_an_error():
    """What comes after it is a hint, or how long it took."""
    tail = ("error: Failed to fetch x", "  cause: no route", "hint: try again")
    assert commands.failure("uv", commands.Done(2, "", tail, 0.1)).message == (
        "uv failed (exit status 2): error: Failed to fetch x"
    )
    assert commands.failure("x", commands.Done(1, "", ("one", "two", " "), 0.1)).message.endswith(
        ": two"
    )
    assert (
        commands.failure("x", commands.Done(-9, "", (), 0.1)).message
        == "x failed (signal 9): it said nothing"
    )
