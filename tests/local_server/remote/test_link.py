"""HTTP to a platform that may be booting, busy, or gone for a moment."""

from __future__ import annotations

import asyncio
import contextlib
import gzip

import httpx
import pytest
from worker import serving

from handler.errors import HandlerError, JobCancelled
from local_server.remote.faults import Truncated, Unreachable
from local_server.remote.link import Link, read


class Script:
    """Answers as told, one after the other, the last for ever; `None` breaks the connection."""

    def __init__(self, *answers):
        self.answers, self.requests = list(answers), []

    async def __call__(self, scope, receive, send):
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self.requests.append((scope["method"], scope["path"], headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            raise ConnectionResetError
        status, body, more = answer
        told = [(name.encode(), value.encode()) for name, value in more.items()]
        await send({"type": "http.response.start", "status": status, "headers": told})
        await send({"type": "http.response.body", "body": body})


OK = (200, b"{}", {})
BUSY = (
    503,
    b'{"error": "x", "code": "not_ready", "message": "engine boots"}',
    {"retry-after": "0"},
)


@contextlib.asynccontextmanager
async def link_to(script, **options):
    """Give a link to a server that answers as told."""
    async with serving(script) as client:
        base = str(client.base_url).rstrip("/")
        link = Link(base, **{"pause_s": (0.01, 0.05), "headers": {"X-Key": "k"}, **options})
        try:
            yield link
        finally:
            await link.close()


async def test_a_booting_worker_is_waited_for(heard):
    """Whatever it says that it is not there yet with, and its own words are passed on."""
    script = Script(BUSY, (204, b"", {"retry-after": "0"}), (429, b"", {}), (502, b"", {}), OK)
    async with link_to(script) as link:
        response = await link.send("GET", "/x", teller=heard)
    assert response.status_code == 200
    assert len(script.requests) == 5
    assert heard.said[0] == "engine boots"
    assert script.requests[0][2]["x-key"] == "k"


async def test_a_refusal_for_good_is_not_repeated():
    """Another try would not change it."""
    boot = (503, b'{"error": "no GPU", "code": "boot_failed", "blame": "image"}', {})
    for answer in (boot, (400, b'{"error": "bad", "code": "invalid_payload"}', {})):
        script = Script(answer)
        async with link_to(script) as link:
            with pytest.raises(HandlerError):
                await link.send("GET", "/x")
        assert len(script.requests) == 1


async def test_what_may_have_begun_is_not_sent_twice():
    """Neither after a broken connection nor after a gateway's 502."""
    for answer in ((502, b"", {}), (500, b"", {})):
        script = Script(answer)
        async with link_to(script) as link:
            with pytest.raises(HandlerError):
                await link.send("POST", "/run", again=False)
        assert len(script.requests) == 1


async def test_a_broken_connection_is_tried_again():
    """Where that is safe; else it is told that the job may have begun."""

    async def slam(reader, writer):
        seen.append(await reader.readline())
        writer.close()

    seen = []
    server = await asyncio.start_server(slam, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        link = Link(url, pause_s=(0.01, 0.02), silence_s=(0.2, 0.2))
        with pytest.raises(Unreachable, match="may have begun"):
            await link.send("POST", "/run", again=False)
        assert len(seen) == 1
        with pytest.raises(Unreachable, match="does not answer"):
            await link.send("POST", "/run")
        assert len(seen) > 3
        await link.close()


async def test_redirects_are_followed_on_the_same_server_alone():
    """Our headers are for it, and for nobody else."""
    script = Script((303, b"", {"location": "/y?call=1"}), OK)
    async with link_to(script) as link:
        assert (await link.send("POST", "/x")).status_code == 200
    assert [one[:2] for one in script.requests] == [("POST", "/x"), ("GET", "/y")]

    away = Script((307, b"", {"location": "http://127.0.0.1:9/steal"}))
    async with link_to(away) as link:
        with pytest.raises(HandlerError, match="307"):
            await link.send("POST", "/x")
    assert len(away.requests) == 1


async def test_who_quits_does_not_wait_on():
    """A pause ends at once."""
    async with link_to(Script(BUSY), pause_s=(30.0, 30.0)) as link:
        task = asyncio.create_task(link.send("POST", "/run", again=False))
        await asyncio.sleep(0.05)
        link.quit()
        with pytest.raises(JobCancelled):
            await asyncio.wait_for(task, 2)


async def test_a_whole_url_stays_one():
    """Outputs may be named either way."""
    link = Link("http://h")
    assert link.url("/a") == link.url("http://h/a") == "http://h/a"
    assert link.redirect(httpx.Response(200)) is None
    await link.close()


async def test_an_answer_of_any_size_is_not_read():
    """Nor one that is small on its way, and large when it is unpacked."""
    packed = gzip.compress(b"a" * (8 << 20))
    assert len(packed) < 100_000
    script = Script((200, packed, {"content-encoding": "gzip"}))
    async with link_to(script) as link:
        async with link.stream("/x", {}) as response:
            with pytest.raises(Truncated):
                await read(response, most=1 << 20)
        whole = await link.send("GET", "/x")
    assert (whole.status_code, len(whole.content)) == (200, 8 << 20)
