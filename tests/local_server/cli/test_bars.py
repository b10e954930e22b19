"""Progress on a stream that is a terminal, and on one that is not."""

from __future__ import annotations

import io

import pytest

from handler.manifest.records import ModelFile
from handler.manifest.timeline import Timeline
from handler.transfer.records import Progress
from local_server.cli.bars import ByteBars, StepBar

MODEL = ModelFile(urls=("https://e.org/m.bin?token=canary4711",), folder="vae", filename="m.bin")
MB = 1_000_000


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal():
    return Terminal()


@pytest.fixture
def log():
    return io.StringIO()


def told(bars, *done, total=400 * MB):
    listener = bars.listen(MODEL)
    for count in done:
        listener(Progress(count, total, 50 * MB))
    bars.close()


def test_without_a_terminal_each_tenth_is_a_line(log):
    """Of large files; the log of an image build shows that something comes."""
    told(ByteBars(log), 0, 10 * MB, 50 * MB, 55 * MB, 400 * MB)
    assert log.getvalue() == ("m.bin:  12% of 400 MB, 50 MB/s\nm.bin: 100% of 400 MB, 50 MB/s\n")


@pytest.mark.parametrize("total", [5 * MB, None])
def test_without_a_terminal_small_and_unknown_sizes_are_silent(log, total):
    """The line at the step's end says it."""
    told(ByteBars(log), 0, 5 * MB, total=total)
    assert log.getvalue() == ""


def test_on_a_terminal_a_bar_has_name_and_bytes(terminal):
    """The URL's secrets are not in it."""
    told(ByteBars(terminal), 100 * MB, 400 * MB)
    assert "m.bin:  25%" in terminal.getvalue()
    assert "canary4711" not in terminal.getvalue()


def steps(bar):
    timeline = Timeline(listener=bar.tell)
    timeline.end(timeline.begin("apt"), "done", "all there")
    bar.close()


def test_without_a_terminal_each_step_is_a_line(log):
    """What it came to stands behind it."""
    steps(StepBar(1, log))
    assert log.getvalue() == "apt: done: all there\n"


def test_on_a_terminal_the_steps_are_a_bar(terminal):
    """It fills up, and no lines are printed between."""
    steps(StepBar(2, terminal))
    assert "1/2" in terminal.getvalue()
    assert "all there" not in terminal.getvalue()
