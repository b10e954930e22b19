"""Outputs fetched to files; what a cut connection left is gone on with."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from handler.errors import HandlerError
from local_server.remote.download import Fetch, fetched
from local_server.remote.faults import Truncated, Unreachable
from local_server.remote.link import Link
from local_server.remote.result import Result, Thing, save

BODY = bytes(range(256)) * 400


class Files:
    """A server of one file. Each answer ends as told: whole, or cut after so many bytes.

    Attributes:
        answers: statuses, or bytes to send before the connection breaks.
    """

    def __init__(self, *answers, etag='"one"'):
        self.answers, self.etag, self.requests = list(answers), etag, []
        self.ranged = True

    async def __call__(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            self.requests.append(head)
            answer = self.answers.pop(0) if self.answers else None
            first = 0
            if "range: bytes=" in head and self.ranged:
                first = int(head.split("range: bytes=")[1].split("-")[0])
            if isinstance(answer, tuple):
                status, more = answer
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: 0\r\n{more}\r\n".encode())
            else:
                status = 206 if first else 200
                length = f"content-length: {len(BODY) - first}\r\netag: {self.etag}\r\n"
                writer.write(f"HTTP/1.1 {status} OK\r\n{length}\r\n".encode())
                writer.write(BODY[first:] if answer is None else BODY[first : first + answer])
            await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def files(*answers, **options):
    """Serve a file; give the server, a link to it and its URL."""
    served = Files(*answers, **options)
    server = await asyncio.start_server(served, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    link = Link(url, {"X-Key": "hush"}, pause_s=(0.01, 0.02))
    async with server:
        yield served, link, url
        await link.close()


async def test_a_cut_download_is_gone_on_with(tmp_path):
    """From where it was, as long as it is the same file."""
    into = tmp_path / "a"
    into.touch()
    async with files(1000, 5000, (503, "")) as (served, link, _):
        await fetched(link, "/a", into, len(BODY))
    assert into.read_bytes() == BODY
    assert [head.split("range: ")[1].split("\r\n")[0] for head in served.requests[1:]] == [
        "bytes=1000-",
        "bytes=6000-",
        "bytes=6000-",
    ]


async def test_a_file_that_cannot_be_gone_on_with_begins_anew(tmp_path):
    """Without a strong tag nobody knows that it is the same; and a server may send it whole."""
    into = tmp_path / "a"
    into.touch()
    async with files(1000, etag='W/"weak"') as (served, link, _):
        await fetched(link, "/a", into, len(BODY))
    assert into.read_bytes() == BODY
    assert "range:" not in served.requests[1]

    into.write_bytes(b"")
    async with files(1000) as (served, link, _):
        served.ranged = False
        await fetched(link, "/a", into, None)
    assert into.read_bytes() == BODY


async def test_a_file_of_another_length_is_refused(tmp_path):
    """Whatever the server says."""
    into = tmp_path / "a"
    into.touch()
    async with files() as (_, link, _):
        with pytest.raises(Truncated, match=r"a has 102400 bytes in place of 102401"):
            await fetched(link, "/a?b=c", into, len(BODY) + 1)


async def test_a_download_that_gets_nowhere_ends(tmp_path):
    """It is not tried for ever."""
    into = tmp_path / "a"
    into.touch()
    async with files(*[0] * 50) as (served, link, _):
        with pytest.raises(Unreachable, match="breaks off again and again"):
            await fetched(link, "/a", into, len(BODY))
    assert len(served.requests) < 20


async def test_another_worker_may_have_it(tmp_path):
    """Behind a load balancer a 404 is asked again; a 403 is final."""
    into = tmp_path / "a"
    into.touch()
    async with files((404, ""), (404, "")) as (served, link, _):
        await fetched(link, "/a", into, len(BODY))
    assert len(served.requests) == 3
    async with files((403, "")) as (_, link, _):
        with pytest.raises(HandlerError, match="403"):
            await fetched(link, "/a", into, len(BODY) + 1)


async def test_an_output_at_another_server_is_fetched_without_our_headers(tmp_path):
    """They are for the server of the job alone."""
    async with files() as (served, link, url):
        fetch = Fetch(link)
        things = [Thing({"filename": "a.bin"}, url=f"{url}/a?signature=x")]
        (saved,) = [one async for one in save(Result("j", things), tmp_path, fetch)]
        await fetch.close()
    assert saved.path.read_bytes() == BODY
    assert "hush" not in served.requests[0]


async def test_an_output_that_is_closed_to_us_is_told_by_its_url(tmp_path):
    """It went where the request or the operator wanted it."""
    async with files((403, "")) as (_, _, url):
        fetch = Fetch()
        things = [Thing({"filename": "a.bin"}, url=f"{url}/a")]
        (saved,) = [one async for one in save(Result("j", things), tmp_path, fetch)]
        await fetch.close()
    assert (saved.path, saved.url) == (None, f"{url}/a")
    assert list(tmp_path.iterdir()) == []


async def test_more_bytes_than_were_promised_are_not_written(tmp_path):
    """A server that sends without an end would fill the disk."""

    async def endless(_reader, writer):
        with contextlib.suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(BODY)
                await writer.drain()

    server = await asyncio.start_server(endless, "127.0.0.1", 0)
    link = Link(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    into = tmp_path / "x"
    into.touch()
    async with asyncio.timeout(10):
        with pytest.raises(Truncated, match="more than the 1000 bytes"):
            await fetched(link, "/x", into, 1000)
    assert into.stat().st_size < 10 << 20
    await link.close()
    server.close()
