"""One connection: dialled by the policy, read in pieces, ended from any thread."""

from __future__ import annotations

import asyncio
import gzip
import io

import httpx
import pytest
from sources.host import talking

from handler.errors import InputFailed, UrlNotAllowed
from handler.inputs.address import AddressPolicy
from handler.transfer.http_line import LineBody, UnpackedBody, connected, origin
from handler.transfer.http_source import HttpSource
from handler.transfer.threads import Threads


@pytest.mark.parametrize(
    ("url", "parts"),
    [
        ("https://E.org/x", ("https", "e.org", 443)),
        ("http://e.org:8080", ("http", "e.org", 8080)),
        ("http://[::1]/x", ("http", "::1", 80)),
        ("https://bücher.example", ("https", "xn--bcher-kva.example", 443)),
    ],
)
def test_an_origin_is_scheme_host_and_port(url, parts):
    """As DNS and certificates have the host."""
    assert origin(httpx.URL(url)) == parts


async def line_to(port, allow="127.0.0.1"):
    url = httpx.URL(f"http://127.0.0.1:{port}/x")
    return url, await connected(AddressPolicy(allow), url, 5, 5)


async def test_the_policy_is_asked_before_anything_is_dialled(host):
    """A private address gets no connection."""
    with pytest.raises(UrlNotAllowed):
        await line_to(host.port, allow="")
    assert host.connections == 0


async def test_one_connection_serves_several_requests(host, threads):
    """Once a body was read to its end, the line comes back."""
    host.put("/x", b"weights")
    url, line = await line_to(host.port)
    spare = []
    for count in (1, 2):
        response = await threads.call(lambda: line.ask(url, {"X": "1"}))
        body = LineBody(line, response, spare.append)
        buffer = memoryview(bytearray(100))
        assert await threads.call(lambda body=body, buffer=buffer: body.readinto(buffer)) == 7
        assert await threads.call(lambda body=body, buffer=buffer: body.readinto(buffer)) == 0
        body.close()
        assert spare == [line] * count
    assert host.connections == 1
    line.close()


async def test_a_read_that_waits_is_ended_by_close(threads):
    """From another thread, and at once."""

    async def silent(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        await reader.read()

    async with talking(silent) as port:
        url, line = await line_to(port)
        response = await threads.call(lambda: line.ask(url, {}))
        body = LineBody(line, response, lambda _: None)
        task = asyncio.create_task(threads.call(lambda: body.readinto(memoryview(bytearray(9)))))
        while body._state != "reading":
            await asyncio.sleep(0)
        body.close()
        assert await asyncio.wait_for(task, 5) == 0
        body.close()
        line.close()


class Packed:
    """A packed body in small pieces."""

    def __init__(self, raw):
        self._raw = io.BytesIO(raw)

    def readinto(self, buffer):
        return self._raw.readinto(buffer[:10])

    def close(self):
        pass


def unpacked(raw):
    body, out, buffer = UnpackedBody(Packed(raw)), b"", memoryview(bytearray(64))
    while count := body.readinto(buffer):
        out += bytes(buffer[:count])
    return out


def test_a_packed_body_is_unpacked_as_it_comes():
    """In pieces no larger than the buffer."""
    assert unpacked(gzip.compress(b"weights" * 1000)) == b"weights" * 1000


@pytest.mark.parametrize(
    "raw", [b"plain text", gzip.compress(b"x" * 1000)[:-12]], ids=["plain", "cut off"]
)
def test_what_does_not_unpack_is_a_fault(raw):
    """No packing at all, or cut off."""
    with pytest.raises(InputFailed):
        unpacked(raw)


def test_several_packed_runs_are_one_file():
    """Tools that pack in parallel make them; what follows without a head is no part of it."""
    runs = [gzip.compress(text * 100) for text in (b"one", b"two", b"three")]

    assert unpacked(b"".join(runs)) == b"one" * 100 + b"two" * 100 + b"three" * 100
    assert unpacked(runs[0] + b"rubbish") == b"one" * 100
    with pytest.raises(InputFailed, match="lost"):
        unpacked(runs[0] + runs[1][:-9])


async def test_a_drawn_out_handshake_gives_its_thread_back(host):
    """At once when nobody waits for it any more."""
    begun = asyncio.Event()

    async def drip(reader, writer):
        await reader.read(1)  # the handshake has begun
        writer.write(b"\x16\x03\x03\x40\x00")  # a record of 16 KiB
        while True:
            writer.write(b"\0")
            await writer.drain()
            begun.set()
            await asyncio.sleep(0.02)

    threads = Threads(1)
    source = HttpSource(AddressPolicy("127.0.0.1"), threads)
    async with talking(drip) as port:
        task = asyncio.create_task(source.stat(f"https://127.0.0.1:{port}/m", None))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        async with asyncio.timeout(5):
            remote = await source.stat(host.put("/m", b"weights"), None)
        await source.release(remote)
    threads.close()

    assert remote.size == 7
