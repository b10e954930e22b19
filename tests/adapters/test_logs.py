"""Lines of the log, as people and as machines read them."""

from __future__ import annotations

import contextlib
import json
import logging
import re
import warnings
from datetime import UTC, datetime

import pytest
from live import LiveServer

from adapters.logs import JsonLine, OneLine, configure_logging, writes_text
from handler.log_context import JobMark, job_context
from handler.settings import Settings

TRACE = "0af7651916cd43dd8448eb211c80319c"


def record(message="said", *args, level=logging.INFO, error=None, name="comfyfn.x"):
    exc_info = error and (type(error), error, error.__traceback__)
    return logging.LogRecord(name, level, "file.py", 1, message, args, exc_info)


@contextlib.contextmanager
def configured(**settings):
    """Configure, and have everything as it was in the end: pytest has handlers of its own there."""
    root = logging.getLogger()
    named = [root, *map(logging.getLogger, ("comfyfn", "comfyfn.comfyui"))]
    handlers, levels = root.handlers[:], [logger.level for logger in named]
    root.handlers.clear()
    try:
        configure_logging(Settings(**settings))
        yield
    finally:
        logging.captureWarnings(capture=False)
        root.handlers[:] = handlers
        for logger, level in zip(named, levels, strict=True):
            logger.setLevel(level)


def test_a_log_message_is_one_line():
    """A caller's id must not forge a line, nor colour a terminal."""
    line = OneLine("%(message)s").format(record("job %s", "a\nERROR b\x1b[31m"))
    assert line == r"job a\x0aERROR b\x1b[31m"


@pytest.mark.parametrize(
    ("job_id", "message", "line"),
    [
        ("a-1", "stored", "stored job=a-1"),
        ("a-1", "job a-1: stored", "job a-1: stored"),
        ("a-1", "job a-11: stored", "job a-11: stored job=a-1"),
        ("a b", "stored", 'stored job="a b"'),
        ("x job=y", "stored", 'stored job="x job=y"'),
        ("a\n\x9b", "stored", r'stored job="a\n\u009b"'),
        ("", "stored", 'stored job=""'),
    ],
)
def test_a_line_of_text_names_its_job(job_id, message, line):
    """Once, and so that no id looks like another."""
    with job_context(JobMark(job_id, TRACE)):
        assert OneLine("%(message)s").format(record(message)) == line


def test_a_line_of_json_has_what_is_known_of_it():
    """Time in UTC with milliseconds, the job and its trace, who said it."""
    said = record("%d outputs", 2)
    with job_context(JobMark("a", TRACE)):
        told = json.loads(JsonLine("worker-7").format(said))
    at = told.pop("time")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", at)
    assert abs(datetime.fromisoformat(at).timestamp() - said.created) < 0.002
    assert datetime.fromisoformat(at).tzinfo == UTC
    assert told == {
        "level": "info",
        "logger": "comfyfn.x",
        "message": "2 outputs",
        "job_id": "a",
        "trace_id": TRACE,
        "instance": "worker-7",
    }
    assert set(json.loads(JsonLine().format(said))) == {"time", "level", "logger", "message"}


def test_a_line_of_json_is_one_line_of_ascii_whatever_it_holds():
    """Controls, line separators, half a character: nothing breaks who reads the lines."""
    hard = 'a\nb\r\x1b[31m\x9b\u2028\u2029"\\ \ud800 é \U0001f600'
    with job_context(JobMark(hard)):
        line = JsonLine(hard).format(record("%s", hard))
    assert line.isascii()
    assert line.isprintable()
    told = json.loads(line)
    assert told["message"] == told["job_id"] == told["instance"] == hard


def test_an_exception_is_told_as_text():
    """With its traceback and its causes, in one field; a stack where one is asked for."""
    try:
        try:
            raise KeyError("deep")
        except KeyError as cause:
            raise ValueError("no\nway") from cause
    except ValueError as error:
        said = record("it failed", level=logging.ERROR, error=error)
    told = json.loads(JsonLine().format(said))
    assert told["message"] == "it failed"
    assert told["exception"].startswith("Traceback (most recent call last):\n")
    assert "KeyError: 'deep'" in told["exception"]
    assert told["exception"].endswith("ValueError: no\nway")
    said = record()
    said.stack_info = "Stack (most recent call last):\n  there"
    assert json.loads(JsonLine().format(said))["exception"].endswith("  there")


@pytest.mark.parametrize(
    ("log_format", "terminal", "text"),
    [
        *(("auto", True, True), ("auto", False, False)),
        *(("text", False, True), ("json", True, False)),
    ],
)
def test_people_and_machines_get_what_they_read(log_format, terminal, text):
    """Unless they are asked."""
    assert writes_text(log_format, terminal=terminal) == text


@pytest.mark.parametrize(
    ("word", "level"),
    [("trace", logging.DEBUG), ("warn", logging.WARNING), ("fatal", logging.CRITICAL)],
)
def test_levels_of_other_worlds_are_understood(word, level):
    """comfyui-api has trace, warn and fatal. Libraries tell no secrets: warnings at most."""
    with configured(log_level=word):
        assert logging.getLogger("comfyfn.transfer").getEffectiveLevel() == level
        for name in ("httpx", "httpx2", "botocore.auth", "uvicorn.error", "pyvips"):
            assert logging.getLogger(name).getEffectiveLevel() == max(level, logging.WARNING)


@pytest.mark.parametrize(
    ("log_format", "word", "level"),
    [
        ("json", "info", logging.INFO),
        ("json", "debug", logging.DEBUG),
        ("text", "info", logging.WARNING),
        ("text", "warning", logging.ERROR),
        ("text", "debug", logging.DEBUG),
    ],
)
def test_comfyuis_own_talk_does_not_bury_ours(log_format, word, level):
    """A collector gets it all; on a terminal only its troubles are told."""
    with configured(log_format=log_format, log_level=word):
        assert logging.getLogger("comfyfn.comfyui").getEffectiveLevel() == level


def test_warnings_of_libraries_come_in_the_same_form(capsys):
    """Those that they log, asyncio's, and Python's own."""
    with configured(log_format="json", instance_id="me"), warnings.catch_warnings():
        logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
        logging.getLogger("asyncio").error("Task exception was never retrieved")
        logging.getLogger("httpx").info("GET https://me:secret@host")
        warnings.simplefilter("default")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [(line["logger"], line["level"], line["instance"]) for line in lines] == [
        ("uvicorn.error", "warning", "me"),
        ("asyncio", "error", "me"),
        ("py.warnings", "warning", "me"),
    ]
    assert "DeprecationWarning: old" in lines[-1]["message"]


def test_a_servers_log_that_is_no_terminal_is_json_throughout(tmp_path):
    """The engine's lines folded in, their secrets taken out."""
    said = "echo up; echo could not load http://me:canary@host/x?key=canary - failed; exit 7"
    env = {"ENGINE": "comfyui", "CMD": f'sh -c "{said}"', "ENGINE_RESTARTS": "0"}
    server = LiveServer(tmp_path, LOG_LEVEL="info", LOG_FORMAT="auto", INSTANCE_ID="me", **env)
    try:
        server.start(ready=False)
        server.wait_for("/health", status=500)
    finally:
        assert server.stop() == 0
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["instance"] for line in lines} == {"me"}
    assert [
        (line["level"], line["message"]) for line in lines if line["logger"] == "comfyfn.comfyui"
    ] == [("info", "up"), ("warning", "could not load http://…@host/x?key=… - failed")]
    assert "canary" not in text
