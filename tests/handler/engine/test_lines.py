"""The engine's own lines in our log."""

from __future__ import annotations

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


def listening(lines, job_id, heard):
    with job_context(JobMark(job_id)):
        return lines.listening(heard.append)


@pytest.mark.parametrize("end", [Succeeded(1), Failed("1", "X", "ValueError", "no"), Gone()])
def test_lines_are_of_the_job_that_the_engine_works_on(seen, end):
    """Not of the one that waits in its queue; the last words come after the end was told."""
    now, heard = [0.0], []
    lines = EngineLines(clock=lambda: now[0])
    first, second = (listening(lines, name, heard) for name in ("first", "second"))
    lines.tell("boot")
    first(Started(1))
    first(NodeStarted("1"))
    lines.tell("of the first")
    first(end)
    lines.tell("executed in 1 s")
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


def test_a_warmups_lines_are_of_no_job(seen):
    """Also when it runs after a job's."""
    lines, heard = EngineLines(), []
    listening(lines, "a job", heard)(Started(1))
    lines.listening(heard.append)(Started(2))
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
