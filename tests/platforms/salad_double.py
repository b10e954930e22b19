"""SaladCloud as a container sees it: metadata service, queue worker, job queue, gateway, server.

Each double has what `salad.md`'s runs of the real parts showed. All listen on loopback, each in a
thread of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp import web
from live import READY_LIMIT_S, REPO, LiveServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WORKER_SCRIPT = Path(__file__).with_name("salad_worker_script.py")
JSON = "application/json"


class Threaded:
    """An aiohttp application in a thread, on a free port of 127.0.0.1."""

    def __init__(self, *routes: web.AbstractRouteDef) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._routes = routes
        self.port = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(10)
        self.url = f"http://127.0.0.1:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 30)
        app.add_routes(self._routes)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        site = web.TCPSite(runner, "127.0.0.1", 0)
        self._loop.run_until_complete(site.start())
        self.port = runner.addresses[0][1]
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.run_until_complete(self.at_end())
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    async def at_end(self) -> None:
        """Close what the loop holds."""

    def close(self) -> None:
        """End it."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(10)


class ImdsDouble(Threaded):
    """The metadata service of one instance.

    Attributes:
        costs: the deletion costs that were set, in order.
        reasons: of the reallocations that were asked for.
        refusing: answer reallocations and costs with 500.
        gone: answer everything with 404.
        ready: what the readiness probe says; a callable, asked each time.
        asked: method and path of every request that was let in.
    """

    def __init__(self, ready: Callable[[], bool] = lambda: True) -> None:
        self.costs: list[int] = []
        self.reasons: list[str] = []
        self.asked: list[str] = []
        self.statuses = 0
        self.refusing = self.gone = False
        self.ready = ready
        super().__init__(
            web.get("/v1/status", self._let_in(self._status)),
            web.get("/v1/token", self._let_in(self._token)),
            web.get("/v1/deletion-cost", self._let_in(self._cost)),
            web.put("/v1/deletion-cost", self._let_in(self._set_cost)),
            web.post("/v1/reallocate", self._let_in(self._reallocate)),
            web.post("/v1/restart", self._let_in(self._nothing)),
            web.post("/v1/recreate", self._let_in(self._nothing)),
        )

    def _let_in(
        self, work: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            forwarded = any(name.lower().startswith("x-forwarded-") for name in request.headers)
            if request.headers.get("Metadata") != "true" or forwarded:
                return _fault(403, "forbidden")
            if self.gone:
                return _fault(404, "not_found")
            self.asked.append(f"{request.method} {request.path}")
            if self.refusing and request.method != "GET":
                return _fault(500, "internal")
            return await work(request)

        return answer

    async def _status(self, _request: web.Request) -> web.Response:
        self.statuses += 1
        ready = await asyncio.to_thread(self.ready)
        return web.json_response({"ready": ready, "started": ready})

    async def _token(self, _request: web.Request) -> web.Response:
        return web.json_response({"jwt": "header.claims.signature"})

    async def _cost(self, _request: web.Request) -> web.Response:
        return web.json_response({"deletion_cost": self.costs[-1] if self.costs else 0})

    async def _set_cost(self, request: web.Request) -> web.Response:
        cost = (await request.json()).get("deletion_cost")
        if type(cost) is not int or not -(2**31) <= cost < 2**31:
            return _fault(400, "invalid")
        self.costs.append(cost)
        return web.Response(status=204)

    async def _reallocate(self, request: web.Request) -> web.Response:
        reason = (await request.json()).get("reason")
        if not isinstance(reason, str) or not 1 <= len(reason) <= 1000:
            return _fault(400, "invalid")
        self.reasons.append(reason)
        return web.Response(status=204)

    async def _nothing(self, _request: web.Request) -> web.Response:
        return web.Response(status=204)


def _fault(status: int, code: str) -> web.Response:
    return web.json_response({"code": code, "status": status}, status=status)


@dataclass(frozen=True, slots=True)
class Told:
    """What the queue was told of a job: `completed` with a body, or `rejected` to be sent again."""

    outcome: str
    status: int
    body: Any = field(repr=False)


@dataclass(slots=True)
class Ticket:
    """A job on its way to the server."""

    job_id: str
    _connection: http.client.HTTPConnection = field(repr=False)
    _thread: threading.Thread | None = field(default=None, repr=False)
    told: Told | None = None
    gone: bool = False

    def drop(self) -> None:
        """Go away, as the worker does when it is ended: the queue is told nothing."""
        self.gone = True
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(socket.SHUT_RDWR)

    def wait(self, limit_s: float = 60) -> Told | None:
        """Wait for the end; None where the queue is told nothing."""
        assert self._thread is not None
        self._thread.join(limit_s)
        assert not self._thread.is_alive(), "no answer"
        return None if self.gone else self.told


class WorkerStandIn:
    """The queue worker at HTTP: its headers, its body, what it makes of each status."""

    def __init__(self, port: int, path: str = "/queue", host: str = "127.0.0.1") -> None:
        self.port, self.path, self.host = port, path, host

    def begin(self, given: Any, job_id: str | None = None) -> Ticket:
        """Bring a job; `given` is sent as it is where it is bytes."""
        job_id = job_id or str(uuid.uuid4())
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        ticket = Ticket(job_id, connection)
        body = given if isinstance(given, bytes) else json.dumps(given).encode()
        ticket._thread = threading.Thread(target=self._bring, args=(ticket, body), daemon=True)
        ticket._thread.start()
        return ticket

    def send(self, given: Any, job_id: str | None = None, limit_s: float = 60) -> Told:
        """Bring a job and wait for its end."""
        told = self.begin(given, job_id).wait(limit_s)
        assert told is not None
        return told

    def _bring(self, ticket: Ticket, body: bytes) -> None:
        headers = {
            "Content-Type": JSON,
            "Salad-Job-Id": ticket.job_id,
            "User-Agent": "Go-http-client/1.1",
            "Accept-Encoding": "gzip",
        }
        connection = ticket._connection
        try:
            connection.request("POST", self.path, body, headers)
            answer = connection.getresponse()
            ticket.told = judged(answer.status, answer.read())
        except (OSError, http.client.HTTPException):
            ticket.told = Told("rejected", 0, None)
        finally:
            connection.close()


def judged(status: int, body: bytes) -> Told:
    """Tell what the worker makes of an answer."""
    again = status in (408, 429) or status >= 500
    assert again or len(body) <= 10_000_000, "the queue takes no such message"
    return Told("rejected" if again else "completed", status, json.loads(body))


class JobQueueDouble(Threaded):
    """The job queue's service, over HTTP in place of gRPC: what the script of a worker speaks.

    Attributes:
        waiting: jobs to hand out, as (id, input).
        log: what happened, in order: `accept <id>`, `complete <id>`, `reject <id>`, `bye`.
        outputs: by job.
    """

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Any]] = []
        self.log: list[str] = []
        self.outputs: dict[str, Any] = {}
        super().__init__(
            web.post("/accept", self._accept),
            web.post("/complete/{id}", self._complete),
            web.post("/reject/{id}", self._reject),
            web.post("/bye", self._bye),
        )

    async def _accept(self, _request: web.Request) -> web.Response:
        while not self.waiting:
            await asyncio.sleep(0.02)
        job_id, given = self.waiting.pop(0)
        self.log.append(f"accept {job_id}")
        return web.json_response({"job_id": job_id, "input": given})

    async def _complete(self, request: web.Request) -> web.Response:
        job_id = request.match_info["id"]
        self.outputs[job_id] = await request.json()
        self.log.append(f"complete {job_id}")
        return web.Response()

    async def _reject(self, request: web.Request) -> web.Response:
        self.log.append(f"reject {request.match_info['id']}")
        return web.Response()

    async def _bye(self, _request: web.Request) -> web.Response:
        self.log.append("bye")
        return web.Response()


