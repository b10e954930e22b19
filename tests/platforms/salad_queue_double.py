"""SaladCloud's job queue: its REST API, and what its worker binary makes of a server's answers.

Shapes by the vendor's SDK, which a test has read them. Jobs are handed to a server one at a time.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "salad-key-1"
MOST_TRIES = 4
NOW = "2026-11-22T12:00:00.000Z"
_PATH = re.compile(r"/api/organizations/acme/projects/art/queues/pictures/jobs(?:/([^/?]+))?")


class SaladQueue:
    """The queue `acme/art/pictures`.

    Attributes:
        worker_url: of the server that does the jobs; None: they wait.
        jobs: by id, as the API tells them.
        requests: methods and paths that came.
        slam: so many creations are carried out, and the connection is closed without an answer.
        busy: so many creations are refused with 503.
    """

    def __init__(self, worker_url: str | None = None) -> None:
        self.worker_url = worker_url
        self.jobs: dict[str, dict[str, Any]] = {}
        self.requests: list[str] = []
        self.slam = self.busy = 0
        self._news = threading.Condition()
        self._closing = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._server.server_port}/api"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True),
            threading.Thread(target=self._work, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End it."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join(5)

    # -- the API ------------------------------------------------------------------------------

    def answer(self, method: str, path: str, key: str | None, body: Any) -> tuple[int, Any] | None:
        """Answer a request; None closes the connection."""
        self.requests.append(f"{method} {path}")
        match = _PATH.match(path)
        if key != KEY:
            return 401, _problem("unauthorized")
        if match is None:
            return 404, _problem("not_found")
        job_id = match[1]
        with self._news:
            if method == "POST" and job_id is None:
                return self._create(body)
            if method == "GET" and job_id is None:
                return 200, {"items": list(reversed(self.jobs.values()))}
            job = self.jobs.get(job_id)
            if job is None:
                return 404, _problem("not_found")
            if method == "DELETE":
                if job["status"] != "pending":
                    return 400, _problem("the job is not pending")
                self._move(job, "cancelled", "cancelled")
                return 202, None
            return 200, job

    def _create(self, body: Any) -> tuple[int, Any] | None:
        if self.busy:
            self.busy -= 1
            return 503, _problem("busy")
        job = {
            "id": str(uuid.uuid4()),
            "input": body["input"],
            "metadata": body.get("metadata") or {},
            "status": "pending",
            "events": [{"action": "created", "time": NOW}],
            "create_time": NOW,
            "update_time": NOW,
        }
        self.jobs[job["id"]] = job
        self._news.notify_all()
        if self.slam:
            self.slam -= 1
            return None
        return 201, job

    def _move(self, job: dict[str, Any], status: str, action: str) -> None:
        job["status"] = status
        job["events"].append({"action": action, "time": NOW})
        self._news.notify_all()

    # -- the worker ---------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._news:
                while not self._closing and not self._waiting():
                    self._news.wait()
                if self._closing:
                    return
                job = self._waiting()[0]
                self._move(job, "running", "started")
            status, output = self._done(job)
            with self._news:
                if status is not None:
                    job["output"] = output
                    self._move(job, "succeeded", "succeeded")
                elif sum(one["action"] == "started" for one in job["events"]) < MOST_TRIES:
                    self._move(job, "pending", "rejected")
                else:
                    self._move(job, "failed", "failed")

    def _waiting(self) -> list[dict[str, Any]]:
        if self.worker_url is None:
            return []
        return [job for job in self.jobs.values() if job["status"] == "pending"]

    def _done(self, job: dict[str, Any]) -> tuple[int | None, Any]:
        """Have a server do it: 408, 429, 5xx and no answer are rejections, all else completes."""
        headers = {"Salad-Job-Id": job["id"], "User-Agent": "Go-http-client/1.1"}
        try:
            response = httpx.post(
                f"{self.worker_url}/prompt",
                json=job["input"],
                headers=headers,
                timeout=60,
                trust_env=False,
            )
        except httpx.TransportError:
            return None, None
        if response.status_code in {408, 429} or response.status_code >= 500:
            return None, None
        return response.status_code, response.json()


def _problem(title: str) -> dict[str, Any]:
    return {"type": title, "title": title}


def _handler(queue: SaladQueue) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            told = queue.answer(self.command, self.path, self.headers.get("Salad-Api-Key"), body)
            if told is None:
                self.close_connection = True
                return
            status, answer = told
            data = b"" if answer is None else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _do  # noqa: N815  # the library's names

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextlib.contextmanager
def salad_queue(worker_url: str | None = None) -> Iterator[SaladQueue]:
    """Run a queue for the time of a block."""
    queue = SaladQueue(worker_url)
    try:
        yield queue
    finally:
        queue.close()
