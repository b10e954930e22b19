"""The engine's own lines in our log."""

from __future__ import annotations

import contextlib
import logging

import pytest

from handler.engine.events import Failed, Gone, Interrupted, NodeStarted, Started, Succeeded
from handler.engine.lines import LAST_WORDS_S, EngineLines
from handler.log_context import JobMark, current_mark, job_context


class Seen(logging.Handler):
    """Keeps the lines with the job that they were said of."""

    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        mark = current_mark()
        self.lines.append((record.levelname, record.getMessage(), mark and mark.job_id))


@pytest.fixture
def seen():
    handler, logger = Seen(), logging.getLogger("comfyfn.comfyui")
    logger.addHandler(handler)
    logger.setLevel("DEBUG")
    yield handler.lines
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def listening():
    """Hand runs to an engine; they are over with the test."""
    with contextlib.ExitStack() as handed:

        def hand(lines, job_id, heard):
            with job_context(JobMark(job_id) if job_id else None):
                return handed.enter_context(lines.listening(heard.append))

        yield hand


@pytest.mark.parametrize("end", [Succeeded(1), Failed("1", "X", "ValueError", "no"), Gone()])
def test_lines_are_of_the_job_that_the_engine_works_on(seen, listening, end):
    """Not of the one that waits in its queue; the last words come after the end was told."""
    now, heard = [0.0], []
    lines = EngineLines(clock=lambda: now[0])
    lines.tell("boot")
    first, second = (listening(lines, name, heard) for name in ("first", "second"))
    first(Started(1))
    first(NodeStarted("1"))
    lines.tell("of the first")
    first(end)
    lines.tell("something at its end")
    second(Started(2))
    first(Interrupted(None, None))
    lines.tell("of the second")
    second(Succeeded(3))
    now[0] = LAST_WORDS_S
    lines.tell("nobody's")
    assert [job for _, _, job in seen] == [None, "first", "first", "second", None]
    assert heard == [
        *(Started(1), NodeStarted("1"), end),
        *(Started(2), Interrupted(None, None), Succeeded(3)),
    ]


def test_lines_of_short_runs_come_before_it_is_told_that_they_began(seen, listening):
    """An engine that is done with one takes the next; what it says last tells that it is done."""
    lines, heard = EngineLines(), []
    first = listening(lines, "first", heard)
    lines.tell("got prompt")
    first(Started(1))
    first(Succeeded(2))
    second, third = (listening(lines, name, heard) for name in ("second", "third"))
    lines.tell("Prompt executed in 0.00 seconds")
    lines.tell("of the second")
    lines.tell("Prompt executed in 0.00 seconds")
    second(Started(3))
    lines.tell("of the third")
    second(Succeeded(4))
    lines.tell("of the third")
    third(Started(5))
    lines.tell("Prompt executed in 0.00 seconds")
    third(Succeeded(6))
    lines.tell("nobody's")
    names = ["first", "first", "second", "second", "third", "third", "third", None]
    assert [job for _, _, job in seen] == names


def test_last_words_that_are_late_are_of_the_run_before(seen, listening):
    """The next one's beginning may be told first; after a while they are not waited for."""
    now, heard = [0.0], []
    lines = EngineLines(clock=lambda: now[0])
    runs = [listening(lines, name, heard) for name in ("first", "second", "third")]
    for at, run in enumerate(runs):
        run(Started(at))
        if at:
            lines.tell("Prompt executed in 0.00 seconds")
        run(Succeeded(at))
    lines.tell("Prompt executed in 0.00 seconds")
    now[0] = LAST_WORDS_S
    lines.tell("Prompt executed in 0.00 seconds")
    assert [job for _, _, job in seen] == ["first", "second", "third", None]


def test_run_that_the_engine_did_not_take_says_nothing(seen):
    """It was refused, or taken back before it began."""
    lines = EngineLines()
    with job_context(JobMark("refused")), lines.listening(lambda _: None):
        lines.tell("invalid prompt")
    lines.tell("nobody's")
    assert [job for _, _, job in seen] == ["refused", None]


def test_a_warmups_lines_are_of_no_job(seen, listening):
    """Also when it runs after a job's."""
    lines, heard = EngineLines(), []
    listening(lines, "a job", heard)(Started(1))
    listening(lines, None, heard)(Started(2))
    lines.tell("warming up")
    assert seen == [("INFO", "warming up", None)]


def test_troubles_are_warnings_with_the_whole_of_their_traceback(seen):
    """What a person looks for is found by its level."""
    lines = EngineLines()
    said = [
        ("INFO", "got prompt"),
        ("WARNING", "UserWarning: old torch"),
        ("WARNING", "Traceback (most recent call last):"),
        ("WARNING", '  File "nodes.py", line 1, in save'),
        ("WARNING", "    x = 1 / 0"),
        ("WARNING", "ZeroDivision: by zero"),
        ("INFO", "Prompt executed in 0.1 seconds"),
        ("WARNING", "(IMPORT FAILED): /custom_nodes/x"),
    ]
    for _, line in said:
        lines.tell(line)
    assert [(level, line) for level, line, _ in seen] == said


def test_colours_and_states_of_a_bar_are_no_lines(seen):
    """A bar's last state is one; the others are for DEBUG."""
    lines = EngineLines()
    lines.tell("50%|##", passing=True)
    lines.tell("\x1b[32m100%|####\x1b[0m")
    assert seen == [("DEBUG", "50%|##", None), ("INFO", "100%|####", None)]