class GatewayDouble(Threaded):
    """The Container Gateway in front of one instance, which it reaches over IPv6 alone.

    Args:
        port: the instance's.
        response_s: longest wait for its answer; then 524. The platform's own is 100.
        request_s: longest wait for a free connection, with `single`; then 504.
        single: one request at a time.
    """

    def __init__(
        self, port: int, *, response_s: float = 100, request_s: float = 100, single: bool = False
    ) -> None:
        self._target = f"http://[::1]:{port}"
        self._response_s, self._request_s = response_s, request_s
        self._free: asyncio.Semaphore | None = None
        self._single = single
        self._client: aiohttp.ClientSession | None = None
        self.at_once = self.most_at_once = 0
        super().__init__(web.route("*", "/{path:.*}", self._pass_on))

    async def _pass_on(self, request: web.Request) -> web.Response:
        if self._client is None:
            self._client = aiohttp.ClientSession()
            self._free = asyncio.Semaphore(1 if self._single else 1000)
        assert self._free is not None
        try:
            await asyncio.wait_for(self._free.acquire(), self._request_s)
        except TimeoutError:
            return web.Response(status=504)
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            return await self._answer(self._client, request)
        finally:
            self.at_once -= 1
            self._free.release()

    async def _answer(self, client: aiohttp.ClientSession, request: web.Request) -> web.Response:
        body = await request.read()
        drop = {"host", "content-length", "transfer-encoding", "accept-encoding"}
        headers = {k: v for k, v in request.headers.items() if k.lower() not in drop}
        headers |= {"Host": "name.salad.cloud", "X-Forwarded-For": "192.0.2.1"}
        try:
            async with (
                asyncio.timeout(self._response_s),
                client.get(f"{self._target}/ready") as ready,
            ):
                if ready.status != 200:
                    return web.Response(status=503)
            async with (
                asyncio.timeout(self._response_s),
                client.request(
                    request.method, self._target + request.path_qs, data=body, headers=headers
                ) as answer,
            ):
                told = {k: v for k, v in answer.headers.items() if k.lower() not in drop}
                return web.Response(status=answer.status, body=await answer.read(), headers=told)
        except TimeoutError:
            return web.Response(status=524)
        except aiohttp.ClientError:
            return web.Response(status=503)

    async def at_end(self) -> None:
        """Close the client."""
        if self._client is not None:
            await self._client.close()


