"""RunPod's side of a queue worker: the job API that its SDK polls, and the worker as a process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aiohttp import web
from live import REPO, children, free_port
from live import _engine_env as _env

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

HOLD_S = 20.0
"""How long a poll is held open without a job."""


@dataclass(frozen=True, slots=True)
class Post:
    """What a worker posted: `kind` is `done`, `progress` or `stream`; `at` in monotonic seconds."""

    kind: str
    job_id: str
    body: dict[str, Any] = field(repr=False)
    query: dict[str, str]
    at: float
    size: int = 0


class RunpodDouble:
    """The job API on a free port, in a thread.

    Attributes:
        posts: what came, in order.
        pings: the queries of them.
        taken: ids of the jobs that were handed out, with the pod.
        take_answers: statuses that the next polls are answered with at once.
        refuse_done: how many posts of results are answered with 500.
        queries: of the polls for jobs.
    """

    def __init__(self) -> None:
        self.posts: list[Post] = []
        self.pings: list[dict[str, str]] = []
        self.taken: list[tuple[str, str]] = []
        self.queries: list[dict[str, str]] = []
        self.take_answers: deque[int] = deque()
        self.refuse_done = 0
        self.hold_s = HOLD_S
        self.headers: list[dict[str, str]] = []
        self.port = 0
        self._jobs: deque[dict[str, Any]] = deque()
        self._stops: dict[str, list[str]] = defaultdict(list)
        self._pods: dict[str, str] = {}
        self.polling: dict[str, int] = defaultdict(int)
        self._news = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._changed: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    # -- control --------------------------------------------------------------------------------

    def start(self) -> RunpodDouble:
        self._thread.start()
        self.until(lambda: self.port, 10)
        return self

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def env(self, pod: str = "pod") -> dict[str, str]:
        """Give what RunPod sets for a worker."""
        base = f"http://127.0.0.1:{self.port}/v2/ep"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=X",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=X",
            "RUNPOD_WEBHOOK_POST_STREAM": f"{base}/job-stream/$RUNPOD_POD_ID/$ID?gpu=X",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID?gpu=X",
            "RUNPOD_PING_INTERVAL": "1000",
            "RUNPOD_AI_API_KEY": "secret-of-the-pod",
            "RUNPOD_POD_ID": pod,
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
            "RUNPOD_SKIP_GPU_CHECK": "true",
        }

    def give(self, given: Any, job_id: str | None = None, **more: Any) -> str:
        """Queue a job; the first worker that polls has it."""
        job_id = job_id or f"{uuid.uuid4()}-e1"
        self._loop.call_soon_threadsafe(self._queue, {"id": job_id, "input": given, **more})
        return job_id

    def stop(self, job_id: str) -> None:
        """Stop a job, as /cancel does: its worker is told."""
        self.until(lambda: job_id in self._pods, 20)
        self._loop.call_soon_threadsafe(self._stop, job_id)

    def until(self, true: Callable[[], Any], limit_s: float = 30.0) -> Any:
        """Wait until something holds, and give it."""
        deadline = time.monotonic() + limit_s
        with self._news:
            while not (found := true()):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise AssertionError(f"not in {limit_s} s: {self.posts[-5:]} {self.taken[-5:]}")
                self._news.wait(min(left, 0.05))
        return found

    def done(self, job_id: str) -> Post | None:
        """Give the result of a job that was posted; None while there is none."""
        return next((p for p in self.posts if p.job_id == job_id and p.kind == "done"), None)

    def of(self, job_id: str, kind: str) -> list[dict[str, Any]]:
        """Give what was posted of a job, of one kind."""
        return [p.body for p in list(self.posts) if p.job_id == job_id and p.kind == kind]

    def result(self, job_id: str, limit_s: float = 30.0) -> dict[str, Any]:
        """Wait for a job's result as it was posted."""
        found: Post = self.until(lambda: self.done(job_id), limit_s)
        return found.body

    def run(self, given: Any, job_id: str | None = None, **more: Any) -> dict[str, Any]:
        """Give a job and wait for its result."""
        return self.result(self.give(given, job_id, **more))

    def wait_polling(self, pod: str = "pod", limit_s: float = 30.0) -> None:
        """Wait until a worker has a poll open: it takes jobs."""
        self.until(lambda: self.polling[pod] > 0, limit_s)

    # -- the API --------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        runner = self._loop.run_until_complete(self._open())
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _open(self) -> web.AppRunner:
        self._changed = asyncio.Event()
        app = web.Application(client_max_size=1 << 30)
        app.add_routes(
            [
                web.get("/v2/ep/job-take/{pod}", self._take),
                web.get("/v2/ep/job-take-batch/{pod}", self._take),
                web.get("/v2/ep/job-stop/{pod}", self._stops_of),
                web.post("/v2/ep/job-done/{pod}/{job}", self._done),
                web.post("/v2/ep/job-stream/{pod}/{job}", self._stream),
                web.get("/v2/ep/ping/{pod}", self._ping),
            ]
        )
        # A poll that its worker closed must end: it would pop a job into nothing.
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.port = runner.addresses[0][1]
        self._tell()
        return runner

    def _tell(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = asyncio.Event()
        with self._news:
            self._news.notify_all()

    def _queue(self, job: dict[str, Any]) -> None:
        self._jobs.append(job)
        self._tell()

    def _stop(self, job_id: str) -> None:
        self._stops[self._pods[job_id]].append(job_id)
        self._tell()

    async def _take(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        self.queries.append(dict(request.query))
        self.headers.append(dict(request.headers))
        batch = "job-take-batch" in request.path
        if self.take_answers:
            status = self.take_answers.popleft()
            if status >= 400:
                await asyncio.sleep(0.05)
            self._tell()
            return web.Response(status=status)
        self.polling[pod] += 1
        self._tell()
        try:
            async with asyncio.timeout(self.hold_s):
                while not self._jobs:
                    assert self._changed is not None
                    await self._changed.wait()
        except TimeoutError:
            return web.Response(status=204)
        finally:
            self.polling[pod] -= 1
            self._tell()
        count = int(request.query.get("batch_size", "1"))
        jobs = [self._jobs.popleft() for _ in range(min(count, len(self._jobs)))]
        if request.transport is None or request.transport.is_closing():
            self._jobs.extendleft(reversed(jobs))
            raise ConnectionResetError
        for job in jobs:
            self._pods[job["id"]] = pod
            self.taken.append((job["id"], pod))
        self._tell()
        return web.json_response(jobs if batch else jobs[0])

    async def _stops_of(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        try:
            async with asyncio.timeout(self.hold_s):
                while not self._stops[pod]:
                    assert self._changed is not None
                    await self._changed.wait()
        except TimeoutError:
            return web.Response(status=204)
        ids, self._stops[pod] = self._stops[pod], []
        return web.json_response({"jobsToStop": ids})

    async def _done(self, request: web.Request) -> web.Response:
        raw = await request.text()
        body = json.loads(raw)
        progress = body.get("status") == "IN_PROGRESS"
        if not progress and self.refuse_done:
            self.refuse_done -= 1
            return web.Response(status=500)
        self._note("progress" if progress else "done", request, body, len(raw))
        return web.Response()

    async def _stream(self, request: web.Request) -> web.Response:
        raw = await request.text()
        self._note("stream", request, json.loads(raw), len(raw))
        return web.Response()

    def _note(self, kind: str, request: web.Request, body: dict[str, Any], size: int) -> None:
        job, query = request.match_info["job"], dict(request.query)
        self.posts.append(Post(kind, job, body, query, time.monotonic(), size))
        self._tell()

    async def _ping(self, request: web.Request) -> web.Response:
        self.pings.append({"pod": request.match_info["pod"], **request.query})
        self.headers.append(dict(request.headers))
        self._tell()
        return web.Response()


def engine_env(engine: str) -> dict[str, str]:
    """Give the settings of an engine; those of the others are unset."""
    return {
        **dict.fromkeys(("COMFY_HOME", "COMFY_PYTHON", "COMFYFN_TEST_FAULTS"), ""),
        **_env(engine),
    }


class RunpodWorker:
    """`python -m adapters.runpod_worker` with the SDK, on an engine of its own."""

    def __init__(self, double: RunpodDouble, home: Path, pod: str = "pod", **env: str) -> None:
        self.double, self.home, self.pod = double, home, pod
        self.command = ["-m", "adapters.runpod_worker"]
        self.engine_port = free_port()
        self.log = home / "worker.log"
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "COMFYUI_PORT_HOST": str(self.engine_port),
            "INPUT_DIR": str(home / "input"),
            "OUTPUT_DIR": str(home / "output"),
            "WORK_DIR": str(home / "work"),
            "LOG_FORMAT": "text",
            **engine_env("embedded"),
            **{k: v for k, v in os.environ.items() if k.startswith("COVERAGE_")},
            **double.env(pod),
            **env,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *arguments: str, polling: bool = True) -> RunpodWorker:
        """Start it, and wait until it takes jobs."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, *self.command, *arguments],
                cwd=REPO,
                env={k: v for k, v in self.env.items() if v},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        if polling:
            self.wait_polling()
        return self

    def wait_polling(self, limit_s: float = 60.0) -> None:
        """Wait until it takes jobs."""

        def polls() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, f"the worker ended:\n{self.text()}"
            return self.double.polling[self.pod] > 0

        self.double.until(polls, limit_s)

    def text(self) -> str:
        """Give what it logged."""
        return self.log.read_text(errors="replace")

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, limit_s: float = 40.0) -> int:
        """Wait for its end, and give its exit status."""
        assert self.process is not None
        try:
            return self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"it did not end:\n{self.text()[-5000:]}") from None

    def end(self, number: signal.Signals = signal.SIGTERM, limit_s: float = 40.0) -> int:
        """Send a signal, and give the exit status."""
        self.terminate(number)
        return self.wait(limit_s)

    def engine_pid(self) -> int:
        """The engine's process: the child that runs in a session of its own."""
        assert self.process is not None
        for child in children(self.process.pid):
            with contextlib.suppress(OSError):
                if os.getsid(child) == child:
                    return child
        raise AssertionError("no engine runs")

    def close(self) -> None:
        """End it if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.end()


@contextlib.contextmanager
def runpod_worker(
    home: Path, pod: str = "pod", double: RunpodDouble | None = None, **env: str
) -> Iterator[RunpodWorker]:
    """Run a worker for the time of a block, with a double of its own unless one is given."""
    with contextlib.ExitStack() as stack:
        if double is None:
            double = RunpodDouble().start()
            stack.callback(double.close)
        worker = RunpodWorker(double, home, pod, **env)
        stack.callback(worker.close)
        yield worker.start()
