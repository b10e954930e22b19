"""The queue worker's life: when it starts, how often, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import sys
from types import SimpleNamespace

import pytest
from worker import until

from adapters.salad_worker import QueueWorker, level_of, worker_environment
from handler.health import Health


def program(folder, text):
    path = folder / "program"
    path.write_text(f"#!{sys.executable}\nimport os, signal, sys, time\n{text}\n")
    path.chmod(0o755)
    return path


class World:
    """What the supervisor sees."""

    def __init__(self, *, started=True):
        self.report = SimpleNamespace(started=started, health=Health.READY)
        self.in_hand = 0

    def worker(self, binary, **options):
        given = {"backoff_s": (0.01, 0.02), "settle_s": 0.05, "grace_s": 0.5, **options}
        return QueueWorker(
            binary, {}, health=lambda: self.report, in_hand=lambda: self.in_hand, **given
        )


@pytest.fixture(autouse=True)
def _all_lines(caplog):
    caplog.set_level(logging.DEBUG, "comfyfn.queue_worker")


async def test_it_is_started_when_jobs_can_be_done(tmp_path, caplog):
    """Not before: it would bring jobs to a worker that boots."""
    world = World(started=False)
    task = asyncio.create_task(
        world.worker(program(tmp_path, "print('hello', flush=True); time.sleep(60)")).run()
    )
    await asyncio.sleep(0.3)
    assert "hello" not in caplog.text
    world.report.started = True
    await until(lambda: "hello" in caplog.text)
    world.report.health = Health.DRAINING
    await asyncio.wait_for(task, 10)
    assert "the queue worker is ended" in caplog.text


async def test_a_stop_before_the_start_starts_nothing(tmp_path, caplog):
    """It returns."""
    world = World(started=False)
    world.report.health = Health.DRAINING
    await asyncio.wait_for(world.worker(program(tmp_path, "print('hello')")).run(), 5)
    assert "runs" not in caplog.text


async def test_it_lives_until_its_jobs_are_answered(tmp_path, caplog):
    """SIGTERM makes it drop what it waits for, so that comes last."""
    world = World()
    world.in_hand = 1
    task = asyncio.create_task(world.worker(program(tmp_path, "time.sleep(60)")).run())
    await until(lambda: "the queue worker runs" in caplog.text)
    world.report.health = Health.DRAINING
    await asyncio.sleep(0.3)
    assert not task.done()
    world.in_hand = 0
    await asyncio.wait_for(task, 10)


async def test_cancelled_it_ends_the_program_first(tmp_path, caplog):
    """By force where it does not heed."""
    text = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('deaf', flush=True)\ntime.sleep(60)"
    )
    task = asyncio.create_task(World().worker(program(tmp_path, text), grace_s=0.1).run())
    await until(lambda: "deaf" in caplog.text)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "it is killed" in caplog.text


async def test_it_is_started_anew(tmp_path, caplog):
    """Waiting longer each time, up to the last wait."""
    task = asyncio.create_task(World().worker(program(tmp_path, "sys.exit(3)")).run())
    await until(lambda: caplog.text.count("ended with status 3") >= 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "started anew in 0.01 s" in caplog.text
    assert "started anew in 0.02 s" in caplog.text


async def test_what_cannot_be_run_is_told(tmp_path, caplog):
    """And tried again: a volume may come late."""
    task = asyncio.create_task(World().worker(tmp_path / "none").run())
    await until(lambda: "cannot be run" in caplog.text)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_its_lines_are_ours_without_secrets(tmp_path, caplog):
    """Also one that is endless, or ends with the program."""
    text = "print('x' * 9000)\nprint('dial https://me:word@host/'); sys.stdout.write('no end')"
    task = asyncio.create_task(World().worker(program(tmp_path, text)).run())
    await until(lambda: "no end" in caplog.text)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert "x" * 3000 in caplog.text
    assert "word" not in caplog.text


@pytest.mark.parametrize(
    ("line", "level"),
    [
        ('time=2026-04-01 level=ERROR msg="x"', logging.ERROR),
        ('{"time":"x","level":"warn","msg":"y"}', logging.WARNING),
        ("level=debug msg=x", logging.DEBUG),
        ("panic: everything", logging.INFO),
        ("level=strange", logging.INFO),
    ],
)
def test_the_level_of_a_line_is_its_own(line, level):
    """In either form that Go's logs have."""
    assert level_of(line) == level


def test_its_log_is_as_loud_as_ours():
    """By words that it knows, under both names; the operator's win."""
    for ours, its in (
        ("trace", "debug"),
        ("warning", "warn"),
        ("fatal", "error"),
        ("info", "info"),
    ):
        assert worker_environment({}, ours)["SALAD_LOG_LEVEL"] == its
    given = worker_environment({"SALAD_LOG_LEVEL": "debug", "A": "b"}, "info")
    assert given == {"SALAD_LOG_LEVEL": "debug", "SALAD_QUEUE_WORKER_LOG_LEVEL": "info", "A": "b"}