class SaladServer(LiveServer):
    """`python -m adapters.salad_container` as an instance of a group."""

    def __init__(self, home: Path, imds: ImdsDouble, engine: str = "embedded", **env: str) -> None:
        given = {
            "SALAD_MACHINE_ID": "m-1",
            "SALAD_INSTANCE_ID": "i-1",
            "SALAD_CONTAINER_GROUP_NAME": "group",
            "SALAD_METADATA_URI": imds.url,
            **env,
        }
        super().__init__(home, engine, **given)

    def start(self, *, ready: bool = True) -> SaladServer:
        """Start it and wait until it takes jobs, or only until its port is open."""
        self.home.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "adapters.salad_container"],
                cwd=REPO,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
            )
        self.wait_for("/ready" if ready else "/health", READY_LIMIT_S[self.engine])
        return self

    @property
    def worker(self) -> WorkerStandIn:
        """A queue worker beside it."""
        return WorkerStandIn(self.port)


def worker_binary(folder: Path) -> Path:
    """Make a program that speaks like the queue worker."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "queue-worker"
    path.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{WORKER_SCRIPT}' \"$@\"\n")
    path.chmod(0o755)
    return path


def worker_settings(folder: Path, queue: JobQueueDouble, port: int) -> dict[str, str]:
    """Give the variables that have a server run that program."""
    return {
        "SALAD_QUEUE_WORKER": str(worker_binary(folder)),
        "SALAD_SERVICE_ENDPOINT": f"127.0.0.1:{queue.port}",
        "SALAD_SERVICE_USE_TLS": "false",
        "TEST_QUEUE_PORT": str(port),
    }
