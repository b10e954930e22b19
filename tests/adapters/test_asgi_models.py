"""The routes of models over a handler on the engine in memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from contract.file_server import file_server
from worker import serving, until, worker

from adapters.asgi import make_app
from handler.settings import Settings


@pytest.fixture
def source():
    with file_server() as files:
        yield files


@contextlib.asynccontextmanager
async def served(home):
    """A client and its handler."""
    async with (
        worker(home) as (handler, engine),
        serving(make_app(handler, Settings())) as client,
    ):
        yield client, handler, engine


async def test_models_are_listed_by_folder(tmp_path):
    """As the engine tells them."""
    async with served(tmp_path) as (client, handler, _):
        answer = await client.get("/models")
        assert answer.json() == await handler.models()
        assert "checkpoints" in answer.json()


async def test_a_download_is_waited_for_or_not(tmp_path, source):
    """200 with its size, or 202 and a record."""
    url = source.put("/m.ckpt", b"weights" * 9, "application/octet-stream")
    body = {"url": url, "model_type": "checkpoints"}
    async with served(tmp_path) as (client, _, _):
        waited = await client.post("/download", json={**body, "wait": True})
        begun = await client.post("/download", json=body)
        assert (waited.status_code, waited.json()["size"]) == (200, 63)
        assert (begun.status_code, begun.json()["status"]) == (202, "started")
        assert (tmp_path / "models" / "checkpoints" / "m.ckpt").is_file()

        path = f"/downloads/{begun.json()['id']}"
        while (await client.get(path)).json()["status"] == "started":
            pass
        listed = (await client.get("/downloads")).json()["downloads"]
        assert [one["status"] for one in listed] == ["completed", "completed"]
        assert listed[0]["id"] == begun.json()["id"]


async def test_a_client_that_goes_away_leaves_the_download(tmp_path, source):
    """It goes on in the background."""
    body = {"url": "", "model_type": "checkpoints", "wait": True}
    gate, reached = threading.Event(), threading.Event()

    class Slow(BaseHTTPRequestHandler):
        def do_GET(self):
            reached.set()
            gate.wait(20)
            self.send_response(200)
            self.send_header("Content-Length", "7")
            self.end_headers()
            self.wfile.write(b"weights")

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Slow) as slow:
        thread = threading.Thread(target=slow.serve_forever, args=(0.01,))
        thread.start()
        try:
            async with served(tmp_path) as (client, handler, _):
                body["url"] = f"http://127.0.0.1:{slow.server_port}/m.ckpt"
                asking = asyncio.create_task(client.post("/download", json=body))
                await until(reached.is_set)
                asking.cancel()
                await asyncio.gather(asking, return_exceptions=True)
                gate.set()
                (one,) = handler.downloads.known()
                await until(lambda: one.finished_at)
                assert one.status == "completed"
        finally:
            gate.set()
            slow.shutdown()
            thread.join()


async def test_both_ways_to_cancel_give_the_record(tmp_path):
    """And an unknown one is a 404."""
    async with served(tmp_path) as (client, _, _):
        for answer in (
            await client.post("/downloads/nobody/cancel"),
            await client.delete("/downloads/nobody"),
            await client.get("/downloads/nobody"),
        ):
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
