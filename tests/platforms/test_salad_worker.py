"""The queue worker beside the server: a program that speaks like the real one, and the real one."""

from __future__ import annotations

import os
import re
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from behaviour.graphs import picture
from live import alive, children
from platforms.salad_double import (
    ImdsDouble,
    JobQueueDouble,
    SaladServer,
    worker_settings,
)
from platforms.test_salad import sleeping, through, until

if TYPE_CHECKING:
    from collections.abc import Iterator

BINARY = os.environ.get("SALAD_QUEUE_WORKER_BINARY", "")


class Instance:
    """A worker, its queue and its metadata service; IMDS asks the worker's own readiness probe."""

    def __init__(self, home: Path, **env: str) -> None:
        self.imds = ImdsDouble(self._is_ready)
        self.queue = JobQueueDouble()
        self.server = SaladServer(home, self.imds, **env)
        given = worker_settings(home, self.queue, self.server.port)
        self.server.env |= {name: given[name] for name in given.keys() - env.keys()}

    def _is_ready(self) -> bool:
        try:
            return self.server.get("/health/ready").status_code == 200
        except httpx.TransportError:
            return False

    @property
    def log(self) -> str:
        """What the server has logged."""
        return self.server.log.read_text()

    def workers(self) -> list[int]:
        """List the processes of the queue worker."""
        assert self.server.process is not None
        words = {pid: Path(f"/proc/{pid}/cmdline") for pid in children(self.server.process.pid)}
        return [pid for pid, path in words.items() if b"salad_worker_script" in path.read_bytes()]


@pytest.fixture
def instances(tmp_path: Path) -> Iterator[Any]:
    """Give what makes instances, and put them away."""
    made: list[Instance] = []

    def make(**env: str) -> Instance:
        made.append(Instance(tmp_path / f"i{len(made)}", **env))
        return made[-1]

    yield make
    for one in made:
        if one.server.process is not None and one.server.process.poll() is None:
            one.server.stop()
        one.queue.close()
        one.imds.close()


def test_jobs_of_the_queue_are_done_and_its_log_is_in_ours(instances: Any) -> None:
    """Started when the worker is ready; outputs and errors are told, what may be mended is not."""
    one = instances()
    one.queue.waiting += [("good", {"prompt": picture()}), ("bad", {"prompt": {}})]
    one.queue.waiting += [("unlucky", {"prompt": through("TestExit", code=3)})]
    one.server.start()
    until(lambda: len(one.queue.log) == 6, 20)
    assert one.queue.log == [
        *("accept good", "complete good", "accept bad", "complete bad"),
        *("accept unlucky", "reject unlucky"),
    ]
    assert len(one.queue.outputs["good"]["images"]) == 1
    assert one.queue.outputs["bad"]["blame"] == "caller"
    assert re.search(r"INFO +comfyfn.queue_worker: .*worker begins", one.log)
    assert one.log.index("ready in") < one.log.index("the queue worker runs")


def test_it_is_ended_after_the_jobs_in_hand_and_before_the_engine(instances: Any) -> None:
    """Readiness goes first, then the job ends and is told, then the worker, then the engine."""
    one = instances()
    one.queue.waiting.append(("last", sleeping(1.5)))
    one.server.start()
    until(lambda: one.server.get("/health").json()["jobs"]["running"] == 1)
    one.queue.waiting += [(f"for another {n}", {"prompt": picture()}) for n in range(9)]
    (worker,) = one.workers()
    assert one.server.process is not None
    others = [pid for pid in children(one.server.process.pid) if pid != worker]
    stopped: list[int] = []
    stopping = threading.Thread(target=lambda: stopped.append(one.server.stop(signal.SIGTERM)))
    stopping.start()
    one.server.wait_for("/ready", status=503)
    assert alive(worker)
    until(lambda: "complete last" in one.queue.log)
    stopping.join()
    assert stopped == [0]
    assert one.queue.log in (
        ["accept last", "complete last", "bye"],
        # The worker may ask for one more before it learns of the end; that one is not refused.
        ["accept last", "complete last", "accept for another 0", "bye"],
    )
    assert not alive(worker)
    assert others
    assert not any(map(alive, others))
    assert re.search(r"the queue worker is ended(.|\n)*worker ends", one.log)


def test_a_job_that_outlasts_the_limit_is_given_back(instances: Any) -> None:
    """Another instance does it; nothing is left behind here."""
    one = instances(DRAIN_TIMEOUT_S="0.5")
    one.queue.waiting.append(("long", sleeping(60)))
    one.server.start()
    until(lambda: one.server.get("/health").json()["jobs"]["running"] == 1)
    assert one.server.stop() == 0
    assert one.queue.log == ["accept long", "reject long", "bye"]


def test_an_idle_worker_is_ended_at_once(instances: Any) -> None:
    """Nobody waits for what is not there."""
    one = instances()
    one.server.start()
    until(lambda: one.imds.statuses)
    assert one.server.stop() == 0
    assert one.queue.log == ["bye"]


def test_it_is_started_again_with_longer_and_longer_waits(instances: Any, tmp_path: Path) -> None:
    """Whatever it ended with; its last words are in the log."""
    program = tmp_path / "dies"
    program.write_text("#!/bin/sh\necho 'level=ERROR msg=\"no luck\"' >&2\nexit 4\n")
    program.chmod(0o755)
    one = instances(SALAD_QUEUE_WORKER=str(program))
    one.server.start()
    until(lambda: one.log.count("ended with status 4") >= 2)
    assert re.search(r"ERROR +comfyfn.queue_worker: .*no luck", one.log)
    waits = re.findall(r"started anew in (\S+) s", one.log)
    assert waits[:2] == ["1", "2"]
    assert one.server.get("/ready").status_code == 200


def test_a_worker_that_is_killed_is_started_again(instances: Any) -> None:
    """And the job that it had is stopped, and done when it comes again."""
    one = instances()
    one.queue.waiting.append(("a", sleeping(30)))
    one.server.start()
    until(lambda: one.server.get("/health").json()["jobs"]["running"] == 1)
    os.kill(one.workers()[0], signal.SIGKILL)
    until(lambda: one.server.get("/health").json()["jobs"]["running"] == 0)
    one.queue.waiting.append(("b", {"prompt": picture()}))
    until(lambda: "complete b" in one.queue.log)


def test_a_path_that_is_no_program_ends_the_start(tmp_path: Path) -> None:
    """Before an engine is launched for nothing."""
    imds = ImdsDouble()
    server = SaladServer(tmp_path, imds, SALAD_QUEUE_WORKER=str(tmp_path / "none"))
    try:
        with pytest.raises(AssertionError, match="is no program that can be run"):
            server.start()
        assert server.process is not None
        assert server.process.returncode == 1
    finally:
        imds.close()


@pytest.mark.skipif(not BINARY, reason="no queue worker: SALAD_QUEUE_WORKER_BINARY is not set")
def test_the_real_worker_asks_for_readiness_and_ends_when_told(instances: Any) -> None:
    """Its calls of the metadata service are let in; SIGTERM is enough for it."""
    one = instances(SALAD_QUEUE_WORKER=BINARY, SALAD_LOG_LEVEL="debug")
    one.imds.ready = lambda: False
    one.server.start()
    until(lambda: one.imds.statuses >= 1, 30)
    assert one.server.stop() == 0
    assert "it is killed" not in one.log
